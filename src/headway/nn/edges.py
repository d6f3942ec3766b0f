"""What flows along the edges of a neighbor table: weighted sums, dot products, and the gradients of both.

    bag(v, w)[r]             = sum_k w[r, k] v[neighbor row k of r]
    sampled_dot(q, v)[r, k]  = q[r] . v[neighbor row k of r]                 the gradient of w
    reverse_bag(v, w)[j]     = sum of w[r, k] v[r] over who reads row j      the gradient of v

`weighted_sum` has these gradients; the others have none, they are pieces for operators with their own. There is no
scatter and no atomic addition: sums run in a fixed order, so the same seed gives the same bits. On a CPU with a C
compiler `headway.nn.edges_in_c` makes them; elsewhere torch's `embedding_bag` does.

Rows are those of `headway.nn.neighbor_table`. `benchmarks/attention.py` measures time and memory beside PyTorch
Geometric's GATv2Conv.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

from headway.nn import edges_in_c, native
from headway.nn.neighbor_table import NeighborTable, Rows

# The sampled dot product that embedding_bag keeps for its own backward. It is private, so its absence is planned for:
# `sampled_dot` then gathers.
_BAG_GRADIENT = getattr(torch.ops.aten, "_embedding_bag_per_sample_weights_backward", None)


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
    return reverse_bag(grad.flatten(0, 2), _shares(grad, table), rows).view_as(grad)


def bag(
    v: Float[Tensor, "row width"], w: Float[Tensor, "row neighbor"], rows: Rows
) -> Float[Tensor, "row width"]:
    """sum_k w[r, k] v[source(r, k)] of every row r."""
    if _for_c(rows, v, w):
        return edges_in_c.bag(v, w, rows)
    return _bag(v, rows.numbers.source, rows.numbers.starts, w.reshape(-1))


def bag_and_dot(
    v: Float[Tensor, "row width"],
    w: Float[Tensor, "row neighbor"],
    q: Float[Tensor, "row width"],
    rows: Rows,
) -> tuple[Float[Tensor, "row width"], Float[Tensor, "row neighbor"]]:
    """`bag` of v and w and `sampled_dot` of q and v, for which neighbors are read once."""
    if _for_c(rows, v, w, q):
        return edges_in_c.bag_and_dot(v, w, q, rows)
    return bag(v, w, rows), sampled_dot(q, v, rows)


def reverse_bag(
    v: Float[Tensor, "row width"], w: Float[Tensor, "row neighbor"], rows: Rows
) -> Float[Tensor, "row width"]:
    """sum of w v[r] over the slots (r, k) that read a row, of every row."""
    if _for_c(rows, v, w):
        return edges_in_c.reverse_bag(v, w, rows)
    by_source = w.reshape(-1).index_select(0, rows.numbers.reverse_slot)
    return _bag(v, rows.numbers.reverse_owner, rows.numbers.reverse_starts, by_source)


def sampled_dot(
    q: Float[Tensor, "row width"], v: Float[Tensor, "row width"], rows: Rows
) -> Float[Tensor, "row neighbor"]:
    """q[r] . v[source(r, k)] of every slot."""
    if _for_c(rows, q, v):
        return edges_in_c.sampled_dot(q, v, rows)
    if _BAG_GRADIENT is None:
        dots = (q.index_select(0, rows.numbers.owner) * v.index_select(0, rows.numbers.source)).sum(-1)
    else:
        dots = _BAG_GRADIENT(
            q.contiguous(), v, rows.numbers.source, rows.numbers.starts[:-1], rows.numbers.owner, 0, -1
        )
    return dots.view(rows.shape)


def why_not_in_c() -> str:
    """Why edges of a CPU are not read in C; empty where they are."""
    return edges_in_c.problem()


class _WeightedSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, v: Tensor, w: Tensor, rows: Rows) -> Tensor:
        ctx.rows = rows
        ctx.save_for_backward(v, w)
        return bag(v, w, rows)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        (v, w), rows, grad = ctx.saved_tensors, ctx.rows, grads[0].contiguous()
        grad_v = reverse_bag(grad, w, rows) if ctx.needs_input_grad[0] else None
        return grad_v, sampled_dot(grad, v, rows) if ctx.needs_input_grad[1] else None, None


def _for_c(rows: Rows, *given: Tensor) -> bool:
    """Whether these tensors are ones that C reads, and it is there."""
    return rows.neighbors.numel() > 0 and native.reads(*given) and not why_not_in_c()


def _bag(
    v: Float[Tensor, "row width"], index: Int[Tensor, " slot"], starts: Int[Tensor, " _"], w: Tensor
) -> Float[Tensor, "row width"]:
    return torch.embedding_bag(v, index, starts, False, 0, False, w, True)[0]


def _shares(v: Float[Tensor, "batch node time width"], table: NeighborTable) -> Float[Tensor, "row neighbor"]:
    shares = (table.valid / table.valid.sum(1, keepdim=True).clamp(min=1)).to(v.dtype)
    return shares[None, :, None].expand(v.shape[0], -1, v.shape[2], -1).flatten(0, 2)
