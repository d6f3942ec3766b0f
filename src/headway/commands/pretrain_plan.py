"""The part of `python -m headway plan` about pretraining: memory by component and by size of GPU, beside the figures
that it was published with.

Enters: sections of params.yaml, a number of sensors. Leaves: two tables. A step of `pretrain` is counted by
hand, from the sizes alone, and measured: the very step is run on tensors without numbers. The published figures
are estimates of their author for graphs of 100 nodes and 10,000 paths, batch 1, 4 and 16."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from headway.graph.tree import RoadNetwork
from headway.nn.sgmp import PathSet
from headway.training.memory import GIB, MIB, parse_size
from headway.training.plan import Planner
from headway.training.precision import resolve_precision
from headway.training.pretrain_experiment import make_encoder
from headway.training.pretraining import PretrainParams
from headway.training.storages import StepMemory
from headway.training.tree_batches import measure_scale
from headway.training.tree_plan import TreePlanner, batch_of
from headway.training.tree_sources import RoadTrees

FLOAT, INDEX = 4, 8  # bytes
PUBLISHED_MB = {  # a graph of theirs, and batches of 4 and 16
    "graphs": (5, 20, 80),
    "paths": (50, 200, 800),
    "messages": (20, 80, 320),
    "predictor": (10, 40, 160),
    "gradients": (0, 680, 2600),
    "total": (0, 1000, 4000),
}
PUBLISHED_SETTINGS = {  # of theirs: batch, hidden, interactions
    "8GB": "2, 32, 2",
    "12GB": "4, 64, 3",
    "16GB": "4-8, 64, 3",
    "24GB": "8-16, 64, 3",
}
BATCHES = (1, 4, 16)
LADDER = (
    "graphs are measured with the paths, the predictor with the messages; weights, moments and best weights with "
    "the gradients\n"
    "smaller, in this order: trees instead of all links (done), fewer pretrain.paths_per_node, chunks that are "
    "computed again (chosen above), fewer sgmp.hidden_dim, pretrain.interactions, sgmp.distance_centers"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """What a step is counted from."""

    nodes: int
    paths: int
    climbs: int
    grown: int
    weights: int


def pretrain_text(sections: Mapping[str, Any], sensors: int, device: torch.device) -> list[str]:
    """Lines of both tables; none where no method is chosen."""
    params = sections["pretrain"]
    if params.method == "none":
        return []
    planner, sizes = _planner(sections, sensors, device)
    width = sections[params.encoder].hidden_dim
    title = (
        f"pretraining ({params.encoder}): trees of {sensors:,} sensors, {sizes.paths / sensors:.1f} paths a sensor, "
        f"width {width}, {params.interactions} interactions; MiB by count | by measurement | as published, MB"
    )
    return ["", title, "", *_components(planner, sections, sizes), "", *_gpus(planner, device), "", LADDER]


def _planner(sections: Mapping[str, Any], sensors: int, device: torch.device) -> tuple[TreePlanner, Sizes]:
    """A planner for a network of this size, whose trees branch now and then."""
    params = sections["pretrain"]
    network = _some_network(sensors)
    tree = network.shortest_path_tree()
    source = RoadTrees(network, measure_scale(tree.length, planar=True), params.tree, params.seed)
    with torch.random.fork_rng(devices=[]):
        encoder = make_encoder(sections, source, 0)
    batch = batch_of(source.training(0, 1), source.scale, params)
    around, above = (
        part.nodes.shape[1] if isinstance(part, PathSet) else part.neighbors.numel()
        for part in (batch.around, batch.above)
    )
    weights = sum(parameter.numel() for parameter in encoder.parameters())
    sizes = Sizes(nodes=sensors, paths=around, climbs=above, grown=len(batch.grown), weights=weights)
    precision = resolve_precision(sections["runtime"].precision, device)
    return TreePlanner(encoder, source, params, precision), sizes


def _some_network(sensors: int) -> RoadNetwork:
    """Corridors with a branch every few sensors, and links between them."""
    random = np.random.default_rng(0)
    above = np.array([max(0, node - 1 - int(random.integers(3))) for node in range(1, sensors)])
    places = np.zeros((sensors, 3))
    for node, parent in enumerate(above, start=1):
        places[node, :2] = places[parent, :2] + random.normal(1, 0.5, 2)
    roads = np.stack([above, np.arange(1, sensors)])
    return RoadNetwork(roads, 1.0 + random.random(sensors - 1), places)


def counted(sizes: Sizes, params: PretrainParams, section: Any, trees: int) -> dict[str, int]:
    """Bytes by hand, component by component: what stays until its gradient is taken."""
    width, rounds, both = section.hidden_dim, params.interactions, sizes.paths + sizes.climbs
    if params.encoder == "ha_gat":
        a_slot, a_node = 2 * section.heads, 12 * width
    else:
        centers = 3 * section.distance_centers + 2 * section.angle_centers
        a_slot, a_node = centers + 6 * width + 4 * width + 2 * width, 10 * width
    messages = rounds * (both * a_slot + 2 * sizes.nodes * a_node) * FLOAT
    features = 18 + params.pairs_per_node * 2 * 5
    parts = {
        "graphs": sizes.nodes * features * FLOAT,
        "paths": both * (4 * INDEX + 5 * FLOAT),
        "messages": messages,
        "predictor": sizes.grown * (4 * params.bins + 6 * width) * FLOAT,
    }
    parts = {name: trees * size for name, size in parts.items()}
    return parts | {"gradients": 4 * sizes.weights * FLOAT}


def _components(planner: TreePlanner, sections: Mapping[str, Any], sizes: Sizes) -> list[str]:
    params = sections["pretrain"]
    count = {trees: counted(sizes, params, sections[params.encoder], trees) for trees in BATCHES}
    traced = {trees: grouped(planner.trace(trees, False)) for trees in BATCHES}
    heads = "".join(f"{f'batch {trees}':>30}" for trees in BATCHES)
    lines = [f"{'':<12}{heads}"]
    for name in (*next(iter(count.values())), "total"):
        cells = []
        for column, trees in enumerate(BATCHES):
            by_hand = count[trees].get(name, sum(count[trees].values()))
            seen = traced[trees].get(name)
            measured = f"{seen / MIB:,.1f}" if seen is not None else "-"
            cells.append(f"{by_hand / MIB:>12,.1f} |{measured:>8} |{PUBLISHED_MB[name][column] or '-':>6}")
        lines.append(f"{name:<12}" + "".join(cells))
    return lines


def grouped(memory: StepMemory) -> dict[str, int]:
    """A trace in the words of the table: messages and predictor are one there, and so are trees and paths."""
    return {
        "paths": memory.data + memory.tables,
        "messages": memory.activations + memory.workspace,
        "gradients": memory.parameters + memory.gradients + memory.optimizer + memory.best,
        "total": memory.peak,
    }


def _gpus(planner: TreePlanner, device: torch.device) -> list[str]:
    """A row a size of GPU: as many trees at once as are asked for, and whether they fit."""
    on_gpu: Planner = planner if device.type == "cuda" else planner.on_cuda()
    lines = [
        f"{'GPU':<6} {'trees at once':>13}  {'messages':<16} {'needs':>9}   published: batch, hidden, interactions"
    ]
    for size, published in PUBLISHED_SETTINGS.items():
        plan = on_gpu.plan(parse_size(size))
        kept = ("computed again" if plan.recompute else "kept") if plan.fits else "does not fit"
        lines.append(
            f"{size:<6} {plan.micro_batch:>13}  {kept:<16} {plan.needed / GIB:>5.2f} GiB   {published}"
        )
    return lines
