"""All of California, 11,160 sensors and 8 weeks, trained whole in one process and in parts by two workers.

    python benchmarks/california.py [--steps 50] [--width 64] [--simulated-days 56] [--folder DIR] [--json FILE]

The embedded world is simulated at that size, prepared, and trained by `stages/train.py`: by one process that reads
the memory map (`train.order: shuffled`), and by two local workers that hold their parts in memory (`train.order:
partitioned`, `runtime.data: memory`). Memory is that of the processes that train, looked at five times a second: its
peak, and what of it is their own and not the mapped file. With fewer simulated days than 56 they are repeated, with
new noise. `--folder` keeps the data for another run.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
from ruamel.yaml import YAML
from sized import MIB, ROOT, sections_of

from headway.data.order import steps_per_pass
from headway.data.prepared import PreparedMeta, open_prepared
from headway.data.simulate import simulate
from headway.data.windows import Windows, held_bytes, row_spans
from headway.training.course import Course

SENSORS, DAYS, NAME = 11_160, 56, "california"
LIMIT = 6e9  # bytes of a worker


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--width", type=int, default=64, help="of the residual stream")
    parser.add_argument("--sensors", type=int, default=SENSORS)
    parser.add_argument("--simulated-days", type=int, default=DAYS)
    parser.add_argument("--folder", type=Path, help="where the data are, or are to be kept")
    parser.add_argument("--json", type=Path, help="file to write the figures to")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = given.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        write_params(folder, given, {}, {})
        if not (folder / "data/prepared/meta.json").exists():
            bring_data(folder, given)
            run_stage(folder, "preprocess")
        rows = [train(folder, given, workers) for workers in (1, 2)]
        facts = sizes(folder, given)
    report(rows, facts)
    if given.json:
        given.json.write_text(json.dumps({"trainings": rows, "sizes": facts}, indent=1) + "\n")


def write_params(
    folder: Path, given: argparse.Namespace, train: dict[str, Any], runtime: dict[str, Any]
) -> None:
    """This repository's params.yaml, of this data set, for a short training."""
    yaml = YAML()
    document = yaml.load((ROOT / "params.yaml").read_text())
    document["dataset"] = NAME
    short = {
        "epochs": 1,
        "epoch_steps": given.steps,
        "batch_size": 2,
        "validation_windows": 4,
        "warmup_steps": 5,
    }
    document["train"] |= short | train
    document["ha_gat"]["hidden_dim"] = document["mixture"]["hidden_dim"] = given.width
    document["st_mamba"]["head_dim"] = min(32, given.width)
    document["runtime"] |= {"micro_batch": 1, "threads": 1, **runtime}
    with (folder / "params.yaml").open("w") as file:
        yaml.dump(document, file)


def bring_data(folder: Path, given: argparse.Namespace) -> None:
    """The simulated world; a shorter one is repeated until it has DAYS days, with noise of its own each time."""
    raw = folder / "data/raw" / NAME
    raw.mkdir(parents=True, exist_ok=True)
    simulate(replace(sections_of()["simulate"], sensors=given.sensors, days=given.simulated_days), raw)
    times = -(-DAYS // given.simulated_days)
    if times == 1:
        return
    table = pq.read_table(raw / "series.parquet")
    stamps, random = table.column("timestamp").to_numpy(), np.random.default_rng(0)
    span = stamps[-1] - stamps[0] + (stamps[1] - stamps[0])
    columns = {"timestamp": pa.array(np.concatenate([stamps + number * span for number in range(times)]))}
    for name in table.column_names[1:]:
        readings = np.tile(table.column(name).to_numpy().astype(np.float32), times)
        columns[name] = pa.array(readings + random.normal(0, 1, len(readings)).astype(np.float32))
    schema = pa.schema([table.schema.field(0).with_type(columns["timestamp"].type), *list(table.schema)[1:]])
    pq.write_table(pa.table(columns).cast(schema), raw / "series.parquet", write_page_checksum=True)
    for other in raw.glob("*.parquet"):  # what belongs to the shorter time only
        if other.name not in ("series.parquet", "sensors.parquet", "edges.parquet"):
            other.unlink()


def run_stage(folder: Path, stage: str) -> float:
    """Seconds."""
    started = time.monotonic()
    subprocess.run([sys.executable, os.fspath(ROOT / "stages" / f"{stage}.py")], cwd=folder, check=True)
    return time.monotonic() - started


def train(folder: Path, given: argparse.Namespace, workers: int) -> dict[str, Any]:
    """One training, and the memory of its processes."""
    if workers == 1:
        write_params(folder, given, {}, {})
    else:
        write_params(
            folder,
            given,
            {"order": "partitioned", "partitions": workers},
            {"cluster": f"local:{workers}", "data": "memory"},
        )
    started = time.monotonic()
    command = [sys.executable, os.fspath(ROOT / "stages/train.py")]
    environment = {**os.environ, "DVC_ROOT": os.fspath(folder.resolve())}
    peaks: dict[int, dict[str, int]] = {}
    with subprocess.Popen(command, cwd=folder, env=environment) as process:
        while process.poll() is None:
            for pid, memory in _look(process.pid, alone=workers == 1).items():
                most = peaks.setdefault(pid, {"peak": 0, "own": 0})
                most["peak"] = max(most["peak"], memory["VmHWM"])
                most["own"] = max(most["own"], memory["RssAnon"])
            time.sleep(0.2)
    if process.returncode:
        raise RuntimeError(f"the training ended with {process.returncode}")
    metrics = json.loads((folder / "metrics/train/metrics.json").read_text())
    return {
        "workers": workers,
        "steps": metrics["best"]["step"],
        "seconds": time.monotonic() - started,
        "mae": metrics["best"]["mae"],
        "peak": [most["peak"] for most in peaks.values()],
        "own": [most["own"] for most in peaks.values()],
    }


def _look(pid: int, *, alone: bool) -> dict[int, dict[str, int]]:
    """Bytes of the processes that train: this one, or those it started at a seat."""
    found = {}
    for process in [psutil.Process(pid)] if alone else psutil.Process(pid).children():
        try:
            lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
        except OSError:  # it has ended
            continue
        fields = dict(line.split(":", 1) for line in lines)
        if "VmHWM" in fields:
            found[process.pid] = {name: int(fields[name].split()[0]) * 1024 for name in ("VmHWM", "RssAnon")}
    return found


def sizes(folder: Path, given: argparse.Namespace) -> dict[str, Any]:
    """Bytes of the array, of what a worker holds of it, and of what index-batching adds."""
    prepared = open_prepared(folder / "data/prepared", verify=False)
    meta: PreparedMeta = prepared.meta
    train = replace(
        sections_of()["train"], order="partitioned", partitions=2, validation_windows=4, batch_size=2
    )
    course = Course(train, meta.splits)
    held = [
        held_bytes(meta, row_spans(meta, meta.steps, course.parts(rank, 2)), meta.sensors) for rank in (0, 1)
    ]
    windows = Windows(prepared)
    order = 8 * (meta.splits["train"][1] - meta.splits["train"][0])
    extra = order + windows.back.nbytes + windows.spans.nbytes
    return {
        "steps": meta.steps,
        "sensors": meta.sensors,
        "array": prepared.values.nbytes,
        "mask": prepared.observed.nbytes,
        "climatology": prepared.climatology.nbytes,
        "held": held,
        "index": extra,
        "passes": given.steps / steps_per_pass(order // 8, 2),
    }


def report(rows: list[dict[str, Any]], facts: dict[str, Any]) -> None:
    lines = ["| training | steps | seconds | peak MiB a process | of it its own | validation MAE |"]
    lines.append("|:---|---:|---:|---:|---:|---:|")
    for row in rows:
        name = (
            "one process, from the memory map"
            if row["workers"] == 1
            else "two workers, partitioned, in memory"
        )
        peak, own = (", ".join(f"{size / MIB:,.0f}" for size in row[key]) for key in ("peak", "own"))
        lines.append(
            f"| {name} | {row['steps']} | {row['seconds']:.0f} | {peak} | {own} | {row['mae']:.3f} |"
        )
    array = facts["array"]
    lines += ["", f"array: {facts['steps']:,} steps x {facts['sensors']:,} sensors, {array / MIB:,.0f} MiB; "]
    lines[-1] += f"mask {facts['mask'] / MIB:,.0f} MiB, climatology {facts['climatology'] / MIB:,.0f} MiB"
    lines.append("held by a worker: " + ", ".join(f"{size / MIB:,.0f} MiB" for size in facts["held"]))
    lines.append(
        f"index-batching adds {facts['index'] / MIB:.2f} MiB, {facts['index'] / array:.3%} of the array"
    )
    fits = all(peak < LIMIT for row in rows for peak in row["peak"])
    lines.append("every process stays under 6 GB" if fits else "A PROCESS NEEDS MORE THAN 6 GB")
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
