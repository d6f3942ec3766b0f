"""A drawn tree to the points that say where its branches go.

Enters: a tree of many points along each branch. Leaves: the same tree of fewer: roots, branch points, ends, and
a point every so often; twigs shorter than that are gone."""

from __future__ import annotations

import numpy as np

from headway.graph.tree import NO_PARENT, Tree, make_tree


def thin_tree(tree: Tree, points: int) -> Tree:
    """About `points` points apart evenly, and the branch points. Lengths are those along the thinned links."""
    spacing = max(float(tree.length.sum()) / points, 1e-12)
    order = np.argsort(tree.depth, kind="stable")
    kept = _long_enough(tree, order, spacing)
    branches = np.bincount(tree.parent[kept & (tree.parent != NO_PARENT)], minlength=len(tree))
    chosen = kept & ((tree.parent == NO_PARENT) | (branches != 1))
    since, above = np.zeros(len(tree)), np.full(len(tree), NO_PARENT)
    for node in order:
        parent = tree.parent[node]
        if parent == NO_PARENT or not kept[node]:
            continue
        since[node] = (0 if chosen[parent] else since[parent]) + tree.length[node]
        above[node] = parent if chosen[parent] else above[parent]
        chosen[node] |= since[node] >= spacing
    places = np.flatnonzero(chosen)
    number = np.full(len(tree), NO_PARENT)
    number[places] = np.arange(len(places))
    parents = np.where(above[places] == NO_PARENT, NO_PARENT, number[above[places]])
    return make_tree(parents, tree.positions[places], attributes=tree.attributes[places])


def _long_enough(tree: Tree, order: np.ndarray, spacing: float) -> np.ndarray:
    """Nodes from which, or through which from the last branch point, a branch of the spacing leads on."""
    ahead = np.zeros(len(tree))  # longest way down from a node
    for node in order[::-1]:
        if tree.parent[node] != NO_PARENT:
            ahead[tree.parent[node]] = max(ahead[tree.parent[node]], ahead[node] + tree.length[node])
    children, branch = tree.children(), np.zeros(len(tree))
    kept = tree.parent == NO_PARENT
    for node in order:
        parent = tree.parent[node]
        if parent == NO_PARENT:
            continue
        starts = children[parent] > 1 or tree.parent[parent] == NO_PARENT
        branch[node] = ahead[node] + tree.length[node] if starts else branch[parent]
        kept[node] = kept[parent] and branch[node] >= spacing
    return kept
