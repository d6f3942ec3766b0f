"""What an import prints beside the count of rows: what it chose, what it changed, what preprocess will refuse."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from foreign_files import readings
from headway.commands.importing import import_data
from headway.data.facts import read_facts
from headway.data.importers.formats import Options
from worlds import daily_readings

ROWS = ["2024-01-01 00:00,7,50,-1", "2024-01-01 00:00,8,-1,20", "2024-01-01 00:05,7,51,21"]
UTC = "times are kept as UTC; civil days and rush hours need --time-zone"


@pytest.fixture
def city(tmp_path: Path) -> Path:
    path = tmp_path / "city.csv"
    path.write_text("\n".join(["time,sensor_id,speed,flow", *ROWS]) + "\n")
    return path


def said(form: str, source: Path, **options: Any) -> str:
    return import_data(form, source, "city", source.parent / "raw", Options(**options), replace=True)


def wide(path: Path, values: np.ndarray, **columns: Any) -> Path:
    frame = pd.DataFrame(values, columns=[f"s{number}" for number in range(values.shape[1])])
    frame.insert(0, "time", pd.date_range("2024-01-01", periods=len(values), freq="5min"))
    frame.assign(**columns).to_parquet(path, index=False)
    return path


def test_the_null_number_is_missing_in_further_variables_too(city: Path) -> None:
    text = said("long", city, null=-1.0, also=("flow",))
    folder = city.parent / "raw/city"
    np.testing.assert_array_equal(readings(folder, "series_flow"), [[np.nan, 20], [21, np.nan]])
    np.testing.assert_array_equal(readings(folder), [[50, -1], [51, np.nan]])
    assert read_facts(folder / "dataset.yaml").null_value == -1
    assert "1 readings of flow are -1, written as missing (--null)" in text


def test_what_is_forecast_and_what_is_left_out_is_said(city: Path) -> None:
    assert "forecast: speed; columns left out: flow (--also" in said("long", city)
    assert "left out" not in said("long", city, also=("flow",))


def test_the_first_sensors_are_named(city: Path) -> None:
    assert "2 rows, 2 sensors: 7, 8\n" in said("long", city)


def test_a_clock_that_nobody_named_is_said_to_be_utc(city: Path) -> None:
    assert UTC in said("long", city)
    assert UTC not in said("long", city, time_zone="Europe/London")
    city.write_text(city.read_text().replace(":00,", ":00+01,").replace(":05,", ":05+01,"))
    assert UTC in said("long", city)


def test_sensors_that_preprocess_will_refuse_are_named_with_the_key_that_helps(tmp_path: Path) -> None:
    source = wide(tmp_path / "x.parquet", daily_readings(9, 2, 5), still=[4.0, -1.0, *[4.0] * 7], silent=-1.0)
    text = said("wide", source, null=-1.0)
    assert (
        "sensors without a reading: silent; with one value only: still: preprocess will refuse them" in text
    )
    assert "preprocess.unusable_sensors: drop" in text
    assert "unusable" not in said("wide", wide(tmp_path / "y.parquet", daily_readings(9, 2, 5)))


def test_rows_between_two_steps_are_counted_with_the_key_that_helps(tmp_path: Path) -> None:
    times = pd.date_range("2024-01-01", periods=9, freq="5min").to_numpy().copy()
    times[4] += np.timedelta64(60, "s")
    text = said("wide", wide(tmp_path / "x.parquet", daily_readings(9, 2, 5), time=times))
    assert "1 of 9 rows lie between two steps of 300 s" in text and "preprocess.off_grid: round" in text
