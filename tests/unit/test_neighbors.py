"""The neighbor table from roads and from coordinates."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
import pytest

from headway.errors import InputError
from headway.graph.neighbors import NeighborTable, build_neighbors, describe_neighbors

LINE = pd.DataFrame({"sensor_id": list("abcde")})


def roads(*rows: tuple[Any, ...], columns: str = "source target distance_m") -> pd.DataFrame:
    return pd.DataFrame(rows, columns=columns.split())


def built(
    edges: pd.DataFrame | None, sensors: pd.DataFrame = LINE, choice: Any = "auto", k: int = 3
) -> NeighborTable:
    return build_neighbors(choice=choice, sensors=sensors, edges=edges, max_neighbors=k)


def read_by(table: NeighborTable, node: int) -> list[int]:
    return table.neighbors[node][table.valid[node]].tolist()


def positions(latitude: Any, longitude: Any) -> pd.DataFrame:
    ids = [f"s{index:03}" for index in range(len(latitude))]
    return pd.DataFrame({"sensor_id": ids, "latitude": latitude, "longitude": longitude})


def test_both_ends_of_a_road_read_each_other() -> None:
    table = built(roads(("a", "b", 100), ("b", "c", 50)))
    assert [read_by(table, node) for node in range(5)] == [[1], [2, 0], [1], [], []]
    assert table.source == "edges"


def test_the_nearest_are_kept_and_equal_ones_in_the_order_of_sensors() -> None:
    table = built(roads(("a", "e", 5), ("a", "d", 7), ("c", "a", 7), ("b", "a", 9)))
    assert read_by(table, 0) == [4, 2, 3]


def test_padding_points_at_the_sensor_itself_and_is_not_valid() -> None:
    table = built(roads(("a", "b", 100)))
    np.testing.assert_array_equal(table.neighbors, [[1, 0, 0], [0, 1, 1], [2] * 3, [3] * 3, [4] * 3])
    assert (table.valid.sum(), table.features[~table.valid].any()) == (2, False)
    assert table.neighbors.dtype == np.int32 and table.features.dtype == np.float32


def test_loops_and_repeated_edges_are_dropped_and_counted() -> None:
    table = built(roads(("a", "a", 0), ("a", "b", 100), ("a", "b", 60), ("b", "a", 80)))
    assert read_by(table, 0) == [1]
    assert (table.found["self_loops_dropped"], table.found["duplicate_edges_dropped"]) == (1, 1)


def test_the_shortest_of_several_distances_counts_with_its_weight() -> None:
    table = built(roads(("a", "b", 100, 0.1), ("b", "a", 60, 0.7), columns="source target distance_m weight"))
    np.testing.assert_allclose(table.features[[0, 1], 0, 1], [0.7, 0.7], rtol=1e-6)


def test_weights_alone_keep_the_heaviest_and_have_no_distance() -> None:
    rows = roads(
        ("a", "b", 0.2), ("a", "c", 0.9), ("d", "a", 0.5), ("a", "e", 0.0), columns="source target weight"
    )
    table = built(rows)
    assert read_by(table, 0) == [2, 3, 1]
    np.testing.assert_allclose(table.features[0], [[0, 0.9], [0, 0.5], [0, 0.2]], rtol=1e-6)
    assert table.found["edges_of_weight_zero"] == 1


def test_distances_alone_are_weighted_by_the_kernel_of_dcrnn() -> None:
    table = built(roads(("a", "b", 100), ("b", "c", 300)))
    sigma = np.std([100, 100, 300, 300])
    assert table.features[0, 0, 1] == pytest.approx(math.exp(-((100 / sigma) ** 2)))
    assert table.features[2, 0, 1] == pytest.approx(math.exp(-((300 / sigma) ** 2)))
    logs = table.features[..., 0][table.valid]
    assert logs.mean() == pytest.approx(0, abs=1e-6) and logs.std() == pytest.approx(1, abs=1e-6)


def test_equal_distances_do_not_divide_by_zero() -> None:
    table = built(roads(("a", "b", 100), ("b", "c", 100), ("d", "e", 100)))
    np.testing.assert_allclose(table.features[table.valid], [[0, math.exp(-1)]] * 6, rtol=1e-6)
    at_one_place = built(roads(("a", "b", 0), ("b", "c", 0)))
    np.testing.assert_array_equal(at_one_place.features[at_one_place.valid], [[0, 1]] * 4)


@pytest.mark.parametrize("uneven", [1, 50, 150])
def test_detectors_at_nearly_equal_distances_have_weights_that_fall_with_the_distance(uneven: float) -> None:
    table = built(roads(("a", "b", 500 - uneven), ("b", "c", 500), ("c", "d", 500 + uneven)))
    near, middle, far = (table.features[node, column, 1] for node, column in ((0, 0), (1, 1), (3, 0)))
    assert 0.15 < far < middle < near < 0.65


def test_detectors_at_one_place_have_a_finite_distance() -> None:
    assert np.isfinite(built(roads(("a", "b", 0), ("b", "c", 10))).features).all()


def test_edges_of_dropped_sensors_go_with_them() -> None:
    table = built(roads(("a", "b", 100), ("a", "gone", 1)))
    assert read_by(table, 0) == [1]
    assert table.found["edges_of_dropped_sensors"] == 1


def test_coordinates_give_the_same_neighbors_as_brute_force() -> None:
    random = np.random.default_rng(3)
    sensors = positions(random.uniform(-89, 89, 60), random.uniform(-180, 180, 60))
    table = built(None, sensors, "coordinates", 5)
    latitude, longitude = (
        np.radians(sensors["latitude"].to_numpy()),
        np.radians(sensors["longitude"].to_numpy()),
    )
    gap_north, gap_east = latitude[:, None] - latitude, longitude[:, None] - longitude
    haversine = (
        np.sin(gap_north / 2) ** 2 + np.cos(latitude)[:, None] * np.cos(latitude) * np.sin(gap_east / 2) ** 2
    )
    np.fill_diagonal(haversine, 9)
    np.testing.assert_array_equal(table.neighbors, np.argsort(haversine, axis=1)[:, :5])
    distance = (
        2 * 6_371_008.8 * np.arcsin(np.sqrt(np.take_along_axis(haversine, table.neighbors.astype(int), 1)))
    )
    logs = np.log(distance)
    np.testing.assert_allclose(table.features[..., 0], (logs - logs.mean()) / logs.std(), atol=1e-4)


def test_neighbors_reach_across_the_date_line_and_the_pole() -> None:
    across = built(None, positions([0.0, 0.0, 0.0], [179.9, -179.9, 170.0]), "coordinates", 1)
    assert across.neighbors[0, 0] == 1
    polar = built(None, positions([89.9, 89.9, 80.0], [0.0, 180.0, 0.0]), "coordinates", 1)
    assert polar.neighbors[0, 0] == 1


def test_many_sensors_at_one_place_never_read_themselves() -> None:
    table = built(None, positions([52.0] * 9, [4.0] * 9), "coordinates", 3)
    assert table.valid.all()
    assert (table.neighbors != np.arange(9)[:, None]).all()
    assert all(len(set(row)) == 3 for row in table.neighbors.tolist())


def test_fewer_sensors_than_neighbors_leave_padding() -> None:
    table = built(None, positions([52.0, 52.1], [4.0, 4.0]), "coordinates", 3)
    assert table.valid.tolist() == [[True, False, False]] * 2
    lone = built(None, positions([52.0], [4.0]), "coordinates", 3)
    assert not lone.valid.any()


def test_auto_takes_edges_then_coordinates_then_none() -> None:
    places = positions([52.0, 52.1], [4.0, 4.0])
    assert built(roads(("s000", "s001", 1)), places).source == "edges"
    assert built(None, places).source == "coordinates"
    assert built(None, LINE).source == "none"
    assert built(None, positions([np.nan] * 2, [np.nan] * 2)).source == "none"


def test_no_graph_means_no_neighbors() -> None:
    table = built(roads(("a", "b", 1)), choice="none")
    assert not table.valid.any() and table.source == "none"


def test_a_graph_that_cannot_be_had_is_refused() -> None:
    with pytest.raises(InputError, match=r"no edges\.parquet"):
        built(None, choice="edges")
    with pytest.raises(InputError, match="no latitude and longitude"):
        built(None, choice="coordinates")
    with pytest.raises(InputError, match="longitude is missing for 1 sensors, among them s001"):
        built(None, positions([52.0, 52.1], [4.0, np.nan]), "coordinates")


@pytest.mark.parametrize("count", [0, 16])
def test_the_cap_on_neighbors_holds(count: int) -> None:
    with pytest.raises(InputError, match=r"preprocess\.max_neighbors: \d+ is not in 1\.\.15"):
        built(None, k=count)


def test_the_report_counts_degrees_components_and_isolated_sensors() -> None:
    report = describe_neighbors(built(roads(("a", "b", 1), ("b", "c", 2))), list("abcde"))
    wanted = {
        "degree_min": 0, "degree_mean": 0.8, "degree_max": 2, "components": 3, "isolated": 2,
        "isolated_sensors": ["d", "e"], "edges_read": 4, "source": "edges",
    }  # fmt: skip
    assert {key: report[key] for key in wanted} == wanted
