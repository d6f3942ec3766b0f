"""What was found in the readings, per sensor, and the words for it.

Enters: readings [step, node] on the grid, NaN where not observed. Leaves: counts, lists of sensors and the
pieces of metrics/preprocess/quality.json; nothing here changes a reading.

Glossary: stuck = at least 24 consecutive equal readings other than 0; constant = one value only in training
rows; unusable = constant or without a training reading.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int64

from headway.data.grid import Grid, Placement, find_gaps, iso

STUCK_STEPS = 24
WORST = 20  # sensors or gaps named in a list


@dataclass(frozen=True, slots=True, kw_only=True)
class Findings:
    """Counts of each sensor over all steps, and groups of sensors whose readings are identical throughout."""

    observed: Int64[np.ndarray, " node"]
    zeros: Int64[np.ndarray, " node"]
    stuck: Int64[np.ndarray, " node"]
    identical: list[list[str]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Unusable:
    """Sensors that cannot be learned from: no reading at all, none in training, or one value only there."""

    silent: Bool[np.ndarray, " node"]
    untrained: Bool[np.ndarray, " node"]
    constant: Bool[np.ndarray, " node"]

    def any(self) -> Bool[np.ndarray, " node"]:
        """Sensors with one of the three faults."""
        return self.untrained | self.constant

    def named(self, ids: Sequence[str]) -> dict[str, list[str]]:
        """Sensors by fault, only faults that occur."""
        faults = {
            "no reading": self.silent,
            "no reading in the training rows": self.untrained & ~self.silent,
            "one value only in the training rows": self.constant,
        }
        return {fault: _ids(mask, ids) for fault, mask in faults.items() if mask.any()}


def find_unusable(readings: Float[np.ndarray, "step node"], training_rows: int) -> Unusable:
    """Judge each sensor by its training rows; validation and test decide nothing."""
    nodes = readings.shape[1]
    silent, untrained, constant = (np.zeros(nodes, dtype=bool) for _ in range(3))
    for index in range(nodes):
        column = readings[:, index]
        seen = column[:training_rows][~np.isnan(column[:training_rows])]
        untrained[index] = not len(seen)
        silent[index] = untrained[index] and bool(np.isnan(column).all())
        constant[index] = len(seen) > 0 and seen.min() == seen.max()
    return Unusable(silent=silent, untrained=untrained, constant=constant)


def examine(readings: Float[np.ndarray, "step node"], ids: Sequence[str]) -> Findings:
    """One pass over the sensors."""
    observed, zeros, stuck = (np.zeros(len(ids), dtype=np.int64) for _ in range(3))
    same: dict[bytes, list[str]] = defaultdict(list)
    for index, name in enumerate(ids):
        column = readings[:, index]
        missing = np.isnan(column)
        observed[index] = len(column) - missing.sum()
        zeros[index] = (column == 0).sum()
        stuck[index] = _stuck_stretches(column)
        seen = column[~missing]
        if len(seen) and seen.min() < seen.max():  # constant sensors are listed as such
            plain = np.where(missing, np.float32(-np.inf), column)
            same[hashlib.blake2b(plain.tobytes()).digest()].append(name)
    identical = [group for group in same.values() if len(group) > 1]
    return Findings(observed=observed, zeros=zeros, stuck=stuck, identical=identical)


def describe_findings(findings: Findings, steps: int) -> dict[str, Any]:
    """Shares and counts over all sensors."""
    observed = int(findings.observed.sum())
    return {
        "missing_share": round(1 - observed / (steps * len(findings.observed)), 6),
        "zero_share": round(int(findings.zeros.sum()) / max(1, observed), 6),
        "stuck_stretches": int(findings.stuck.sum()),
        "stuck_sensors": int((findings.stuck > 0).sum()),
        "identical_sensors": findings.identical,
    }


def describe_rows_found(
    placement: Placement, grid: Grid, repeated: int, conflicts: Int64[np.ndarray, " node"]
) -> dict[str, Any]:
    """Order, duplicates and gaps of a file's rows."""
    gaps = find_gaps(placement, grid)
    longest = sorted(gaps, key=lambda gap: (-gap[1], gap[0]))[:WORST]
    return {
        "rows": len(placement.slots),
        "unsorted_rows": placement.unsorted,
        "off_grid_rows": placement.off_grid,
        "duplicate_rows": placement.duplicates,
        "conflicting_readings": int(conflicts.sum()),
        "rows_outside_the_target": placement.outside,
        "repeated_local_times": repeated,
        "gaps": len(gaps),
        "gap_steps": sum(steps for _, steps in gaps),
        "gap_longest_steps": max((steps for _, steps in gaps), default=0),
        "gap_list": [
            {"first": iso(grid.first + grid.step * slot), "steps": steps} for slot, steps in longest
        ],
    }


def worst(counts: Int64[np.ndarray, " node"], ids: Sequence[str]) -> dict[str, int]:
    """The sensors with the highest counts above 0."""
    order = np.argsort(-counts, kind="stable")[:WORST]
    return {ids[int(index)]: int(counts[index]) for index in order if counts[index] > 0}


def _ids(mask: Bool[np.ndarray, " node"], ids: Sequence[str]) -> list[str]:
    return [name for name, marked in zip(ids, mask, strict=True) if marked]


def _stuck_stretches(column: Float[np.ndarray, " step"]) -> int:
    same = np.zeros(len(column) + 1, dtype=np.int8)  # bounded by False on both sides
    same[1:-1] = (column[1:] == column[:-1]) & (column[1:] != 0)
    edges = np.flatnonzero(np.diff(same))
    return int((edges[1::2] - edges[::2] >= STUCK_STEPS - 1).sum())
