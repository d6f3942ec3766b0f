"""Third-order paths: counted on small graphs, sampled without bias."""

from __future__ import annotations

from itertools import combinations, pairwise, permutations

import numpy as np
import pytest

from headway.graph import paths as module
from headway.graph.paths import first_paths, third_order_paths, with_fallback


def both_ways(*edges: tuple[int, int]) -> np.ndarray:
    forth = np.array(edges).T
    return np.concatenate([forth, forth[::-1]], axis=1)


def complete(nodes: int) -> np.ndarray:
    return both_ways(*combinations(range(nodes), 2))


@pytest.mark.parametrize(
    ("links", "nodes", "count"),
    [
        (both_ways((0, 1), (1, 2), (0, 2)), 3, 0),
        (both_ways((0, 1), (1, 2), (2, 3)), 4, 2),
        (both_ways((0, 1), (0, 2), (0, 3), (0, 4)), 5, 0),
        (complete(4), 4, 24),
        (np.array([[0, 1, 2], [1, 2, 3]]), 4, 1),
        (np.zeros((2, 0), int), 3, 0),
    ],
    ids=["triangle", "line of four", "star", "complete four", "one-way line", "no link"],
)
def test_small_graphs_have_as_many_paths_as_counted_by_hand(
    links: np.ndarray, nodes: int, count: int
) -> None:
    found = third_order_paths(links, nodes)
    assert found.shape == (4, count) and found.dtype == np.int32


def test_the_paths_of_a_random_graph_are_those_of_a_plain_search(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(0)
    adjacency = (random.random((9, 9)) < 0.4) & ~np.eye(9, dtype=bool)
    wanted = {path for path in permutations(range(9), 4) if all(adjacency[a, b] for a, b in pairwise(path))}
    monkeypatch.setattr(module, "BLOCK_WALKS", 50)  # many blocks
    found = third_order_paths(np.stack(np.nonzero(adjacency)), 9)
    assert {tuple(path) for path in found.T.tolist()} == wanted and found.shape[1] == len(wanted)
    assert (np.diff(found[0]) >= 0).all(), "the paths of a node lie together"


def test_a_cap_draws_every_path_of_a_node_equally_often() -> None:
    links, drawn = complete(5), np.zeros((5, 5, 5, 5), int)
    for seed in range(400):
        found = third_order_paths(links, 5, per_node=6, seed=seed)
        assert (np.bincount(found[0]) == 6).all()
        np.add.at(drawn, tuple(found), 1)
    often = drawn[drawn > 0]
    assert len(often) == 120 and (abs(often - 100) < 5 * np.sqrt(75)).all()


def test_the_first_paths_of_a_node_are_a_sample_of_the_sample() -> None:
    found = third_order_paths(complete(6), 6, per_node=10, seed=1)
    fewer = first_paths(found, 3)
    assert (np.bincount(fewer[0]) == 3).all()
    assert {tuple(path) for path in fewer.T} <= {tuple(path) for path in found.T}
    assert first_paths(found, 0) is found


def test_the_same_seed_draws_the_same_paths() -> None:
    one, other = (third_order_paths(complete(7), 7, per_node=5, seed=3) for _ in range(2))
    assert (one == other).all()
    assert (third_order_paths(complete(7), 7, per_node=5, seed=4) != one).any()


def test_a_node_without_a_path_has_itself() -> None:
    line = third_order_paths(both_ways((0, 1), (1, 2), (2, 3)), 5)
    filled = with_fallback(line, 5)
    assert filled[0].tolist() == [0, 1, 2, 3, 4] and filled[:, 4].tolist() == [4] * 4
    assert filled[:, 0].tolist() == [0, 1, 2, 3]
