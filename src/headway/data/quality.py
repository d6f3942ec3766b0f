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

from headway.data.calendar import DAY, WEEK
from headway.data.grid import Grid, Placement, find_gaps, iso
from headway.data.store import each_column
from headway.data.symptoms import (
    copied_stretches,
    day_marks,
    line_stretches,
    shared_days,
    stuck_stretches,
    zero_stretches,
)

STUCK_STEPS = 24
SHARED_DAYS = 3  # of two sensors with the same readings, at least
WORST = 20  # sensors or gaps named in a list


@dataclass(frozen=True, slots=True, kw_only=True)
class Findings:
    """What was seen, a count a sensor over all steps.

    Attributes:
        stuck: stretches of equal readings. line, copy, silence: readings in stretches on one line, in copies of the
            week before, in days of nothing but zeros (symptoms.py).
        identical: groups of sensors whose readings are the same throughout.
        shared: (sensor, another) with whole days of the same readings, and their number; `days` there are.
    """

    observed: Int64[np.ndarray, " node"]
    zeros: Int64[np.ndarray, " node"]
    negative: Int64[np.ndarray, " node"]
    stuck: Int64[np.ndarray, " node"]
    line: Int64[np.ndarray, " node"]
    copy: Int64[np.ndarray, " node"]
    silence: Int64[np.ndarray, " node"]
    identical: list[list[str]]
    shared: dict[tuple[str, str], int]
    days: int


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
    for index, column in each_column(readings):
        seen = column[:training_rows][~np.isnan(column[:training_rows])]
        untrained[index] = not len(seen)
        silent[index] = untrained[index] and bool(np.isnan(column).all())
        constant[index] = len(seen) > 0 and seen.min() == seen.max()
    return Unusable(silent=silent, untrained=untrained, constant=constant)


def examine(readings: Float[np.ndarray, "step node"], ids: Sequence[str], step_seconds: int) -> Findings:
    """One pass over the sensors."""
    day, week = DAY // step_seconds, WEEK // step_seconds if WEEK % step_seconds == 0 else 0
    names = ("observed", "zeros", "negative", "stuck", "line", "copy", "silence")
    counts = {name: np.zeros(len(ids), dtype=np.int64) for name in names}
    marks = np.zeros((len(readings) // day if day > 1 else 0, len(ids)), dtype=np.uint64)
    for index, column in each_column(readings):
        counts["observed"][index] = len(column) - np.isnan(column).sum()
        counts["zeros"][index] = (column == 0).sum()
        counts["negative"][index] = (column < 0).sum()
        counts["stuck"][index] = len(stuck_stretches(column, STUCK_STEPS))
        counts["line"][index] = line_stretches(column).sum()
        counts["copy"][index] = copied_stretches(column, week).sum()
        counts["silence"][index] = zero_stretches(column, day).sum()
        marks[:, index] = day_marks(column, day) if len(marks) else 0
    groups = _repeated_groups(readings)
    again = {ids[node] for group in groups for node in group[1:]}
    shared = {(ids[one], ids[other]): days for (one, other), days in shared_days(marks).items()}
    return Findings(
        **counts,
        identical=[[ids[node] for node in group] for group in groups],
        shared={pair: days for pair, days in shared.items() if pair[1] not in again},
        days=len(marks),
    )


def find_repeated(readings: Float[np.ndarray, "step node"]) -> Bool[np.ndarray, " node"]:
    """Sensors whose readings are those of an earlier one throughout."""
    repeated = np.zeros(readings.shape[1], dtype=bool)
    repeated[[node for group in _repeated_groups(readings) for node in group[1:]]] = True
    return repeated


def _repeated_groups(readings: Float[np.ndarray, "step node"]) -> list[list[int]]:
    same: dict[bytes, list[int]] = defaultdict(list)
    for index, column in each_column(readings):
        missing = np.isnan(column)
        seen = column[~missing]
        if len(seen) and seen.min() < seen.max():  # constant sensors are listed as such
            plain = np.where(missing, np.float32(-np.inf), column)
            same[hashlib.blake2b(plain.tobytes()).digest()].append(index)
    return [group for group in same.values() if len(group) > 1]


def describe_findings(findings: Findings, steps: int, ids: Sequence[str]) -> dict[str, Any]:
    """Shares and counts over all sensors, and the sensors with the highest counts."""
    observed = int(findings.observed.sum())
    # sensors with little traffic share a day by chance
    most = [item for item in findings.shared.items() if item[1] >= max(SHARED_DAYS, 0.05 * findings.days)]
    most = sorted(most, key=lambda item: (-item[1], item[0]))[:WORST]
    return {
        "missing_share": round(1 - observed / (steps * len(findings.observed)), 6),
        "missing_sensors": worst(steps - findings.observed, ids),
        "zero_share": round(int(findings.zeros.sum()) / max(1, observed), 6),
        "zero_days_readings": int(findings.silence.sum()),
        "zero_days_sensors": worst(findings.silence, ids),
        "negative_readings": int(findings.negative.sum()),
        "negative_sensors": worst(findings.negative, ids),
        "stuck_stretches": int(findings.stuck.sum()),
        "stuck_sensors": int((findings.stuck > 0).sum()),
        "stuck_worst": worst(findings.stuck, ids),
        "interpolated_readings": int(findings.line.sum()),
        "interpolated_sensors": worst(findings.line, ids),
        "copied_week_readings": int(findings.copy.sum()),
        "copied_week_sensors": worst(findings.copy, ids),
        "identical_sensors": findings.identical,
        "shared_days": [{"sensors": list(pair), "days": days} for pair, days in most],
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
