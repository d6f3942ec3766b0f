"""Whether the targets of each split were read at all.

Enters: readings [step, node] on the grid, NaN where not observed, and the origins of the splits. Leaves: counts for
the quality report, and a refusal where nothing could be learned, chosen or measured.

Glossary: target steps = steps that the windows of a split are to forecast.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int64

from headway.data.grid import Grid, Placement, iso
from headway.data.series import Variable
from headway.data.store import each_column
from headway.errors import InputError

Splits = Mapping[str, tuple[int, int]]  # origins [first, last)
SPARSE = 0.5  # of the share of the split that was read best


def count_read(
    target: Variable, grid: Grid, splits: Splits, horizon: int, path: Path
) -> Int64[np.ndarray, " step"]:
    """How many sensors were read at each step.

    Args: path: of the target's file, for messages.
    Raises: InputError naming each split without a reading at its target steps, their times, and the last row before
        them that has readings.
    """
    read = np.zeros(grid.steps, dtype=np.int64)
    for _, column in each_column(target.readings):
        read += ~np.isnan(column)
    problems = []
    for name, span in splits.items():
        steps = _steps(span, horizon)
        if not read[steps].any():
            times = " to ".join(iso(grid.first + grid.step * step) for step in (steps.start, steps.stop - 1))
            last = _last_row(read[: steps.start], grid, target.placement)
            problems.append(f"{name} ({span[1] - span[0]:,} windows, targets of {times}): {last}")
    if problems:
        raise InputError.from_problems(
            f"{path} has no reading that the forecasts of a split could be compared with; shorten the file to the "
            "rows that have readings, or set another preprocess.split:",
            problems,
        )
    return read


def describe_targets(
    read: Int64[np.ndarray, " step"], span: tuple[int, int], horizon: int, nodes: int
) -> dict[str, Any]:
    """The readings at the target steps of one split, and their share of all that could be there."""
    here = read[_steps(span, horizon)]
    return {"observed_targets": int(here.sum()), "observed_share": round(float(here.mean()) / nodes, 6)}


def describe_sparse(splits: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """A sentence for each split of the quality report that was read far less than another one."""
    best = max(splits, key=lambda name: splits[name]["observed_share"])
    most = splits[best]["observed_share"]
    return [
        f"{split['observed_share']:.1%} of the targets of {name} were read ({split['observed_targets']:,} readings), "
        f"{most:.1%} of those of {best}; end the file where the readings end, or preprocess.split"
        for name, split in splits.items()
        if split["observed_share"] < SPARSE * most
    ]


def _steps(span: tuple[int, int], horizon: int) -> slice:
    return slice(span[0], span[1] + horizon - 1)


def _last_row(before: Int64[np.ndarray, " step"], grid: Grid, placement: Placement) -> str:
    steps = np.flatnonzero(before)
    if not len(steps):
        return "no row before them has readings"
    row = np.flatnonzero(placement.slots == steps[-1])[-1]
    return f"the last row before them that has readings is {row} ({iso(grid.first + grid.step * int(steps[-1]))})"
