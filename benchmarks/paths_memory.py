"""Memory of third-order messages: kept whole and computed again in chunks, predicted and measured.

    python benchmarks/paths_memory.py [--sensors 300] [--neighbors 15] [--hidden 64] [--interactions 3]
        [--batches 1,2,4,16] [--seeds 1] [--json FILE]

First what a forward pass keeps for the backward pass, over every third-order path of the nearest-neighbor
graph of random places, whole (`--whole` runs it; else it is the size of one node's share, scaled) and in chunks, and
the largest difference of the results on a smaller graph. Then the peak of a pretraining step with so many trees at
once: predicted on tensors without numbers, measured by the allocator's account.

JSON: {"saved": {...}, "steps": [{"trees", "recompute", "predicted", "measured"}]}.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.spatial import KDTree
from sized import FP32, MIB, peak_bytes
from torch import Tensor

from headway.commands.sections import read_sections
from headway.graph.paths import third_order_paths, with_fallback
from headway.graph.tree import RoadNetwork
from headway.nn import sgmp
from headway.nn.sgmp import Interaction, PathSet, SGMPParams, link_scale, make_paths, path_starts
from headway.training.pretrain_experiment import make_encoder
from headway.training.pretraining import backward_trees
from headway.training.tree_batches import measure_scale
from headway.training.tree_plan import ONE, batch_of, trace_trees
from headway.training.tree_sources import RoadTrees

ROOT = Path(__file__).resolve().parent.parent
SMALLER = 40  # sensors of the graph on which whole and chunks are compared
Layers = list[Interaction]


def main() -> None:
    arguments = parse_arguments()
    torch.set_num_threads(1)
    saved = compare_saved(arguments)
    log("| trees | messages | predicted MiB | measured MiB | error |\n|---:|---|---:|---:|---:|")
    steps = [
        row
        for seed in range(arguments.seeds)
        for recompute in (False, True)
        for row in compare_steps(arguments, recompute, seed)
    ]
    if arguments.json:
        arguments.json.write_text(json.dumps({"saved": saved, "steps": steps}, indent=1) + "\n")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sensors", type=int, default=300)
    parser.add_argument("--neighbors", type=int, default=15)
    parser.add_argument("--hidden", type=int, default=64)
    parser.add_argument("--interactions", type=int, default=3)
    parser.add_argument("--batches", default="1,2,4,16", help="trees at once, with commas")
    parser.add_argument("--seeds", type=int, default=1, help="of the places")
    parser.add_argument("--whole", action="store_true", help="keep all of the large graph too: many GB")
    parser.add_argument("--json", type=Path, help="file to write the figures to")
    return parser.parse_args()


def nearest(sensors: int, neighbors: int, seed: int) -> tuple[Tensor, np.ndarray]:
    """Random places in the plane, and who reads whom."""
    places = np.random.default_rng(seed).random((sensors, 2))
    near: Any = KDTree(places).query(places, k=neighbors + 1)[1]
    links = np.stack([np.repeat(np.arange(sensors), neighbors), near[:, 1:].ravel()])
    return torch.from_numpy(np.column_stack([places, np.zeros(sensors)])).float(), links


def path_set(sensors: int, neighbors: int, per_node: int) -> PathSet:
    positions, links = nearest(sensors, neighbors, 0)
    found = with_fallback(third_order_paths(links, sensors, per_node=per_node), sensors)
    nodes = torch.from_numpy(found)
    unit, reach = link_scale(positions, nodes)
    return make_paths(nodes, path_starts(nodes, sensors), positions, planar=True, unit=unit, reach=reach)


def layers_of(arguments: argparse.Namespace) -> Layers:
    params = SGMPParams(
        hidden_dim=arguments.hidden, distance_centers=20, angle_centers=10, paths_per_sensor=1
    )
    torch.manual_seed(0)
    return [Interaction(params, 2) for _ in range(arguments.interactions)]


def saved_bytes(layers: Layers, paths: PathSet, recompute: bool) -> int:
    """Of the tensors that the forward pass keeps, each storage once; weights are not counted."""
    weights = {weight.untyped_storage().data_ptr() for layer in layers for weight in layer.parameters()}
    kept: dict[int, Any] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        run(layers, paths, recompute)
    return sum(kept.values())


def run(layers: Layers, paths: PathSet, recompute: bool) -> Tensor:
    torch.manual_seed(1)
    width = layers[0].norm.normalized_shape[0]
    x = torch.randn(len(paths.starts) - 1, 1, width, requires_grad=True)
    for layer in layers:
        layer.recompute = recompute
        x = layer(x, paths)
    return x


def compare_saved(arguments: argparse.Namespace) -> dict[str, Any]:
    """Saved bytes in chunks, and whole: measured, or a sample of the paths scaled up."""
    layers = layers_of(arguments)
    paths = path_set(arguments.sensors, arguments.neighbors, 0)
    chunks = saved_bytes(layers, paths, True)
    some = path_set(arguments.sensors, arguments.neighbors, 20)
    whole = saved_bytes(layers, paths if arguments.whole else some, False)
    total = paths.nodes.shape[1]
    if not arguments.whole:
        whole = int(whole * total / some.nodes.shape[1])
    small = path_set(SMALLER, min(6, arguments.neighbors), 0)
    difference = difference_of(layers, small)
    index = sum(tensor.nbytes for tensor in (paths.nodes, paths.distances, paths.angles))
    chunks, whole = chunks + index, whole + index
    log(f"{total:,} paths of {arguments.sensors} sensors with {arguments.neighbors} neighbors\n")
    log("| kept for the backward pass, the paths included | MiB |\n|---|---:|")
    log(f"| whole{'' if arguments.whole else ', from a sample of the paths'} | {whole / MIB:,.0f} |")
    log(f"| in chunks, computed again | {chunks / MIB:,.1f} |\n\nlargest difference: {difference:.1e}\n")
    return {"paths": total, "whole": whole, "chunks": chunks, "difference": difference}


def difference_of(layers: Layers, paths: PathSet) -> float:
    """Largest difference of a result in many chunks from the same in one piece."""
    usual = sgmp.CHUNK["cpu"]
    sgmp.CHUNK["cpu"] = 2**14
    pieces = run(layers, paths, True).detach()
    sgmp.CHUNK["cpu"] = usual
    return float((pieces - run(layers, paths, False).detach()).abs().max())


def compare_steps(arguments: argparse.Namespace, recompute: bool, seed: int) -> list[dict[str, Any]]:
    """Predicted and measured peaks of a step, by the trees at once."""
    sections = read_sections(ROOT / "params.yaml")
    params = replace(
        sections["pretrain"], method="gt_ssl", interactions=arguments.interactions, paths_per_node=200
    )
    sections |= {"pretrain": params, "sgmp": replace(sections["sgmp"], hidden_dim=arguments.hidden)}
    positions, links = nearest(arguments.sensors, arguments.neighbors, seed)
    places = positions.numpy().astype(float)
    lengths = np.linalg.norm(places[links[0]] - places[links[1]], axis=1)
    source = RoadTrees(
        RoadNetwork(links, lengths, places), measure_scale(lengths, planar=True), "spanning", seed
    )
    encoder = make_encoder(sections, source, 0).train()
    encoder.set_recompute(recompute)
    rows = []
    for trees in map(int, arguments.batches.split(",")):
        batch = batch_of(source.training(0, trees), source.scale, params)
        traced = trace_trees(encoder, batch, source.scale, params, FP32, accumulate=False)

        def step(batch: Any = batch) -> None:
            backward_trees(encoder, batch, ONE, source.scale, params, FP32, FP32.gradient_scaler())

        step()
        encoder.zero_grad(set_to_none=True)
        predicted = traced.peak - traced.optimizer - traced.best
        measured = peak_bytes(step) + traced.parameters + traced.data
        kept = "computed again" if recompute else "kept"
        figures = f"{predicted / MIB:,.1f} | {measured / MIB:,.1f} | {predicted / measured - 1:+.1%}"
        log(f"| {trees} | {kept} | {figures} |")
        rows.append({"trees": trees, "recompute": recompute, "predicted": predicted, "measured": measured})
    return rows


def log(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
