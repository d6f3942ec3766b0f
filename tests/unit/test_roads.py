"""Where sensors stand, which way traffic runs, and what is said where nobody knows."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from headway.data.prepare import prepare
from headway.data.prepared import open_prepared
from headway.errors import InputError
from headway.graph.roads import place_sensors
from headway.training.network import geometry_of, road_network
from worlds import preprocess_params, windows_params, write_raw_world

EDGES = pd.DataFrame(
    {"source": ["a", "b", "c"], "target": ["b", "c", "d"], "distance_m": [900.0, 1500.0, 700.0]}
)


def test_places_are_meters_and_the_elevation_is_the_third() -> None:
    sensors = pd.DataFrame(
        {"latitude": [60.0, 60.01], "longitude": [179.99, -179.99], "elevation_m": [5.0, 25.0]}
    )
    away = np.diff(place_sensors(sensors), axis=0)[0]
    assert away == pytest.approx([0.02 * 111_195 / 2, 1111.95, 20], rel=2e-3), "the short way round the globe"
    assert place_sensors(sensors.drop(columns="elevation_m"))[:, 2].tolist() == [0, 0]
    assert place_sensors(sensors.assign(latitude=[60.0, np.nan])).shape == (0, 3)


def test_roads_keep_their_direction_and_their_length(tmp_path: Path) -> None:
    write_raw_world(tmp_path / "raw", edges=EDGES)
    prepare(tmp_path / "raw", tmp_path / "prepared", preprocess_params(), windows_params())
    found = open_prepared(tmp_path / "prepared")
    assert found.roads.tolist() == [[0, 1, 2], [1, 2, 3]] and found.lengths.tolist() == [900, 1500, 700]
    assert sorted(map(tuple, found.paths.T.tolist())) == [(0, 1, 2, 3), (3, 2, 1, 0)], "each reads both ways"
    tree = road_network(found, "key").shortest_path_tree()
    assert tree.parent.tolist() == [-1, 0, 1, 2] and tree.reach.tolist() == [0, 900, 2400, 3100]
    positions, paths = geometry_of(found, 1, "key")
    assert paths[0].tolist() == [0, 1, 2, 3] and positions.shape == (4, 3)


def test_without_edges_both_ways_are_roads_and_lengths_are_straight(tmp_path: Path) -> None:
    write_raw_world(tmp_path / "raw")
    prepare(tmp_path / "raw", tmp_path / "prepared", preprocess_params(max_neighbors=1), windows_params())
    found = open_prepared(tmp_path / "prepared")
    pairs = set(map(tuple, found.roads.T.tolist()))
    assert pairs == {(b, a) for a, b in pairs} and found.lengths == pytest.approx(
        1000 * np.ones(len(pairs)), rel=1e-3
    )


def test_without_places_preprocess_goes_on_and_geometry_is_refused(tmp_path: Path) -> None:
    write_raw_world(tmp_path / "raw", edges=EDGES, coordinates=False)
    prepare(tmp_path / "raw", tmp_path / "prepared", preprocess_params(), windows_params())
    found = open_prepared(tmp_path / "prepared")
    assert found.positions.shape == (0, 3) and json.dumps(found.lengths.tolist()) == "[900.0, 1500.0, 700.0]"
    with pytest.raises(InputError, match=r"model\.spatial: sgmp: learns from distances and angles"):
        geometry_of(found, 4, "model.spatial: sgmp")
