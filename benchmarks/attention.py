"""HA-GAT on the neighbor table beside PyTorch Geometric's GATv2Conv: time, and memory kept for the backward pass.

    pip install torch_geometric
    python benchmarks/attention.py [--sensors 207 ...] [--windows 16] [--json FILE]

One layer, forward and backward, width 64, 2 heads, 15 neighbors with 2 features an edge, windows of 12 steps.
HA-GAT does more: signs and regimes, and with two hops a second aggregation. `its matrix products` are the linear
maps of the layer with one hop and nothing between them, those of equal input as one: the least that a layer with
these maps can take, and keep. The runs alternate, the medians count.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch_geometric.nn import GATv2Conv  # pyright: ignore[reportMissingImports] - the peer, not a dependency

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "src"))

from headway.nn.ha_gat import HAGAT, HAGATParams
from headway.nn.neighbor_table import NeighborTable
from headway.training.memory import keep_heap
from headway.types import Graph

WIDTH, HEADS, NEIGHBORS, STEPS, ROUNDS = 64, 2, 15, 12, 11
MIB = 2**20


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sensors", type=int, nargs="+", default=[207, 2000])
    parser.add_argument("--windows", type=int, default=16)
    parser.add_argument("--json", type=Path, help="file to write the figures to")
    arguments = parser.parse_args()
    keep_heap()  # for both: the peer's large tensors would otherwise be faulted in anew each time
    rows = [row for sensors in arguments.sensors for row in compare(sensors, arguments.windows)]
    lines = [
        "| sensors | layer | ms | times as fast | kept MiB | share kept |",
        "|---:|---|---:|---:|---:|---:|",
    ]
    for row in rows:
        figures = f"{row['ms']:.0f} | {row['speed']:.2f} | {row['kept_mib']:.0f} | {row['share_kept']:.3f}"
        lines.append(f"| {row['sensors']:,} | {row['layer']} | {figures} |")
    sys.stdout.write("\n".join(lines) + "\n")
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=1) + "\n")


def compare(sensors: int, windows: int) -> list[dict[str, Any]]:
    """A row a layer, the peer first."""
    torch.manual_seed(0)
    graph = random_graph(sensors)
    table = NeighborTable(graph)
    layers: dict[str, Callable[[], Tensor]] = {"GATv2Conv": peer(graph, windows)}
    for hops in (1, 2):
        params = HAGATParams(hidden_dim=WIDTH, heads=HEADS, regimes=4, hops=hops, attention_dropout=0.0)
        layer = HAGAT(params, edge_features=2)
        layers[f"HA-GAT, {hops} hop(s)"] = ours(layer, table, windows)
        if hops == 1:
            layers["its matrix products"] = products(layer, sensors, windows)
    times: dict[str, list[float]] = {name: [] for name in layers}
    for _ in range(ROUNDS):
        for name, layer in layers.items():
            started = time.perf_counter()
            layer().sum().backward()
            times[name].append(time.perf_counter() - started)
    medians = {name: statistics.median(measured[1:]) for name, measured in times.items()}
    kept = {name: kept_bytes(layer) for name, layer in layers.items()}
    return [
        {
            "sensors": sensors,
            "layer": name,
            "ms": 1000 * medians[name],
            "speed": medians["GATv2Conv"] / medians[name],
            "kept_mib": kept[name] / MIB,
            "share_kept": kept[name] / kept["GATv2Conv"],
        }
        for name in layers
    ]


def random_graph(sensors: int) -> Graph:
    """Every sensor reads NEIGHBORS random others."""
    neighbors = torch.stack([torch.randperm(sensors - 1)[:NEIGHBORS] for _ in range(sensors)])
    neighbors += neighbors >= torch.arange(sensors).unsqueeze(1)
    features = torch.randn(sensors, NEIGHBORS, 2)
    return Graph(
        neighbors=neighbors.int(), valid=torch.ones(sensors, NEIGHBORS, dtype=torch.bool), features=features
    )


def ours(layer: nn.Module, table: NeighborTable, windows: int) -> Callable[[], Tensor]:
    h = torch.randn(windows, len(table.valid), STEPS, WIDTH, requires_grad=True)
    return lambda: layer(h, table)


def products(layer: HAGAT, sensors: int, windows: int) -> Callable[[], Tensor]:
    """The linear maps into and out of the attention; those to the few regimes are left out."""
    h, reached = (torch.randn(windows, sensors, STEPS, WIDTH, requires_grad=True) for _ in range(2))
    into = (layer.query, layer.key, layer.value, layer.regime_self, layer.regime_mean)
    weight = torch.cat([part.weight for part in into]).detach().requires_grad_()
    return lambda: F.linear(h, weight).sum() + layer.out(reached).sum()


def peer(graph: Graph, windows: int) -> Callable[[], Tensor]:
    """The usual way: all windows and steps as one graph of disconnected copies."""
    sensors, copies = len(graph.valid), windows * STEPS
    layer = GATv2Conv(WIDTH, WIDTH // HEADS, heads=HEADS, edge_dim=2, add_self_loops=False)
    target = torch.arange(sensors).repeat_interleave(NEIGHBORS)
    edges = torch.stack([graph.neighbors.flatten().long(), target])
    offsets = torch.arange(copies).repeat_interleave(edges.shape[1]) * sensors
    edges = edges.repeat(1, copies) + offsets
    features = graph.features.flatten(0, 1).repeat(copies, 1)
    h = torch.randn(copies * sensors, WIDTH, requires_grad=True)
    return lambda: layer(h, edges, features)


def kept_bytes(layer: Callable[[], Tensor]) -> int:
    """Distinct storages that the forward pass keeps for the backward pass."""
    storages: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        layer()
    return sum(storages.values())


if __name__ == "__main__":
    main()
