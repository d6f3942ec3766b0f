"""Stretches of one sensor's readings that look as if nobody had measured them.

Enters: the readings of a sensor on the grid, NaN where not observed. Leaves: which steps, or stretches of them.

Glossary: stuck = equal to the reading before, again and again; line = readings that lie on one sloping line, as
interpolation leaves them; copy = readings that equal those of a week ago, one after the other. Zeros are neither
stuck nor copies: at night nothing drives.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from jaxtyping import Bool, Float, Int64, UInt64

Column = Float[np.ndarray, " step"]
LINE_STEPS = 7  # readings on one line; measured series have next to none of so many
COPY_STEPS = 24
ROUNDING = 2e-6  # of a float32, relative


def stuck_steps(column: Column, least: int) -> Bool[np.ndarray, " step"]:
    """Steps whose reading equals the `least` - 1 before it: what can be known at that step."""
    stuck = np.zeros(len(column), dtype=bool)
    for first, last in _runs(_repeats(column)):  # the step before the first one holds the same reading
        stuck[first + max(2, least) - 2 : last] = True
    return stuck


def stuck_stretches(column: Column, least: int) -> Int64[np.ndarray, " stretch"]:
    """Lengths of the stretches of at least `least` equal readings other than 0."""
    return _lengths(_repeats(column), least - 1) + 1


def line_stretches(column: Column) -> Int64[np.ndarray, " stretch"]:
    """Lengths of the stretches on one sloping line."""
    slope = np.diff(column)
    bend, here = np.abs(np.diff(slope)), np.abs(column[1:-1])
    straight = bend <= ROUNDING * np.maximum(here, np.abs(slope[1:]))
    return _lengths(straight & (np.abs(slope[1:]) > 5 * ROUNDING * here), LINE_STEPS - 2) + 2


def copied_stretches(column: Column, week: int) -> Int64[np.ndarray, " stretch"]:
    """Lengths of the stretches that equal the readings `week` steps earlier; none where a week is too short."""
    if not COPY_STEPS <= week < len(column):
        return np.zeros(0, dtype=np.int64)
    return _lengths((column[week:] == column[:-week]) & (column[week:] != 0), COPY_STEPS)


def zero_stretches(column: Column, day: int) -> Int64[np.ndarray, " stretch"]:
    """Lengths of the stretches of zeros that last a day or longer."""
    return _lengths(column == 0, day) if day > 1 else np.zeros(0, dtype=np.int64)


def day_marks(column: Column, day: int) -> UInt64[np.ndarray, " day"]:
    """A number for each whole day, the same for the same readings; 0 where one is missing, or all are equal.

    It is the sum of the readings' bits under random odd weights, 64 bits wide.
    """
    rows = np.ascontiguousarray(column[: len(column) // day * day], dtype=np.float32).reshape(-1, day)
    weights = np.random.default_rng(0).integers(0, 2**63, day, dtype=np.uint64) * np.uint64(2) + np.uint64(1)
    telling = rows.min(axis=1) < rows.max(axis=1)  # False where a reading is missing
    return (rows.view(np.uint32) * weights).sum(axis=1, dtype=np.uint64) * telling


def shared_days(marks: UInt64[np.ndarray, "day node"]) -> dict[tuple[int, int], int]:
    """Pairs of sensors (the first of its group, another) and the days whose marks they share."""
    shared: dict[tuple[int, int], int] = {}
    for row in marks:
        order = np.argsort(row, kind="stable")
        same = (np.diff(row[order]) == 0) & (row[order[1:]] != 0)
        for first, last in _runs(same):
            for node in order[first + 1 : last + 1].tolist():
                pair = (int(order[first]), node)
                shared[pair] = shared.get(pair, 0) + 1
    return shared


def _repeats(column: Column) -> Bool[np.ndarray, " step"]:
    return np.concatenate([[False], (column[1:] == column[:-1]) & (column[1:] != 0)])


def _runs(mask: Bool[np.ndarray, " step"]) -> Iterator[tuple[int, int]]:
    """[first, last) of each run of True."""
    edges = _edges(mask).tolist()
    return zip(edges[::2], edges[1::2], strict=True)


def _lengths(mask: Bool[np.ndarray, " step"], least: int) -> Int64[np.ndarray, " stretch"]:
    edges = _edges(mask)
    lengths = edges[1::2] - edges[::2]
    return lengths[lengths >= max(1, least)]


def _edges(mask: Bool[np.ndarray, " step"]) -> Int64[np.ndarray, " edge"]:
    bounded = np.zeros(len(mask) + 2, dtype=np.int8)
    bounded[1:-1] = mask
    return np.flatnonzero(np.diff(bounded))
