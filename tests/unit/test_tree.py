"""Geometric trees: rooted, oriented along travel, drawn evenly from all there are."""

from __future__ import annotations

from collections import Counter
from itertools import combinations

import numpy as np
import pytest

from headway.graph.tree import NO_PARENT, RoadNetwork, Tree, make_tree

#      0          5
#     / \         |
#    1   2        6
#   / \
#  3   4
PARENT = np.array([NO_PARENT, 0, 0, 1, 1, NO_PARENT, 5])


def tree(parent: np.ndarray = PARENT, seed: int = 0) -> Tree:
    return make_tree(parent, np.random.default_rng(seed).random((len(parent), 3)))


def random_parents(nodes: int, seed: int) -> np.ndarray:
    random = np.random.default_rng(seed)
    return np.array([NO_PARENT, *(random.integers(node) for node in range(1, nodes))])


def network(edges: list[tuple[int, int]], nodes: int, *, both: bool = False) -> RoadNetwork:
    roads = np.array(edges).T
    roads = np.concatenate([roads, roads[::-1]], axis=1) if both else roads
    lengths = 1.0 + np.arange(roads.shape[1]) % len(edges)
    return RoadNetwork(roads, lengths, np.random.default_rng(0).random((nodes, 3)))


def test_what_follows_from_parents() -> None:
    made = tree()
    assert made.root.tolist() == [0, 0, 0, 0, 0, 5, 5]
    assert made.depth.tolist() == [0, 1, 1, 2, 2, 0, 1]
    assert made.children().tolist() == [2, 2, 0, 0, 0, 1, 0]
    assert made.ancestors(3)[3].tolist() == [1, 0, -1] and made.ancestors(3)[5].tolist() == [-1, -1, -1]
    straight = np.linalg.norm(made.positions[3] - made.positions[1])
    assert made.length[3] == pytest.approx(straight) and made.length[0] == 0
    assert made.reach[3] == pytest.approx(made.length[1] + made.length[3])
    assert {tuple(link) for link in made.links().T.tolist()} >= {(1, 0), (0, 1), (6, 5)}
    assert made.links().shape == (2, 10) and made.upward().shape == (2, 5)


@pytest.mark.parametrize("seed", range(3))
def test_intervals_tell_ancestors_as_a_walk_to_the_root_does(seed: int) -> None:
    made = tree(random_parents(25, seed))
    for a in range(25):
        for b in range(25):
            above = made.parent[b]
            while above not in (NO_PARENT, a):
                above = made.parent[above]
            assert made.is_ancestor(np.array([a]), np.array([b]))[0] == (above == a and a != b)


def test_pairs_are_proper_and_every_related_pair_is_drawn_equally_often() -> None:
    made, random = tree(), np.random.default_rng(0)
    related = Counter(map(tuple, made.related_pairs(6000, random).T.tolist()))
    assert set(related) == {(0, 1), (0, 2), (0, 3), (0, 4), (1, 3), (1, 4), (5, 6)}
    assert min(related.values()) > 700
    unrelated = set(map(tuple, made.unrelated_pairs(300, random).T.tolist()))
    assert unrelated == {(1, 2), (2, 1), (3, 4), (4, 3), (2, 3), (3, 2), (2, 4), (4, 2)}, "of one tree each"


def test_a_line_has_no_unrelated_pair_and_roots_alone_have_no_related_one() -> None:
    line, roots = tree(np.arange(5) - 1), tree(np.full(5, NO_PARENT))
    random = np.random.default_rng(0)
    assert line.unrelated_pairs(10, random).shape == (2, 0) and line.related_pairs(10, random).shape == (
        2,
        10,
    )
    assert roots.related_pairs(10, random).shape == roots.unrelated_pairs(10, random).shape == (2, 0)


def test_parents_in_a_circle_are_no_tree() -> None:
    with pytest.raises(ValueError, match="circle"):
        tree(np.array([NO_PARENT, 2, 1]))


def test_every_spanning_tree_of_the_complete_graph_is_drawn_equally_often() -> None:
    drawn = network(list(combinations(range(4), 2)), 4, both=True)
    random = np.random.default_rng(1)
    found = Counter(tuple(drawn.random_tree(random).parent.tolist()) for _ in range(1600))
    assert len(found) == 16, "Cayley: 4^2 trees"
    chi_square = sum((count - 100) ** 2 / 100 for count in found.values())
    assert chi_square < 37.7, "the 0.1 % point of 15 degrees of freedom"


def test_a_root_is_where_traffic_gets_furthest_from_and_links_follow_travel_from_there() -> None:
    roads = network([(3, 1), (1, 0), (1, 2), (0, 4), (2, 4), (5, 4), (6, 7)], 8)
    assert roads.roots.tolist() == [3, 6]
    random = np.random.default_rng(0)
    parents = {tuple(roads.random_tree(random).parent.tolist()) for _ in range(50)}
    assert parents == {(1, 3, 1, -1, 0, 4, -1, 6), (1, 3, 1, -1, 2, 4, -1, 6)}
    assert roads.reached.tolist() == [True, True, True, True, True, False, True, True]


def test_the_shortest_path_tree_takes_the_shorter_way_and_goes_against_travel_only_where_it_must() -> None:
    roads = RoadNetwork(
        np.array([[0, 0, 1, 2, 4], [1, 2, 3, 3, 3]]),
        np.array([1.0, 2.0, 5.0, 1.0, 0.5]),
        np.random.default_rng(0).random((5, 3)),
    )
    made = roads.shortest_path_tree()
    assert made.parent.tolist() == [-1, 0, 0, 2, 3], "3 by 2, and 4 against travel"
    assert made.reach.tolist() == [0, 1, 2, 3, 3.5]


@pytest.mark.parametrize("seed", range(4))
def test_every_drawn_tree_spans_the_network(seed: int) -> None:
    random = np.random.default_rng(seed)
    edges = [(a, b) for a, b in combinations(range(12), 2) if random.random() < 0.3] + [(0, 11)]
    roads = network(edges, 12)
    for made in (roads.random_tree(random), roads.shortest_path_tree()):
        assert (np.unique(made.root) == np.unique(roads.roots)).all()
        assert (roads.component[made.root] == roads.component).all()
