"""Time and memory of the embedded world, each size in a process of its own.

python benchmarks/simulation.py [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "src"))

from headway.data.simulate import SimulateParams, simulate
from headway.params import read_params

SIZES = ((64, 21), (1_000, 7), (11_160, 2))  # sensors, days


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path, help="file to write the figures to")
    parser.add_argument(
        "--size", type=int, nargs=2, metavar=("SENSORS", "DAYS"), help="measure one size here"
    )
    arguments = parser.parse_args()
    if arguments.size:
        sys.stdout.write(json.dumps(measure(*arguments.size)))
        return
    rows = [measure_apart(sensors, days) for sensors, days in SIZES]
    lines = ["| sensors | days | readings | seconds | peak MiB |", "|---:|---:|---:|---:|---:|"]
    for row in rows:
        size = f"{row['sensors']:,} | {row['days']} | {row['readings']:,}"
        lines.append(f"| {size} | {row['seconds']:.1f} | {row['peak_mib']:.0f} |")
    sys.stdout.write("\n".join(lines) + "\n")
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=1) + "\n")


def measure_apart(sensors: int, days: int) -> dict[str, Any]:
    """The figures of one size, from a fresh process, so that its peak is its own."""
    command = [sys.executable, __file__, "--size", str(sensors), str(days)]
    return json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def measure(sensors: int, days: int) -> dict[str, Any]:
    """Make the world once, files included."""
    defaults: SimulateParams = read_params(ROOT / "params.yaml", {"simulate": SimulateParams})["simulate"]
    params = replace(defaults, sensors=sensors, days=days)
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        simulate(params, Path(folder) / "simulated")
        seconds = time.perf_counter() - started
    steps = days * 1440 // params.step_minutes
    return {
        "sensors": sensors,
        "days": days,
        "readings": sensors * steps,
        "seconds": round(seconds, 2),
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


if __name__ == "__main__":
    main()
