"""Every window once, in order; the predictions file whole, exact, or absent."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch

from headway.data.prepared import Prepared
from headway.data.windows import Windows
from headway.errors import InputError
from headway.evaluation.predict import SCHEMA, PredictionWriter, forecast_split
from headway.models.baselines import historical_average, naive_forecasts
from headway.types import Batch, Forecast, PointForecast
from tiny_model import stirred, tiny_graph, tiny_model
from tiny_prepared import HORIZON, STEP, tiny_prepared


def write_split(path: Path, prepared: Prepared, batch_size: int, stride: int) -> pd.DataFrame:
    windows, origins = Windows(prepared), prepared.meta.splits["test"]
    with PredictionWriter(path, prepared, stride=stride) as file:
        for found in forecast_split({"usual": historical_average}, windows.gather, origins, batch_size):
            file.write(found.batch, found.points["usual"])
    return pd.read_parquet(path, page_checksum_verification=True)


@pytest.mark.parametrize("batch_size", [1, 7, 1000])
def test_every_window_is_seen_once_in_time_order_with_the_last_small_batch(batch_size: int) -> None:
    prepared = tiny_prepared(test=(300, 322))
    found = list(forecast_split(naive_forecasts(prepared), Windows(prepared).gather, (300, 322), batch_size))
    assert torch.cat([part.batch.origin for part in found]).tolist() == list(range(300, 322))
    assert all(len(point) == len(part.batch.origin) for part in found for point in part.points.values())


def test_on_a_cpu_no_bit_of_a_forecast_depends_on_the_windows_beside_it() -> None:
    # an odd number: the last rows of a matrix product are rounded otherwise
    prepared = tiny_prepared(sensors=5)
    model = stirred(tiny_model(prepared.meta, tiny_graph(5)))
    gather = Windows(prepared).gather
    found = [
        torch.cat(
            [part.points["model"] for part in forecast_split({"model": model}, gather, (300, 317), size)]
        )
        for size in (1, 7, 17)
    ]
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


def test_no_window_is_read_before_its_batch_is_due() -> None:
    prepared, read = tiny_prepared(), []

    def gather(origins: torch.Tensor) -> Batch:
        read.extend(origins.tolist())
        return Windows(prepared).gather(origins)

    batches = forecast_split({"usual": historical_average}, gather, (300, 330), 4)
    assert read == []
    next(batches)
    assert read == [300, 301, 302, 303]


def test_forecasts_carry_no_gradient_and_the_consumer_keeps_its_own_mode() -> None:
    prepared, weight = tiny_prepared(), torch.ones(1, requires_grad=True)

    def learned(batch: Batch) -> Forecast:
        return PointForecast(point=batch.fallback * weight)

    for found in forecast_split({"learned": learned}, Windows(prepared).gather, (300, 302), 1):
        assert not found.points["learned"].requires_grad
        assert torch.is_grad_enabled()


def test_a_forecast_that_is_not_finite_is_refused_by_name_and_window() -> None:
    prepared = tiny_prepared()

    def broken(batch: Batch) -> Forecast:
        return PointForecast(
            point=batch.fallback.masked_fill((batch.origin == 305)[:, None, None], torch.nan)
        )

    with pytest.raises(InputError, match=r"forecast of broken .* origin row 305 is not finite"):
        list(forecast_split({"broken": broken}, Windows(prepared).gather, (300, 310), 4))


def test_the_file_holds_a_row_for_every_window_step_and_sensor(tmp_path: Path) -> None:
    prepared = tiny_prepared(test=(300, 310))
    frame = write_split(tmp_path / "test.parquet", prepared, batch_size=4, stride=1)
    assert list(frame.columns) == SCHEMA.names
    assert len(frame) == 10 * HORIZON * 3
    rows = zip(*np.indices((10, HORIZON, 3)).reshape(3, -1), strict=True)
    for record, (window, step, sensor) in zip(frame.to_dict("records"), rows, strict=True):
        row = 300 + window + step
        assert record["sensor_id"] == f"s{sensor}"
        assert record["horizon"] == step + 1
        assert record["target_time"] == pd.Timestamp(int(prepared.time[row]), unit="s", tz="UTC")
        assert record["origin"] == record["target_time"] - pd.Timedelta(seconds=STEP * (step + 1))
        assert record["observed"] == prepared.observed[row, sensor, 0]
        reading = prepared.values[row, sensor, 0] if record["observed"] else np.nan
        assert np.array_equal(record["target"], reading, equal_nan=True)
    usual = historical_average(Windows(prepared).gather(np.arange(300, 310))).point
    assert np.array_equal(frame["forecast"].to_numpy(), usual.numpy().ravel())


@pytest.mark.parametrize("batch_size", [1, 2, 5, 100])
def test_a_stride_keeps_every_nth_window_whatever_the_batches(tmp_path: Path, batch_size: int) -> None:
    prepared = tiny_prepared(test=(300, 320))
    frame = write_split(tmp_path / "test.parquet", prepared, batch_size, stride=3)
    first_targets = pd.DatetimeIndex(frame.loc[frame["horizon"] == 1, "target_time"].drop_duplicates())
    assert first_targets.equals(pd.to_datetime(prepared.time[300:320:3], unit="s", utc=True).as_unit("ms"))


def test_a_stride_of_zero_writes_an_empty_file_with_all_columns(tmp_path: Path) -> None:
    frame = write_split(tmp_path / "test.parquet", tiny_prepared(), batch_size=8, stride=0)
    assert len(frame) == 0
    assert pq.read_schema(tmp_path / "test.parquet").equals(SCHEMA)


def test_sensors_are_a_dictionary_and_pages_carry_a_checksum(tmp_path: Path) -> None:
    path = tmp_path / "test.parquet"
    write_split(path, tiny_prepared(), batch_size=8, stride=1)
    assert pq.read_schema(path).equals(SCHEMA)
    forecasts = pq.read_metadata(path).row_group(0).column(SCHEMA.get_field_index("forecast"))
    damaged = bytearray(path.read_bytes())
    damaged[forecasts.data_page_offset + forecasts.total_compressed_size - 1] ^= 1
    path.write_bytes(damaged)
    with pytest.raises(OSError, match="CRC checksum verification failed"):
        pq.read_table(path, page_checksum_verification=True)


def test_a_failure_leaves_the_file_of_the_run_before_and_no_draft(tmp_path: Path) -> None:
    path, prepared = tmp_path / "test.parquet", tiny_prepared()
    before = write_split(path, prepared, batch_size=8, stride=1)
    with pytest.raises(RuntimeError, match="lost"), PredictionWriter(path, prepared, stride=1):
        raise RuntimeError("power lost")
    assert pd.read_parquet(path).equals(before)
    assert [file.name for file in tmp_path.iterdir()] == ["test.parquet"]
