"""A split whose targets were not read: refused where there is none, told where there are few."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from headway.data.prepare import prepare
from headway.errors import InputError
from worlds import daily_readings, preprocess_params, windows_params, write_raw_world

# 200 steps, history 4, horizon 3: targets of training in rows 4 to 141, of validation 140 to 160, of test 159 to 199
READINGS = daily_readings(200, 2, 60)


def world(folder: Path, *empty: slice) -> Path:
    readings = READINGS.copy()
    for rows in empty:
        readings[rows] = np.nan
    return write_raw_world(folder / "city", readings=readings, sensors=2)


def report(raw: Path, **preprocess: Any) -> dict[str, Any]:
    return prepare(raw, raw.parent / "prepared", preprocess_params(**preprocess), windows_params())


def test_a_test_split_without_a_reading_is_refused_with_the_last_row_that_has_one(tmp_path: Path) -> None:
    raw = world(tmp_path, slice(158, None))
    with pytest.raises(InputError) as refused:
        report(raw)
    heading, *problems = str(refused.value).splitlines()
    assert heading.startswith(f"{raw / 'series.parquet'} has no reading that the forecasts of a split")
    assert heading.endswith(
        "shorten the file to the rows that have readings, or set another preprocess.split:"
    )
    assert problems == [
        "  - test (39 windows, targets of 2024-01-07T15:00:00Z to 2024-01-09T07:00:00Z): the last row before them "
        "that has readings is 157 (2024-01-07T13:00:00Z)"
    ]
    assert not (tmp_path / "prepared").exists()


def test_every_split_without_a_reading_is_named_at_once(tmp_path: Path) -> None:
    with pytest.raises(InputError) as refused:
        report(world(tmp_path, slice(138, None)))
    assert [line.split(" (")[0] for line in str(refused.value).splitlines()[1:]] == [
        "  - validation",
        "  - test",
    ]


def test_readings_that_no_training_window_is_to_forecast_are_no_targets(tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=r"train \(136 windows.*: the last row before them that has readings is 3 "
    ):
        report(world(tmp_path, slice(4, 150)))


def test_one_reading_among_the_targets_is_enough_and_is_worth_a_look(tmp_path: Path) -> None:
    found = report(world(tmp_path, slice(158, 199)))  # what is left is the last target of the last window
    assert found["splits"]["test"]["observed_targets"] == 2
    assert (
        found["splits"]["train"] | {"observed_targets": 276, "observed_share": 1.0}
        == found["splits"]["train"]
    )
    (sentence,) = found["worth_a_look"]
    assert sentence.startswith(
        "2.4% of the targets of test were read (2 readings), 100.0% of those of train; end"
    )


def test_gaps_that_all_splits_have_are_not_worth_a_look(tmp_path: Path) -> None:
    assert report(world(tmp_path, slice(0, None, 2)))["worth_a_look"] == []
