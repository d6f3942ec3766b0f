"""The geometry of a sensor network, as operators and trees read it.

Enters: prepared data. Leaves: positions and third-order paths as tensors, or the roads as a `RoadNetwork`.
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from headway.data.prepared import Prepared
from headway.errors import InputError
from headway.graph.paths import first_paths, with_fallback
from headway.graph.tree import RoadNetwork


def geometry_of(
    prepared: Prepared, paths_per_sensor: int, key: str
) -> tuple[Float[Tensor, "node 3"], Int[Tensor, "4 path"]]:
    """Positions in meters, and at most so many paths of each sensor: every sensor has at least one.

    Args: key: of params.yaml, that asks for geometry.
    Raises: InputError where nobody knows where the sensors stand.
    """
    require_places(prepared, key)
    paths = with_fallback(first_paths(prepared.paths, paths_per_sensor), prepared.meta.sensors)
    return torch.from_numpy(prepared.positions), torch.from_numpy(paths)


def road_network(prepared: Prepared, key: str) -> RoadNetwork:
    """The roads between neighbors. Raises: InputError without places, or where no sensor has a neighbor."""
    require_places(prepared, key)
    if not prepared.roads.shape[1]:
        raise InputError(
            f"{key}: no sensor of {prepared.meta.dataset!r} has a neighbor, so there is no tree; set "
            "preprocess.graph: auto, or another value of the key"
        )
    lengths, positions = prepared.lengths.astype(np.float64), prepared.positions.astype(np.float64)
    return RoadNetwork(prepared.roads, lengths, positions)


def require_places(prepared: Prepared, key: str) -> None:
    """Raise InputError where nobody knows where the sensors stand."""
    if len(prepared.positions) != prepared.meta.sensors:
        raise InputError(
            f"{key}: learns from distances and angles, but sensors.parquet of {prepared.meta.dataset!r} does not "
            "give latitude and longitude of every sensor; add both columns (docs/data.md), or set another value"
        )
