"""`headway.load(...).predict(...)`: the forecasts of the evaluate stage, or a sentence that says why not."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file, save_file

import headway
from headway.errors import InputError
from headway.serving.forecaster import Forecaster
from headway.serving.recent import reach
from tiny_serving import IDS, TWICE, ZONE, Served, by_origin, serve

NOW = 150  # rows of the table that the tests of shapes and refusals give


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Served:
    return serve(tmp_path_factory.mktemp("global"))


@pytest.fixture(scope="module")
def forecaster(served: Served) -> Forecaster:
    return headway.load(served.model)


def forecast(forecaster: Forecaster, served: Served, readings: Any = None) -> Any:
    """From `readings`, or the first NOW rows, with the further tables the model needs."""
    readings = served.readings[:NOW] if readings is None else readings
    return forecaster.predict(readings, inputs={"flow": served.flow}, covariates=served.rain)


@pytest.mark.parametrize("scaling", ["global", "per_sensor"])
def test_forecasts_from_raw_rows_are_those_of_the_evaluate_stage_to_the_bit(
    served: Served, scaling: str, tmp_path: Path
) -> None:
    served = served if scaling == "global" else serve(tmp_path, "per_sensor")
    forecaster, compared = headway.load(str(served.model)), 0
    for past, expected in by_origin(served):
        found = forecaster.predict(
            served.readings[past], inputs={"flow": served.flow[past]}, covariates=served.rain
        )
        assert found["sensor_id"].tolist() == expected["sensor_id"].tolist()
        assert found["horizon"].tolist() == expected["horizon"].tolist()
        assert np.array_equal(found["target_time"], expected["target_time"])
        assert found["forecast"].to_numpy().tobytes() == expected["forecast"].to_numpy().tobytes()
        compared += 1
    assert compared > 30


def test_a_network_trained_on_raw_readings_is_served_without_scaling_it_again(
    served: Served, tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(served.model, folder)
    config = json.loads((folder / "config.json").read_text())
    config["output_space"] = "raw"
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match="anchors are mixed in standardized units"):
        headway.load(folder)
    config["model"]["anchors"] = False
    (folder / "config.json").write_text(json.dumps(config))
    tensors = load_file(folder / "model.safetensors")
    tensors = {name: tensor for name, tensor in tensors.items() if not name.startswith("mix.")}
    bias = next(name for name in tensors if name.endswith("head.out.bias"))
    tensors[bias] = torch.full_like(tensors[bias], 47.0)
    save_file(tensors, folder / "model.safetensors")
    found = forecast(headway.load(folder), served)
    assert np.abs(found["forecast"].to_numpy() - 47).max() < 10  # not 47 deviations above the mean


def test_local_time_follows_the_clocks_while_utc_does_not(forecaster: Forecaster, served: Served) -> None:
    eve = np.asarray(served.utc < "2024-03-31 00:00Z")  # the clocks go from 1:00 to 2:00
    found = forecast(forecaster, served, served.readings[eve])
    first = found[found["sensor_id"] == IDS[0]]
    assert first["target_time"].dt.strftime("%d %H:%M").tolist() == ["31 00:00", "31 01:00", "31 02:00"]
    assert first["target_time_local"].dt.strftime("%d %H:%M").tolist() == ["31 00:00", "31 02:00", "31 03:00"]
    assert str(found["target_time_local"].dt.tz) == ZONE
    assert found.attrs == {"variable": "speed", "unit": "km/h", "time_zone": ZONE, "step_seconds": 3600}


def test_naive_times_with_both_passes_of_an_autumn_hour_equal_times_with_a_zone(served: Served) -> None:
    utc = pd.date_range("2024-10-26 18:00", periods=12, freq="h", tz="UTC")  # 1:00 comes twice on the 27th
    readings = served.readings[-12:].drop(columns="timestamp")
    tables = [
        readings.assign(timestamp=utc),
        readings.assign(timestamp=utc.tz_convert("Asia/Tokyo")),
        readings.assign(timestamp=utc.tz_convert(ZONE).tz_localize(None)),
        readings.set_axis(utc),
    ]
    further = served.flow[-12:].assign(timestamp=utc), served.rain[-12:].assign(timestamp=utc)
    forecaster = headway.load(served.model)
    found = [
        forecaster.predict(table, inputs={"flow": further[0]}, covariates=further[1]) for table in tables
    ]
    assert found[0]["target_time"].iloc[0] == utc[-1] + pd.Timedelta("1h")
    for other in found[1:]:
        pd.testing.assert_frame_equal(found[0], other, check_exact=True)


def test_a_table_of_the_history_alone_is_enough_and_missing_rows_are_unobserved(
    forecaster: Forecaster, served: Served
) -> None:
    short = served.readings[NOW - 4 : NOW]
    padded = served.readings[:NOW].copy()
    padded.loc[: NOW - 5, list(IDS)] = np.nan
    found = forecast(forecaster, served, short)
    assert np.isfinite(found["forecast"]).all()
    pd.testing.assert_frame_equal(found, forecast(forecaster, served, padded), check_exact=True)
    assert not np.array_equal(found["forecast"], forecast(forecaster, served)["forecast"])


def test_rows_older_than_the_reach_change_nothing_and_one_within_does(
    forecaster: Forecaster, served: Served
) -> None:
    rows, steps = served.readings, reach(forecaster.found.meta)
    assert steps < len(rows) - 2  # two rows are of one step
    whole = forecast(forecaster, served, rows)
    cut = forecast(forecaster, served, rows[-steps - 1 :])
    pd.testing.assert_frame_equal(whole, cut, check_exact=True)
    changed = rows.copy()
    changed.loc[len(rows) - steps :, list(IDS)] += 5
    assert not np.array_equal(forecast(forecaster, served, changed)["forecast"], whole["forecast"])


def test_order_of_columns_and_rows_and_numbers_as_names_do_not_matter(
    forecaster: Forecaster, served: Served
) -> None:
    expected = forecast(forecaster, served)
    turned = served.readings[:NOW][["9", "timestamp", "101", "11", "102"]]
    shuffled = served.readings[:NOW].sample(frac=1, random_state=0)
    numbered = served.readings[:NOW].rename(columns={name: int(name) for name in IDS})
    nullable = served.readings[:NOW].convert_dtypes()
    for table in (turned, shuffled, numbered, nullable):
        pd.testing.assert_frame_equal(expected, forecast(forecaster, served, table), check_exact=True)


def test_the_callers_tables_are_left_as_they_were(forecaster: Forecaster, served: Served) -> None:
    readings, before = served.readings[:NOW], served.readings[:NOW].copy()
    forecast(forecaster, served, readings)
    pd.testing.assert_frame_equal(readings, before)


def test_a_sensor_without_any_reading_is_still_forecast(forecaster: Forecaster, served: Served) -> None:
    found = forecast(forecaster, served, served.readings[:NOW].assign(**{"11": np.nan}))
    assert np.isfinite(found["forecast"]).all()
    silent = served.readings[:NOW].assign(**{"11": None})  # a column of objects, all None
    pd.testing.assert_frame_equal(found, forecast(forecaster, served, silent), check_exact=True)


@pytest.mark.parametrize(
    ("rule", "sentence"), [("mean", ""), ("error", "different readings at one time, of 101")]
)
def test_two_readings_of_one_time_are_settled_as_in_training(
    served: Served, rule: str, sentence: str, tmp_path: Path
) -> None:
    readings = served.readings[TWICE - 20 : TWICE + 4]
    if not sentence:
        assert np.isfinite(forecast(headway.load(served.model), served, readings)["forecast"]).all()
        return
    strict = copy_with_rule(served.model, tmp_path / "model", rule)
    with pytest.raises(InputError, match=sentence):
        forecast(headway.load(strict), served, readings)


def copy_with_rule(model: Path, copy: Path, duplicates: str) -> Path:
    """The model as if it had been trained under another rule."""
    copy.mkdir()
    for file in model.iterdir():
        content = file.read_bytes()
        if file.name == "config.json":
            content = content.replace(b'"duplicates": "mean"', f'"duplicates": "{duplicates}"'.encode())
        (copy / file.name).write_bytes(content)
    return copy


def test_a_model_folder_without_its_climatology_or_with_anothers_is_refused(
    served: Served, tmp_path: Path
) -> None:
    model = copy_with_rule(served.model, tmp_path / "model", "mean")
    np.save(model / "climatology.npy", np.zeros((7, 2), np.float32))
    with pytest.raises(InputError, match=r"climatology.npy is of another model: shape \(7, 2\)"):
        headway.load(model)
    (model / "climatology.npy").unlink()
    with pytest.raises(InputError, match="is not a whole model folder"):
        headway.load(model)


def test_rows_some_seconds_off_are_read_where_training_rounded_them(served: Served, tmp_path: Path) -> None:
    model = tmp_path / "model"
    shutil.copytree(served.model, model)
    text = (model / "config.json").read_text()
    assert text.count('"off_grid": "error"') == 1
    (model / "config.json").write_text(text.replace('"off_grid": "error"', '"off_grid": "round"'))
    late = served.readings[:150].copy()
    late["timestamp"] += pd.to_timedelta([rank % 7 for rank in range(len(late))], unit="s")
    forecaster = headway.load(model)
    assert forecast(forecaster, served, late)["forecast"].equals(forecast(forecaster, served)["forecast"])


def test_weights_of_another_version_are_refused(served: Served, tmp_path: Path) -> None:
    model = copy_with_rule(served.model, tmp_path / "model", "mean")
    tensors = load_file(model / "model.safetensors")
    name = next(name for name in tensors if "time_of_day" in name)
    save_file({name.replace("time_of_day", "slot"): tensors.pop(name)} | tensors, model / "model.safetensors")
    with pytest.raises(InputError, match="holds other weights than this version of headway has"):
        headway.load(model)


def test_importing_headway_loads_neither_torch_nor_pandas_until_load_is_asked_for() -> None:
    code = (
        "import sys, headway\n"
        "assert not {'torch', 'pandas'} & set(sys.modules)\n"
        "assert not hasattr(headway, 'lode')\n"
        "assert headway.__version__\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env={"PYTHONPATH": "src"}, timeout=30)
