"""Which sensors a sensor reads: a neighbor table of fixed degree k.

Enters: the sensor table, edges where known. Leaves: `NeighborTable`, arrays [node, k] and [node, k, 2].

Glossary: node = row of the sensor table; an edge source -> target is the way traffic flows; either end
reads the other, because congestion travels upstream; cost = distance, or minus weight without distances.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial import KDTree

from headway.errors import InputError

GraphChoice = Literal["auto", "edges", "coordinates", "none"]
MAX_NEIGHBORS = 15
EARTH_RADIUS = 6_371_008.8  # m, mean radius (IUGG)
LEAST_DISTANCE = 1.0  # m: detectors of one site; keeps the logarithm finite
ALIKE = 1 / 3  # of the mean: distances that deviate less measure nothing by their deviation


@dataclass(frozen=True, slots=True, kw_only=True)
class NeighborTable:
    """Row i lists the sensors that sensor i reads, nearest first; padding repeats i and is not valid.

    Attributes:
        features: z-scored log distance (0 where no distance is known) and edge weight; 0 on padding.
        source: where the edges came from: "edges", "coordinates" or "none".
        found: counts of what was left out or is worth knowing of the edges.
    """

    neighbors: Int[np.ndarray, "node neighbor"]
    valid: Bool[np.ndarray, "node neighbor"]
    features: Float[np.ndarray, "node neighbor 2"]
    source: str
    found: dict[str, int]

    def arrays(self) -> dict[str, np.ndarray]:
        """What graph.safetensors holds."""
        return {"neighbors": self.neighbors, "valid": self.valid, "features": self.features}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Pairs:
    """Reader reads target: directed, each pair once. `distance` and `weight` are NaN where unknown."""

    reader: np.ndarray
    read: np.ndarray
    distance: np.ndarray
    weight: np.ndarray


def build_neighbors(
    *, choice: GraphChoice, sensors: pd.DataFrame, edges: pd.DataFrame | None, max_neighbors: int
) -> NeighborTable:
    """The max_neighbors nearest of each sensor.

    By road where `edges` are used: directions are joined, the shortest of several distances counts. Else
    by great circle. Weights come from the file, else exp(-(distance / sigma)^2) with sigma the standard
    deviation of the kept distances (Li et al. 2018, DCRNN, section 4.1), or what `kernel_width` says.

    Args:
        sensors: sensor_id, and latitude and longitude in degrees where the choice needs them.
        edges: source, target (sensor ids), distance_m and/or weight.
    Raises: InputError when the choice needs edges or coordinates that are not there, or over the cap.
    """
    if not 1 <= max_neighbors <= MAX_NEIGHBORS:
        raise InputError(f"preprocess.max_neighbors: {max_neighbors} is not in 1..{MAX_NEIGHBORS}")
    nodes = len(sensors)
    found: dict[str, int] = {}
    source = _source(choice, sensors, edges)
    if source == "edges":
        assert edges is not None
        pairs, found = _edge_pairs(list(sensors["sensor_id"]), edges)
        pairs = _nearest(pairs, max_neighbors)
    elif source == "coordinates":
        pairs = _coordinate_pairs(sensors, max_neighbors)
    else:
        none = np.zeros(0)
        pairs = _Pairs(reader=none.astype(int), read=none.astype(int), distance=none, weight=none)
    return _table(pairs, nodes, max_neighbors, source, found)


def describe_neighbors(table: NeighborTable, ids: list[str]) -> dict[str, Any]:
    """Degrees, connected components and isolated sensors, for the quality report."""
    nodes = len(ids)
    degree = table.valid.sum(axis=1)
    rows, columns = np.nonzero(table.valid)
    links = coo_array((np.ones(len(rows)), (rows, table.neighbors[rows, columns])), shape=(nodes, nodes))
    components = connected_components(links, directed=False, return_labels=False)
    isolated = [ids[node] for node in np.flatnonzero(degree == 0)]
    return {
        "source": table.source,
        "max_neighbors": table.valid.shape[1],
        "edges_read": int(table.valid.sum()),
        "degree_min": int(degree.min()),
        "degree_mean": round(float(degree.mean()), 4),
        "degree_max": int(degree.max()),
        "components": int(components),
        "isolated": len(isolated),
        "isolated_sensors": isolated[:20],
        **table.found,
    }


def _source(choice: GraphChoice, sensors: pd.DataFrame, edges: pd.DataFrame | None) -> str:
    columns = ["latitude", "longitude"]
    located = set(columns) <= set(sensors.columns) and bool(sensors[columns].notna().to_numpy().any())
    if choice == "edges" and edges is None:
        raise InputError("preprocess.graph: edges, but the data set has no edges.parquet; use auto or none")
    if choice == "coordinates" and not located:
        raise InputError("preprocess.graph: coordinates, but sensors.parquet has no latitude and longitude")
    if choice != "auto":
        return choice
    if edges is not None:
        return "edges"
    return "coordinates" if located else "none"


def _edge_pairs(ids: list[str], edges: pd.DataFrame) -> tuple[_Pairs, dict[str, int]]:
    rows = pd.Index(ids)
    source, target = rows.get_indexer(pd.Index(edges["source"])), rows.get_indexer(pd.Index(edges["target"]))
    known = (source >= 0) & (target >= 0)  # a sensor that was dropped takes its edges along
    loops = known & (source == target)
    twice = known & ~loops & np.asarray(edges.duplicated(["source", "target"]))
    kept = known & ~loops
    first, second = source[kept], target[kept]
    unknown = np.full(len(edges), np.nan)
    distance = edges["distance_m"].to_numpy(dtype=float) if "distance_m" in edges else unknown
    weight = edges["weight"].to_numpy(dtype=float) if "weight" in edges else unknown
    pairs = _cheapest(
        _Pairs(
            reader=np.concatenate([first, second]),
            read=np.concatenate([second, first]),
            distance=np.tile(distance[kept], 2),
            weight=np.tile(weight[kept], 2),
        )
    )
    found = {
        "edges_listed": len(edges),
        "edges_of_dropped_sensors": int((~known).sum()),
        "self_loops_dropped": int(loops.sum()),
        "duplicate_edges_dropped": int(twice.sum()),
        "edges_of_weight_zero": int((weight[kept] == 0).sum()),
    }
    return pairs, found


def _cost(pairs: _Pairs) -> np.ndarray:
    return np.where(np.isnan(pairs.distance), -pairs.weight, pairs.distance)


def _take(pairs: _Pairs, index: np.ndarray) -> _Pairs:
    return _Pairs(
        reader=pairs.reader[index],
        read=pairs.read[index],
        distance=pairs.distance[index],
        weight=pairs.weight[index],
    )


def _cheapest(pairs: _Pairs) -> _Pairs:
    """One edge a pair: the shortest, or the heaviest where no distance is known."""
    order = np.lexsort((-pairs.weight, _cost(pairs), pairs.read, pairs.reader))
    reader, read = pairs.reader[order], pairs.read[order]
    new = np.ones(len(order), dtype=bool)
    new[1:] = (np.diff(reader) != 0) | (np.diff(read) != 0)
    return _take(pairs, order[new])


def _nearest(pairs: _Pairs, count: int) -> _Pairs:
    """The `count` cheapest of each reader, equal ones in the order of the sensors."""
    pairs = _take(pairs, np.lexsort((pairs.read, _cost(pairs), pairs.reader)))
    return _take(pairs, np.flatnonzero(_rank(pairs.reader) < count))


def _rank(reader: np.ndarray) -> np.ndarray:
    """Place of each pair among its reader's; readers are sorted."""
    return np.arange(len(reader)) - np.searchsorted(reader, reader)


def _coordinate_pairs(sensors: pd.DataFrame, count: int) -> _Pairs:
    degrees = sensors[["latitude", "longitude"]].to_numpy(dtype=float)
    lost = np.isnan(degrees).any(axis=1)
    if lost.any():
        ids = list(sensors["sensor_id"][lost])
        raise InputError(
            f"sensors.parquet: latitude or longitude is missing for {len(ids)} sensors, among them "
            f"{', '.join(map(str, ids[:8]))}; fill them in, or set preprocess.graph: none"
        )
    latitude, longitude = np.radians(degrees).T
    points = np.stack(
        [np.cos(latitude) * np.cos(longitude), np.cos(latitude) * np.sin(longitude), np.sin(latitude)], axis=1
    )
    nodes = len(points)
    chord, read = KDTree(points).query(points, k=min(count + 1, nodes))
    chord, read = chord.reshape(nodes, -1), read.reshape(nodes, -1)
    # of several sensors at one place the query may leave out the asking one: then it has one other too many,
    # which `_nearest` cuts
    reader, place = np.nonzero(read != np.arange(nodes)[:, None])
    distance = 2 * EARTH_RADIUS * np.arcsin(np.minimum(chord[reader, place] / 2, 1))
    pairs = _Pairs(
        reader=reader, read=read[reader, place], distance=distance, weight=np.full(len(reader), np.nan)
    )
    return _nearest(pairs, count)


def _table(pairs: _Pairs, nodes: int, count: int, source: str, found: dict[str, int]) -> NeighborTable:
    neighbors = np.repeat(np.arange(nodes, dtype=np.int32)[:, None], count, axis=1)
    valid = np.zeros((nodes, count), dtype=bool)
    features = np.zeros((nodes, count, 2), dtype=np.float32)
    place = pairs.reader, _rank(pairs.reader)
    neighbors[place] = pairs.read
    valid[place] = True
    if len(pairs.reader):
        features[*place, 0] = _standard_log(pairs.distance)
        features[*place, 1] = np.where(np.isnan(pairs.weight), _kernel(pairs.distance), pairs.weight)
    return NeighborTable(neighbors=neighbors, valid=valid, features=features, source=source, found=found)


def _standard_log(distance: np.ndarray) -> np.ndarray:
    if np.isnan(distance).any():
        return np.zeros(len(distance))
    logs = np.log(np.maximum(distance, LEAST_DISTANCE))
    return (logs - logs.mean()) / logs.std() if logs.std() > 1e-9 else np.zeros(len(logs))


def kernel_width(distance: Float[np.ndarray, " edge"]) -> float:
    """Sigma of exp(-(distance / sigma)^2), in the unit of the distances; 0 where all are, NaN where one is.

    The standard deviation; the mean where distances are much alike. Of detectors half a kilometer apart, give or take
    ten meters, every weight would else be exp(-2500), which is 0.
    """
    deviation, mean = float(distance.std()), float(distance.mean())
    return deviation if deviation >= ALIKE * mean else mean


def _kernel(distance: np.ndarray) -> np.ndarray:
    sigma = kernel_width(distance)
    return np.exp(-((distance / sigma) ** 2)) if sigma > 0 else np.ones(len(distance))
