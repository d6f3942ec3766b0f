"""Stretches of readings that nobody measured, sensors that repeat each other, and the rules that leave them out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import headway
from headway.data import store
from headway.data.prepare import prepare
from headway.data.prepared import Prepared, open_prepared
from headway.data.symptoms import (
    copied_stretches,
    day_marks,
    line_stretches,
    shared_days,
    stuck_steps,
    stuck_stretches,
    zero_stretches,
)
from tiny_serving import IDS, serve
from worlds import daily_readings, preprocess_params, windows_params, write_raw_world

HOURLY = daily_readings(24 * 21, 4, 60)


def column(*parts: Any) -> np.ndarray:
    return np.concatenate([np.atleast_1d(np.asarray(part, dtype=np.float32)) for part in parts])


def prepared(raw: Path, **rules: Any) -> tuple[Prepared, dict[str, Any]]:
    out = raw.parent / "prepared"
    report = prepare(raw, out, preprocess_params(**rules), windows_params())
    return open_prepared(out), report


def test_a_reading_is_stuck_once_as_many_before_it_are_equal() -> None:
    readings = column([1, 2, 2, 2, 2, 3, 3, np.nan, 3, 0, 0, 0, 0])
    assert np.flatnonzero(stuck_steps(readings, 3)).tolist() == [3, 4]
    assert np.flatnonzero(stuck_steps(readings, 2)).tolist() == [2, 3, 4, 6]
    assert stuck_stretches(readings, 2).tolist() == [4, 2]


@pytest.mark.parametrize(("steps", "found"), [(7, [7]), (6, []), (30, [30])])
def test_readings_on_a_line_are_an_interpolation_from_seven_on(steps: int, found: list[int]) -> None:
    ramp = np.linspace(60, 17.3, steps)
    readings = column(61.5, 47.2, 59.1, 70.7, 66.2, ramp, 44.4, 71.3, 20.2, 50.9)
    assert line_stretches(readings).tolist() == found


def test_level_readings_are_no_line() -> None:
    assert not len(line_stretches(column(np.full(30, 60.0), [61, 59])))


def test_a_copy_of_the_week_before_is_one_from_a_day_on() -> None:
    readings = HOURLY[:, 0].copy()
    readings[200:230] = readings[200 - 168 : 230 - 168]
    readings[300:310] = readings[300 - 168 : 310 - 168]
    assert copied_stretches(readings, 168).tolist() == [30]
    assert not len(copied_stretches(readings[:168], 168))


def test_zeros_that_last_a_day_are_counted() -> None:
    assert zero_stretches(column([1, 0, 0, 0, 1, 0, 0]), 3).tolist() == [3]
    assert not len(zero_stretches(column([0, 0, 0]), 1))  # one step a day, or less


def test_sensors_that_share_days_are_found_pair_by_pair() -> None:
    readings = HOURLY.copy()
    readings[24:72, 3] = readings[24:72, 1]
    readings[48:72, 2] = readings[48:72, 1]
    readings[96:120] = 5  # a constant day tells nothing
    readings[130, :] = np.nan  # nor does one with a reading missing
    marks = np.stack([day_marks(readings[:, node], 24) for node in range(4)], axis=1)
    assert shared_days(marks) == {(1, 3): 2, (1, 2): 1}


def test_what_looks_wrong_is_told_with_its_rule_and_left_as_it_is(tmp_path: Path) -> None:
    readings = HOURLY.copy()
    readings[30:60, 0] = 0
    readings[100:130, 1] = 7
    readings[200, 2] = -4
    readings[:72, 3] = readings[:72, 2]
    raw = write_raw_world(tmp_path / "raw", readings=readings)
    result, report = prepared(raw)
    np.testing.assert_array_equal(result.values[..., 0], readings)
    look = "\n".join(report["worth_a_look"])
    assert report["done"] == [] and len(report["worth_a_look"]) == 4
    assert (
        "1 stretches of 24 or more equal readings (steps of 1 h), preprocess.stuck_steps masks them: b"
        in look
    )
    assert "30 readings in days of nothing but 0, null_value: 0 in dataset.yaml if they mean none: a" in look
    assert "1 readings below 0, minimum: 0 in dataset.yaml if there cannot be any: c" in look
    assert "c and d (3 days)" in look


def test_stuck_readings_are_masked_by_rule_and_counted(tmp_path: Path) -> None:
    readings = HOURLY.copy()
    readings[100:110, 1] = 7
    result, report = prepared(write_raw_world(tmp_path / "raw", readings=readings), stuck_steps=4)
    assert np.flatnonzero(~result.observed[:, 1, 0]).tolist() == list(range(103, 110))
    assert result.observed.sum() == readings.size - 7
    assert report["done"] == ["stuck readings, made unobserved: 7"]


def test_of_identical_sensors_the_first_is_kept_by_rule(tmp_path: Path) -> None:
    readings = HOURLY.copy()
    readings[:, 2] = readings[:, 0]
    raw = write_raw_world(tmp_path / "raw", readings=readings)
    kept, report = prepared(raw)
    assert report["series"]["identical_sensors"] == [["a", "c"]] and kept.meta.sensors == 4
    kept, report = prepared(raw, identical_sensors="drop")
    assert kept.sensors["sensor_id"].tolist() == ["a", "b", "d"]
    np.testing.assert_array_equal(kept.values[..., 0], readings[:, [0, 1, 3]])
    assert report["done"] == ["sensors that repeat another dropped: c"]
    assert report["sensors"]["dropped"] == ["c"] and report["series"]["identical_sensors"] == []


def test_readings_in_a_file_make_the_same_folder_as_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    readings = HOURLY.copy()
    readings[:, 3] = 1.0  # dropped, so that columns are picked too
    raw = write_raw_world(tmp_path / "raw", readings=readings, variables={"flow": HOURLY})
    rules, windows = preprocess_params(unusable_sensors="drop"), windows_params(inputs=("flow",))
    prepare(raw, tmp_path / "memory", rules, windows)
    monkeypatch.setattr(store, "LARGE", 0)
    monkeypatch.setattr("headway.data.parquet.BATCH_BYTES", 1)  # a column at a time
    prepare(raw, tmp_path / "file", rules, windows)
    for path in sorted((tmp_path / "memory").iterdir()):
        assert path.read_bytes() == (tmp_path / "file" / path.name).read_bytes(), path.name
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "memory", "raw"]


def test_a_stuck_sensor_is_masked_alike_in_training_and_in_use(tmp_path: Path) -> None:
    served = serve(tmp_path, stuck_steps=3)
    flow = served.prepared.observed[:, IDS.index("11"), 1]
    assert flow[:298].all() and not flow[298:444].any()
    assert served.prepared.meta.training_rows > 298, "stuck in training and after it"
    forecaster, compared = headway.load(served.model), 0
    for origin, expected in served.predictions().groupby("origin"):
        past = np.asarray(served.utc <= origin)
        if served.utc[past][-1] == origin:
            found = forecaster.predict(
                served.readings[past], inputs={"flow": served.flow[past]}, covariates=served.rain
            )
            assert found["forecast"].to_numpy().tobytes() == expected["forecast"].to_numpy().tobytes()
            compared += 1
    assert compared > 30
