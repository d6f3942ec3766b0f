"""Clock changes: the 23-hour day, the 25-hour day, and the civil calendar around them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from headway.data.calendar import civil_calendar, clock_changes, slots_per_day, time_of_week, to_utc
from headway.data.parquet import read_times
from headway.errors import InputError
from worlds import write_raw_world

LONDON = "Europe/London"  # 2024: forward 31 March 01:00 UTC, back 27 October 01:00 UTC


def seconds(*stamps: str) -> np.ndarray:
    return pd.DatetimeIndex(stamps).to_numpy().astype("datetime64[s]").astype(np.int64)


def autumn(freq: str = "30min") -> tuple[np.ndarray, np.ndarray]:
    """UTC and naive London time of the night the clocks go back, in seconds."""
    utc = pd.date_range("2024-10-26 22:00", "2024-10-27 04:00", freq=freq, tz="UTC")
    naive = [utc.tz_localize(None), utc.tz_convert(LONDON).tz_localize(None)]
    first, second = (part.to_numpy().astype("datetime64[s]").astype(np.int64) for part in naive)
    return first, second


def test_the_repeated_hour_is_told_apart_by_its_order() -> None:
    expected, local = autumn()
    utc, repeated, nonexistent = to_utc(local, LONDON)
    np.testing.assert_array_equal(utc, expected)
    assert (repeated.sum(), nonexistent.sum()) == (4, 0)


def test_the_repeated_hour_is_told_apart_in_a_sorted_file() -> None:
    expected, local = autumn()
    utc, _, _ = to_utc(np.sort(local), LONDON)
    np.testing.assert_array_equal(np.sort(utc), expected)


def test_the_repeated_hour_is_told_apart_where_the_newest_rows_come_first() -> None:
    expected, local = autumn("5min")
    utc, repeated, _ = to_utc(local[::-1], LONDON)
    np.testing.assert_array_equal(utc, expected[::-1])
    assert repeated.sum() == 24


def test_a_hole_in_the_first_pass_does_not_pull_the_second_forward() -> None:
    expected, local = autumn("15min")
    first_pass = np.flatnonzero(local == seconds("2024-10-27 01:15"))[0]
    kept = np.delete(np.arange(len(local)), first_pass)
    np.testing.assert_array_equal(to_utc(local[kept], LONDON)[0], expected[kept])


def test_one_pass_only_is_taken_as_the_first() -> None:
    utc, repeated, _ = to_utc(seconds("2024-10-27 00:30", "2024-10-27 01:30", "2024-10-27 02:00"), LONDON)
    np.testing.assert_array_equal(utc, seconds("2024-10-26 23:30", "2024-10-27 00:30", "2024-10-27 02:00"))
    assert repeated.sum() == 1


def test_winter_time_as_the_odd_one_is_resolved_alike() -> None:
    """Ireland's law calls winter time the exception; the order of the passes must not depend on that."""
    expected, local = autumn()
    np.testing.assert_array_equal(to_utc(local, "Europe/Dublin")[0], expected)


def test_a_skipped_hour_is_refused_by_row_with_a_way_out(tmp_path: Path) -> None:
    times = pd.date_range("2024-03-30", periods=48, freq="h")
    folder = write_raw_world(tmp_path / "x", timestamps=times)
    with pytest.raises(
        InputError, match=r"rows 25 \(2024-03-31T01:00:00\).*time_zone in dataset.yaml to UTC"
    ):
        read_times(folder / "series.parquet", LONDON)


def test_the_short_day_has_no_gap_in_utc() -> None:
    local = seconds("2024-03-31 00:00", "2024-03-31 00:30", "2024-03-31 02:00", "2024-03-31 02:30")
    np.testing.assert_array_equal(np.diff(to_utc(local, LONDON)[0]), 1800)


def test_the_calendar_is_civil_on_both_changed_days() -> None:
    utc = seconds("2024-03-31 00:30", "2024-03-31 01:30", "2024-10-27 00:30", "2024-10-27 01:30")
    calendar = civil_calendar(utc, LONDON, 1800)
    np.testing.assert_array_equal(calendar, [[1, 6], [5, 6], [3, 6], [3, 6]])  # Sundays; 01:30 twice


def test_the_day_of_week_turns_at_local_midnight() -> None:
    utc = seconds("2024-01-07 14:59", "2024-01-07 15:00")  # Sunday evening in UTC
    np.testing.assert_array_equal(civil_calendar(utc, "Asia/Tokyo", 60), [[1439, 6], [0, 0]])


def test_days_before_1970_are_counted_right() -> None:
    np.testing.assert_array_equal(civil_calendar(seconds("1969-12-28 23:00"), "UTC", 3600), [[23, 6]])


def test_a_zone_half_an_hour_off_keeps_whole_slots() -> None:
    calendar = civil_calendar(seconds("2024-01-01 00:00"), "Asia/Kolkata", 3600)
    np.testing.assert_array_equal(calendar, [[5, 0]])  # 05:30 lies in the sixth hour


@pytest.mark.parametrize(("step", "slots"), [(300, 288), (86_400, 1), (604_800, 1), (420, 206)])
def test_every_step_has_a_slot(step: int, slots: int) -> None:
    assert slots_per_day(step) == slots
    calendar = civil_calendar(np.arange(0, 14 * 86_400, step), "UTC", step)
    assert calendar[:, 0].max() < slots
    assert time_of_week(calendar, slots).max() < 7 * slots


def test_clock_changes_are_listed_with_the_length_of_the_day() -> None:
    first, last = seconds("2024-01-01", "2025-01-01")
    year = np.arange(first, last, 900)
    assert clock_changes(year, LONDON) == [
        {"date": "2024-03-31", "hours": 23.0},
        {"date": "2024-10-27", "hours": 25.0},
    ]
    assert clock_changes(year, "UTC") == []
