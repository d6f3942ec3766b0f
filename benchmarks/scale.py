"""How the cost of a training step grows: with the sensors, the history, the neighbors, the width.

    python benchmarks/scale.py [--only sensors history ...] [--json FILE]

Time is that of forward and backward for a window, in microseconds a sensor and step of history; memory is the
traced peak of one window less what does not grow with it, in bytes a sensor and step. Linear is a straight column.
The cases of a table alternate; medians count.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sized import FP32, Training, sections_of, training

from headway.training.memory import keep_heap
from headway.training.trace import trace_step

ROUNDS = 5
ONE_SCALE = {"st_mamba": {"multi_scale": False}}
TABLES: dict[str, list[tuple[int, dict[str, dict[str, Any]]]]] = {
    "sensors": [(number, {}) for number in (100, 300, 1000, 3000, 11160)],
    "history": [(200, {"windows": {"history": steps}} | ONE_SCALE) for steps in (12, 24, 36, 48, 64)],
    "neighbors": [(207, {"preprocess": {"max_neighbors": number}}) for number in (1, 3, 5, 8, 11, 15)],
    "width": [(207, {"ha_gat": {"hidden_dim": width}}) for width in (32, 64, 96, 128)],
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", choices=list(TABLES), default=list(TABLES))
    parser.add_argument("--json", type=Path, help="file to write the figures to")
    arguments = parser.parse_args()
    keep_heap()
    torch.exp(torch.zeros(1))
    found = {name: measure(name) for name in arguments.only}
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=1) + "\n")


def measure(name: str) -> list[dict[str, float]]:
    """Print one table and how straight its memory is."""
    cases = [(training(sections_of(**changes), sensors, 1), changes) for sensors, changes in TABLES[name]]
    traced = [trace_step(made.model, made.meta, 1, FP32, accumulate=False) for made, _ in cases]
    times = alternate([made for made, _ in cases])
    rows = []
    sys.stdout.write(f"| {name} | us a sensor and step | bytes a sensor and step |\n|---:|---:|---:|\n")
    for (made, changes), memory, seconds in zip(cases, traced, times, strict=True):
        cells = made.meta.sensors * made.meta.history
        size = made.meta.sensors if name == "sensors" else next(iter(next(iter(changes.values())).values()))
        row = {"size": size, "bytes": memory.peak - memory.fixed, "seconds": seconds, "cells": cells}
        rows.append(row)
        sys.stdout.write(f"| {size:,} | {1e6 * seconds / cells:.2f} | {row['bytes'] / cells:,.0f} |\n")
    size, held = (np.array([row[key] for row in rows]) for key in ("size", "bytes"))
    slope, start = np.polyfit(size, held, 1)
    off = np.abs(slope * size + start - held).max() / held.max()
    sys.stdout.write(
        f"\nmemory of a window = {start:,.0f} + {slope:,.0f} x {name} bytes, off by at most {off:.1%}\n\n"
    )
    return rows


def alternate(cases: list[Training]) -> list[float]:
    """Median seconds of each."""
    times: list[list[float]] = [[] for _ in cases]
    for number in range(ROUNDS + 1):
        for made, spent in zip(cases, times, strict=True):
            started = time.perf_counter()
            made.group()
            if number:
                spent.append(time.perf_counter() - started)
    return [statistics.median(spent) for spent in times]


if __name__ == "__main__":
    main()
