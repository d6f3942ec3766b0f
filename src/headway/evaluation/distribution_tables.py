"""Sums of distribution scores as the files that people and DVC read.

Enter: DistributionSums, or None where the model says a single number. Leave: the `distribution` entry of
metrics.json, distribution.json, and the tables behind the plots. Without a distribution the tables have a
header and no rows, which `dvc plots` passes over: dvc.yaml names them.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from headway.data.calendar import HOURS
from headway.evaluation.distribution import BINS, KINDS, DistributionSums
from headway.evaluation.horizons import horizon_label, horizon_minutes
from headway.evaluation.tables import ALL, rounded, write_csv, write_json
from headway.models.calibration import INTERVALS, LEVELS

FORECASTS = ("headway", "persistence", "climatology")
COLUMNS = {
    "crps": ("horizon_minutes", *FORECASTS),
    "reliability": ("level", "ideal", *KINDS),
    "pit": ("probability", "density"),
    "sharpness": ("hour", *KINDS),
}


def distribution_scores(sums: DistributionSums, step_seconds: int) -> dict[str, Any]:
    """distribution.json: horizon label, and `all` -> scores of the model, and the CRPS of the naive ones."""
    steps = len(sums.count)
    groups = {horizon_label(step + 1, step_seconds): slice(step, step + 1) for step in range(steps)}
    return {label: _entry(sums, part) for label, part in {**groups, ALL: slice(None)}.items()}


def write_distribution(
    folder: Path, sums: DistributionSums | None, steps: int, step_seconds: int
) -> dict[str, Any] | None:
    """Write distribution.json, crps.csv, reliability.csv, pit.csv, sharpness.csv.

    Returns: the scores over all steps, for metrics.json; None where there is no distribution.
    """
    scores = distribution_scores(sums, step_seconds) if sums else {}
    write_json(folder / "distribution.json", scores)
    tables = _tables(sums, steps, step_seconds) if sums else dict.fromkeys(COLUMNS, ())
    for name, columns in COLUMNS.items():
        write_csv(folder / f"{name}.csv", columns, tables[name])
    return scores[ALL] if sums else None


def _tables(
    sums: DistributionSums, steps: int, step_seconds: int
) -> dict[str, Sequence[Sequence[float | int | None]]]:
    minutes = [horizon_minutes(step + 1, step_seconds) for step in range(steps)]
    crps = [_ratio(sums.crps[name], sums.count) for name in FORECASTS]
    density = _ratio(sums.pit.sum(0), sums.count.sum() / BINS)
    return {
        "crps": list(zip(minutes, *crps, strict=True)),
        "reliability": _reliability(sums),
        "pit": [((place + 0.5) / BINS, value) for place, value in enumerate(density)],
        "sharpness": _sharpness(sums),
    }


def _entry(sums: DistributionSums, part: slice) -> dict[str, Any]:
    count = sums.count[part].sum()
    entry: dict[str, Any] = {
        f"crps_{name}": _share(found[part].sum(), count) for name, found in sums.crps.items()
    }
    entry = {"crps": entry.pop("crps_headway"), **entry, "nll": _share(sums.nll[part].sum(), count)}
    for kind, found in sums.quantiles.items():
        coverage = found.covered[part].sum(0), found.width[part].sum(0)
        by_interval = [dict(zip(INTERVALS, _ratio(total, count), strict=True)) for total in coverage]
        entry[kind] = {
            "pinball": _share(found.pinball[part].sum(), count * len(LEVELS)),
            "coverage": {f"{a:.0%}": value for a, value in by_interval[0].items()},
            "width": {f"{a:.0%}": value for a, value in by_interval[1].items()},
        }
    return {**entry, "count": int(count)}


def _reliability(sums: DistributionSums) -> list[tuple[float | None, ...]]:
    """A row a level: what it should be, and the share of readings below its quantile."""
    levels = [rounded(level) for level in LEVELS]
    shares = [_ratio(sums.quantiles[kind].below.sum(0), sums.count.sum()) for kind in KINDS]
    return list(zip(levels, levels, *shares, strict=True))


def _sharpness(sums: DistributionSums) -> list[tuple[float | int | None, ...]]:
    """A row an hour: the mean width of the 80 % interval."""
    widths = [_ratio(sums.quantiles[kind].width_by_hour, sums.count_by_hour) for kind in KINDS]
    return list(zip(range(HOURS), *widths, strict=True))


def _share(total: float, count: float) -> float | None:
    return rounded(float(total) / float(count)) if count else None


def _ratio(totals: np.ndarray, counts: Any) -> list[float | None]:
    return [_share(t, c) for t, c in zip(totals, np.broadcast_to(counts, totals.shape), strict=True)]
