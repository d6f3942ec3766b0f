"""Order, gaps, duplicates and strays on the way to the regular grid."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headway.data.grid import (
    Grid,
    choose_grid,
    choose_step,
    find_gaps,
    mask_readings,
    place_rows,
    to_grid,
)
from headway.data.rules import Duplicates
from headway.errors import InputError

FILE = Path("series.parquet")
NAN = np.nan


def gridded(seconds: list[int], readings: Any, rule: Duplicates = "mean") -> tuple[np.ndarray, np.ndarray]:
    """A grid of 60 s steps made from rows at `seconds`."""
    utc = np.array(seconds, np.int64)
    grid = choose_grid(utc, 60, FILE)
    table = np.asfortranarray(np.array(readings, np.float32).reshape(len(seconds), -1))
    names = [f"s{index}" for index in range(table.shape[1])]
    return to_grid(table, place_rows(utc, grid, "error", FILE), grid, rule, names, FILE)


def test_the_step_is_the_most_common_difference() -> None:
    assert choose_step(np.array([0, 300, 600, 900, 1800, 2700]), FILE) == 300


def test_one_timestamp_has_no_step() -> None:
    with pytest.raises(InputError, match=r"series\.parquet has 1 distinct timestamp"):
        choose_step(np.array([7, 7]), FILE)


def test_regular_rows_are_not_copied() -> None:
    readings = np.ones((3, 2), np.float32)
    grid = Grid(first=0, step=60, steps=3)
    placement = place_rows(np.array([0, 60, 120]), grid, "error", FILE)
    assert to_grid(readings, placement, grid, "mean", ["a", "b"], FILE)[0] is readings


def test_a_gap_in_the_series_becomes_unobserved_rows() -> None:
    placed, _ = gridded([0, 60, 240], [1, 2, 3])
    np.testing.assert_array_equal(placed[:, 0], [1, 2, NAN, NAN, 3])


def test_gaps_are_listed_in_time_order() -> None:
    grid = Grid(first=0, step=60, steps=8)
    placement = place_rows(60 * np.array([7, 0, 3, 2]), grid, "error", FILE)
    assert find_gaps(placement, grid) == [(1, 1), (4, 3)]


def test_unsorted_rows_are_sorted_and_counted() -> None:
    placed, _ = gridded([120, 0, 60], [3, 1, 2])
    np.testing.assert_array_equal(placed[:, 0], [1, 2, 3])
    grid = Grid(first=0, step=60, steps=3)
    assert place_rows(np.array([120, 0, 60]), grid, "error", FILE).unsorted == 1


def test_equal_readings_at_one_time_are_one_reading_under_every_rule() -> None:
    for rule in ("mean", "last", "error"):
        placed, conflicts = gridded([0, 60, 60, 120], [1, 5, 5, 2], rule)  # type: ignore[arg-type]
        np.testing.assert_array_equal(placed[:, 0], [1, 5, 2])
        assert conflicts.sum() == 0


def test_conflicting_readings_follow_the_rule_and_are_counted_a_sensor() -> None:
    rows = [[1, 1], [4, 9], [8, 9], [3, 3]]
    mean, conflicts = gridded([0, 60, 60, 120], rows, "mean")
    np.testing.assert_array_equal(mean, [[1, 1], [6, 9], [3, 3]])
    np.testing.assert_array_equal(conflicts, [1, 0])
    last, _ = gridded([0, 60, 60, 120], rows, "last")
    np.testing.assert_array_equal(last, [[1, 1], [8, 9], [3, 3]])


def test_conflicting_readings_are_refused_by_name_where_so_wished() -> None:
    with pytest.raises(InputError, match=r"s1 at 1970-01-01T00:01:00Z; set preprocess\.duplicates"):
        gridded([0, 60, 60], [[1, 1], [2, 2], [2, 3]], "error")


def test_a_missing_duplicate_does_not_hide_a_reading() -> None:
    for rule in ("mean", "last", "error"):
        placed, conflicts = gridded([0, 60, 60, 60], [1, NAN, 7, NAN], rule)  # type: ignore[arg-type]
        np.testing.assert_array_equal(placed[:, 0], [1, 7])
        assert conflicts.sum() == 0


def test_rows_between_two_steps_are_named_or_moved() -> None:
    utc = np.array([0, 60, 125, 180, 240])
    grid = choose_grid(utc, 60, FILE)
    with pytest.raises(
        InputError, match=r"1 of 5 timestamps are off the grid of 60 s.*row 2 \(1970-01-01T00:02:05Z\)"
    ):
        place_rows(utc, grid, "error", FILE)
    placement = place_rows(utc, grid, "round", FILE)
    np.testing.assert_array_equal(placement.slots, [0, 1, 2, 3, 4])
    assert placement.off_grid == 1


def test_the_grid_takes_the_phase_of_most_rows() -> None:
    grid = choose_grid(np.array([0, 70, 130, 190]), 60, FILE)
    assert (grid.first, grid.steps) == (10, 4)


def test_rows_outside_a_given_grid_are_left_out_and_counted() -> None:
    grid = Grid(first=60, step=60, steps=2)
    placement = place_rows(np.array([0, 60, 120, 180]), grid, "error", FILE)
    assert placement.outside == 2
    placed, _ = to_grid(np.arange(4, dtype=np.float32)[:, None], placement, grid, "mean", ["a"], FILE)
    np.testing.assert_array_equal(placed[:, 0], [1, 2])


def test_a_stray_timestamp_does_not_make_a_giant_grid() -> None:
    with pytest.raises(InputError, match="4 timestamps from 1970-01-01"):
        choose_grid(np.array([0, 60, 120, 60 * 10_000_000]), 60, FILE)


def test_nulls_and_implausible_readings_become_unobserved_and_are_counted() -> None:
    readings = np.asfortranarray(np.array([[0, 50], [-3, 0], [130, NAN], [80, 120]], np.float32))
    nulls, implausible = mask_readings(readings, 0.0, 0.0, 120.0)
    np.testing.assert_array_equal(readings, [[NAN, 50], [NAN, NAN], [NAN, NAN], [80, 120]])
    np.testing.assert_array_equal(nulls, [1, 1])
    np.testing.assert_array_equal(implausible, [2, 0])


def test_zero_stays_a_reading_without_a_rule() -> None:
    readings = np.zeros((2, 1), np.float32)
    mask_readings(readings, None, None, None)
    np.testing.assert_array_equal(readings, np.zeros((2, 1)))


def test_nulls_do_not_enter_the_mean_of_duplicates() -> None:
    readings = np.asfortranarray(np.array([[1], [0], [50]], np.float32))
    mask_readings(readings, 0.0, None, None)
    placed, conflicts = gridded([0, 60, 60], readings)
    assert (placed[1, 0], conflicts[0]) == (50, 0)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 12), st.one_of(st.none(), st.integers(0, 3))), min_size=2, max_size=30)
)
def test_the_mean_rule_equals_a_plain_loop(rows: list[tuple[int, int | None]]) -> None:
    slots = [slot for slot, _ in rows]
    readings = [NAN if reading is None else reading for _, reading in rows]
    placed, _ = gridded([60 * slot for slot in slots], readings)
    for slot in range(min(slots), max(slots) + 1):
        seen = [r for s, r in zip(slots, readings, strict=True) if s == slot and r == r]
        expected = np.mean(seen) if seen else NAN
        np.testing.assert_allclose(placed[slot - min(slots), 0], expected, rtol=1e-6)
