"""Rows in file order onto the regular UTC grid; readings that are none become NaN.

Enters: UTC seconds and readings [row, column] of a file, or of a table that messages call by `path`. Leaves:
readings [step, column], NaN where nothing was read, and counts of what was found.

Glossary: slot = number of the step a row belongs to; conflict = two different readings of one sensor in one
slot; gap = consecutive steps without a row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int64

from headway.data.calendar import HOUR
from headway.data.parquet import listing
from headway.data.rules import Duplicates, OffGrid
from headway.errors import InputError

SPARSEST = 100  # steps a row: a grid emptier than this comes from a stray timestamp or a wrong step
BLOCK = 64  # columns resolved at once


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """Steps first, first + step, ... in UTC seconds."""

    first: int
    step: int
    steps: int

    def time(self) -> Int64[np.ndarray, " step"]:
        """UTC seconds of each step."""
        return self.first + self.step * np.arange(self.steps, dtype=np.int64)


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """Slot of each row (-1: outside the grid) and what was found on the way.

    Attributes:
        unsorted: rows that are earlier than the row before them.
        off_grid: rows between two steps, moved to the nearer one.
        duplicates: rows beyond the first of their slot.
        outside: rows before or after the grid, left out.
    """

    slots: Int64[np.ndarray, " row"]
    unsorted: int
    off_grid: int
    duplicates: int
    outside: int


def choose_step(utc: Int64[np.ndarray, " row"], path: Path | str) -> int:
    """Seconds of the most common difference between two times; the shortest of equally common ones.

    Raises: InputError when there are fewer than two times.
    """
    differences, counts = np.unique(np.diff(np.unique(utc)), return_counts=True)
    if not len(differences):
        raise InputError(f"{path} has {len(np.unique(utc))} distinct timestamp(s); a series needs more")
    return int(differences[counts.argmax()])


def choose_grid(utc: Int64[np.ndarray, " row"], step: int, path: Path | str) -> Grid:
    """The grid from the first to the last row, in the phase most rows are in.

    Raises: InputError when there is no row, or the grid would be nearly empty.
    """
    if not len(utc):
        raise InputError(f"{path} has no rows")
    phases, counts = np.unique(utc % step, return_counts=True)
    phase = int(phases[counts.argmax()])
    first, last = (int(np.floor((time - phase) / step + 0.5)) for time in (utc.min(), utc.max()))
    steps = last - first + 1
    rows = len(np.unique(utc))
    if steps > SPARSEST * rows:
        raise InputError(
            f"{path}: {rows} timestamps from {iso(int(utc.min()))} to {iso(int(utc.max()))} would fill a "
            f"grid of {steps} steps of {step} s; remove stray timestamps, or state the step in dataset.yaml"
        )
    return Grid(first=first * step + phase, step=step, steps=steps)


def place_rows(utc: Int64[np.ndarray, " row"], grid: Grid, off_grid: OffGrid, path: Path | str) -> Placement:
    """The slot of each row.

    Raises: InputError naming the first rows between two steps when `off_grid` is "error".
    """
    exact = (utc - grid.first) / grid.step
    slots = np.floor(exact + 0.5).astype(np.int64)
    stray = np.flatnonzero(slots != exact)
    if len(stray) and off_grid == "error":
        places = listing((f"row {row} ({iso(int(utc[row]))})" for row in stray), 5)
        hint = (
            "; steps of a civil day are not regular where clocks change: set time_zone: UTC in dataset.yaml"
            if grid.step > HOUR
            else ""
        )
        raise InputError(
            f"{path}: {len(stray)} of {len(utc)} timestamps are off the grid of {grid.step} s from "
            f"{iso(grid.first)} (UTC): {places}; set preprocess.off_grid: round, or step_minutes in "
            f"dataset.yaml{hint}"
        )
    outside = (slots < 0) | (slots >= grid.steps)
    slots[outside] = -1
    inside = slots[~outside]
    return Placement(
        slots=slots,
        unsorted=int((np.diff(utc) < 0).sum()),
        off_grid=len(stray),
        duplicates=len(inside) - len(np.unique(inside)),
        outside=int(outside.sum()),
    )


def mask_readings(
    readings: Float[np.ndarray, "row column"],
    null: float | None,
    minimum: float | None,
    maximum: float | None,
) -> tuple[Int64[np.ndarray, " column"], Int64[np.ndarray, " column"]]:
    """Set nulls and implausible readings to NaN, in place.

    Returns: counts a column of nulls and of readings outside [minimum, maximum].
    """
    nulls = np.zeros(readings.shape[1], dtype=np.int64)
    implausible = np.zeros(readings.shape[1], dtype=np.int64)
    low = -np.inf if minimum is None else minimum
    high = np.inf if maximum is None else maximum
    for index, column in enumerate(readings.T):
        if null is not None:
            is_null = column == np.float32(null)
            nulls[index] = is_null.sum()
            column[is_null] = np.nan
        outside = (column < low) | (column > high)
        implausible[index] = outside.sum()
        column[outside] = np.nan
    return nulls, implausible


def to_grid(
    readings: Float[np.ndarray, "row column"],
    placement: Placement,
    grid: Grid,
    duplicates: Duplicates,
    names: Sequence[str],
    path: Path | str,
) -> tuple[Float[np.ndarray, "step column"], Int64[np.ndarray, " column"]]:
    """Readings onto the grid; regular rows are returned as they are, without a copy.

    Returns: readings and the number of conflicts a column. Equal readings of one slot are one reading.
    Raises: InputError naming the first conflicts when `duplicates` is "error".
    """
    slots = placement.slots
    if np.array_equal(slots, np.arange(grid.steps)):
        return readings, np.zeros(len(names), dtype=np.int64)
    placed = np.full((grid.steps, len(names)), np.nan, dtype=np.float32, order="F")
    order = np.argsort(slots, kind="stable")[(slots < 0).sum() :]
    slot, starts, counts = np.unique(slots[order], return_index=True, return_counts=True)
    single = counts == 1
    placed[slot[single]] = readings[order[starts[single]]]
    conflicts = np.zeros(len(names), dtype=np.int64)
    if single.all():
        return placed, conflicts
    group = np.repeat(~single, counts)  # rows that share their slot
    rows, starts = order[group], np.concatenate([[0], np.cumsum(counts[~single])[:-1]])
    for first in range(0, len(names), BLOCK):
        columns = slice(first, first + BLOCK)
        kept, conflict = _resolve(readings[rows, columns], starts, duplicates)
        conflicts[columns] = conflict.sum(axis=0)
        if duplicates == "error" and conflict.any():
            raise InputError(_conflict_message(path, names[columns], slot[~single], conflict, grid))
        placed[slot[~single], columns] = kept
    return placed, conflicts


def find_gaps(placement: Placement, grid: Grid) -> list[tuple[int, int]]:
    """(first slot, steps) of each run of steps without a row, in time order."""
    filled = np.unique(placement.slots[placement.slots >= 0])
    jumps = np.flatnonzero(np.diff(filled) > 1)
    return [(int(filled[jump]) + 1, int(filled[jump + 1] - filled[jump]) - 1) for jump in jumps]


def iso(seconds: int) -> str:
    """UTC seconds for people and reports."""
    return f"{np.datetime64(seconds, 's')}Z"


def _resolve(
    readings: Float[np.ndarray, "row column"], starts: Int64[np.ndarray, " slot"], rule: Duplicates
) -> tuple[Float[np.ndarray, "slot column"], np.ndarray]:
    low = np.fmin.reduceat(readings, starts, axis=0)
    conflict = np.fmax.reduceat(readings, starts, axis=0) > low
    if rule == "last":
        seen = np.where(np.isnan(readings), -1, np.arange(len(readings))[:, None])
        last = np.maximum.reduceat(seen, starts, axis=0)
        kept = np.take_along_axis(readings, np.maximum(last, 0), axis=0)
        return np.where(last < 0, np.float32(np.nan), kept), conflict
    seen = ~np.isnan(readings)
    total = np.add.reduceat(np.where(seen, readings, 0).astype(np.float64), starts, axis=0)
    count = np.maximum(np.add.reduceat(seen.astype(np.int64), starts, axis=0), 1)
    return np.where(conflict, total / count, low).astype(np.float32), conflict


def _conflict_message(
    path: Path | str,
    names: Sequence[str],
    slots: Int64[np.ndarray, " slot"],
    conflict: np.ndarray,
    grid: Grid,
) -> str:
    places = [
        f"{names[column]} at {iso(grid.first + grid.step * int(slots[row]))}"
        for row, column in np.argwhere(conflict)[:6]
    ]
    return (
        f"{path}: different readings of one sensor at one time, among others {listing(places, 5)}; "
        "set preprocess.duplicates to mean or last, or mend the file"
    )
