"""The data sets at hand, in numbers: shape, missing share, mean, and three naive forecasts one hour ahead.

python benchmarks/naive.py [--data DIR ...] [--json FILE]

Mean absolute errors are of the last 20 % of the steps; missing cells are skipped. Beside each number stands the one
that the data's collection states, where it states one; the last column says what differs beyond its rounding. By
default: every folder with a series.parquet in ../shared/data.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "src"))

from headway.data.calendar import DAY, WEEK
from headway.data.grid import choose_step
from headway.data.parquet import TIME, open_parquet, read_readings, read_times

HOUR, TEST_SHARE = 3600, 0.2
KEYS: tuple[str, ...] = (
    "sensors",
    "steps",
    "missing",
    "mean",
    "test_mean",
    "last_hour",
    "yesterday",
    "last_week",
)
STATED: dict[str, tuple[float | None, ...]] = {  # in the order of KEYS; None where nothing is stated
    "england-flow-2014": (211, 35040, 7.0, 432.6, 404.5, 93.08, 82.55, 52.30),
    "england-speed-2014": (164, 35040, 0.0, 96.8, 93.3, 5.71, 6.51, 5.86),
    "metr-la-week1": (207, 2016, 0.0, 58.9, 57.2, 5.70, 5.11, None),
    "yinchuan-flow-5min": (66, 7965, 0.0, 27.4, 30.2, 8.95, 7.58, 6.49),
    "yinchuan-speed": (108, 2208, 14.7, 81.6, 81.6, 4.47, 4.53, 5.52),
    "nyc-taxi": (69, 35088, 0.0, 38.0, 12.0, 3.91, 4.35, 3.68),
    "nyc-bike": (69, 35088, 0.0, 12.7, 14.6, 5.28, 6.18, 6.10),
    "boroondara-scats-2006": (140, 2976, 3.4, 104.0, 101.6, 26.74, 23.25, 13.24),
    "melbourne-pedestrian": (55, 16056, 1.6, 276.1, 372.5, 104.40, 107.47, 78.96),
    "hcmc-runs-2025": (144, 66, 0.0, 18.8, None, None, None, None),
    "montevideo-bus": (675, 744, 0.0, 0.7, None, None, None, None),
    "chickenpox-hungary": (20, 521, 0.0, 0.0, None, None, None, None),
    "pems04-sample": (307, 500, 0.0, 186.3, None, None, None, None),
}
DIGITS: dict[str, int] = dict(zip(KEYS, (0, 0, 1, 1, 1, 2, 2, 2), strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, nargs="*", help="folders with a series.parquet")
    parser.add_argument("--json", type=Path, help="file to write the figures to")
    arguments = parser.parse_args()
    there = sorted(path.parent for path in (ROOT.parent / "shared/data").glob("*/series.parquet"))
    rows = [describe(folder) for folder in arguments.data or there]
    if not rows:
        parser.error("no data: name folders with --data")
    header = [
        "data set",
        "sensors",
        "steps",
        "missing %",
        "mean",
        "test mean",
        "last value",
        "a day ago",
        "a week ago",
    ]
    lines = [f"| {' | '.join([*header, 'differs'])} |", "|---|" + "---:|" * len(KEYS) + "---|"]
    for row in rows:
        cells = [f"{row['name']}", *(_cell(key, row) for key in KEYS), row["differs"] or "-"]
        lines.append(f"| {' | '.join(cells)} |")
    lines.append("\nEach cell: measured (stated).")
    sys.stdout.write("\n".join(lines) + "\n")
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=1) + "\n")


def describe(folder: Path) -> dict[str, Any]:
    """The numbers of one data set, and those that are stated."""
    path = folder / "series.parquet"
    names = [name for name in open_parquet(path).schema_arrow.names if name != TIME]
    times, readings = read_times(path, "UTC"), read_readings(path, names)
    step = choose_step(times.utc, path)
    found: dict[str, Any] = {
        "sensors": len(names),
        "steps": len(readings),
        "missing": 100 * float(np.isnan(readings).mean()),
        "mean": float(np.nanmean(readings, dtype=np.float64)),
    }
    if np.ptp(np.diff(times.utc)) == 0:
        first = int((1 - TEST_SHARE) * len(readings))
        found["test_mean"] = float(np.nanmean(readings[first:], dtype=np.float64))
        for key, seconds in {"last_hour": HOUR, "yesterday": DAY, "last_week": WEEK}.items():
            found[key] = error(readings, first, seconds, step)
    stated = dict(zip(KEYS, STATED.get(folder.name, (None,) * len(KEYS)), strict=True))
    differing = [
        key for key in KEYS if stated[key] is not None and not _agrees(key, found.get(key), stated[key])
    ]
    return {"name": folder.name, **found, "stated": stated, "differs": ", ".join(differing)}


def error(readings: np.ndarray, first: int, seconds: int, step: int) -> float | None:
    """Mean absolute difference to the reading so long before, over rows from `first` on; None where there is none."""
    lag, rest = divmod(seconds, step)
    if rest or lag == 0 or lag > first:
        return None
    return float(np.nanmean(np.abs(readings[first:] - readings[first - lag : -lag]), dtype=np.float64))


def _agrees(key: str, found: float | None, stated: float | None) -> bool:
    return found is not None and stated is not None and abs(found - stated) <= 0.5001 * 10.0 ** -DIGITS[key]


def _cell(key: str, row: dict[str, Any]) -> str:
    found, stated = row.get(key), row["stated"][key]
    shown = "-" if found is None else f"{found:.{DIGITS[key]}f}"
    return shown if stated is None else f"{shown} ({stated:.{DIGITS[key]}f})"


if __name__ == "__main__":
    main()
