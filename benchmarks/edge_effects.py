"""How many neighbors run against the sensor that reads them: what signs of edges could be for, in data as they are.

    python benchmarks/edge_effects.py --prepared DIR [--prepared DIR ...] [--json FILE]

Each DIR is a prepared folder (`data/prepared`). For every edge i <- j, by least squares over the training rows where
all three readings are there,

    x_i(t + 30 min) = a x_i(t) + b x_j(t)        x: deviation from what is usual at the time, in standard deviations

and b is what the neighbor adds to the sensor's own past; a step longer than 30 minutes counts as them. Told is the
share of edges with b below -0.05, that with b above 0.05, and quantiles of b.

JSON: {data set: {"edges", "against", "along", "quantiles": [5 %, 50 %, 95 %]}}.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from project_copy import log

from headway.data.calendar import time_of_week
from headway.data.climatology import weekly_climatology
from headway.data.prepared import Prepared, open_prepared

AHEAD_SECONDS = 1800
NOTHING = 0.05  # effects nearer to 0 say nothing
LEVELS = (0.05, 0.5, 0.95)


def main() -> None:
    arguments = parse_arguments(__doc__)
    found: dict[str, dict[str, Any]] = {}
    log("| data set | edges | against | along | 5 % | 50 % | 95 % |\n|---|---:|---:|---:|---:|---:|---:|")
    for folder in arguments.prepared:
        prepared = open_prepared(folder, verify=False)
        effects = edge_effects(prepared)
        shares = {
            "edges": len(effects),
            "against": float((effects < -NOTHING).mean()),
            "along": float((effects > NOTHING).mean()),
            "quantiles": np.quantile(effects, LEVELS).round(3).tolist(),
        }
        found[prepared.meta.dataset] = shares
        quantiles = " | ".join(f"{quantile:.3f}" for quantile in shares["quantiles"])
        log(
            f"| {prepared.meta.dataset} | {shares['edges']:,} | {shares['against']:.1%} | {shares['along']:.1%} "
            f"| {quantiles} |"
        )
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=1) + "\n")


def parse_arguments(description: str | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--prepared", type=Path, action="append", required=True, help="prepared folder")
    parser.add_argument("--json", type=Path, help="file to write the figures to")
    return parser.parse_args()


def edge_effects(prepared: Prepared) -> Float[np.ndarray, " edge"]:
    """b of every edge."""
    deviations = training_deviations(prepared)
    ahead = steps_ahead(prepared)
    later, now = deviations[ahead:], deviations[:-ahead]
    effects = []
    for reader, slot in zip(*np.nonzero(prepared.valid), strict=True):
        read = prepared.neighbors[reader, slot]
        rows = np.stack([now[:, reader], now[:, read], later[:, reader]], axis=1)
        rows = rows[~np.isnan(rows).any(axis=1)]
        effects.append(np.linalg.lstsq(rows[:, :2], rows[:, 2], rcond=None)[0][1])
    return np.array(effects)


def steps_ahead(prepared: Prepared) -> int:
    """Half an hour, or one step where it is longer."""
    return max(1, AHEAD_SECONDS // prepared.meta.step_seconds)


def training_deviations(prepared: Prepared) -> Float[np.ndarray, "step node"]:
    """From the mean at this time of the week, or of the day; NaN where there is no reading."""
    meta, rows = prepared.meta, slice(0, prepared.meta.training_rows)
    readings = np.where(prepared.observed[rows, :, 0], prepared.values[rows, :, 0], np.float32(np.nan))
    calendar = prepared.calendar[rows]
    usual = weekly_climatology(readings, calendar, meta.slots_per_day, meta.knows_weeks())
    deviations = readings - usual[time_of_week(calendar, meta.slots_per_day)]
    return deviations / np.nanstd(deviations, axis=0)


if __name__ == "__main__":
    main()
