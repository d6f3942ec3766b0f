"""Windows a second and memory a process for 1, 2 and 4 ranks here, and what that says of 8 to 128 GPUs.

    python benchmarks/workers.py [--sensors 207] [--steps 12] [--batch 16] [--json FILE]
        [--gpu-windows 400 --latency 20e-6 --bandwidth 25e9 --gpus-a-node 4]

Measured: ranks are processes of this machine with one thread each; a step is the one that training takes. Fitted, by
least squares, to the CPU seconds of a rank, which other programs on the machine disturb least:

    step of one of W ranks = a * windows of the rank + b + c * (W - 1)

Predicted for GPUs, with the windows a second of one and the network that the options name; windows a step grow with
the ranks, as in the published runs (a batch of 64 on each):

    step = 64 / rate + b' + 2 log2(W) * messages * latency + 2 (M - 1) / M * gradient bytes / bandwidth      M nodes

and beside it the time in which every window would come over the network, which index-batching saves. The published
figures are those of PGT-I on 128 A100 of Polaris, 4 a node: 11.78 times the speed of distributed training without it,
and 419.46 GiB for the windows of PeMS that are written out. No GPU was measured.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sized import FP32, ROOT, sections_of, training

sys.path.insert(0, str(ROOT / "tests"))

from headway.training.piece import backward_piece
from headway.training.ranks import ALONE, Ranks, join
from headway.training.seat import Seat
from in_ranks import in_ranks  # pyright: ignore[reportMissingImports]

GIB, MIB = 2**30, 2**20
WORLDS, PREDICTED = (1, 2, 4), (1, 4, 8, 16, 32, 64, 128)
ROUNDS = 3  # a step asks all ranks so often: observed targets, the error, whether to stop
PUBLISHED = 11.78  # times as fast at 128 GPUs
PEMS = {"steps": 105_120, "sensors": 11_160, "features": 2, "history": 12}
PUBLISHED_BATCH = 64


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sensors", type=int, default=207)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--batch", type=int, default=16, help="windows of a step, cut among the ranks")
    parser.add_argument("--gpu-windows", type=float, default=400.0, help="windows a second of one GPU")
    parser.add_argument("--latency", type=float, default=20e-6, help="seconds of a message between nodes")
    parser.add_argument("--bandwidth", type=float, default=25e9, help="bytes a second of a node's network")
    parser.add_argument("--gpus-a-node", type=int, default=4)
    parser.add_argument("--json", type=Path, help="file to write the figures to")
    given = parser.parse_args()
    measured = [measure(world, given.sensors, given.batch, given.steps) for world in WORLDS]
    measured += [
        measure(1, given.sensors, windows, given.steps) for windows in (given.batch // 4, given.batch // 2)
    ]
    law = fit(measured)
    predicted = predict(law, given)
    tables = (_measured_table(measured), _predicted_table(predicted, law, given.bandwidth), _memory())
    sys.stdout.write("\n\n".join("\n".join(table) for table in tables) + "\n")
    if given.json:
        content = {
            "measured": measured,
            "law": law,
            "predicted": predicted,
            "options": vars(given) | {"json": ""},
        }
        given.json.write_text(json.dumps(content, indent=1) + "\n")


def measure(world: int, sensors: int, batch: int, steps: int) -> dict[str, Any]:
    """Median step of so many ranks, and the largest resident memory of any."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)

        def work(seat: Seat) -> None:
            ranks = join(seat, torch.device("cpu")) if world > 1 else ALONE
            run_steps(ranks, sensors, batch // world, steps, place / f"{seat.rank}.json")

        ends = in_ranks(world, place, work, timeout=300.0)
        if any(ends):
            raise RuntimeError(f"a rank failed: {ends}")
        rows = [json.loads((place / f"{rank}.json").read_text()) for rank in range(world)]
    return {
        "world": world,
        "batch": batch,
        "share": batch // world,
        "seconds": statistics.median(rows[0]["seconds"]),
        "cpu": statistics.median(rows[0]["cpu"]),
        "resident": max(row["resident"] for row in rows),
        "gradient": rows[0]["gradient"],
    }


def run_steps(ranks: Ranks, sensors: int, windows: int, steps: int, out: Path) -> None:
    """The step of training with its agreements, on random readings."""
    torch.set_num_threads(1)
    made = training(sections_of(), sensors, windows)
    parameters, observed = list(made.model.parameters()), int(made.batch.target_observed.sum())
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    optimizer = torch.optim.AdamW(parameters, fused=True)
    spent, busy = [], []
    for step in range(steps + 1):
        started, began = time.perf_counter(), time.process_time()
        total = int(ranks.total(observed)[0])
        optimizer.zero_grad(set_to_none=True)
        error = backward_piece(made.model, made.batch, total, FP32, scaler).item()
        ranks.total(error, False)
        ranks.add_gradients(parameters)
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        ranks.tell(0)
        if step:
            spent.append(time.perf_counter() - started)
            busy.append(time.process_time() - began)
    ranks.leave()
    resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    gradient = sum(parameter.nbytes for parameter in parameters)
    row = {"seconds": spent, "cpu": busy, "resident": resident, "gradient": gradient}
    out.write_text(json.dumps(row))


def fit(rows: list[dict[str, Any]]) -> dict[str, float]:
    """CPU seconds a window, a step, and a further rank: least squares."""
    matrix = np.array([[row["share"], 1.0, row["world"] - 1] for row in rows])
    seconds = np.array([row["cpu"] for row in rows])
    (window, fixed, rank), *_ = np.linalg.lstsq(matrix, seconds, rcond=None)
    errors = matrix @ np.array([window, fixed, rank]) / seconds - 1
    return {
        "seconds_a_window": float(window),
        "seconds_a_step": float(fixed),
        "seconds_a_further_rank": float(rank),
        "largest_error": float(abs(errors).max()),
        "gradient": rows[0]["gradient"],
    }


def predict(law: dict[str, float], given: argparse.Namespace) -> list[dict[str, float]]:
    """PeMS with a batch of 64 a GPU: the step of compute, of the gradient's sum, and of windows sent as data."""
    rows = []
    window = 2 * PEMS["history"] * PEMS["sensors"] * PEMS["features"] * 4
    for gpus in PREDICTED:
        nodes = max(1, gpus // given.gpus_a_node)
        compute = PUBLISHED_BATCH / given.gpu_windows + law["seconds_a_step"]
        hops = 2 * np.ceil(np.log2(gpus)) if gpus > 1 else 0
        gradient = (ROUNDS + 1) * hops * given.latency + 2 * (nodes - 1) / nodes * law[
            "gradient"
        ] / given.bandwidth
        remote = (nodes - 1) / nodes * PUBLISHED_BATCH * window * given.gpus_a_node / given.bandwidth
        rows.append(
            {
                "gpus": gpus,
                "compute": compute,
                "gradient": float(gradient),
                "data": float(remote),
                "efficiency": float(compute / (compute + gradient)),
                "times_without_index": float((compute + gradient + remote) / (compute + gradient)),
            }
        )
    return rows


def _measured_table(rows: list[dict[str, Any]]) -> list[str]:
    base = rows[0]["batch"] / rows[0]["seconds"]
    lines = [
        "| ranks | windows a step | windows/s | times one | resident MiB a rank |",
        "|---:|---:|---:|---:|---:|",
    ]
    for row in rows:
        speed = row["batch"] / row["seconds"]
        lines.append(
            f"| {row['world']} | {row['batch']} | {speed:.1f} | {speed / base:.2f} | {row['resident'] / MIB:,.0f} |"
        )
    return lines


def _predicted_table(rows: list[dict[str, float]], law: dict[str, float], bandwidth: float) -> list[str]:
    lines = [
        f"fitted: {law['seconds_a_window'] * 1e3:.1f} ms a window, "
        f"{law['seconds_a_step'] * 1e3:.1f} ms a step, {law['seconds_a_further_rank'] * 1e3:.2f} ms a further rank; "
        f"largest error {law['largest_error']:.1%}; gradient {law['gradient'] / MIB:.2f} MiB",
        "",
        "| GPUs | compute, ms | gradient, ms | efficiency | windows as data, ms | times as fast as with them |",
        "|---:|---:|---:|---:|---:|---:|",
    ]
    for row in rows:
        lines.append(
            f"| {row['gpus']} | {row['compute'] * 1e3:.1f} | {row['gradient'] * 1e3:.2f} | {row['efficiency']:.1%} | "
            f"{row['data'] * 1e3:.1f} | {row['times_without_index']:.2f} |"
        )
    most = rows[-1]
    step = most["compute"] + most["gradient"]
    arriving = most["data"] * bandwidth / (PUBLISHED - 1) / step
    lines += [
        "",
        f"published: {PUBLISHED} times as fast at {most['gpus']} GPUs; by this law windows then arrive at ",
    ]
    lines[-1] += f"{arriving / 1e9:.2f} GB/s a node, {arriving / bandwidth:.1%} of the network's rate"
    return lines


def _memory() -> list[str]:
    """The law of memory for PeMS: windows written out, the array, ours."""
    steps, sensors, features, history = (PEMS[name] for name in ("steps", "sensors", "features", "history"))
    windows = steps - 2 * history + 1
    written = 2 * windows * history * sensors * features * 8
    ours = steps * sensors * features * 5 + 8 * windows
    lines = ["| PeMS, 11,160 sensors, a year | GiB |", "|:---|---:|"]
    lines.append(
        f"| windows written out, float64: 2 L S N F 8 bytes; published 419.46 | {written / GIB:.2f} |"
    )
    lines.append(
        f"| one array in float64, as index-batching there | {steps * sensors * features * 8 / GIB:.2f} |"
    )
    lines.append(f"| ours: float32, a mask of a byte, an order of 8 bytes a window | {ours / GIB:.2f} |")
    return lines


if __name__ == "__main__":
    main()
