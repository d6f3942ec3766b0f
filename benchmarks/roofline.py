"""Which limit each part of a training step is at: the machine's matrix peak, its copy bandwidth, or neither.

    python benchmarks/roofline.py [--sensors 207] [--windows 16] [--width 64] [--blocks 2] [--rounds 7]
        [--json FILE]

Every operation of whole steps is timed and counted, forward, backward and update: its arithmetic, and the bytes of
what it reads and writes, each once. Peak and bandwidth are measured in the same run. `least` is the time that a part
would take at the nearer of its two limits, of all parts their sum; `above it` is how many times as long it takes.
What fits a cache may beat the copy of a large tensor. Timing one operation after the other costs a few microseconds
each: the first line says what a step takes with it and without.

matrix products: of the linear layers. attention: `headway.nn.edges`. scan: `headway.nn.gated_scan`, the
convolution, gate and norm inside it too. A gathered row counts as read wherever it comes from.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from sized import MIB, matrix_peak, sections_of, training
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from headway.training.memory import keep_heap

FILES = {
    "gated_scan.py": "scan",
    "scan_in_c.py": "scan",
    "selective_scan.py": "scan",
    "coefficients.py": "attention",
    "edges.py": "attention",
    "muon.py": "optimizer",
}
NAMES = {  # of an operation's name, the first that is found in it
    "mm": "matrix products",
    "linear": "matrix products",
    "layer_norm": "norms",
    "rms_norm": "norms",
    "adamw": "optimizer",
    "foreach": "optimizer",
}
OTHERS = "elementwise, copies"
GATHERS = (
    *("_embedding_bag", "_embedding_bag_forward_only", "_embedding_bag_per_sample_weights_backward"),
    *("bag", "bag_and_dot", "reverse_bag", "sampled_dot"),  # in C
)
COPIES = ("copy", "clone", "cat", "fill", "zero", "index", "repeat")
COPIED_MIB = 256


@dataclass(slots=True)
class Cost:
    """Of one part in one step."""

    seconds: float = 0.0
    flops: int = 0
    bytes: int = 0


class Counted(TorchDispatchMode):
    """Times every operation and counts what it does, by the part of the step that it belongs to."""

    def __init__(self) -> None:
        super().__init__()
        self.costs: dict[str, Cost] = defaultdict(Cost)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        started = time.perf_counter()
        made = func(*args, **(kwargs or {}))
        seconds = time.perf_counter() - started
        if _is_view(func):
            return made
        cost = self.costs[_part(func)]
        given = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        out = [leaf for leaf in tree_leaves(made) if isinstance(leaf, Tensor)]
        cost.seconds += seconds
        cost.flops += _flops(func, args, kwargs or {}, given, made, out)
        cost.bytes += _traffic(func, args, given, out)
        return made


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sensors", type=int, default=207)
    parser.add_argument("--windows", type=int, default=16)
    parser.add_argument("--width", type=int, help="of the model; as params.yaml has it")
    parser.add_argument("--blocks", type=int, help="the same")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", type=Path, help="file to write the figures to")
    arguments = parser.parse_args()
    keep_heap()
    torch.exp(torch.zeros(1))
    sizes = {"ha_gat": {"hidden_dim": arguments.width}, "st_mamba": {"layers": arguments.blocks}}
    given = {name: keys for name, keys in sizes.items() if None not in keys.values()}
    found = measure(sections_of(**given), arguments.sensors, arguments.windows, arguments.rounds)
    sys.stdout.write("\n".join(table(found)) + "\n")
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=1) + "\n")


def measure(sections: dict[str, Any], sensors: int, windows: int, rounds: int) -> dict[str, Any]:
    """Both limits, a step with and without counting, and the median cost of each part."""
    step = training(sections, sensors, windows).step
    step()
    plain, counted, costs = [], [], []
    for _ in range(rounds):
        plain.append(seconds_of(step))
        with Counted() as mode:
            counted.append(seconds_of(step))
        costs.append(mode.costs)
    parts = {
        name: Cost(
            seconds=statistics.median(cost[name].seconds for cost in costs),
            flops=costs[0][name].flops,
            bytes=costs[0][name].bytes,
        )
        for name in costs[0]
    }
    limits = {"gflops": matrix_peak(), "gbytes": copy_bandwidth()}
    return {
        "sensors": sensors,
        "windows": windows,
        "threads": torch.get_num_threads(),
        "limits": limits,
        "step_ms": 1000 * statistics.median(plain),
        "counted_ms": 1000 * statistics.median(counted),
        "parts": rows(parts, limits),
    }


def rows(parts: dict[str, Cost], limits: dict[str, float]) -> list[dict[str, Any]]:
    """A row a part, the longest first, and one of all."""
    whole = Cost(*(sum(getattr(cost, name) for cost in parts.values()) for name in Cost.__slots__))
    ordered = sorted(parts.items(), key=lambda item: -item[1].seconds)
    found = []
    for name, cost in [*ordered, ("all", whole)]:
        by_flops, by_bytes = cost.flops / limits["gflops"] / 1e9, cost.bytes / limits["gbytes"] / 1e9
        least = max(by_flops, by_bytes) if name in parts else sum(row["least_ms"] for row in found) / 1000
        found.append(
            {
                "part": name,
                "ms": 1000 * cost.seconds,
                "share": cost.seconds / whole.seconds,
                "gflops": cost.flops / cost.seconds / 1e9,
                "of_peak": by_flops / cost.seconds,
                "gbytes": cost.bytes / cost.seconds / 1e9,
                "of_bandwidth": by_bytes / cost.seconds,
                "limit": "matrix peak" if by_flops > by_bytes else "bandwidth",
                "least_ms": 1000 * least,
                "above": cost.seconds / least if least else None,
            }
        )
    return found


def table(found: dict[str, Any]) -> list[str]:
    """Markdown."""
    limits = found["limits"]
    lines = [
        f"{found['sensors']} sensors, {found['windows']} windows, {found['threads']} thread(s): a step takes "
        f"{found['step_ms']:.0f} ms, {found['counted_ms']:.0f} while it is counted",
        f"matrix peak {limits['gflops']:.0f} GFLOP/s, copy {limits['gbytes']:.1f} GB/s",
        "",
        "| part | ms | share | GFLOP/s | of peak | GB/s | of copy | nearer limit | least ms | above it |",
        "|:---|---:|---:|---:|---:|---:|---:|:---|---:|---:|",
    ]
    for row in found["parts"]:
        above = f"{row['above']:.1f}" if row["above"] else "-"
        lines.append(
            f"| {row['part']} | {row['ms']:.1f} | {row['share']:.0%} | {row['gflops']:.1f} | {row['of_peak']:.0%} "
            f"| {row['gbytes']:.1f} | {row['of_bandwidth']:.0%} | {row['limit']} | {row['least_ms']:.1f} | {above} |"
        )
    return lines


def seconds_of(call: Callable[[], object]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def copy_bandwidth() -> float:
    """GB/s of a copy of a tensor larger than any cache, reading and writing; the best of ten."""
    source = torch.ones(COPIED_MIB * MIB // 4)
    target = torch.empty_like(source)
    best = min(seconds_of(lambda: target.copy_(source)) for _ in range(10))
    return 2 * source.nbytes / best / 1e9


def _is_view(func: Any) -> bool:
    """Whether it moves no number."""
    returned = func._schema.returns
    return any(value.alias_info is not None and not value.alias_info.is_write for value in returned)


def _part(func: Any) -> str:
    frame = sys._getframe(2)
    while frame is not None:
        part = FILES.get(Path(frame.f_code.co_filename).name)
        if part:
            return part
        frame = frame.f_back
    name = func._schema.name.removeprefix("aten::")
    return next((part for word, part in NAMES.items() if word in name), OTHERS)


def _flops(
    func: Any, args: Any, kwargs: dict[str, Any], given: list[Tensor], made: Any, out: list[Tensor]
) -> int:
    """Two a product in matrices and gathers, one a number elsewhere, none where numbers are only moved."""
    name = _name(func, args)
    if name in ("scan", "scan_back"):
        return _scan_flops(name, args[1])
    if func._overloadpacket in flop_registry:
        return flop_registry[func._overloadpacket](*args, **kwargs, out_val=made)
    if name in GATHERS:
        return 2 * _gathered(args, given) * given[0].shape[-1] * (2 if name == "bag_and_dot" else 1)
    if any(word in name for word in COPIES) or name.startswith(("empty", "new_empty")):
        return 0
    return max((tensor.numel() for tensor in [*given, *out]), default=0)


def _scan_flops(name: str, sizes: list[int]) -> int:
    """Of the convolution and of products over pairs of steps; the backward pass makes three times as many."""
    sequences, wanted, steps, width, state, _, taps, _ = sizes
    pairs = wanted * steps - wanted * (wanted - 1) // 2
    forward = 2 * sequences * (taps * steps * (width + 2 * state) + pairs * (width + state))
    return forward if name == "scan" else 3 * forward


def _traffic(func: Any, args: Any, given: list[Tensor], out: list[Tensor]) -> int:
    """Bytes read and written, each tensor once; of gathered rows each time."""
    name = _name(func, args)
    if name.startswith(("empty", "new_empty")):
        return 0
    once = sum(_size(tensor) for tensor in [*given, *out])
    if name not in GATHERS:
        return once
    row = given[0].shape[-1] * given[0].element_size()
    return (
        once - _size(given[0]) + _gathered(args, given) * row
    )  # all gathered from are as large as the first


def _name(func: Any, args: Any) -> str:
    """Of an operation; in C of the function that is called."""
    name = func._schema.name.removeprefix("aten::")
    return args[0] if name == "headway::in_c" else name


def _gathered(args: Any, given: list[Tensor]) -> int:
    """Rows that a gather reads: one a slot in C; else one an entry of the index, its only tensor of whole numbers."""
    if isinstance(args[0], str):
        windows, sensors, inner, neighbors, _ = args[1]
        return windows * sensors * inner * neighbors
    return next(tensor.numel() for tensor in given if not tensor.is_floating_point())


def _size(tensor: Tensor) -> int:
    """Bytes of what it shows; what is repeated by a stride of 0 counts once."""
    return min(tensor.numel() * tensor.element_size(), tensor.untyped_storage().nbytes())


if __name__ == "__main__":
    main()
