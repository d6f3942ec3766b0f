"""One training step, optimizer included, beside the models people would pick instead: speed, memory, where time goes.

    pip install --no-deps torch_geometric torch-geometric-temporal decorator
    git clone https://github.com/nnzhan/Graph-WaveNet; git clone https://github.com/XDZhelheim/STAEformer
    GRAPH_WAVENET=Graph-WaveNet STAEFORMER=STAEformer python benchmarks/step.py [--json FILE]

207 sensors, 12 -> 12 steps, batch 16, 15 neighbors; the model of params.yaml, and it with two blocks of width 64, the
latter also in as few bytes as the planner is told. A peer that is not there is left out. All take turns in one
process and thread count; medians count, and the ratios more than the figures. Peers differ in size and in accuracy:
this is cost only. BatchedDCRNN is one recurrent layer without a decoder, as its library has it.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import statistics
import sys
import time
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from sized import MIB, kept_bytes, matrix_peak, peak_bytes, sections_of, training
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from headway.training.memory import keep_heap

SENSORS, STEPS, BATCH, NEIGHBORS, ROUNDS = 207, 12, 16, 15, 7
WIDE = {  # MiB that the planner is given, weights and moments included; 0: as many as it takes
    "headway, two blocks of width 64": 0,
    "the same in 150 MiB": 150,
    "the same in 30 MiB": 30,
}
CLASSES = {  # of an operator's name, the first that is found in it
    "scan and neighbors in C": ("headway::in_c",),
    "matrix products": ("mm", "linear", "conv"),
    "gathers": ("embedding", "index", "gather", "scatter"),
    "norms and softmax": ("norm", "softmax"),
    "copies": ("copy", "cat", "fill", "zero", "clone", "repeat"),
}
# a model, an update of it, and what of that is in memory at once
Steps = dict[str, tuple[nn.Module, Callable[[], None], Callable[[], None]]]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path, help="file to write the figures to")
    arguments = parser.parse_args()
    keep_heap()
    torch.exp(torch.zeros(1))
    made = training(sections_of(), SENSORS, BATCH)
    steps: Steps = {"headway": (made.model, made.step, made.piece)}
    for name, budget in WIDE.items():
        wide = training(
            sections_of(ha_gat={"hidden_dim": 64}, st_mamba={"layers": 2}), SENSORS, BATCH, budget * MIB
        )
        steps[name] = (wide.model, wide.step, wide.piece)
    steps |= peers()
    rows, peaks = measure(steps), matrix_peak()
    lines = [
        "| model | weights | samples/s | headway is faster by | peak MiB | kept MiB |",
        "|:---|---:|---:|---:|---:|---:|",
    ]
    for row in rows:
        figures = f"{row['samples']:.1f} | {row['ratio']:.2f} | {row['peak']:.0f} | {row['kept']:.0f}"
        lines.append(f"| {row['model']} | {row['weights']:,} | {figures} |")
    flops = matrix_flops(made.group)
    achieved = flops / 1e9 / BATCH * rows[0]["samples"]
    lines += [
        "",
        f"matrix peak {peaks:.0f} GFLOP/s; headway's matrix products: {flops / BATCH / 1e9:.2f} GFLOP",
    ]
    lines += [f"a sample, {achieved:.1f} GFLOP/s, {achieved / peaks:.0%} of the peak", ""]
    shares = time_by_class(made.step)
    lines += [f"{name:<18} {share:.0%}" for name, share in shares.items()]
    sys.stdout.write("\n".join(lines) + "\n")
    if arguments.json:
        found = {"rows": rows, "matrix_peak": peaks, "of_peak": achieved / peaks, "time": shares}
        arguments.json.write_text(json.dumps(found, indent=1) + "\n")


def measure(steps: Steps) -> list[dict[str, Any]]:
    """A row a model: median samples a second, median of the ratios of each round, memory."""
    times: dict[str, list[float]] = {name: [] for name in steps}
    for number in range(ROUNDS + 1):
        for name, (_, step, _) in steps.items():
            started = time.perf_counter()
            step()
            if number:  # the first one warms up
                times[name].append(time.perf_counter() - started)
    rows = []
    for name, (model, step, piece) in steps.items():
        model.zero_grad(set_to_none=True)  # what is there before is not the step's
        ratios = [theirs / ours for theirs, ours in zip(times[name], times["headway"], strict=True)]
        rows.append(
            {
                "model": name,
                "weights": sum(parameter.numel() for parameter in model.parameters()),
                "samples": BATCH / statistics.median(times[name]),
                "ratio": statistics.median(ratios),
                "peak": peak_bytes(step) / MIB,
                "kept": kept_bytes(piece, list(model.parameters())) / MIB,
            }
        )
    return rows


def matrix_flops(call: Callable[[], None]) -> int:
    """Operations of all matrix products inside, forward and backward."""
    with FlopCounterMode(display=False) as counter:
        call()
    return counter.get_total_flops()


def time_by_class(step: Callable[[], None]) -> dict[str, float]:
    """Share of an operator class in the time of three steps."""
    with profile(activities=[ProfilerActivity.CPU]) as recorded:
        for _ in range(3):
            step()
    spent: dict[str, float] = {}
    for event in recorded.key_averages():
        name = event.key.removeprefix("aten::")
        found = (kind for kind, words in CLASSES.items() if any(word in name for word in words))
        of_an_operator = event.key.startswith(("aten::", "headway::"))
        kind = next(found, "elementwise") if of_an_operator else "Python and autograd"
        spent[kind] = spent.get(kind, 0) + event.self_cpu_time_total
    total = sum(spent.values())
    return {kind: spent[kind] / total for kind in sorted(spent, key=lambda kind: -spent[kind])}


def peers() -> Steps:
    """Those that can be loaded here."""
    found: Steps = {}
    for name, make in {
        "Graph WaveNet": graph_wavenet,
        "STAEformer": staeformer,
        "BatchedDCRNN, one layer": batched_dcrnn,
    }.items():
        try:
            model, forward = make()
        except (ImportError, KeyError, OSError) as reason:
            sys.stderr.write(f"without {name}: {type(reason).__name__} {reason}\n")
            continue
        step = step_of(model, forward)
        found[name] = (model, step, step)
    return found


def step_of(model: nn.Module, forward: Callable[[], Tensor]) -> Callable[[], None]:
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        forward().abs().mean().backward()
        optimizer.step()

    return step


def graph_wavenet() -> tuple[nn.Module, Callable[[], Tensor]]:
    """The authors' model; its 2-D kernels in `Conv1d` need `Conv2d` on a torch of today."""
    module = checkout("GRAPH_WAVENET", "model.py")
    module.nn = types.SimpleNamespace(**{**vars(nn), "Conv1d": nn.Conv2d})
    adjacency = random_adjacency()
    supports = [a / a.sum(1, keepdim=True) for a in (adjacency, adjacency.T)]
    model = module.gwnet("cpu", SENSORS, supports=supports, in_dim=2, out_dim=12)
    x = torch.randn(BATCH, 2, SENSORS, STEPS + 1)  # one step of padding, as its trainer adds
    return model, lambda: model(x)


def staeformer() -> tuple[nn.Module, Callable[[], Tensor]]:
    """The authors' model: reading, time of day, day of week."""
    model = checkout("STAEFORMER", "model/STAEformer.py").STAEformer(SENSORS)
    x = torch.randn(BATCH, STEPS, SENSORS, 3)
    x[..., 1], x[..., 2] = torch.rand(BATCH, STEPS, 1), 3.0
    return model, lambda: model(x)


def batched_dcrnn() -> tuple[nn.Module, Callable[[], Tensor]]:
    """PyTorch Geometric Temporal's; its package wants torch_sparse for another layer only."""
    sys.modules.setdefault("torch_sparse", types.ModuleType("torch_sparse")).SparseTensor = object  # pyright: ignore
    from torch_geometric_temporal.nn.recurrent import BatchedDCRNN  # pyright: ignore[reportMissingImports]

    adjacency = random_adjacency()
    edges = adjacency.nonzero().T.contiguous()
    model = nn.ModuleList([BatchedDCRNN(2, 64, 2), nn.Linear(64, 1)])
    x = torch.randn(BATCH, STEPS, SENSORS, 2)
    return model, lambda: model[1](model[0](x, edges, adjacency[edges[0], edges[1]]))


def random_adjacency() -> Tensor:
    """As many weighted neighbors as ours reads, and each sensor itself."""
    places = torch.rand(SENSORS, 2)
    distance = torch.cdist(places, places)
    near = distance.topk(NEIGHBORS + 1, largest=False).indices
    return torch.zeros(SENSORS, SENSORS).scatter(1, near, torch.exp(-10 * distance.gather(1, near)))


def checkout(variable: str, file: str) -> Any:
    """A file of a checkout that the environment names, as a module."""
    spec = importlib.util.spec_from_file_location(variable.lower(), Path(os.environ[variable]) / file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


if __name__ == "__main__":
    main()
