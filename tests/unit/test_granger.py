"""Neighbors that are chosen by what their past foretold."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from safetensors.numpy import load_file

from headway.data.granger import Deviations, seat_foretelling
from headway.data.prepare import prepare
from headway.graph.neighbors import NeighborTable, build_neighbors
from worlds import daily_readings, preprocess_params, windows_params, write_raw_world

PAST, HISTORY, HORIZON = 3, 12, 6


def test_a_sensor_reads_the_one_that_it_follows_a_while_later_however_far_it_is() -> None:
    z = noise(4000, 20)
    z[4:, 7] += 2 * z[:-4, 15]
    table = seat_foretelling(nobody(20, 1), deviations(z), 1)
    assert table.neighbors[7, 0] == 15 and table.valid[7, 0]


def test_a_sensor_that_says_what_a_neighbor_says_already_is_not_chosen() -> None:
    z = noise(4000, 20)
    z[:, 16] = z[:, 15] + 0.02 * noise(4000, 1, seed=1)[:, 0]  # nearly the same sensor
    z[4:, 7] += 2 * z[:-4, 15] + z[:-4, 3]
    near = nobody(20, places=2)
    near.neighbors[7, 0], near.valid[7, 0] = 15, True
    table = seat_foretelling(near, deviations(z), 1)
    assert list(table.neighbors[7]) == [15, 3]


def test_what_lowers_the_error_most_beside_all_that_is_known_is_taken_first() -> None:
    z = smooth(noise(1500, 9))
    z[6:, :4] += 0.4 * z[:-6, 4:8] + 0.3 * z[:-6, [5, 6, 7, 8]]
    z[np.random.default_rng(3).random(z.shape) < 0.1] = np.nan
    near = nobody(9, places=4)
    near.neighbors[:, 0], near.valid[:, 0] = (np.arange(9) + 1) % 9, True
    table = seat_foretelling(near, deviations(z), 3)
    for reader in range(9):
        assert read(table, reader) == by_least_squares(z, reader, [(reader + 1) % 9], 3)
    assert table.found["foretelling"] > 4


def test_places_that_the_nearest_leave_free_are_taken_and_none_is_taken_twice() -> None:
    near = nobody(30, places=3)
    near.neighbors[:10, 0], near.valid[:10, 0] = np.arange(10) + 2, True
    table = seat_foretelling(near, deviations(ring(30, 8000)), 2)
    assert table.valid.all() and table.found["foretelling"] == 3 * 30 - 10
    for reader, row in enumerate(table.neighbors):
        assert len({reader, *row}) == 4
        assert {(each - reader) % 30 for each in row} <= {1, 2, 3, 4, 5, 6}
    assert not table.features.any()


def test_who_foretells_by_chance_leaves_the_nearest_their_places() -> None:
    near = build_neighbors(choice="coordinates", sensors=line(30), edges=None, max_neighbors=8)
    table = seat_foretelling(near, deviations(noise(400, 30)), 8)
    assert table.found["foretelling"] < 0.1 * 8 * 30
    alone = (table.neighbors == near.neighbors).all(axis=1)
    assert alone.sum() > 15 and (table.features[alone] == near.features[alone]).all()
    assert table.valid.all()


def test_without_places_for_them_the_table_stays_as_it_is() -> None:
    table = seat_foretelling(nobody(5, places=3), deviations(noise(600, 5)), 0)
    assert not table.valid.any() and table.neighbors.shape == (5, 3)


def test_the_farthest_make_way_and_keep_their_features_where_they_foretell() -> None:
    z = noise(4000, 6)
    z[4:, 0] += 2 * z[:-4, 3] + z[:-4, 5]
    near = build_neighbors(choice="coordinates", sensors=line(6), edges=None, max_neighbors=3)
    table = seat_foretelling(near, deviations(z), 2)
    assert list(near.neighbors[0]) == [1, 2, 3] and list(table.neighbors[0]) == [1, 3, 5]
    assert (table.features[0, :2] == near.features[0, [0, 2]]).all() and not table.features[0, 2].any()
    assert list(near.neighbors[0]) == [1, 2, 3], "the table of the nearest is another's too"


def test_sensors_that_never_deviate_tell_nothing_and_are_told_nothing() -> None:
    z = noise(2000, 4)
    z[4:, 0] += 2 * z[:-4, 1]
    z[:, 2], z[:, 3] = 0, np.nan
    table = seat_foretelling(nobody(4, 3), deviations(z), 3)
    assert [read(table, reader) for reader in (0, 2, 3)] == [[1], [], []]


def test_a_sensor_that_is_silent_for_an_eighth_of_training_is_foretold_by_the_rest() -> None:
    z = noise(4000, 6)
    z[4:, 0] += 2 * z[:-4, 3]
    z[1000:1600, 0] = np.nan
    assert read(seat_foretelling(nobody(6, 2), deviations(z), 2), 0) == [3]


@pytest.mark.parametrize("steps", [0, HISTORY + HORIZON - 1, HISTORY + HORIZON])
def test_a_training_of_few_steps_or_none_is_no_fault(steps: int) -> None:
    table = seat_foretelling(nobody(4, 2), deviations(noise(steps, 4)), 2)
    assert table.neighbors.shape == (4, 2)


def test_of_equal_sensors_the_first_is_taken() -> None:
    z = noise(3000, 40)
    z[:, 33] = z[:, 21] = z[:, 12]
    z[4:, 7] += z[:-4, 12]
    assert seat_foretelling(nobody(40, 1), deviations(z), 1).neighbors[7, 0] == 12


def test_more_sensors_than_a_block_give_what_each_alone_would() -> None:
    z = ring(70, 1500)
    table = seat_foretelling(nobody(70, 2), deviations(z), 2)
    for reader in (0, 63, 64, 69):
        assert read(table, reader) == by_least_squares(z, reader, [], 2)


def test_only_training_readings_decide(tmp_path: Any) -> None:
    readings = daily_readings(400, 6, 60)
    tables = []
    for name, later in (("a", readings), ("b", np.concatenate([readings[:300], readings[300:, ::-1]]))):
        write_raw_world(tmp_path / name, sensors=6, readings=later)
        prepare(tmp_path / name, tmp_path / f"{name}-prepared", rules(), windows_params())
        tables.append(load_file(tmp_path / f"{name}-prepared/graph.safetensors")["neighbors"])
    assert (tables[0] == tables[1]).all()


def test_a_data_set_without_places_and_edges_has_a_graph_of_those_that_foretell(tmp_path: Any) -> None:
    raw = write_raw_world(tmp_path / "x", readings=60 + 5 * ring(6, 1500), sensors=6, coordinates=False)
    report = prepare(raw, tmp_path / "prepared", rules(), windows_params(horizon=6))
    assert report["graph"]["source"] == "none" and report["graph"]["foretelling"] > 6
    assert any("reads only those that foretell it" in sentence for sentence in report["done"])
    alone = prepare(raw, tmp_path / "alone", preprocess_params(granger_neighbors=0), windows_params())
    assert any("no sensor reads another" in sentence for sentence in alone["done"])


def rules() -> Any:
    return preprocess_params(max_neighbors=4, granger_neighbors=3)


def noise(steps: int, nodes: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(steps, nodes)).astype(np.float32)


def ring(nodes: int, steps: int) -> np.ndarray:
    """Each sensor follows the next three on a ring."""
    z = noise(steps, nodes)
    for step in range(4, steps):
        z[step] += 0.32 * sum(np.roll(z[step - 4], -ahead) for ahead in (1, 2, 3))
    return z


def read(table: NeighborTable, reader: int) -> list[int]:
    """Whom the sensor reads."""
    return table.neighbors[reader][table.valid[reader]].tolist()


def smooth(z: np.ndarray) -> np.ndarray:
    return np.asarray(pd.DataFrame(z).ewm(span=6).mean(), dtype=np.float32)


def line(nodes: int) -> pd.DataFrame:
    """Sensors that stand 100 m, 200 m, ... apart."""
    places = np.cumsum(np.arange(nodes)) / 1111.95
    names = [str(node) for node in range(nodes)]
    return pd.DataFrame({"sensor_id": names, "latitude": 52.0 + places, "longitude": 4.0})


def nobody(nodes: int, places: int) -> NeighborTable:
    """A table whose places are all free."""
    sensors = pd.DataFrame({"sensor_id": [str(node) for node in range(nodes)]})
    return build_neighbors(choice="none", sensors=sensors, edges=None, max_neighbors=places)


def deviations(z: np.ndarray) -> Deviations:
    """Readings that are 5 above z, where 5 is usual."""
    return Deviations(
        readings=z + 5,
        usual=np.full((7, z.shape[1]), 5.0, dtype=np.float32),
        times=np.arange(len(z)) % 7,
        step_seconds=300,
        history=HISTORY,
        horizon=HORIZON,
    )


def by_least_squares(z: np.ndarray, reader: int, near: list[int], count: int) -> list[int]:
    """The same choice, each time by fits of its own: one for each sensor and eighth of training."""
    z = np.nan_to_num(z.astype(float))
    rows = np.arange(HISTORY - 1, len(z) - HORIZON)
    rows = rows[np.linspace(0, len(rows) - 1, len(rows) // 8 * 8).astype(int)]
    past = np.array([z[row - PAST + 1 : row + 1].mean(axis=0) for row in rows])
    own = [past[:, reader], np.array([z[row - HISTORY + 1 : row + 1, reader].mean() for row in rows])]
    ahead = np.array([z[row + 1 : row + 1 + HORIZON, reader].mean() for row in rows])

    def told(sensors: list[int], further: int) -> float:
        shares, signs = [], set()
        for part in np.split(np.arange(len(rows)), 8):
            known = np.column_stack([*own, *(past[:, each] for each in sensors)])[part]
            more = np.column_stack([known, past[part, further]])
            before, after = (np.linalg.lstsq(each, ahead[part], rcond=None)[0] for each in (known, more))
            errors = [
                ((ahead[part] - each @ fit) ** 2).sum() for each, fit in ((known, before), (more, after))
            ]
            shares.append((errors[0] - errors[1]) / (ahead[part] ** 2).sum())
            signs.add(bool(after[-1] > 0))
        return min(shares) if len(signs) == 1 else 0

    chosen = list(near)
    for _ in range(count):
        others = [node for node in range(z.shape[1]) if node not in (reader, *chosen)]
        best = max(others, key=lambda node: told(chosen, node))
        if told(chosen, best) > 0:
            chosen.append(best)
    return chosen
