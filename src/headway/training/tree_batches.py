"""Trees to what an encoder reads and what it is asked: `TreeBatch`.

Enters: trees, the scale they are of, seeds. Leaves: a batch on the CPU. All of this is index work of numpy;
nothing of it is part of a gradient, and no GPU is asked for it.

Glossary: unit = median length of a link; reach = where the last bin and center of distances stands, in units; frame =
axes of a tree's own spread, so that features do not change when the tree is turned or moved; turn of a node = angle
from its parent's link to its own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from headway.graph.neighbors import kernel_width
from headway.graph.paths import third_order_paths, with_fallback
from headway.graph.tree import NO_PARENT, Tree
from headway.nn.neighbor_table import NeighborTable
from headway.nn.sgmp import FARTHEST, PathSet, make_paths, smear_angle, smear_distance
from headway.nn.tree_encoder import Surroundings, TreeBatch
from headway.types import Graph

Targets = Literal["tree", "shuffled_tree", "random"]
TELL_OF_CHILDREN = 2  # of the features the first ones: children, and whether there are any
FEATURES = 9  # of a node beside its attributes
CHILDREN_READ, ANCESTORS_READ = 14, 3  # by HA-GAT: a table has at most 15 columns


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """What lengths and angles are measured by, from the links of a whole network or collection.

    Attributes:
        planar: all positions lie in a plane. log_mean, log_std: of log lengths. spread: width of the weights' kernel.
    """

    unit: float
    reach: float
    planar: bool
    log_mean: float
    log_std: float
    spread: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What a batch holds of each tree.

    Attributes:
        paths_per_node: of the third-order paths. pairs_per_node: related ones, and as many unrelated ones.
        ancestors: links towards the root that the forecast of growth reads. bins: of a histogram.
        targets: those of the tree; or, as controls, those of the same tree with its nodes shuffled, of which only
            what all nodes of a tree have in common can be learned, or random ones, of which nothing can.
        operator: whose surroundings are made.
    """

    paths_per_node: int
    pairs_per_node: int
    ancestors: int
    bins: int
    targets: Targets
    operator: Literal["sgmp", "ha_gat"]


def measure_scale(lengths: Float[np.ndarray, " link"], *, planar: bool) -> Scale:
    """The scale of these links; those without a length do not count."""
    lengths = lengths[lengths > 0]
    unit, logs = float(np.median(lengths)), np.log(lengths)
    return Scale(
        unit=unit,
        reach=max(1.5, float(np.quantile(lengths, FARTHEST)) / unit),
        planar=planar,
        log_mean=float(logs.mean()),
        log_std=float(logs.std()) or 1.0,
        spread=kernel_width(lengths),
    )


def make_batch(
    trees: Sequence[Tree], seeds: Sequence[Sequence[int]], scale: Scale, asked: Asked
) -> TreeBatch:
    """Several trees side by side; what is drawn of a tree follows from its own seed, whatever the others are."""
    sizes = [len(tree) for tree in trees]
    first = np.cumsum([0, *sizes[:-1]]).tolist()
    drawn = [np.random.default_rng(list(seed)) for seed in seeds]
    parts = [_questions(*each, scale, asked) for each in zip(trees, first, drawn, strict=True)]
    joined = {name: torch.cat([part[name] for part in parts], dim) for name, dim in _JOINED.items()}
    upward = joined["features"].clone()
    upward[:, :TELL_OF_CHILDREN] = 0
    surroundings = _paths if asked.operator == "sgmp" else _table
    around, above = (surroundings(trees, first, seeds, scale, asked, up=up) for up in (False, True))
    return TreeBatch(**joined, upward=upward, around=around, above=above)


_JOINED = {"features": 0, "pairs": 1, "related": 0, "grown": 0, "ancestry": 0, "growth": 0}


def to_device(batch: TreeBatch, device: torch.device) -> TreeBatch:
    """The batch where the encoder is."""
    return batch if device.type == "cpu" else mapped(batch, lambda tensor: tensor.to(device))


def mapped(batch: TreeBatch, change: Callable[[Tensor], Tensor]) -> TreeBatch:
    """The batch with each of its tensors changed."""
    parts: dict[str, Any] = {field.name: getattr(batch, field.name) for field in fields(batch)}
    return TreeBatch(**{name: _mapped(part, change) for name, part in parts.items()})


def _mapped(part: Tensor | Surroundings, change: Callable[[Tensor], Tensor]) -> Any:
    if isinstance(part, Tensor):
        return change(part)
    if isinstance(part, PathSet):
        tensors = {name: change(getattr(part, name)) for name in ("nodes", "distances", "angles")}
        return replace(part, **tensors)
    return part.mapped(change)


def _questions(
    tree: Tree, first: int, random: np.random.Generator, scale: Scale, asked: Asked
) -> dict[str, Tensor]:
    """What is known and asked of a tree whose nodes are numbered from `first` on."""
    grown = np.flatnonzero((tree.children() > 0) & (tree.parent != NO_PARENT))
    links = link_histograms(tree, scale, asked.bins)
    growth = torch.zeros(links.shape).index_add_(0, *_children_of(tree, links))
    growth = torch.cat([half / half.sum(1, keepdim=True).clamp(min=1e-9) for half in growth.chunk(2, 1)], 1)
    pairs, related = _pairs(tree, asked.pairs_per_node * len(tree), random)
    told = growth[grown]
    if asked.targets != "tree":
        pairs = random.permutation(len(tree))[pairs]
        told = told[random.permutation(len(grown))]
    if asked.targets == "random":
        related = random.permutation(related)
        told = _random_histograms(len(grown), asked.bins, random)
    return {
        "features": node_features(tree, scale),
        "pairs": torch.from_numpy(pairs + first),
        "related": torch.from_numpy(related),
        "grown": torch.from_numpy(grown + first),
        "ancestry": _ancestry(tree, links, asked.ancestors)[grown],
        "growth": told,
    }


def _random_histograms(count: int, bins: int, random: np.random.Generator) -> Float[Tensor, "row halves"]:
    """A distance and a turn each in a bin that says nothing of the tree."""
    halves = [np.eye(bins, dtype=np.float32)[random.integers(bins, size=count)] for _ in range(2)]
    return torch.from_numpy(np.concatenate(halves, axis=1))


def node_features(tree: Tree, scale: Scale) -> Float[Tensor, "node feature"]:
    """Children, whether there are any, place in the tree's frame, way and straight way from the root, link, depth.

    Lengths are shares of the longest way from a root; what else is known of the nodes follows.
    """
    children = tree.children()
    longest = max(float(tree.reach.max()), scale.unit)
    place = _in_frame(tree) / longest
    columns = [
        np.log1p(children),
        children > 0,
        *place.T,
        tree.reach / longest,
        np.linalg.norm(place, axis=1),
        tree.length / (scale.unit * scale.reach),
        np.log1p(tree.depth) / np.log1p(tree.depth.max() + 1),
        *tree.attributes.T,
    ]
    return torch.from_numpy(np.stack(columns, 1)).float()


def _in_frame(tree: Tree) -> Float[np.ndarray, "node 3"]:
    """Places from each node's root on the axes of the tree's spread, each pointing to where the longer tail is."""
    middle = tree.positions - tree.positions.mean(axis=0)
    _, _, axes = np.linalg.svd(middle, full_matrices=False)
    signs = np.sign(((middle @ axes.T) ** 3).sum(axis=0))
    return (tree.positions - tree.positions[tree.root]) @ (axes * np.where(signs, signs, 1)[:, None]).T


def link_turns(tree: Tree, *, planar: bool) -> Float[np.ndarray, " node"]:
    """Angle from the link of a node's parent to its own: with its sign in the plane; NaN where there is none."""
    above = np.where(tree.parent == NO_PARENT, np.arange(len(tree)), tree.parent)
    own = tree.positions - tree.positions[above]
    before = own[above]
    dot, cross = (own * before).sum(1), np.cross(before, own)
    turns = np.arctan2(cross[:, 2] if planar else np.linalg.norm(cross, axis=1), dot)
    return np.where(tree.depth >= 2, turns, np.nan)


def link_histograms(tree: Tree, scale: Scale, bins: int) -> Float[Tensor, "node halves"]:
    """Length and turn of each node's link spread over bins; 0 where there is none."""
    lengths = torch.from_numpy(np.minimum(tree.length / scale.unit, scale.reach)).float()
    turns = torch.from_numpy(link_turns(tree, planar=scale.planar)).float()
    there = torch.from_numpy(tree.depth > 0)[:, None]
    known = torch.nan_to_num(turns)
    turned = smear_angle(known, bins) if scale.planar else smear_distance(known, bins, math.pi)
    return torch.cat(
        [smear_distance(lengths, bins, scale.reach) * there, turned * ~turns.isnan()[:, None]], 1
    )


def _children_of(tree: Tree, links: Tensor) -> tuple[Tensor, Tensor]:
    child, parent = tree.upward()
    return torch.from_numpy(parent), links[torch.from_numpy(child)]


def _ancestry(tree: Tree, links: Float[Tensor, "node halves"], most: int) -> Float[Tensor, "node halves"]:
    """Histograms of a node's own link and of those of its next ancestors, `most` links in all."""
    own = np.concatenate([np.arange(len(tree))[:, None], tree.ancestors(most - 1)], axis=1)
    there = torch.from_numpy(own >= 0)[..., None]
    return (links[torch.from_numpy(np.maximum(own, 0))] * there).sum(1)


def _pairs(tree: Tree, count: int, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Related pairs and as many unrelated ones, as far as there are any."""
    related, unrelated = tree.related_pairs(count, random), tree.unrelated_pairs(count, random)
    told = np.arange(related.shape[1] + unrelated.shape[1]) < related.shape[1]
    return np.concatenate([related, unrelated], axis=1), told


def _paths(
    trees: Sequence[Tree],
    first: Sequence[int],
    seeds: Sequence[Sequence[int]],
    scale: Scale,
    asked: Asked,
    *,
    up: bool,
) -> PathSet:
    """Third-order paths of each tree, both ways along its links or up only."""
    found = []
    for tree, at, seed in zip(trees, first, seeds, strict=True):
        drawn = int(np.random.SeedSequence([*seed, 3]).generate_state(1)[0])
        links = tree.upward() if up else tree.links()
        paths = third_order_paths(links, len(tree), per_node=asked.paths_per_node, seed=drawn)
        found.append(with_fallback(paths, len(tree)) + at)
    nodes = np.concatenate(found, axis=1)
    total = sum(map(len, trees))
    starts = np.searchsorted(nodes[0], np.arange(total + 1))
    positions = np.concatenate([tree.positions - tree.positions.mean(axis=0) for tree in trees])
    return make_paths(
        torch.from_numpy(nodes),
        tuple(starts.tolist()),
        torch.from_numpy(positions).float(),
        planar=scale.planar,
        unit=scale.unit,
        reach=scale.reach,
    )


def _table(
    trees: Sequence[Tree],
    first: Sequence[int],
    seeds: Sequence[Sequence[int]],
    scale: Scale,
    asked: Asked,
    *,
    up: bool,
) -> NeighborTable:
    """Parent and children of each node, or its next three ancestors, with length and weight as in a sensor graph."""
    columns = [_neighbors(tree, up=up) for tree in trees]
    wide = max(near.shape[1] for near in columns)
    padded = [
        np.pad(near, ((0, 0), (0, wide - near.shape[1])), constant_values=NO_PARENT) for near in columns
    ]
    valid = np.concatenate(padded) >= 0
    near = np.concatenate([part + np.where(part >= 0, at, 0) for part, at in zip(padded, first, strict=True)])
    near = np.where(valid, near, np.arange(len(near))[:, None])
    positions = np.concatenate([tree.positions for tree in trees])
    away = np.linalg.norm(positions[near] - positions[:, None], axis=-1)
    logs = (np.log(np.maximum(away, 1e-3 * scale.unit)) - scale.log_mean) / scale.log_std
    features = np.stack([logs, np.exp(-((away / scale.spread) ** 2))], -1) * valid[..., None]
    return NeighborTable(
        Graph(
            neighbors=torch.from_numpy(near).int(),
            valid=torch.from_numpy(valid),
            features=torch.from_numpy(features).float(),
        )
    )


def _neighbors(tree: Tree, *, up: bool) -> Int[np.ndarray, "node near"]:
    """Numbers of the nodes a node reads, -1 for none."""
    if up:
        return tree.ancestors(ANCESTORS_READ)
    child, parent = tree.upward()
    order = np.argsort(parent, kind="stable")
    place = np.arange(len(order)) - np.searchsorted(parent[order], parent[order])
    kept = place < CHILDREN_READ
    near = np.full((len(tree), 1 + CHILDREN_READ), NO_PARENT)
    near[:, 0] = tree.parent
    near[parent[order][kept], 1 + place[kept]] = child[order][kept]
    return near[:, np.append(True, (near[:, 1:] >= 0).any(axis=0))]
