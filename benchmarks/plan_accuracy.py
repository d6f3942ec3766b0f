"""The peak that `python -m headway plan` predicts beside the peak that a CPU's allocator reports.

    python benchmarks/plan_accuracy.py [--json FILE]

Traced: a step with its gradients, windows and tables. Measured: the same, from the profiler's memory events of the
third step, plus what was there before it. Moments and best weights are in neither.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import torch
from sized import FP32, MIB, peak_bytes, sections_of, training

from headway.training.memory import keep_heap
from headway.training.trace import trace_step

STMGT = {"model": {"name": "stmgt", "spatial": "gatv2", "head": "mixture"}}
WIDE = {"ha_gat": {"hidden_dim": 96}}
Case = tuple[str, dict[str, dict[str, Any]], int, int, bool, int]
CASES: list[Case] = [
    ("defaults", {}, 64, 16, False, 1),
    ("defaults, recomputed", {}, 64, 16, True, 1),
    ("METR-LA's sensors", {}, 207, 1, False, 1),
    ("METR-LA's sensors", {}, 207, 4, False, 1),
    ("METR-LA's sensors", {}, 207, 16, False, 1),
    ("METR-LA's sensors, recomputed", {}, 207, 16, True, 1),
    ("width 96", WIDE, 207, 4, False, 1),
    ("three blocks", {"st_mamba": {"layers": 3}}, 207, 2, False, 1),
    (
        "one hop, five neighbors",
        {"ha_gat": {"hops": 1}, "preprocess": {"max_neighbors": 5}},
        207,
        4,
        False,
        1,
    ),
    ("no graph", {"model": {"spatial": "none"}}, 207, 4, False, 1),
    ("STMGT with GATv2", STMGT, 100, 2, False, 1),
    ("STMGT with GATv2, recomputed", STMGT, 100, 2, True, 1),
    ("GATv2 and one number", {"model": {"spatial": "gatv2", "head": "point"}}, 207, 2, False, 1),
    ("no anchors", {"model": {"anchors": False}}, 207, 4, False, 1),
    ("48 steps at three scales", {"windows": {"history": 48}}, 300, 1, False, 1),
    (
        "48 steps, one scale",
        {"windows": {"history": 48}, "st_mamba": {"multi_scale": False}},
        300,
        1,
        False,
        1,
    ),
    ("96 steps in chunks", {"windows": {"history": 96}, "st_mamba": {"multi_scale": False}}, 50, 1, False, 1),
    ("all of California's sensors", {}, 11160, 1, False, 1),
    ("all of California's, recomputed", {}, 11160, 1, True, 1),
    ("all of California's, recomputed, 2 slices", {}, 11160, 1, True, 2),
    ("all of California's, recomputed, 4 slices", {}, 11160, 1, True, 4),
    ("all of California's, recomputed, 8 slices", {}, 11160, 1, True, 8),
]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path, help="file to write the figures to")
    arguments = parser.parse_args()
    keep_heap()
    rows = []
    sys.stdout.write("| case | sensors | windows | traced MiB | measured MiB | error |\n")
    sys.stdout.write("|:---|---:|---:|---:|---:|---:|\n")
    for case in CASES:
        row = compare(*case)
        rows.append(row)
        error = row["traced"] / row["measured"] - 1
        figures = f"{row['traced'] / MIB:,.1f} | {row['measured'] / MIB:,.1f} | {error:+.2%}"
        sys.stdout.write(f"| {row['case']} | {row['sensors']:,} | {row['windows']} | {figures} |\n")
        sys.stdout.flush()
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=1) + "\n")


def compare(
    name: str, changes: dict[str, dict[str, Any]], sensors: int, windows: int, recompute: bool, slices: int
) -> dict[str, Any]:
    """Traced and measured bytes of one case."""
    made = training(sections_of(**changes), sensors, windows)
    made.model.set_recompute(recompute)
    made.model.set_slices(slices)
    traced = trace_step(made.model, made.meta, windows, FP32, accumulate=False)
    made.step()
    made.step()
    made.model.zero_grad(set_to_none=True)  # before the profiler looks: it would count some of these frees
    fields = [getattr(made.batch, field) for field in made.batch.__slots__]
    there = [*made.model.parameters(), *made.model.buffers(), *fields]
    before = sum(tensor.nbytes for tensor in there if isinstance(tensor, torch.Tensor)) + traced.tables
    return {
        "case": name,
        "sensors": sensors,
        "windows": windows,
        "traced": traced.peak - traced.optimizer - traced.best,
        "measured": before + peak_bytes(made.group),
    }


if __name__ == "__main__":
    main()
