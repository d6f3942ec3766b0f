"""A tiny road network whose trees are learned in seconds, and records for it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from headway.graph.tree import RoadNetwork, Tree, make_tree
from headway.nn.sgmp import SGMPParams
from headway.training.pretraining import PretrainParams
from headway.training.tree_batches import Scale, measure_scale
from headway.training.tree_sources import RoadTrees

SGMP = SGMPParams(hidden_dim=24, distance_centers=6, angle_centers=6, paths_per_sensor=4)
PRETRAIN = PretrainParams(
    method="gt_ssl",
    encoder="sgmp",
    transfer="finetune",
    tree="spanning",
    targets="tree",
    seed=0,
    batch_size=2,
    epochs=3,
    epoch_steps=3,
    validation_trees=2,
    patience=0,
    lr=0.01,
    warmup_steps=5,
    weight_decay=0.0005,
    clip_norm=1.0,
    interactions=1,
    paths_per_node=6,
    pairs_per_node=4,
    ancestors=3,
    bins=6,
    margin=1.0,
    order_weight=1.0,
)


def pretrain_params(**changes: Any) -> PretrainParams:
    """A valid section `pretrain` with some values changed."""
    return replace(PRETRAIN, **changes)


def tiny_roads(streets: int = 5, length: int = 4) -> RoadNetwork:
    """Streets that leave a middle in all directions, with a bend and uneven links, and a ring road."""
    random = np.random.default_rng(3)
    places, pairs = [np.zeros(2)], []
    for street in range(streets):
        heading, at, last = 2 * np.pi * street / streets, np.zeros(2), 0
        for _ in range(length):
            heading += random.normal(0, 0.3)
            at = at + random.uniform(0.6, 1.6) * np.array([np.cos(heading), np.sin(heading)])
            places.append(at)
            pairs.append((last, len(places) - 1))
            last = len(places) - 1
    ring = [2 + street * length for street in range(streets)]
    pairs += [(ring[0], ring[1]), (ring[2], ring[3])]
    positions = 1000 * np.column_stack([places, np.zeros(len(places))])
    roads = np.array(pairs).T
    lengths = np.linalg.norm(positions[roads[0]] - positions[roads[1]], axis=1)
    return RoadNetwork(roads, lengths, positions)


def tiny_scale(network: RoadNetwork) -> Scale:
    tree = network.shortest_path_tree()
    return measure_scale(tree.length[tree.parent >= 0], planar=True)


def tiny_source(params: PretrainParams = PRETRAIN) -> RoadTrees:
    network = tiny_roads()
    return RoadTrees(network, tiny_scale(network), params.tree, params.seed)


def bushes(count: int, seed: int, nodes: int = 18) -> list[Tree]:
    """Trees in space that grow outwards, every one another."""
    random = np.random.default_rng(seed)
    found = []
    for _ in range(count):
        parent, places = [-1], [np.zeros(3)]
        headings = [random.normal(size=3)]
        for _ in range(1, nodes):
            above = int(random.integers(max(0, len(places) - 6), len(places)))
            heading = headings[above] / np.linalg.norm(headings[above]) + 0.8 * random.normal(size=3)
            parent.append(above)
            headings.append(heading)
            places.append(places[above] + heading / np.linalg.norm(heading))
        found.append(make_tree(np.array(parent), np.array(places)))
    return found
