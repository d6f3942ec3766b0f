"""Geometric trees: rooted, oriented, with positions - of a road network, of a neuron, of a river.

Enters: roads with lengths and positions, or parents and positions. Leaves: `Tree`, one or more rooted trees over one
set of nodes (a network has a root a connected component).

Glossary: parent of a node = the next node towards its root, -1 of a root; depth = links to the root; b is a
descendant of a, and a an ancestor of b, when a lies on b's way to the root; two nodes of one tree are unrelated when
neither is an ancestor of the other; out-reach = how many sensors traffic can get to from one.

Random trees are drawn evenly from all spanning trees by loop-erased random walks: Wilson (1996), "Generating random
spanning trees more quickly than the cover time".
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.sparse import csr_array
from scipy.sparse.csgraph import breadth_first_order, connected_components, dijkstra

NO_PARENT = -1
AGAINST_TRAVEL = 1e6  # factor on a length against travel: taken only where there is no way along
CHUNK_WALK = 4096  # random numbers drawn at once


@dataclass(frozen=True, slots=True, kw_only=True)
class Tree:
    """Rooted trees over nodes 0, 1, ...; arrays a reader may not change.

    Attributes:
        parent: -1 at a root. length: to the parent, along the road; 0 at a root.
        positions: in the unit of `length`. attributes: what else is known of a node.
        root: of each node. depth: links to it. reach: length of the way to it.
        entry, leave: node b is a descendant of a or a itself if entry[a] <= entry[b] < leave[a].
    """

    parent: Int[np.ndarray, " node"]
    length: Float[np.ndarray, " node"]
    positions: Float[np.ndarray, "node 3"]
    attributes: Float[np.ndarray, "node attribute"]
    root: Int[np.ndarray, " node"]
    depth: Int[np.ndarray, " node"]
    reach: Float[np.ndarray, " node"]
    entry: Int[np.ndarray, " node"]
    leave: Int[np.ndarray, " node"]

    def __len__(self) -> int:
        return len(self.parent)

    def upward(self) -> Int[np.ndarray, "2 link"]:
        """Every node but the roots, and its parent."""
        child = np.flatnonzero(self.parent != NO_PARENT)
        return np.stack([child, self.parent[child]])

    def links(self) -> Int[np.ndarray, "2 link"]:
        """Every node and its parent, both ways."""
        return np.concatenate([self.upward(), self.upward()[::-1]], axis=1)

    def children(self) -> Int[np.ndarray, " node"]:
        """How many children each node has."""
        return np.bincount(self.parent[self.parent != NO_PARENT], minlength=len(self))

    def ancestors(self, most: int) -> Int[np.ndarray, "node most"]:
        """The next `most` nodes towards the root, nearest first; -1 beyond it."""
        found = np.full((len(self), most), NO_PARENT)
        above = self.parent
        for column in range(most):
            found[:, column] = above
            above = np.where(above == NO_PARENT, NO_PARENT, self.parent[above])
        return found

    def is_ancestor(
        self, a: Int[np.ndarray, " pair"], b: Int[np.ndarray, " pair"]
    ) -> Bool[np.ndarray, " pair"]:
        """Whether a is an ancestor of b; no node is its own."""
        return (self.entry[a] < self.entry[b]) & (self.entry[b] < self.leave[a])

    def related_pairs(self, count: int, random: np.random.Generator) -> Int[np.ndarray, "2 pair"]:
        """Evenly drawn pairs (ancestor, descendant), with repetition; none where every node is a root."""
        if not self.depth.sum():
            return np.zeros((2, 0), np.int64)
        below = random.choice(len(self), count, p=self.depth / self.depth.sum())
        above, left = below.copy(), random.integers(1, self.depth[below] + 1)
        while left.any():
            above = np.where(left > 0, self.parent[above], above)
            left = np.maximum(left - 1, 0)
        return np.stack([above, below])

    def unrelated_pairs(self, count: int, random: np.random.Generator) -> Int[np.ndarray, "2 pair"]:
        """Evenly drawn pairs of one tree of which neither is an ancestor of the other; fewer where they are rare."""
        pairs = random.integers(len(self), size=(2, 8 * count))
        a, b = pairs
        proper = (a != b) & (self.root[a] == self.root[b]) & ~self.is_ancestor(a, b) & ~self.is_ancestor(b, a)
        return pairs[:, proper][:, :count]


def make_tree(
    parent: Int[np.ndarray, " node"],
    positions: Float[np.ndarray, "node 3"],
    length: Float[np.ndarray, " node"] | None = None,
    attributes: Float[np.ndarray, "node attribute"] | None = None,
) -> Tree:
    """Everything that follows from parents and positions.

    Args: length: to the parent; straight where it is not given.
    Raises: ValueError where parents run in a circle.
    """
    nodes = len(parent)
    above = np.where(parent == NO_PARENT, np.arange(nodes), parent)
    straight = np.linalg.norm(positions - positions[above], axis=1)
    links = np.where(parent == NO_PARENT, 0.0, straight if length is None else length)
    depth, reach, root = np.zeros(nodes, np.int64), np.zeros(nodes), np.arange(nodes)
    at = np.arange(nodes)
    for _ in range(nodes + 1):
        moving = parent[at] != NO_PARENT
        if not moving.any():
            break
        reach[moving] += links[at[moving]]
        depth[moving] += 1
        at = above[at]
    else:
        raise ValueError("parents run in a circle: a tree has none")
    root = at
    entry, leave = _intervals(parent, depth)
    return Tree(
        parent=parent.astype(np.int64),
        length=links,
        positions=positions.astype(np.float64),
        attributes=np.zeros((nodes, 0)) if attributes is None else attributes,
        root=root,
        depth=depth,
        reach=reach,
        entry=entry,
        leave=leave,
    )


def _intervals(parent: np.ndarray, depth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Numbers of the nodes in an order in which every subtree is one run, and the ends of the runs."""
    size = np.ones(len(parent), np.int64)
    by_depth = np.argsort(depth, kind="stable")
    for node in by_depth[::-1]:
        if parent[node] != NO_PARENT:
            size[parent[node]] += size[node]
    entry, free, top = np.zeros(len(parent), np.int64), np.zeros(len(parent), np.int64), 0
    for node in by_depth:
        above = parent[node]
        if above == NO_PARENT:
            entry[node], top = top, top + size[node]
        else:
            entry[node] = free[above]
            free[above] += size[node]
        free[node] = entry[node] + 1
    return entry, entry + size


class RoadNetwork:
    """A network that trees are drawn from: a root a component, the sensor with the largest out-reach."""

    def __init__(
        self,
        roads: Int[np.ndarray, "2 road"],
        lengths: Float[np.ndarray, " road"],
        positions: Float[np.ndarray, "node 3"],
    ) -> None:
        """`roads`: source and target along travel. `lengths`: meters, above 0."""
        self.nodes, self.positions = len(positions), positions
        shape = (self.nodes, self.nodes)
        source, target = roads.astype(np.int64)
        self._along = _shortest(source, target, lengths, shape)
        one, other = np.concatenate([source, target]), np.concatenate([target, source])
        self._length = _shortest(one, other, np.tile(lengths, 2), shape)
        self.component = connected_components(self._length, directed=False)[1]
        self.reached = np.zeros(self.nodes, dtype=bool)  # along travel, from the root of its component
        self.roots = np.array([self._root(label) for label in range(self.component.max() + 1)])
        self._candidates = [self._above(node) for node in range(self.nodes)]

    def shortest_path_tree(self) -> Tree:
        """Every sensor by its shortest way from its root, along travel wherever there is one."""
        back = self._length * AGAINST_TRAVEL
        either = self._along + back - back.multiply(self._along > 0)
        parent = np.full(self.nodes, NO_PARENT)
        for root in self.roots:
            _, above = dijkstra(either, indices=root, return_predecessors=True)
            inside = self.component == self.component[root]
            parent[inside] = np.where(above[inside] < 0, NO_PARENT, above[inside])
        return self._tree(parent)

    def random_tree(self, random: np.random.Generator) -> Tree:
        """Evenly drawn from all spanning trees whose links run along travel wherever a root reaches."""
        parent = np.full(self.nodes, NO_PARENT)
        done = np.zeros(self.nodes, dtype=bool)
        done[self.roots] = True
        numbers, used = random.random(CHUNK_WALK), 0
        for start in range(self.nodes):
            node = start
            while not done[node]:  # what a walk says of a node last is what it says: loops are erased
                if used == CHUNK_WALK:
                    numbers, used = random.random(CHUNK_WALK), 0
                above = self._candidates[node]
                parent[node] = above[int(numbers[used] * len(above))]
                node, used = parent[node], used + 1
            node = start
            while not done[node]:
                done[node] = True
                node = parent[node]
        return self._tree(parent)

    def _root(self, label: int) -> int:
        """The sensor of a component from which traffic gets furthest; marks whom it reaches."""
        inside = np.flatnonzero(self.component == label)
        best, furthest = inside[0], inside[:0]
        for node in inside:
            found = breadth_first_order(self._along, node, return_predecessors=False)
            if len(found) > len(furthest):  # only one is kept: all of them would be sensors times sensors
                best, furthest = node, found.copy()
        self.reached[furthest] = True
        return int(best)

    def _above(self, node: int) -> np.ndarray:
        """Who may be the parent of a node: reached sensors upstream of a reached one, else any neighbor."""
        neighbors = self._length.indices[self._length.indptr[node] : self._length.indptr[node + 1]]
        if not self.reached[node]:
            return neighbors
        upstream = neighbors[[self._along[other, node] > 0 for other in neighbors]]
        return upstream[self.reached[upstream]]

    def _tree(self, parent: np.ndarray) -> Tree:
        child = np.flatnonzero(parent != NO_PARENT)
        length = np.zeros(self.nodes)
        length[child] = np.asarray(self._length[parent[child], child]).ravel()
        return make_tree(parent, self.positions, length)


def _shortest(
    source: np.ndarray, target: np.ndarray, lengths: np.ndarray, shape: tuple[int, int]
) -> csr_array:
    """A sparse matrix of the shortest length of each pair."""
    order = np.lexsort((lengths, target, source))
    source, target, lengths = source[order], target[order], lengths[order]
    new = np.ones(len(source), dtype=bool)
    new[1:] = (np.diff(source) != 0) | (np.diff(target) != 0)
    return csr_array((lengths[new].astype(float), (source[new], target[new])), shape=shape)
