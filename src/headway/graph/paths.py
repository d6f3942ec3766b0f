"""Third-order paths: every way i -> j -> k -> p that visits four different nodes.

Enters: directed links (i reads j), their number of nodes. Leaves: int32 [4, path], the paths of a node together
and in random order, so that the first m of a node are a sample of its paths without bias.

Glossary: link = ordered pair; walk = links end to end, nodes may repeat; path = a walk whose nodes all differ.

    a triangle has 0 third-order paths, a line of four nodes 2, a star 0, the complete graph of four 24

Walks are joined link to link for a block of first nodes at a time, so the memory is that of a block and what is
kept. Source: Zhang & Zhao (2021), "Representation Learning on Spatial Networks" (SGMP).
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from jaxtyping import Int

ORDER = 3  # links of a path
BLOCK_WALKS = 2**21  # third-order walks joined at once: 16 MiB a node of them


def third_order_paths(
    links: Int[np.ndarray, "2 link"], nodes: int, *, per_node: int = 0, seed: int = 0
) -> Int[np.ndarray, "4 path"]:
    """Paths in the order of their first node, at most `per_node` of each, drawn evenly where there are more.

    Args:
        links: i and the j it reads, each pair once; a node that reads itself is on no path.
        per_node: 0 for all. seed: of the order within a node, and so of the sample.
    """
    first, second = links[:, np.lexsort((links[1], links[0]))].astype(np.int64)
    starts = np.searchsorted(first, np.arange(nodes + 1))
    random = np.random.default_rng(seed)
    blocks = [
        _sampled(_paths_from(block, second, starts), per_node, random)
        for block in _blocks(first, second, starts)
    ]
    return np.concatenate([np.zeros((4, 0), np.int64), *blocks], axis=1).astype(np.int32)


def with_fallback(paths: Int[np.ndarray, "4 path"], nodes: int) -> Int[np.ndarray, "4 more"]:
    """The paths, and (i, i, i, i) for each node without any, so that every node has at least one."""
    lonely = np.flatnonzero(np.bincount(paths[0], minlength=nodes) == 0)
    joined = np.concatenate([paths, np.tile(lonely.astype(paths.dtype), (4, 1))], axis=1)
    return joined[:, np.argsort(joined[0], kind="stable")]


def first_paths(paths: Int[np.ndarray, "4 path"], per_node: int) -> Int[np.ndarray, "4 kept"]:
    """At most `per_node` paths of each node; 0 for all. Paths of a node lie together."""
    if not per_node:
        return paths
    place = np.arange(paths.shape[1]) - np.searchsorted(paths[0], paths[0])
    return paths[:, place < per_node]


def _blocks(first: np.ndarray, second: np.ndarray, starts: np.ndarray) -> Iterator[np.ndarray]:
    """First nodes whose third-order walks fit in a block; a node with more has a block of its own."""
    degree = np.diff(starts)
    twice = np.bincount(first, weights=degree[second], minlength=len(degree))
    walks = np.bincount(first, weights=twice[second], minlength=len(degree))
    block = (np.cumsum(walks) // BLOCK_WALKS).astype(np.int64)
    yield from np.split(np.arange(len(degree)), np.flatnonzero(np.diff(block)) + 1)


def _paths_from(block: np.ndarray, second: np.ndarray, starts: np.ndarray) -> np.ndarray:
    walks = block[None, :]
    for _ in range(ORDER):
        last = walks[-1]
        degree = starts[last + 1] - starts[last]
        row = np.repeat(np.arange(walks.shape[1]), degree)
        place = np.arange(len(row)) - np.repeat(np.cumsum(degree) - degree, degree)
        step = second[starts[last[row]] + place]
        walks = walks[:, row]
        new = (walks != step).all(axis=0)
        walks = np.concatenate([walks[:, new], step[None, new]])
    return walks


def _sampled(paths: np.ndarray, per_node: int, random: np.random.Generator) -> np.ndarray:
    """The paths of each node in random order, cut to `per_node`."""
    order = np.lexsort((random.random(paths.shape[1]), paths[0]))
    return first_paths(paths[:, order], per_node)
