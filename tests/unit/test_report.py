"""The report of a tiny data set, against numbers worked out from the arrays."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from headway.__main__ import main
from headway.data.prepared import Prepared
from headway.data.windows import Windows
from headway.errors import InputError
from headway.evaluation.report import EvaluateParams, evaluate, hour_of_day
from headway.evaluation.sensor_week import typical_sensor
from headway.evaluation.tables import horizon_label, results_sentence, results_table
from headway.models.baselines import NAIVE
from headway.types import Batch, Forecast, PointForecast
from project_params import ROOT
from tiny_prepared import HORIZON, tiny_prepared

PARAMS = EvaluateParams(minutes=(60, 90, 180, 240), mape_floor=0.001, prediction_stride=1)


def one_above(batch: Batch) -> Forecast:
    """Off by one step number at every observed target, and by anything elsewhere."""
    steps = torch.arange(1.0, HORIZON + 1)[None, :, None]
    return PointForecast(point=torch.where(batch.target_observed, batch.target + steps, 1e6))


def report(folder: Path, prepared: Prepared, batch_size: int = 16) -> Path:
    windows, out = Windows(prepared), folder / "metrics"
    evaluate(
        prepared,
        windows.gather,
        one_above,
        PARAMS,
        batch_size,
        metrics=out,
        predictions=folder / "predictions" / "test.parquet",
    )
    return out


def read_json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(), parse_constant=pytest.fail)


def read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_metrics_name_the_minutes_that_are_a_step_and_no_others(tmp_path: Path) -> None:
    metrics = read_json(report(tmp_path, tiny_prepared()) / "metrics.json")
    assert list(metrics) == ["mae", "rmse", "mape", "wape", "r2", "count", "60min", "180min", "skill"]
    assert metrics["60min"]["mae"] == pytest.approx(1, abs=1e-5)
    assert metrics["180min"]["mae"] == pytest.approx(3, abs=1e-5)


def test_counts_are_the_observed_targets_of_every_window(tmp_path: Path) -> None:
    prepared = tiny_prepared(test=(300, 337))
    forecasts = read_json(report(tmp_path, prepared) / "forecasts.json")
    by_step = [int(prepared.observed[300 + step : 337 + step].sum()) for step in range(HORIZON)]
    for table in forecasts.values():
        assert [table[f"{60 * (step + 1)}min"]["count"] for step in range(HORIZON)] == by_step
        assert table["all"]["count"] == sum(by_step)


def test_skill_compares_with_each_naive_forecast_over_all_steps(tmp_path: Path) -> None:
    out = report(tmp_path, tiny_prepared())
    metrics, forecasts = read_json(out / "metrics.json"), read_json(out / "forecasts.json")
    assert list(forecasts) == ["headway", *NAIVE]
    assert list(metrics["skill"]) == list(NAIVE)
    for name, skill in metrics["skill"].items():
        assert skill == pytest.approx(
            1 - forecasts["headway"]["all"]["mae"] / forecasts[name]["all"]["mae"], abs=1e-5
        )
        assert 0 < skill < 1


def test_errors_by_horizon_stand_beside_the_naive_ones(tmp_path: Path) -> None:
    out = report(tmp_path, tiny_prepared())
    rows, forecasts = read_csv(out / "horizon.csv"), read_json(out / "forecasts.json")
    assert list(rows[0]) == ["horizon_minutes", "headway", *NAIVE]
    assert [row["horizon_minutes"] for row in rows] == ["60", "120", "180"]
    for row in rows:
        for name in ("headway", *NAIVE):
            assert float(row[name]) == forecasts[name][f"{row['horizon_minutes']}min"]["mae"]


def test_a_forecast_that_does_not_exist_is_left_out_and_its_plot_column_is_empty(tmp_path: Path) -> None:
    out = report(tmp_path, tiny_prepared(step_seconds=1700))
    assert list(read_json(out / "forecasts.json")) == ["headway", "persistence", "historical_average"]
    assert list(read_json(out / "metrics.json")["skill"]) == ["persistence", "historical_average"]
    assert {row["same_time_last_week"] for row in read_csv(out / "horizon.csv")} == {""}


def test_hours_are_those_of_the_local_civil_clock(tmp_path: Path) -> None:
    # 300 and 301 hours after Monday midnight UTC are 12:00 and 13:00 UTC, 4:00 and 5:00 in California
    prepared = tiny_prepared(time_zone="America/Los_Angeles", test=(300, 302), missing=0.0)
    rows = read_csv(report(tmp_path, prepared) / "hour.csv")
    assert [row["hour"] for row in rows] == ["4", "5", "6", "7"]
    assert [float(row["headway"]) for row in rows] == pytest.approx([1, 1.5, 2.5, 3], abs=1e-5)


def test_the_hour_of_a_slot_is_the_one_in_which_it_begins() -> None:
    slots = torch.tensor([[[0, 0], [11, 0], [12, 0], [287, 0]]])
    assert hour_of_day(slots, 300).tolist() == [[0, 0, 1, 23]]
    assert hour_of_day(slots[:, :1], 86_400).tolist() == [[0]]


def test_the_week_is_one_sensor_in_local_time_with_gaps_left_empty(tmp_path: Path) -> None:
    prepared = tiny_prepared(time_zone="America/Los_Angeles", test=(200, 398))
    rows = read_csv(report(tmp_path, prepared) / "week.csv")
    assert list(rows[0]) == ["time", "sensor_id", "observed", "forecast"]
    assert len(rows) == 168
    times = [datetime.fromisoformat(row["time"]) for row in rows]
    assert times[0] == datetime(2014, 1, 14, 0)  # row 200, the first step of the first window, UTC - 8
    assert {(later - earlier).seconds for earlier, later in pairwise(times)} == {3600}
    sensor = int(rows[0]["sensor_id"][1:])
    assert {row["sensor_id"] for row in rows} == {f"s{sensor}"}
    for row, record in enumerate(rows, start=200):
        if prepared.observed[row, sensor, 0]:
            assert float(record["observed"]) == pytest.approx(prepared.values[row, sensor, 0], rel=1e-5)
            assert float(record["forecast"]) == pytest.approx(float(record["observed"]) + 1, abs=1e-3)
        else:
            assert record["observed"] == ""
    assert "" in {record["observed"] for record in rows}


def test_the_sensor_of_the_week_is_the_middling_one_of_the_best_observed() -> None:
    values = np.stack([np.arange(9.0) * spread for spread in (9, 1, 5, 7, 3)], axis=1).astype(np.float32)
    observed = np.ones(values.shape, bool)
    assert typical_sensor(values, observed) == 2
    observed[0, 2] = False
    assert typical_sensor(values, observed) == 3


def test_sensors_are_sorted_with_their_own_errors(tmp_path: Path) -> None:
    prepared = tiny_prepared(test=(300, 320))
    rows = read_csv(report(tmp_path, prepared) / "sensors.csv")
    assert [row["sensor_id"] for row in rows] == ["s0", "s1", "s2"]
    for sensor, row in enumerate(rows):
        counts = [int(prepared.observed[300 + step : 320 + step, sensor].sum()) for step in range(HORIZON)]
        assert int(row["count"]) == sum(counts)
        assert float(row["mae"]) == pytest.approx(np.dot(counts, [1, 2, 3]) / sum(counts), abs=1e-5)


def test_a_sensor_without_readings_gets_empty_cells_and_nulls_stay_null(tmp_path: Path) -> None:
    prepared = tiny_prepared()
    observed = prepared.observed.copy()
    observed[:, 1] = False
    rows = read_csv(report(tmp_path, replace(prepared, observed=observed)) / "sensors.csv")
    assert rows[1] == {"sensor_id": "s1", "mae": "", "rmse": "", "count": "0"}
    out = report(tmp_path, replace(prepared, observed=np.zeros_like(observed)))
    assert read_json(out / "metrics.json")["mae"] is None
    assert set(read_json(out / "metrics.json")["skill"].values()) == {None}
    assert read_csv(out / "hour.csv") == []


def test_two_evaluations_write_the_same_bytes_whatever_the_batches(tmp_path: Path) -> None:
    prepared = tiny_prepared()
    first, second = (
        report(tmp_path / "a", prepared, batch_size=1),
        report(tmp_path / "b", prepared, batch_size=50),
    )
    names = sorted(path.name for path in first.iterdir())
    documents = {f"{name}.json" for name in ("distribution", "forecasts", "metrics")}
    tables = ("crps", "horizon", "hour", "pit", "reliability", "sensors", "sharpness", "week")
    assert set(names) == documents | {f"{name}.csv" for name in tables}
    for name in names:
        assert (first / name).read_bytes() == (second / name).read_bytes()


def test_an_empty_test_split_is_the_users_to_mend(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="tiny has no test window"):
        report(tmp_path, tiny_prepared(test=(390, 390)))


def test_labels_are_minutes_also_where_a_step_is_none() -> None:
    assert [horizon_label(step, 300) for step in (1, 12)] == ["5min", "60min"]
    assert horizon_label(3, 30) == "1.5min"


def test_results_that_cannot_be_read_or_written_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "params.yaml").symlink_to(ROOT / "params.yaml")
    assert main(["results"]) == 1
    forecasts = tmp_path / "metrics/evaluate/forecasts.json"
    forecasts.parent.mkdir(parents=True)
    forecasts.write_text('{"headway": ')
    assert main(["results"]) == 1
    scores = {"mae": 2.0, "rmse": 3.0, "mape": 4.0}
    forecasts.write_text(json.dumps({"headway": {"all": scores}}))
    (tmp_path / "metrics/evaluate/distribution.json").write_text("{}")
    assert main(["results", "--write", "nowhere.md"]) == 1
    told = capsys.readouterr().err
    assert "forecasts.json not found; run `dvc repro`" in told and "forecasts.json is damaged: " in told
    assert "error: nowhere.md cannot be read: No such file or directory" in told


def test_the_results_table_has_a_row_a_forecast_and_leaves_out_other_minutes() -> None:
    scores = {"mae": 2.7654, "rmse": 123.456, "mape": None}
    table = results_table(
        {
            "headway": {"15min": scores, "all": scores},
            "historical_average": {"15min": scores, "all": {**scores, "mae": 1234.5678}},
        },
        minutes=(15, 30),
    )
    assert table.splitlines() == [
        "| forecast | MAE 15 min | RMSE 15 min | MAPE % 15 min | MAE all | RMSE all | MAPE % all |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
        "| headway | 2.765 | 123.5 | - | 2.765 | 123.5 | - |",
        "| historical average | 2.765 | 123.5 | - | 1235 | 123.5 | - |",
    ]


def test_what_a_distribution_is_worth_stands_below_the_table() -> None:
    kinds = {
        kind: {"coverage": {"80%": share}, "width": {"80%": width}}
        for kind, share, width in (
            ("raw", 0.7, 6.0),
            ("calibrated", 0.7934, 7.12345),
            ("recalibrated", 0.8, 7.5),
        )
    }
    assert results_sentence({"crps": 2.33243, "crps_climatology": 3.15624, "count": 9, **kinds}) == (
        "\nCRPS 2.332, of climatology 3.156; the 80 % interval is 7.123 wide and holds 79.3 % of the readings, "
        "80.0 % where it is calibrated anew each day.\n"
    )
    unseen = dict.fromkeys(("crps", "crps_climatology"))
    assert results_sentence({**unseen, "count": 0}) == results_sentence({}) == ""
