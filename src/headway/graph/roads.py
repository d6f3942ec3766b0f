"""Where sensors stand and which way traffic runs between neighbors: what geometry is learned from.

Enters: the neighbor table, the sensor table, edges where known. Leaves: `Roads`: positions in meters, links with
their direction and length, third-order paths.

Glossary: a road source -> target is the way traffic flows. Without edges nobody knows it, and both ways are listed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from headway.graph.neighbors import EARTH_RADIUS, LEAST_DISTANCE, NeighborTable
from headway.graph.paths import third_order_paths

PLACE = ("latitude", "longitude")
HEIGHT = "elevation_m"


@dataclass(frozen=True, slots=True, kw_only=True)
class Roads:
    """Geometry of a sensor network.

    Attributes:
        positions: meters east, north and up of the middle of the sensors; no row where a sensor's place is unknown.
        roads: source and target, along travel, of neighbors. lengths: meters by road, else straight, at least 1.
        paths: i -> j -> k -> p over the neighbor table.
    """

    positions: Float[np.ndarray, "node 3"]
    roads: Int[np.ndarray, "2 road"]
    lengths: Float[np.ndarray, " road"]
    paths: Int[np.ndarray, "4 path"]

    def arrays(self) -> dict[str, np.ndarray]:
        """What geometry.safetensors holds."""
        return {
            "positions": self.positions,
            "roads": self.roads,
            "lengths": self.lengths,
            "paths": self.paths,
        }


def build_roads(
    table: NeighborTable, sensors: pd.DataFrame, edges: pd.DataFrame | None, paths_per_sensor: int
) -> Roads:
    """Geometry of the neighbors in `table`.

    Args:
        sensors: with latitude and longitude in degrees and `elevation_m` where known.
        edges: as `build_neighbors` got them; used where the table was made from them.
        paths_per_sensor: third-order paths kept of each sensor.
    """
    positions = place_sensors(sensors)
    reader, place = np.nonzero(table.valid)
    links = np.stack([reader, table.neighbors[reader, place]]).astype(np.int64)
    both = np.unique(np.concatenate([links, links[::-1]], axis=1), axis=1)
    measured = _measured(edges, list(sensors["sensor_id"])) if table.source == "edges" else None
    along = both if measured is None else both[:, np.isin(_key(both), measured.index.to_numpy())]
    straight = np.zeros(along.shape[1])
    if len(positions):
        straight = np.linalg.norm(positions[along[0]] - positions[along[1]], axis=1)
    lengths = straight if measured is None else measured.loc[_key(along)].to_numpy(dtype=float)
    lengths = np.where(np.isnan(lengths), straight, lengths)
    return Roads(
        positions=positions.astype(np.float32),
        roads=along.astype(np.int32),
        lengths=np.maximum(lengths, LEAST_DISTANCE).astype(np.float32),
        paths=third_order_paths(links, len(sensors), per_node=paths_per_sensor),
    )


def place_sensors(sensors: pd.DataFrame) -> Float[np.ndarray, "node 3"]:
    """Meters east, north and up of the sensors' middle (equirectangular); [0, 3] where a place is unknown."""
    if not set(PLACE) <= set(sensors.columns) or bool(sensors[list(PLACE)].isna().to_numpy().any()):
        return np.zeros((0, 3))
    latitude, longitude = np.radians(sensors[list(PLACE)].to_numpy(dtype=float)).T
    west = longitude - longitude[0]
    east = (west + np.pi) % (2 * np.pi) - np.pi  # the short way round the globe
    plane = EARTH_RADIUS * np.stack([east * np.cos(latitude.mean()), latitude], axis=1)
    height = np.zeros(len(plane))
    if HEIGHT in sensors.columns and bool(sensors[HEIGHT].notna().all()):
        height = sensors[HEIGHT].to_numpy(dtype=float)
    positions = np.column_stack([plane, height])
    return positions - positions.mean(axis=0)


def _key(pairs: np.ndarray) -> np.ndarray:
    """One integer a pair."""
    return pairs[0] * np.int64(2**31) + pairs[1]


def _measured(edges: pd.DataFrame | None, ids: list[str]) -> pd.Series:
    """Shortest listed length of each pair source, target; NaN where the file has weights only."""
    assert edges is not None
    rows = pd.Index(ids)
    pairs = np.stack([rows.get_indexer(pd.Index(edges[end])) for end in ("source", "target")]).astype(
        np.int64
    )
    known = (pairs >= 0).all(axis=0) & (pairs[0] != pairs[1])
    lengths = edges["distance_m"] if "distance_m" in edges else pd.Series(np.nan, index=edges.index)
    shortest: Any = pd.Series(lengths.to_numpy(dtype=float)[known]).groupby(_key(pairs[:, known])).min()
    return shortest
