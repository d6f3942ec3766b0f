"""`headway.nn.edges` by `edges_in_c.c`: a neighbor's row is read once, and no weight is put in another order.

Rows are those of `headway.nn.neighbor_table`; there is at least one slot.
"""

from __future__ import annotations

from functools import cache

import torch
from jaxtyping import Float
from torch import Tensor

from headway.nn import native
from headway.nn.neighbor_table import NeighborTable, Rows
from headway.types import Graph

TOLERANCE = 1e-5  # of the largest number of a tensor


def sampled_dot(
    q: Float[Tensor, "row width"], v: Float[Tensor, "row width"], rows: Rows
) -> Float[Tensor, "row neighbor"]:
    out = v.new_empty(rows.shape)
    native.call("sampled_dot", _sizes(rows, out, v, q), [q, v, rows.neighbors], [out])
    return out


def bag(
    v: Float[Tensor, "row width"], w: Float[Tensor, "row neighbor"], rows: Rows
) -> Float[Tensor, "row width"]:
    out = _place_for(v)
    native.call("bag", _sizes(rows, w, v), [v, w, rows.neighbors], [out])
    return out


def bag_and_dot(
    v: Float[Tensor, "row width"],
    w: Float[Tensor, "row neighbor"],
    q: Float[Tensor, "row width"],
    rows: Rows,
) -> tuple[Float[Tensor, "row width"], Float[Tensor, "row neighbor"]]:
    bags, out = _place_for(v), _place_for(w)
    native.call("bag_and_dot", _sizes(rows, w, v, q), [q, v, w, rows.neighbors], [bags, out])
    return bags, out


def reverse_bag(
    v: Float[Tensor, "row width"], w: Float[Tensor, "row neighbor"], rows: Rows
) -> Float[Tensor, "row width"]:
    out, back = _place_for(v), [rows.reader, rows.column, rows.first]
    native.call("reverse_bag", _sizes(rows, w, v), [v, w, *back], [out])
    return out


@cache
def problem() -> str:
    """Why C is not used; empty where it is there and gives what plain sums give. It is told in the log once."""
    return native.problem("attention over neighbors", _difference)


def _difference() -> str:
    """How results differ on a few rows of every kind of width and number of neighbors."""
    random = torch.Generator().manual_seed(0)
    for width in (3, 4, 8, 16, 20, 24, 32, 48, 64):
        for neighbors in (2, 15, 33):
            for name, (ours, plain) in _both_ways(width, neighbors, random).items():
                off = float((ours - plain).abs().max() / plain.abs().max())
                if not off <= TOLERANCE:  # a nan is not
                    return f"compiled on this machine, its {name} are off by {off:.1e} of the largest"
    return ""


def _both_ways(width: int, neighbors: int, random: torch.Generator) -> dict[str, tuple[Tensor, Tensor]]:
    """Results on a small table: in C, and as plain operations on gathered rows."""
    reads = torch.randint(5, (5, neighbors), generator=random)
    valid = torch.randint(5, (5, neighbors), generator=random) > 0
    graph = Graph(neighbors=reads, valid=valid, features=torch.zeros(5, neighbors, 0))
    rows = NeighborTable(graph).rows(2, 2, 1)
    shapes = (20, width), (20, width), (20, neighbors)
    q, v, w = (torch.randn(shape, generator=random, dtype=torch.float32) for shape in shapes)
    numbers = rows.numbers
    gathered = v[numbers.source.long()].view(20, neighbors, width)
    slot = numbers.reverse_slot.long()
    sent = w.flatten()[slot].unsqueeze(1) * v[numbers.reverse_owner.long()]
    dots, sums = (q.unsqueeze(1) * gathered).sum(2), (w.unsqueeze(2) * gathered).sum(1)
    sums_too, dots_too = bag_and_dot(v, w, q, rows)
    return {
        "dots": (sampled_dot(q, v, rows), dots),
        "sums": (bag(v, w, rows), sums),
        "sums back": (
            reverse_bag(v, w, rows),
            torch.zeros_like(v).index_add_(0, numbers.source.long()[slot], sent),
        ),
        "sums with dots": (sums_too, sums),
        "dots with sums": (dots_too, dots),
    }


def _sizes(rows: Rows, w: Tensor, v: Tensor, *others: Tensor) -> list[int]:
    """`Sizes` of edges_in_c.c."""
    assert all(x.dtype == torch.float32 for x in (w, v, *others)), "not float32"
    assert all(x.shape == v.shape for x in others), "rows of another shape"
    assert w.shape == rows.shape and len(v) == len(w), "a table of other rows"
    nodes, neighbors = rows.neighbors.shape
    return [rows.batch, nodes, rows.inner, neighbors, v.shape[1]]


def _place_for(x: Tensor) -> Tensor:
    return torch.empty_like(x, memory_format=torch.contiguous_format)
