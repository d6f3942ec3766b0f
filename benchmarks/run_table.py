"""A table with a row a run and road segment: rows selected again for every batch, against windows of one array.

python benchmarks/run_table.py [--runs N] [--json FILE]

The table is made up, in the shape of an STMGT project's: 144 segments a run. Its loaders were "filter by run_id and
iterate over the rows", then "frames grouped beforehand". Every way must give the same numbers.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import psutil

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "src"))

from headway.commands.importing import import_data
from headway.data.importers.formats import Options
from headway.data.prepare import PreprocessParams, prepare
from headway.data.prepared import open_prepared
from headway.data.split import WindowsParams
from headway.data.windows import Windows
from headway.params import read_params

SEGMENTS, HISTORY, HORIZON, BATCH = 144, 12, 12, 16
MIB = 2**20


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=1400, help="of the table")
    parser.add_argument("--json", type=Path, help="file to write the figures to")
    arguments = parser.parse_args()
    figures = measure(arguments.runs)
    slowest = figures["rows"][0]["seconds"]
    lines = [
        f"{arguments.runs:,} runs x {SEGMENTS} segments = {arguments.runs * SEGMENTS:,} rows; "
        f"batches of {BATCH} windows of {HISTORY} + {HORIZON} runs",
        "",
        "| access | seconds a batch | times as fast | MiB held |",
        "|---|---:|---:|---:|",
    ]
    for row in figures["rows"]:
        ratio = f"{slowest / row['seconds']:,.0f}" if slowest != row["seconds"] else "1"
        lines.append(f"| {row['access']} | {row['seconds']:.3g} | {ratio} | {row['mib']:.1f} |")
    lines += [
        "",
        f"once: import {figures['import_seconds']:.2f} s, preprocess {figures['prepare_seconds']:.2f} s",
    ]
    sys.stdout.write("\n".join(lines) + "\n")
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=1) + "\n")


def measure(runs: int) -> dict[str, Any]:
    """Seconds a batch of each way, on the same windows."""
    table = made_up(runs)
    held = table.memory_usage(deep=True).sum() / MIB
    place = {segment: column for column, segment in enumerate(sorted(table["edge"].unique()))}
    order = sorted(table["run_id"].unique())
    starts = np.random.default_rng(0).integers(0, runs - HISTORY - HORIZON, BATCH)
    batch = [order[start : start + HISTORY + HORIZON] for start in starts.tolist()]
    grouped = {str(run): rows for run, rows in table.groupby("run_id")}
    with tempfile.TemporaryDirectory() as name:
        found, windows, memory = ours(table, Path(name))

        def gathered() -> np.ndarray:
            found = windows.gather(starts + HISTORY)
            return np.concatenate([found.history[..., 0].numpy(), found.target.numpy()], axis=1)

        by_row, row_seconds = timed(lambda: filtered(table, batch, place), 1)
        by_group, group_seconds = timed(lambda: looped(grouped, batch, place), 3)
        by_index, index_seconds = timed(gathered, 200)
    assert np.array_equal(by_row, by_group) and np.array_equal(by_row, by_index), "the ways differ"
    rows = [
        {"access": "filter by run_id, iterate over rows", "seconds": row_seconds, "mib": held},
        {"access": "frames grouped beforehand, loop over rows", "seconds": group_seconds, "mib": 2 * held},
        {"access": "headway: index into one array", "seconds": index_seconds, "mib": memory},
    ]
    return {"runs": runs, "rows": rows, "resident_mib": psutil.Process().memory_info().rss / MIB, **found}


def filtered(table: pd.DataFrame, batch: list[list[str]], place: dict[str, int]) -> np.ndarray:
    """The windows of a batch, the table searched for every run."""
    windows = np.zeros((len(batch), HISTORY + HORIZON, SEGMENTS), np.float32)
    for number, runs in enumerate(batch):
        for step, run in enumerate(runs):
            for _, row in table[table["run_id"] == run].iterrows():
                edge: Any = row["edge"]
                windows[number, step, place[edge]] = row["speed_kmh"]
    return windows


def looped(grouped: dict[str, pd.DataFrame], batch: list[list[str]], place: dict[str, int]) -> np.ndarray:
    """The same from frames that were taken apart once."""
    windows = np.zeros((len(batch), HISTORY + HORIZON, SEGMENTS), np.float32)
    for number, runs in enumerate(batch):
        for step, run in enumerate(runs):
            rows = grouped[run]
            for edge, speed in zip(rows["edge"], rows["speed_kmh"], strict=True):
                windows[number, step, place[edge]] = speed
    return windows


def made_up(runs: int) -> pd.DataFrame:
    """A run every quarter of an hour; each names all segments, in an order of its own."""
    random = np.random.default_rng(1)
    times = pd.date_range("2025-01-01", periods=runs, freq="15min")
    order = np.concatenate([random.permutation(SEGMENTS) for _ in range(runs)])
    speeds = 20 + 8 * np.sin(np.repeat(np.arange(runs), SEGMENTS) / 15) + random.normal(0, 3, len(order))
    return pd.DataFrame(
        {
            "run_id": np.repeat(times.strftime("run_%Y%m%d_%H%M%S").to_numpy(), SEGMENTS),
            "edge": np.array([f"edge-{number:03d}" for number in range(SEGMENTS)], dtype=object)[order],
            "speed_kmh": speeds.astype(np.float32),
            "temperature_c": np.repeat(random.normal(25, 3, runs), SEGMENTS),
        }
    )


def ours(table: pd.DataFrame, folder: Path) -> tuple[dict[str, float], Windows, float]:
    """Imported and prepared; seconds of both, and the MiB that windows are read from."""
    table.to_parquet(folder / "runs.parquet", index=False)
    started = time.perf_counter()
    import_data("runs", folder / "runs.parquet", "runs", folder / "raw", Options(), replace=False)
    imported = time.perf_counter()
    records = {"preprocess": PreprocessParams, "windows": WindowsParams}
    params = read_params(ROOT / "params.yaml", records)
    section = replace(
        params["windows"],
        history=HISTORY,
        horizon=HORIZON,
        context=(),
        trailing_weeks=0,
        inputs=(),
        covariates=(),
    )
    prepare(folder / "raw/runs", folder / "prepared", replace(params["preprocess"], graph="none"), section)
    done = time.perf_counter()
    prepared = open_prepared(folder / "prepared")
    memory = (prepared.values.nbytes + prepared.observed.nbytes) / MIB
    seconds = {"import_seconds": imported - started, "prepare_seconds": done - imported}
    return seconds, Windows(prepared), memory


def timed(work: Callable[[], np.ndarray], times: int) -> tuple[np.ndarray, float]:
    """The result, and the median seconds of a call."""
    seconds, result = [], work() if times > 1 else np.empty(0)
    for _ in range(times):
        started = time.perf_counter()
        result = work()
        seconds.append(time.perf_counter() - started)
    return result, float(np.median(seconds))


if __name__ == "__main__":
    main()
