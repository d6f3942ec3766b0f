"""Sparse attention arithmetic on a fixed-degree neighbour table: gather-weighted-sum and its transpose.

Every operator here reads rows: the last dimension of a contiguous [batch, node, time, head, width] tensor,
numbered in storage order, so nothing is transposed and nothing N x N exists. Two kernels are enough:

    bag(v, w)[r]             = sum_k w[r, k] v[neighbor row k of r]          (embedding_bag)
    sampled_dot(q, v)[r, k]  = q[r] . v[neighbor row k of r]                 (its weight gradient)

and the gradient of each is made of the two, that of v through the reverse table (`reverse_bag`). `weighted_sum` has
that gradient; the others are pieces for operators with gradients of their own. There is no scatter and no
atomic addition: sums run in a fixed order, so the same seed gives the same bits.

`benchmarks/attention.py` measures time and memory beside PyTorch Geometric's GATv2Conv.
"""

from __future__ import annotations

import warnings
from collections import OrderedDict
from collections.abc import Callable
from copy import copy
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from headway.types import Graph

# The sampled dot product that embedding_bag keeps for its own backward. It is private, so its absence is planned for:
# `_bag_gradient` then gathers.
_BAG_GRADIENT = getattr(torch.ops.aten, "_embedding_bag_per_sample_weights_backward", None)
with warnings.catch_warnings():  # once, of the first one made, torch says that compressed tensors are young
    warnings.simplefilter("ignore")
    torch.sparse_csr_tensor([0], [], [], (0, 0), check_invariants=False)
DOT = "(Tensor q, Tensor v, Tensor source, Tensor starts, Tensor owner) -> Tensor"
KEPT_SHAPES = 4
LANES = 8  # the product of sparse matrices is far slower where the width is no multiple of it


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """The table written out for one (batch, time, heads): row numbers in storage order.

    Attributes:
        source: row read by slot (r, k), flattened; padding reads r itself.
        starts: first slot of each row, plus the total.
        owner: r of each slot.
        reverse_owner: rows r that read row j, grouped by j.
        reverse_slot: the slot through which they do.
        reverse_starts: first entry of each j, plus the total.
    """

    source: Int[Tensor, " slot"]
    starts: Int[Tensor, " row_plus_one"]
    owner: Int[Tensor, " slot"]
    reverse_owner: Int[Tensor, " edge"]
    reverse_slot: Int[Tensor, " edge"]
    reverse_starts: Int[Tensor, " row_plus_one"]


class NeighborTable(nn.Module):
    """A Graph as buffers (saved with the model), and its row numbers per batch shape (made on demand).

    `positions` and `paths` are there where the graph has paths: for operators that read geometry.
    """

    neighbors: Tensor
    valid: Tensor
    features: Tensor
    positions: Tensor
    paths: Tensor

    def __init__(self, graph: Graph) -> None:
        super().__init__()
        self.register_buffer("neighbors", graph.neighbors.long())
        self.register_buffer("valid", graph.valid)
        self.register_buffer("features", graph.features)
        if graph.paths.shape[1]:
            self.register_buffer("positions", graph.positions)
            self.register_buffer("paths", graph.paths)
        # a number, so that a planner can write tables out without reading them
        self.edges = int(graph.valid.sum())
        self._rows: OrderedDict[tuple[int, int, int, torch.device], Rows] = OrderedDict()

    def __getstate__(self) -> dict[str, Any]:
        """What a copy gets: it makes row numbers of its own, for the shapes it will meet."""
        return {**self.__dict__, "_rows": OrderedDict()}

    def mapped(self, change: Callable[[Tensor], Tensor]) -> NeighborTable:
        """The table with each of its tensors changed, and no row numbers yet."""
        twin = copy(self)
        twin._buffers = {name: change(buffer) for name, buffer in self.named_buffers()}
        return twin

    def rows(self, batch: int, time: int, heads: int) -> Rows:
        """Row numbers for tensors [batch, node, time, heads, width]; the newest few shapes are kept."""
        key = (batch, time, heads, self.neighbors.device)
        if key not in self._rows:
            self._rows[key] = _number_rows(self.neighbors, self.valid, self.edges, batch, time, heads)
            if len(self._rows) > KEPT_SHAPES:
                self._rows.popitem(last=False)
        self._rows.move_to_end(key)
        return self._rows[key]


def _number_rows(neighbors: Tensor, valid: Tensor, edges: int, batch: int, time: int, heads: int) -> Rows:
    nodes, degree = neighbors.shape
    device, inner = neighbors.device, time * heads  # inner: rows of one sensor in one window
    rows = batch * nodes * inner
    assert rows * degree < 2**31, (
        f"{rows} rows of {degree} neighbors overflow int32; use a smaller micro-batch"
    )
    numbers = torch.arange(rows + 1, dtype=torch.int32, device=device)
    window = (numbers[:batch] * (nodes * inner)).unsqueeze(1)  # first row of each window
    source = neighbors.int().unsqueeze(1) * inner + numbers[:inner].unsqueeze(1)  # node inner neighbor
    reader, slot, readers = _reverse(neighbors, valid, inner, edges)
    return Rows(
        source=(window + source.flatten()).flatten(),
        starts=numbers * degree,
        owner=numbers[:-1].repeat_interleave(degree),
        reverse_owner=(window + reader).flatten(),
        reverse_slot=(window * degree + slot).flatten(),
        reverse_starts=F.pad(readers.repeat(batch).cumsum(0, dtype=torch.int32), (1, 0)),
    )


def _reverse(neighbors: Tensor, valid: Tensor, inner: int, edges: int) -> tuple[Tensor, Tensor, Tensor]:
    """Of one window: rows that read, grouped by the row they read, their slots, and how many read each row."""
    nodes, degree = neighbors.shape
    wide = max(1, degree)
    read, order = torch.sort(torch.where(valid, neighbors, nodes).flatten(), stable=True)
    # by the sensor read; slot = (reader, column); padding is left out
    read, slot = read[:edges], order[:edges]
    first = torch.searchsorted(read, torch.arange(nodes + 1, device=read.device))
    count = first.diff()
    sensor = torch.arange(nodes, device=read.device)
    sensor = sensor.repeat_interleave(count * inner, output_size=edges * inner)
    place = torch.arange(edges * inner, device=read.device) - first[sensor] * inner
    edge = slot[first[sensor] + place % count[sensor]]
    row = edge // wide * inner + place // count[sensor]
    return row.int(), (row * degree + edge % wide).int(), count.repeat_interleave(inner)


def weighted_sum(
    v: Float[Tensor, "row width"], w: Float[Tensor, "row neighbor"], rows: Rows
) -> Float[Tensor, "row width"]:
    """out[r] = sum_k w[r, k] v[source(r, k)]; weights of padding must be 0."""
    return _WeightedSum.apply(v, w, rows)


def neighbor_mean(
    v: Float[Tensor, "batch node time width"], table: NeighborTable
) -> Float[Tensor, "batch node time width"]:
    """The mean over the neighbours of a sensor at each time, 0 where it has none; it has no gradient."""
    return bag(v.flatten(0, 2), _shares(v, table), table.rows(v.shape[0], v.shape[2], 1)).view_as(v)


def neighbor_mean_back(
    grad: Float[Tensor, "batch node time width"], table: NeighborTable
) -> Float[Tensor, "batch node time width"]:
    """The gradient of what `neighbor_mean` reads, from that of what it gave."""
    rows = table.rows(grad.shape[0], grad.shape[2], 1)
    shares = by_source(_shares(grad, table), rows)
    return reverse_bag(grad.flatten(0, 2), shares, rows).view_as(grad)


def bag(v: Float[Tensor, "row width"], w: Float[Tensor, "row neighbor"], rows: Rows) -> Tensor:
    """sum_k w[r, k] v[source(r, k)] of every row r."""
    return _bag(v, rows.source, rows.starts, w.reshape(-1))


def reverse_bag(v: Float[Tensor, "row width"], w: Float[Tensor, " edge"], rows: Rows) -> Tensor:
    """sum of w v[r] over the slots (r, k) that read a row, of every row; `w` as `by_source` orders it."""
    return _bag(v, rows.reverse_owner, rows.reverse_starts, w)


def by_source(w: Float[Tensor, "row neighbor"], rows: Rows) -> Float[Tensor, " edge"]:
    """Weights in the order of the rows that are read."""
    return w.reshape(-1).index_select(0, rows.reverse_slot)


def sampled_dot(
    q: Float[Tensor, "row width"], v: Float[Tensor, "row width"], rows: Rows
) -> Float[Tensor, "row neighbor"]:
    """q[r] . v[source(r, k)] of every slot."""
    if missing := -q.shape[-1] % LANES:
        q, v = F.pad(q, (0, missing)), F.pad(v, (0, missing))
    dots = torch.ops.headway.sampled_dot(q, v, rows.source, rows.starts, rows.owner)
    return dots.view(len(q), len(rows.source) // max(1, len(q)))


_OPERATORS = torch.library.Library("headway", "FRAGMENT")  # as in headway.nn.native
_OPERATORS.define(f"sampled_dot{DOT}")


@torch.library.impl(_OPERATORS, "sampled_dot", "CompositeExplicitAutograd")
def _sampled_dot(q: Tensor, v: Tensor, source: Tensor, starts: Tensor, owner: Tensor) -> Tensor:
    """An operator of its own, because fake tensors, by which memory is planned, cannot be sparse."""
    # On a GPU the order of its sums is not known to be fixed. On a CPU torch keeps no more entries than a matrix has
    # places, and writes beyond them where there are fewer rows than neighbors.
    if q.is_cpu and len(source) <= len(q) * len(v):
        return _sparse_product(q, v, source, starts)
    return _bag_gradient(q, v, source, starts, owner)


@torch.library.register_fake("headway::sampled_dot")
def _(q: Tensor, v: Tensor, source: Tensor, starts: Tensor, owner: Tensor) -> Tensor:
    return q.new_empty(len(source))


def _sparse_product(q: Tensor, v: Tensor, source: Tensor, starts: Tensor) -> Tensor:
    zeros = q.new_zeros(len(source))
    read = torch.sparse_csr_tensor(starts, source, zeros, (len(q), len(v)), check_invariants=False)
    return torch.sparse.sampled_addmm(read, q, v.t(), out=read).values()


def _bag_gradient(q: Tensor, v: Tensor, source: Tensor, starts: Tensor, owner: Tensor) -> Tensor:
    if _BAG_GRADIENT is None:
        return (q.index_select(0, owner) * v.index_select(0, source)).sum(-1)
    return _BAG_GRADIENT(q.contiguous(), v, source, starts[:-1], owner, 0, -1)


class _WeightedSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, v: Tensor, w: Tensor, rows: Rows) -> Tensor:
        ctx.rows = rows
        ctx.save_for_backward(v, w)
        return bag(v, w, rows)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        (v, w), rows, grad = ctx.saved_tensors, ctx.rows, grads[0].contiguous()
        grad_v = reverse_bag(grad, by_source(w, rows), rows) if ctx.needs_input_grad[0] else None
        return grad_v, sampled_dot(grad, v, rows) if ctx.needs_input_grad[1] else None, None


def _shares(v: Float[Tensor, "batch node time width"], table: NeighborTable) -> Float[Tensor, "row neighbor"]:
    shares = (table.valid / table.valid.sum(1, keepdim=True).clamp(min=1)).to(v.dtype)
    return shares[None, :, None].expand(v.shape[0], -1, v.shape[2], -1).flatten(0, 2)


def _bag(v: Tensor, index: Tensor, starts: Tensor, w: Tensor) -> Tensor:
    return torch.embedding_bag(v, index, starts, False, 0, False, w, True)[0]
