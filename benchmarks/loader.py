"""Batches of windows gathered from one table, beside PyTorch Geometric Temporal's index dataset.

    pip install --no-deps torch_geometric torch-geometric-temporal decorator
    python benchmarks/loader.py [--threads N] [--json FILE]

METR-LA's size, 34,272 steps of 207 sensors, 12 -> 12, 64 shuffled windows a batch. The peer is given what its loader
of METR-LA gives it, a reading and the time of day of each sensor and step, and once readings alone. Ours are given
three times: readings, targets and their calendar, which is one for all sensors, as `Windows` reads them; a batch
without context, which has masks, the last reading and what was usual in training too; and all a model of ours reads:
a day and a week ago, four weeks and a week of days behind the trailing climatology. Beside each stands copying as
many bytes from one piece of memory to another. Runs alternate; medians of seconds count, of both with as many threads
as torch takes or --threads names. First every window of a small series is compared with the peer's, number by number.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
import types
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sized import MIB, peak_bytes, sections_of
from torch.utils.data import DataLoader

from headway.commands.sizes import model_of_size
from headway.data.prepared import PreparedMeta
from headway.data.windows import Windows
from headway.training.memory import keep_heap

SENSORS, LENGTH, BATCH, BATCHES, ROUNDS = 207, 34_272, 64, 40, 21
DAY = 288


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """A series in memory, as the prepared folder would give it."""

    meta: PreparedMeta
    values: np.ndarray
    observed: np.ndarray
    calendar: np.ndarray
    covariates: np.ndarray
    climatology: np.ndarray


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--json", type=Path, help="file to write the figures to")
    arguments = parser.parse_args()
    values = np.random.default_rng(0).normal(50, 8, (LENGTH, SENSORS, 1)).astype(np.float32)
    keep_heap()  # as training does
    torch.set_num_threads(arguments.threads)
    few, all_of_it = (Windows(table_of(values, everything=everything)) for everything in (False, True))
    loaders: dict[str, Callable[[], object]] = {
        "copying the bytes of readings and targets": copies(values, few, masks=False),
        "headway, readings, targets and calendar": readings(few),
        "copying the bytes of a batch without context": copies(values, few, masks=True),
        "headway, a batch without context": batches(few),
        "copying the bytes of all that a model reads": copies(values, all_of_it, masks=True),
        "headway, all that a model reads": batches(all_of_it),
    }
    try:
        peers = {
            "index dataset, readings and time of day": theirs(with_time_of_day(values)),
            "index dataset, readings alone": theirs(values),
        }
        loaders = {**peers, **loaders}
        sys.stdout.write(f"{compare()} windows of a small series are equal to the peer's\n\n")
    except ImportError as reason:
        sys.stderr.write(f"without the peer: {reason}\n")
    rows = measure(loaders)
    lines = ["| loader | windows/s | times the peer | peak MiB beside the table |", "|:---|---:|---:|---:|"]
    for row in rows:
        figures = f"{row['windows']:,.0f} | {row['ratio']:.2f} | {row['peak'] / MIB:.1f}"
        lines.append(f"| {row['loader']} | {figures} |")
    sys.stdout.write("\n".join(lines) + f"\n\n{arguments.threads} thread(s); ")
    sys.stdout.write(f"the table: {values.nbytes / MIB:.0f} MiB; ")
    sys.stdout.write(f"batches: {batch_bytes(few) / MIB:.1f} and {batch_bytes(all_of_it) / MIB:.1f} MiB\n")
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=1) + "\n")


def measure(loaders: dict[str, Callable[[], object]]) -> list[dict[str, Any]]:
    """A row a loader; the ratio is to the first one."""
    times: dict[str, list[float]] = {name: [] for name in loaders}
    for number in range(ROUNDS + 1):
        for name, load in loaders.items():
            started = time.perf_counter()
            load()
            if number:
                times[name].append(time.perf_counter() - started)
    first = next(iter(times.values()))
    return [
        {
            "loader": name,
            "windows": BATCH * BATCHES / statistics.median(spent),
            "ratio": statistics.median(theirs / ours for theirs, ours in zip(first, spent, strict=True)),
            "peak": peak_bytes(loaders[name]),
        }
        for name, spent in times.items()
    ]


def compare(steps: int = 400, sensors: int = 5, lags: int = 12) -> int:
    """How many windows there are of a small series, all equal to the peer's.

    Raises: AssertionError naming a window that is not.
    """
    values = np.random.default_rng(1).normal(50, 8, (steps, sensors, 1)).astype(np.float32)
    starts = np.arange(steps - 2 * lags + 1)
    peer = index_dataset()(starts, with_time_of_day(values), lags)
    # a start is our origin - history
    batch = Windows(table_of(values, everything=False)).gather(starts + lags)
    ours = {
        "history": (batch.history[..., 0], batch.history_calendar),
        "target": (batch.target, batch.target_calendar),
    }
    for number, start in enumerate(starts):
        for part, (name, (readings, calendar)) in zip(peer[number], ours.items(), strict=True):
            same = torch.equal(part[..., 0], readings[number])
            same &= torch.equal(part[..., 1], (calendar[number, :, :1] / DAY).expand(-1, sensors))
            assert same, f"{name} of the window from row {start}"
    assert len(peer) == len(starts) and batch.target_observed.all()
    return len(starts)


def with_time_of_day(values: np.ndarray) -> np.ndarray:
    """Readings and the time of day of each, as the peer's METR-LA has them."""
    time_of_day = (np.arange(len(values)) % DAY / DAY).astype(np.float32)
    return np.concatenate([values, np.broadcast_to(time_of_day[:, None, None], values.shape)], 2)


def batches(windows: Windows) -> Callable[[], None]:
    """BATCHES batches."""
    origins = orders()

    def load() -> None:
        for _ in range(BATCHES):
            windows.gather(next(origins))

    return load


def batch_bytes(windows: Windows) -> int:
    batch = windows.gather(next(orders()))
    return sum(getattr(batch, field.name).nbytes for field in fields(batch))


def readings(windows: Windows) -> Callable[[], None]:
    """BATCHES times what the peer gives, read as `Windows.gather` reads it."""
    origins = orders()
    values, _, calendar = windows.whole

    def load() -> None:
        for _ in range(BATCHES):
            begin = torch.from_numpy(next(origins) - windows.history)
            for part in (values, calendar):
                part.index_select(0, begin)

    return load


def copies(values: np.ndarray, windows: Windows, *, masks: bool) -> Callable[[], None]:
    """BATCHES times as many bytes as are read for a batch, each from another place of a piece of memory."""
    steps = windows.history + windows.horizon
    if masks:  # and the fallback, and what lies before
        steps += windows.horizon + (windows.horizon + windows.history) * len(windows.lags)
    size = BATCH * steps * SENSORS
    table = torch.from_numpy(values).flatten()
    source = [table.repeat(1 + size // len(table)), torch.ones(len(table) + size, dtype=torch.bool)]
    target = [torch.empty(size), torch.empty(size, dtype=torch.bool)]
    firsts = np.random.default_rng(0)

    def load() -> None:
        for _ in range(BATCHES):
            first = int(firsts.integers(0, len(source[0]) - size + 1))
            for into, out in list(zip(target, source, strict=True))[: 1 + masks]:
                into.copy_(out[first : first + size])

    return load


def table_of(values: np.ndarray, *, everything: bool) -> Table:
    """A series as the prepared folder would give it."""
    meta = model_of_size(sections_of(), values.shape[1], 300)[1]
    lags = {
        "context": (DAY, 7 * DAY) if everything else (),
        "trailing": tuple(7 * DAY * week for week in range(1, 5)) if everything else (),
        "trailing_days": tuple(DAY * day for day in range(1, 8)) if everything else (),
    }
    steps = np.arange(len(values))
    return Table(
        meta=replace(meta, **lags),
        values=values,
        observed=np.ones(values.shape, bool),
        calendar=np.stack([steps % DAY, steps // DAY % 7], 1).astype(np.int16),
        covariates=np.zeros((len(values), 0), np.float32),
        climatology=np.zeros((7 * DAY, values.shape[1]), np.float32),
    )


def orders() -> Iterator[np.ndarray]:
    random = np.random.default_rng(0)
    while True:
        shuffled = random.permutation(np.arange(12, LENGTH - 12))
        yield from np.split(shuffled[: len(shuffled) // BATCH * BATCH], len(shuffled) // BATCH)


def index_dataset() -> Any:
    """The peer's class; its module wants dask for another mode only."""
    try:
        import dask.array  # pyright: ignore[reportMissingImports]  # noqa: F401
    except ImportError:
        sys.modules["dask"], sys.modules["dask.array"] = (
            types.ModuleType(name) for name in ("dask", "array")
        )
        sys.modules["dask"].array = sys.modules["dask.array"]  # pyright: ignore[reportAttributeAccessIssue]
    sys.modules.setdefault("torch_sparse", types.ModuleType("torch_sparse")).SparseTensor = object  # pyright: ignore
    from torch_geometric_temporal.signal.index_dataset import (  # pyright: ignore[reportMissingImports]
        IndexDataset,
    )

    return IndexDataset


def theirs(values: np.ndarray) -> Callable[[], None]:
    """BATCHES batches of the peer."""
    batches = iter(
        forever(DataLoader(index_dataset()(np.arange(LENGTH - 24), values, 12), BATCH, shuffle=True))
    )

    def load() -> None:
        for _ in range(BATCHES):
            next(batches)

    return load


def forever(loader: DataLoader[Any]) -> Iterator[list[torch.Tensor]]:
    while True:
        yield from loader


if __name__ == "__main__":
    main()
