"""Preprocess from end to end: what comes out, what may not influence it, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from headway.data.prepare import prepare
from headway.data.prepared import Prepared, open_prepared
from headway.data.report import summary
from headway.errors import InputError
from worlds import daily_readings, preprocess_params, windows_params, write_raw_world, write_series


def prepared(
    raw: Path, windows: dict[str, Any] | None = None, **preprocess: Any
) -> tuple[Prepared, dict[str, Any]]:
    out = raw.parent / f"{raw.name}-prepared"
    report = prepare(raw, out, preprocess_params(**preprocess), windows_params(**(windows or {})))
    return open_prepared(out), report


def refused(raw: Path, windows: dict[str, Any] | None = None, **preprocess: Any) -> str:
    with pytest.raises(InputError) as caught:
        prepared(raw, windows, **preprocess)
    assert not (raw.parent / f"{raw.name}-prepared").exists()
    assert not list(raw.parent.glob(".*"))
    return str(caught.value)


def test_a_plain_world_arrives_in_the_order_of_its_ids(tmp_path: Path) -> None:
    readings = daily_readings(200, 3, 60)
    raw = write_raw_world(tmp_path / "x", ids=("c", "a", "b"), readings=readings, facts={"unit": "km/h"})
    result, report = prepared(raw)
    np.testing.assert_array_equal(result.values[..., 0], readings[:, [1, 2, 0]])
    assert result.observed.all()
    assert list(result.sensors["sensor_id"]) == ["a", "b", "c"]
    assert (result.meta.unit, result.meta.step_seconds, result.meta.slots_per_day) == ("km/h", 3600, 24)
    assert result.neighbors[0, 0] == 1  # "b" stands one km from "a" and from nobody nearer
    assert report["series"]["missing_share"] == 0 and report["done"] == []


def test_a_data_set_without_dataset_yaml_has_units_and_utc(tmp_path: Path) -> None:
    meta = prepared(write_raw_world(tmp_path / "x"))[0].meta
    assert (meta.unit, meta.time_zone, meta.variable) == ("units", "UTC", "target")


def test_the_split_of_dataset_yaml_holds_unless_params_say_otherwise(tmp_path: Path) -> None:
    raw = write_raw_world(tmp_path / "x", facts={"split": "6-2-2"})
    starts = 200 - 4 - 3 + 1
    assert prepared(raw)[0].meta.splits["train"] == (4, 4 + round(0.6 * starts))
    assert prepared(raw, split="7-1-2")[0].meta.splits["train"] == (4, 4 + round(0.7 * starts))


def test_statistics_do_not_see_validation_and_test(tmp_path: Path) -> None:
    """All after the last training history may change; scaler, climatology, covariate scale may not."""
    readings, rain = daily_readings(400, 3, 60), np.arange(400, dtype=np.float32)
    windows = {"covariates": ("rain",), "inputs": ("flow",)}
    first, _ = prepared(
        write_raw_world(tmp_path / "x", readings=readings, sensors=3, variables={"flow": 2 * readings},
                        covariates={"rain": rain}), windows, scaling="per_sensor")  # fmt: skip
    rows = first.meta.training_rows
    assert rows == first.meta.splits["train"][1] - 1
    changed, wet = readings.copy(), rain.copy()
    changed[rows:] *= 7
    changed[rows + 5 :, 1] = np.nan
    wet[rows:] = -1000
    second, _ = prepared(
        write_raw_world(tmp_path / "y", readings=changed, sensors=3, variables={"flow": 2 * changed},
                        covariates={"rain": wet}), windows, scaling="per_sensor")  # fmt: skip
    for name in first.scaler:
        np.testing.assert_array_equal(first.scaler[name], second.scaler[name])
    np.testing.assert_array_equal(first.climatology, second.climatology)
    np.testing.assert_array_equal(first.covariates[:rows], second.covariates[:rows])
    readings[rows - 1] += 50  # the last training row does count
    third, _ = prepared(
        write_raw_world(tmp_path / "z", readings=readings, sensors=3, variables={"flow": 2 * readings},
                        covariates={"rain": rain}), windows, scaling="per_sensor")  # fmt: skip
    assert (third.scaler["mean"] != first.scaler["mean"]).all()
    assert (third.climatology != first.climatology).any()


def test_unobserved_readings_do_not_enter_the_statistics(tmp_path: Path) -> None:
    readings = daily_readings(200, 2, 60)
    readings[::3, 0] = 0
    raw = write_raw_world(tmp_path / "x", sensors=2, readings=readings, facts={"null_value": 0})
    result, report = prepared(raw)
    rows = result.meta.training_rows
    assert result.scaler["mean"][0] == pytest.approx(readings[:rows][readings[:rows] != 0].mean(), rel=1e-5)
    assert (result.climatology > 10).all()
    np.testing.assert_array_equal(result.observed[..., 0], readings != 0)
    assert report["series"]["null_sensors"] == {"a": 67}


def test_implausible_readings_become_unobserved_and_are_counted_a_sensor(tmp_path: Path) -> None:
    readings = daily_readings(200, 2, 60)
    readings[3, 1], readings[7, 1], readings[9, 0] = 400, -5, 130
    raw = write_raw_world(tmp_path / "x", readings=readings, sensors=2, facts={"minimum": 0, "maximum": 130})
    result, report = prepared(raw)
    assert not result.observed[[3, 7], 1].any() and result.observed[9, 0].all()
    assert (result.values[[3, 7], 1] == 0).all()
    assert report["series"]["implausible_sensors"] == {"b": 2}


def test_disorder_is_mended_and_reported(tmp_path: Path) -> None:
    times = pd.date_range("2024-01-01", periods=200, freq="h").to_numpy()
    order = np.r_[5, 0:5, 6:50, 60:200, 199]  # one early row, ten missing, the last twice
    readings = daily_readings(200, 2, 60)[order]
    raw = write_raw_world(tmp_path / "x", timestamps=times[order], readings=readings, sensors=2)
    result, report = prepared(raw)
    assert result.meta.steps == 200
    np.testing.assert_array_equal(np.diff(result.time), 3600)
    assert not result.observed[50:60].any() and result.observed.sum() == 190 * 2
    rows = report["series"]
    counts = [rows[key] for key in ("unsorted_rows", "duplicate_rows", "conflicting_readings", "gaps")]
    assert counts == [1, 1, 0, 1]
    assert rows["gap_list"] == [{"first": "2024-01-03T02:00:00Z", "steps": 10}]
    assert "steps without a row in 1 gap(s), made unobserved: 10" in summary(report)


@pytest.mark.parametrize("day", ["2024-03-31", "2024-10-27"])
def test_a_changed_clock_neither_loses_nor_repeats_a_step(tmp_path: Path, day: str) -> None:
    utc = pd.date_range(pd.Timestamp(day) - pd.Timedelta(days=4), periods=200, freq="h", tz="UTC")
    local = utc.tz_convert("Europe/London").tz_localize(None)
    raw = write_raw_world(tmp_path / "x", timestamps=local, facts={"time_zone": "Europe/London"})
    result, report = prepared(raw)
    np.testing.assert_array_equal(result.time, utc.as_unit("s").asi8)
    assert result.observed.all()
    np.testing.assert_array_equal(result.calendar[:, 0], local.hour)
    np.testing.assert_array_equal(result.calendar[:, 1], local.dayofweek)
    assert report["daylight_saving"] == [{"date": day, "hours": 23.0 if "03" in day else 25.0}]


def test_unusable_sensors_follow_the_rule(tmp_path: Path) -> None:
    readings = daily_readings(200, 4, 60)
    readings[:, 1], readings[:, 3] = np.nan, 42
    readings[:150, 2] = np.nan
    raw = write_raw_world(tmp_path / "x", readings=readings)
    message = refused(raw)
    for part in (
        "series.parquet has 3 unusable sensors; preprocess.unusable_sensors: drop leaves them out, keep",
        "no reading: b",
        "no reading in the training rows: c",
        "one value only in the training rows: d",
    ):
        assert part in message
    dropped, report = prepared(raw, unusable_sensors="drop")
    assert list(dropped.sensors["sensor_id"]) == ["a"] and report["sensors"]["dropped"] == ["b", "c", "d"]
    kept, report = prepared(raw, unusable_sensors="keep", scaling="per_sensor")
    assert kept.meta.sensors == 4 and report["sensors"]["dropped"] == []
    assert kept.scaler["mean"][0, 1] == kept.scaler["mean"][0, 3]  # the global statistics
    assert "unusable sensors kept with global statistics: b, c, d" in report["done"]


def test_a_world_of_unusable_sensors_is_refused_under_every_rule(tmp_path: Path) -> None:
    raw = write_raw_world(tmp_path / "x", readings=np.full((200, 2), np.nan), sensors=2)
    assert "no sensor has usable training readings" in refused(raw, unusable_sensors="drop")
    assert "no sensor has usable training readings" in refused(raw, unusable_sensors="keep")


def test_copies_and_stuck_sensors_are_reported(tmp_path: Path) -> None:
    readings = daily_readings(200, 4, 60)
    readings[:, 2] = readings[:, 0]
    readings[20:44, 1], readings[60:83, 1], readings[100:150, 3] = 7, 7, 0  # 24 stuck, 23 not, zeros not
    _, report = prepared(write_raw_world(tmp_path / "x", readings=readings))
    series = report["series"]
    assert series["identical_sensors"] == [["a", "c"]]
    assert (series["stuck_stretches"], series["stuck_sensors"]) == (1, 1)
    assert series["zero_share"] == 50 / 800


def test_inputs_become_channels_on_the_grid_of_the_target(tmp_path: Path) -> None:
    raw = write_raw_world(tmp_path / "x", sensors=2)
    times = pd.date_range("2024-01-01 02:00", periods=250, freq="h")  # two hours late, longer than the target
    flow = daily_readings(250, 2, 60, seed=4)
    write_series(raw / "series_flow.parquet", times, {"b": flow[:, 1], "a": flow[:, 0]})
    result, report = prepared(raw, {"inputs": ("flow",)})
    assert result.meta.channels == ("target", "flow")
    assert not result.observed[:2, :, 1].any()
    np.testing.assert_array_equal(result.values[2:, :, 1], flow[:198])
    assert result.scaler["mean"][1] == pytest.approx(flow[: result.meta.training_rows - 2].mean(), rel=1e-5)
    assert report["inputs"]["flow"]["rows_outside_the_target"] == 52


def test_an_input_without_training_readings_is_refused(tmp_path: Path) -> None:
    raw = write_raw_world(tmp_path / "x", sensors=2, variables={"flow": np.full((200, 2), np.nan)})
    assert "series_flow.parquet has no reading in the" in refused(raw, {"inputs": ("flow",)})


def test_covariates_are_z_scored_and_coarse_ones_hold(tmp_path: Path) -> None:
    raw = write_raw_world(tmp_path / "x")
    times = pd.date_range("2024-01-01", periods=67, freq="3h")
    rain = np.random.default_rng(0).gamma(2, size=67).astype(np.float32)
    rain[5] = np.nan
    write_series(raw / "covariates.parquet", times, {"rain": rain, "sun": np.ones(67)})
    result, report = prepared(raw, {"covariates": ("rain", "sun")})
    values = result.covariates[:, 0]
    np.testing.assert_allclose(values[0:3], np.full(3, values[0]))  # held for its three hours
    held = np.repeat(rain, 3)[: result.meta.training_rows]
    assert values[3] == pytest.approx((rain[1] - np.nanmean(held)) / np.nanstd(held), rel=1e-4)
    assert (values[15:18] == 0).all() and values[18] != 0  # a missing one is missing for its three hours
    assert (result.covariates[:, 1] == 0).all()  # no spread, no information
    assert report["covariates"]["held_steps"] == 3


def test_a_covariate_without_training_readings_is_refused(tmp_path: Path) -> None:
    rain = np.full(200, np.nan)
    raw = write_raw_world(tmp_path / "x", covariates={"rain": rain})
    assert "no reading in the training rows of rain" in refused(raw, {"covariates": ("rain",)})


@pytest.mark.parametrize(
    ("world", "windows", "preprocess", "part"),
    [
        ({"steps": 6}, {}, {}, "the series has 6 steps, fewer than one window of 4 + 3"),
        ({}, {"history": 60}, {}, "windows.history (60 steps) is longer than validation and test"),
        ({}, {"context": ("90min",)}, {}, "windows.context (use [] for none):\n  - 90min is no multiple"),
        ({}, {"context": ("2h",)}, {}, "2h is 2 steps, shorter than the horizon of 3"),
        ({}, {}, {"graph": "edges"}, "no edges.parquet"),
        ({"coordinates": False}, {}, {"graph": "coordinates"}, "no latitude and longitude"),
        ({"facts": {"colour": "red"}}, {}, {}, "colour: unknown key"),
        ({"facts": {"step_minutes": 50}}, {}, {}, "are off the grid of 3000 s"),
        ({"facts": {"step_minutes": 1 / 60}}, {}, {}, "steps of 1 s are too short, a day has at most 32,767"),
    ],
)
def test_bad_choices_are_refused_and_nothing_is_written(
    tmp_path: Path, world: dict[str, Any], windows: dict[str, Any], preprocess: dict[str, Any], part: str
) -> None:
    assert part in refused(write_raw_world(tmp_path / "x", **world), windows, **preprocess)


def test_conflicts_are_refused_where_so_wished_and_nothing_is_written(tmp_path: Path) -> None:
    times = pd.date_range("2024-01-01", periods=200, freq="h")[np.r_[0:200, 10]]
    message = refused(write_raw_world(tmp_path / "x", timestamps=times), duplicates="error")
    assert "a at 2024-01-01T10:00:00Z" in message and "preprocess.duplicates" in message


def test_off_grid_rows_are_refused_or_moved(tmp_path: Path) -> None:
    times = pd.date_range("2024-01-01", periods=200, freq="h").to_numpy().copy()
    times[17] += np.timedelta64(11, "m")
    raw = write_raw_world(tmp_path / "x", timestamps=times)
    assert "row 17 (2024-01-01T17:11:00Z); set preprocess.off_grid: round" in refused(raw)
    result, report = prepared(raw, off_grid="round")
    assert result.observed.all() and report["series"]["off_grid_rows"] == 1


def test_a_world_without_edges_and_coordinates_has_no_neighbors_and_says_so(tmp_path: Path) -> None:
    result, report = prepared(write_raw_world(tmp_path / "x", coordinates=False))
    assert not result.valid.any()
    assert "no sensor reads another: the data set has no edges and no coordinates in use" in report["done"]


def test_the_report_is_the_same_twice_and_knows_no_path(tmp_path: Path) -> None:
    raw = write_raw_world(tmp_path / "x")
    texts = [json.dumps(prepared(raw, {"context": ("12h", "1w")})[1], sort_keys=True) for _ in range(2)]
    assert texts[0] == texts[1]
    assert str(tmp_path) not in texts[0]
    assert json.loads(texts[0])["context"] == {
        "kept": ["12h"],
        "switched_off": {"windows.context: 1w": "training covers 5.8 days, fewer than two weeks"},
    }
