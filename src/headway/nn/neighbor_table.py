"""Sparse attention arithmetic on a fixed-degree neighbour table: gather-weighted-sum and its transpose.

Every operator here reads rows: the last dimension of a contiguous [batch, node, time, head, width] tensor,
numbered in storage order, so nothing is transposed and nothing N x N exists. Two functions are enough:

    weighted_sum(v, w)[r]    = sum_k w[r, k] v[neighbor row k of r]          (embedding_bag)
    edge_dot(q, v)[r, k]     = q[r] . v[neighbor row k of r]                 (its weight gradient)

and each one's gradient is made of the two, the gradient of v through the reverse table. There is no scatter
and no atomic addition: sums run in a fixed order, so the same seed gives the same bits.

`benchmarks/attention.py` measures time and memory beside PyTorch Geometric's GATv2Conv.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from copy import copy
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, Shaped
from torch import Tensor, nn

from headway.types import Graph

# The sampled dot product that embedding_bag keeps for its own backward. It is private, so its absence is
# planned for: `_sampled_dot` then gathers.
_SAMPLED_DOT = getattr(torch.ops.aten, "_embedding_bag_per_sample_weights_backward", None)
KEPT_SHAPES = 4


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
    return weighted_sums(v, w, rows, 1)[0]


def weighted_sums(
    v: Float[Tensor, "row width"], w: Float[Tensor, "row neighbor"], rows: Rows, hops: int
) -> tuple[Float[Tensor, "row width"], ...]:
    """The weighted sum of v, the weighted sum of that, and so on, `hops` times with the same weights."""
    return _WeightedSums.apply(v, w, rows, hops)


def edge_dot(
    q: Float[Tensor, "row width"], v: Float[Tensor, "row width"], rows: Rows
) -> Float[Tensor, "row neighbor"]:
    """score[r, k] = q[r] . v[source(r, k)]; scores of padding mean nothing and must get no gradient."""
    return _EdgeDot.apply(q, v, rows)


def narrow_dot(
    q: Float[Tensor, "row head width"], v: Float[Tensor, "row width"], rows: Rows
) -> Float[Tensor, "row head neighbor"]:
    """score[r, h, k] = q[r, h] . v[source(r, k)], by gathering v once: cheaper where the width is a few numbers."""
    return _NarrowDot.apply(q, v, rows)


def signed_softmax(
    scores: Float[Tensor, "row neighbor"],
    bias: Float[Tensor, "node slot"],
    agreement: Float[Tensor, "batch node time slot"],
    keep: Float[Tensor, "#batch node 1 slot"],
    scale: float,
) -> Float[Tensor, "row neighbor"]:
    """keep * softmax(scale * score + bias) * tanh(agreement), the softmax over the neighbors of a row.

    Args:
        scores: rows (batch, node, time, head). bias: slot = (head, neighbor); very negative on padding.
        keep: 0 on padding and on what dropout drops.
    """
    return _SignedSoftmax.apply(scores, bias, agreement, keep, scale)


class _WeightedSums(torch.autograd.Function):
    """Keeps v and w; the gradient of w at all hops is one sampled dot product of what the hops read, side by side."""

    @staticmethod
    def forward(ctx: Any, v: Tensor, w: Tensor, rows: Rows, hops: int) -> tuple[Tensor, ...]:
        ctx.rows, ctx.hops = rows, hops
        ctx.save_for_backward(v, w)
        return tuple(_hops(v, w, rows, hops)[1:])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (v, w), rows = ctx.saved_tensors, ctx.rows
        into_v, into_w = ctx.needs_input_grad[:2]
        reverse_w = w.reshape(-1).index_select(0, rows.reverse_slot)
        reached = [grads[-1].contiguous()]  # gradient of the sum at each hop, the last one first
        for grad in reversed(grads[:-1]):
            reached.append(_bag(reached[-1], rows.reverse_owner, rows.reverse_starts, reverse_w).add_(grad))
        grad_v = _bag(reached[-1], rows.reverse_owner, rows.reverse_starts, reverse_w) if into_v else None
        if not into_w:
            return grad_v, None, None, None
        read = _hops(v, w, rows, ctx.hops - 1)
        grad_w = _sampled_dot(torch.cat(reached[::-1], -1), torch.cat(read, -1), rows).view_as(w)
        return grad_v, grad_w, None, None


class _EdgeDot(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, v: Tensor, rows: Rows) -> Tensor:
        ctx.rows = rows
        ctx.save_for_backward(q, v)
        return _sampled_dot(q, v, rows).view(len(q), len(rows.owner) // len(q))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        (q, v), rows, w = ctx.saved_tensors, ctx.rows, grads[0].reshape(-1)
        grad_q = _bag(v, rows.source, rows.starts, w) if ctx.needs_input_grad[0] else None
        reverse_w = w.index_select(0, rows.reverse_slot)
        grad_v = (
            _bag(q, rows.reverse_owner, rows.reverse_starts, reverse_w) if ctx.needs_input_grad[1] else None
        )
        return grad_q, grad_v, None


class _NarrowDot(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, v: Tensor, rows: Rows) -> Tensor:
        ctx.rows = rows
        ctx.save_for_backward(q, v)
        return torch.bmm(q, _gathered(v, rows).transpose(1, 2))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None]:
        (q, v), rows, (g,) = ctx.saved_tensors, ctx.rows, grads
        to_slots = torch.bmm(g.transpose(1, 2), q).flatten(0, 1)  # slot width
        grad_v = _bag(to_slots, rows.reverse_slot, rows.reverse_starts, None)
        return torch.bmm(g, _gathered(v, rows)), grad_v, None


class _SignedSoftmax(torch.autograd.Function):
    """Row by row in place: torch's softmax takes twenty times as long on rows shorter than a vector register."""

    @staticmethod
    def forward(
        ctx: Any, scores: Tensor, bias: Tensor, agreement: Tensor, keep: Tensor, scale: float
    ) -> Tensor:
        ctx.scale = scale
        alpha = torch.add(bias.unsqueeze(1), scores.view_as(agreement), alpha=scale).view_as(scores)
        alpha.sub_(alpha.amax(-1, keepdim=True)).exp_()
        alpha.div_(alpha.sum(-1, keepdim=True))
        sign = (2 * agreement).sigmoid_().mul_(2).sub_(1)  # tanh, which torch computes six times as slowly
        ctx.save_for_backward(alpha, sign, keep)
        return (alpha.view_as(sign) * sign).mul_(keep).view_as(alpha)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        alpha, sign, keep = ctx.saved_tensors
        grad = grads[0].view_as(sign) * keep
        grad_sign = torch.addcmul(grad, grad * sign, sign, value=-1).mul_(alpha.view_as(sign))
        grad_alpha = grad.mul_(sign).view_as(alpha)
        along = (grad_alpha * alpha).sum(-1, keepdim=True)
        grad_scores = grad_alpha.sub_(along).mul_(alpha)
        grad_bias = grad_scores.view_as(sign).sum((0, 2))
        return grad_scores.mul_(ctx.scale), grad_bias, grad_sign, None, None


def _hops(v: Tensor, w: Tensor, rows: Rows, hops: int) -> list[Tensor]:
    reached = [v]
    for _ in range(hops):
        reached.append(_bag(reached[-1], rows.source, rows.starts, w.reshape(-1)))
    return reached


def _bag(v: Tensor, index: Tensor, starts: Tensor, w: Tensor | None) -> Tensor:
    return torch.embedding_bag(v, index, starts, False, 0, False, w, True)[0]


def _gathered(v: Tensor, rows: Rows) -> Float[Tensor, "row neighbor width"]:
    return v.index_select(0, rows.source).view(len(v), len(rows.owner) // max(1, len(v)), v.shape[-1])


def _sampled_dot(q: Tensor, v: Tensor, rows: Rows) -> Shaped[Tensor, " slot"]:
    if _SAMPLED_DOT is None:
        return (q.index_select(0, rows.owner) * v.index_select(0, rows.source)).sum(-1)
    return _SAMPLED_DOT(q.contiguous(), v, rows.source, rows.starts[:-1], rows.owner, 0, -1)
