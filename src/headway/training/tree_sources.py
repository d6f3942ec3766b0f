"""Where pretraining's trees come from: spanning trees of a road network, or a collection of given trees.

Enters: a network or trees. Leaves: the trees of each step and those of validation, as functions of the seed and the
step: nothing to save, nothing to resume.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Int
from torch import Tensor

from headway.data.prepared import Prepared
from headway.graph.tree import NO_PARENT, RoadNetwork, Tree
from headway.nn.sgmp import is_planar, link_scale
from headway.training.network import geometry_of, road_network
from headway.training.tree_batches import Scale, measure_scale

TRAINING, VALIDATION = 1, 2  # words of a seed, so that no tree of one is drawn for the other
KEY = "pretrain.method: gt_ssl"
Seed = Sequence[int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawn:
    """Trees, each with the seed of everything else that is drawn of it."""

    trees: Sequence[Tree]
    seeds: Sequence[Seed]


@runtime_checkable
class TreeSource(Protocol):
    """Trees of one scale."""

    scale: Scale

    def training(self, step: int, count: int) -> Drawn:
        """The trees of step 0, 1, ..."""
        ...

    def validation(self, count: int) -> Drawn:
        """The trees that every epoch is judged by; at most `count`."""
        ...


class RoadTrees:
    """Trees over all sensors of a network: random spanning ones, or the one of shortest paths."""

    def __init__(
        self, network: RoadNetwork, scale: Scale, kind: Literal["spanning", "shortest"], seed: int
    ) -> None:
        self.scale, self._network, self._seed = scale, network, seed
        self._only = network.shortest_path_tree() if kind == "shortest" else None

    def training(self, step: int, count: int) -> Drawn:
        return self._drawn([(self._seed, TRAINING, step, index) for index in range(count)])

    def validation(self, count: int) -> Drawn:
        return self._drawn([(self._seed, VALIDATION, index) for index in range(count)])

    def _drawn(self, seeds: list[tuple[int, ...]]) -> Drawn:
        trees = [self._only or self._network.random_tree(np.random.default_rng(seed)) for seed in seeds]
        return Drawn(trees=trees, seeds=seeds)


class GivenTrees:
    """A collection, of which some trees are kept for validation; each epoch takes the others in a new order."""

    def __init__(
        self, trees: Sequence[Tree], kept: Sequence[Tree], seed: int, *, planar: bool = False
    ) -> None:
        """`kept`: the trees of validation."""
        lengths = np.concatenate([tree.length[tree.parent != NO_PARENT] for tree in trees])
        self.scale = measure_scale(lengths, planar=planar)
        self._trees, self._kept, self._seed = trees, kept, seed

    def training(self, step: int, count: int) -> Drawn:
        places = range(step * count, (step + 1) * count)
        seeds = [(self._seed, TRAINING, place) for place in places]
        return Drawn(trees=[self._trees[self._nth(place)] for place in places], seeds=seeds)

    def validation(self, count: int) -> Drawn:
        kept = self._kept[:count]
        return Drawn(trees=kept, seeds=[(self._seed, VALIDATION, index) for index in range(len(kept))])

    def _nth(self, place: int) -> int:
        epoch, index = divmod(place, len(self._trees))
        return int(np.random.default_rng((self._seed, epoch)).permutation(len(self._trees))[index])


def road_trees(
    prepared: Prepared, paths_per_sensor: int, kind: Literal["spanning", "shortest"], seed: int
) -> RoadTrees:
    """Trees of prepared data, in the scale that the operator of a model measures by too.

    Raises: InputError without places, or without a road.
    """
    network = road_network(prepared, KEY)
    positions, paths = geometry_of(prepared, paths_per_sensor, KEY)
    return RoadTrees(network, _network_scale(prepared.lengths, positions, paths), kind, seed)


def _network_scale(
    lengths: Float[np.ndarray, " road"], positions: Float[Tensor, "node 3"], paths: Int[Tensor, "4 path"]
) -> Scale:
    unit, reach = link_scale(positions, paths)
    by_road = measure_scale(lengths.astype(np.float64), planar=is_planar(positions))
    return Scale(
        unit=unit,
        reach=reach,
        planar=by_road.planar,
        log_mean=by_road.log_mean,
        log_std=by_road.log_std,
        spread=by_road.spread,
    )
