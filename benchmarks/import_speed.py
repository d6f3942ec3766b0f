"""Import and preprocess of large data: seconds, and peak memory of the process that does it.

python benchmarks/import_speed.py [--json FILE] [--year] [--folder DIR]

By default: a CSV of a million rows, a row a reading of 300 sensors. With --year also a year of 11,160 sensors every
five minutes, made month by month in LargeST's layout; it needs 20 GB of disk in DIR (the system's temporary folder)
and some minutes.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "src"))

from headway.commands.importing import import_data
from headway.data.importers.formats import Options
from headway.data.prepare import PreprocessParams, prepare
from headway.data.quality_page import write_report
from headway.data.split import WindowsParams
from headway.params import read_params

ROWS, SENSORS = 1_000_000, 300
YEAR_SENSORS, YEAR_STEPS, PIECES = 11_160, 105_120, 12
GIB = 2**30


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path, help="file to write the figures to")
    parser.add_argument("--year", action="store_true", help="the large one too")
    parser.add_argument("--folder", type=Path, help="where the data are made, and removed again")
    parser.add_argument("--do", nargs=3, help=argparse.SUPPRESS)  # this script in a process of its own
    arguments = parser.parse_args()
    if arguments.do:
        sys.stdout.write(json.dumps(measure(*arguments.do)))
        return
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        rows = [*million(Path(name)), *(year(Path(name)) if arguments.year else [])]
    lines = ["| data | step | seconds | peak GiB | bytes on disk |", "|---|---|---:|---:|---:|"]
    for row in rows:
        size = f"{row['gib']:.2f} GiB"
        lines.append(
            f"| {row['data']} | {row['step']} | {row['seconds']:.1f} | {row['peak_gib']:.2f} | {size} |"
        )
    sys.stdout.write("\n".join(lines) + "\n")
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=1) + "\n")


def million(folder: Path) -> list[dict[str, Any]]:
    """A long CSV."""
    steps = -(-ROWS // SENSORS)
    times = pd.date_range("2024-01-01", periods=steps, freq="5min").strftime("%Y-%m-%d %H:%M:%S").to_numpy()
    ids = np.array([f"sensor-{number:03d}" for number in range(SENSORS)], dtype=object)
    speeds = made_up(0, steps, SENSORS)
    table = {"time": np.repeat(times, SENSORS), "sensor": np.tile(ids, steps), "speed": speeds.ravel()}
    pd.DataFrame(table).head(ROWS).to_csv(folder / "readings.csv", index=False)
    data = f"CSV of {ROWS:,} rows, {SENSORS} sensors"
    return [apart(data, "import", "long", folder / "readings.csv", folder / "a")]


def year(folder: Path) -> list[dict[str, Any]]:
    """LargeST's layout: pandas' HDF5, here a file a month, and the metadata."""
    source = folder / "ca"
    source.mkdir()
    ids = np.array([str(400_000 + number) for number in range(YEAR_SENSORS)], dtype="S6")
    steps = YEAR_STEPS // PIECES
    times = pd.date_range("2019-01-01", periods=YEAR_STEPS, freq="5min", unit="ns")
    for piece in range(PIECES):
        first = piece * steps
        with h5py.File(source / f"ca_his_{piece + 1:02d}.h5", "w") as file:
            group = file.create_group("t")
            group.attrs["pandas_type"], group.attrs["nblocks"] = "frame", 1
            group["axis0"], group["block0_items"] = ids, ids
            group["axis1"] = times[first : first + steps].asi8
            group["axis1"].attrs["kind"] = "datetime64"
            values = group.create_dataset("block0_values", data=made_up(first, steps, YEAR_SENSORS))
            values.attrs["transposed"] = 1
    random = np.random.default_rng(0)
    places = {
        "ID": ids.astype(str),
        "Lat": 34 + 6 * random.random(len(ids)),
        "Lng": -121 + random.random(len(ids)),
    }
    pd.DataFrame(places).to_csv(source / "ca_meta.csv", index=False)
    data = f"a year of {YEAR_SENSORS:,} sensors, {YEAR_STEPS * YEAR_SENSORS / 1e9:.2f} billion readings"
    imported = apart(data, "import", "largest", source, folder / "b")
    for path in source.iterdir():
        path.unlink()
    return [imported, apart(data, "preprocess", "", folder / "b/city", folder / "prepared")]


def made_up(first: int, steps: int, sensors: int) -> np.ndarray:
    """Daily waves with noise, to a tenth, 3 % missing; float32 [step, sensor]."""
    random = np.random.default_rng([first, sensors])
    day = np.sin(2 * np.pi * (first + np.arange(steps)) / 288)[:, None] * random.uniform(5, 20, sensors)
    noise = random.standard_normal((steps, sensors), dtype=np.float32)
    readings = np.round(10 * (60 + day + 3 * noise)).astype(np.float32) / np.float32(10)
    readings[random.random((steps, sensors), dtype=np.float32) < 0.03] = np.nan
    return readings


def apart(data: str, step: str, form: str, source: Path, out: Path) -> dict[str, Any]:
    """The figures of a step in a fresh process, so that its peak is its own."""
    command = [sys.executable, __file__, "--do", form, str(source), str(out)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    size = sum(path.stat().st_size for path in out.rglob("*") if path.is_file()) / GIB
    return {"data": data, "step": step, "gib": size, **json.loads(done.stdout)}


def measure(form: str, source: str, out: str) -> dict[str, float]:
    """Import, where a format is named, else preprocess."""
    started = time.perf_counter()
    if form:
        import_data(form, Path(source), "city", Path(out), Options(), replace=False)
    else:
        params = read_params(ROOT / "params.yaml", {"preprocess": PreprocessParams, "windows": WindowsParams})
        report = prepare(Path(source), Path(out) / "prepared", params["preprocess"], params["windows"])
        write_report(Path(out) / "metrics", report, Path(out) / "prepared")
    return {"seconds": time.perf_counter() - started, "peak_gib": peak_bytes() / GIB}


def peak_bytes() -> int:
    """Of this process; ru_maxrss would count what its parent held when it was started."""
    status = Path("/proc/self/status")
    if not status.exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


if __name__ == "__main__":
    main()
