"""What an update of the default model costs: ours, its linear maps by torch's own Muon, and all by AdamW.

    python benchmarks/updates.py [--sensors 207] [--rounds 20] [--json FILE]

One thread. Optimizers take turns on the same gradients, and medians count. Each line is of a process of its own: one
with what the processor can do, one in which oneDNN and torch use AVX2 at most, as on a processor without bfloat16.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from sized import sections_of, training

from headway.training.optimizer import linear_maps, make_optimizer

LIMITS = {"as it is": {}, "AVX2 at most": {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2"}}
RATE = 0.002


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sensors", type=int, default=207)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--json", type=Path, help="file to write the figures to")
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)  # in a process of its own
    arguments = parser.parse_args()
    if arguments.here:
        sys.stdout.write(json.dumps(measure(arguments.sensors, arguments.rounds)))
        return
    found = {}
    for name, limit in LIMITS.items():
        told = subprocess.run(
            [sys.executable, *sys.argv, "--here"], env=os.environ | limit, check=True, stdout=subprocess.PIPE
        )
        found[name] = json.loads(told.stdout)
    names = list(found["as it is"])
    lines = [f"| ms an update | {' | '.join(names)} |", f"|:---|{'---:|' * len(names)}"]
    for name, row in found.items():
        lines.append(f"| {name} | {' | '.join(f'{row[kind]:.1f}' for kind in names)} |")
    sys.stdout.write("\n".join(lines) + "\n")
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=1) + "\n")


def measure(sensors: int, rounds: int) -> dict[str, float]:
    """Milliseconds of an update, the median over rounds."""
    torch.set_num_threads(1)
    made = training(sections_of(), sensors, 1)
    made.group()
    linear = linear_maps(made.model)
    maps = [weight for name, weight in made.model.named_parameters() if name in linear]
    others = [weight for name, weight in made.model.named_parameters() if name not in linear]
    muon = torch.optim.Muon(maps, lr=RATE, adjust_lr_fn="match_rms_adamw")
    adamw = torch.optim.AdamW(others, lr=RATE, fused=True)
    steps: dict[str, Callable[[], object]] = {
        "ours": make_optimizer(made.model, RATE, 0.0).step,
        "torch's Muon, AdamW": lambda: (muon.step(), adamw.step()),
        "AdamW alone": torch.optim.AdamW(made.model.parameters(), lr=RATE, fused=True).step,
    }
    times: dict[str, list[float]] = {name: [] for name in steps}
    for turn in range(rounds + 1):
        for name, step in steps.items():
            started = time.perf_counter()
            step()
            if turn:  # the first one warms up
                times[name].append(1000 * (time.perf_counter() - started))
    return {name: statistics.median(found) for name, found in times.items()}


if __name__ == "__main__":
    main()
