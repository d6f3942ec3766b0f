"""Signed attention over a neighbor table, as one function that keeps little for its backward pass.

    q, k, v   = W_q h, W_k h, W_v h                               heads of width d_h
    alpha_ij  = softmax_j(q_i . k_j / sqrt(d_h) + bias_ij)        magnitude
    w_ij      = keep_ij alpha_ij tanh(agreement_ij)               signed coefficient
    o^1, o^2  = w v, w o^1                                        hops through the same coefficients
    out       = W_1 o^1 + W_2 o^2

Kept are h, alpha and the signs; the projections and what each hop reaches are made again in the backward pass.
`benchmarks/attention.py` measures time and memory. Enters: the residual stream, the weights, and what is known of the
edges. Leaves: what the neighbors say. Rows are those of `headway.nn.neighbor_table`: (batch, node, time, head).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from headway.nn.neighbor_table import Rows, bag, by_source, reverse_bag, sampled_dot


@dataclass(frozen=True, slots=True, kw_only=True)
class Edges:
    """What is known of every edge beside the states at its ends; slot = (head, neighbor).

    Attributes:
        bias: added to scores; very negative on padding.
        agreement: its tanh is the sign.
        keep: 0 on padding and on what dropout drops.
    """

    bias: Float[Tensor, "node slot"]
    agreement: Float[Tensor, "batch node time slot"]
    keep: Float[Tensor, "#batch node 1 slot"]


def signed_attention(
    h: Float[Tensor, "batch node time d"],
    into: tuple[Tensor, Tensor, Tensor],
    out: Sequence[Float[Tensor, "d d"]],
    edges: Edges,
    rows: Rows,
) -> Float[Tensor, "batch node time d"]:
    """What the neighbors say, over as many hops as there are maps out.

    Args: into: W_q, W_k, W_v. Under autocast the linear maps take its precision, and nothing else does.
    """
    return _SignedAttention.apply(h, *into, edges.bias, edges.agreement, edges.keep, rows, *out)


def signed_coefficients(
    h: Float[Tensor, "batch node time d"], query: Tensor, key: Tensor, edges: Edges, rows: Rows
) -> Float[Tensor, "row neighbor"]:
    """w of this module, to look at; it has no gradient."""
    with torch.no_grad():
        maps = _Maps(h, rows)
        scores = sampled_dot(maps.into(h, query), maps.into(h, key), rows)
        alpha, sign = _magnitude_and_sign(scores, edges.bias, edges.agreement, maps.width)
        return _coefficients(alpha, sign, edges.keep)


class _SignedAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, h: Tensor, *given: Any) -> Tensor:
        query, key, value, bias, agreement, keep, rows, *out = given
        ctx.rows, ctx.maps = rows, (maps := _Maps(h, rows))
        scores = sampled_dot(maps.into(h, query), maps.into(h, key), rows)
        alpha, sign = _magnitude_and_sign(scores, bias, agreement, maps.width)
        ctx.save_for_backward(h, query, key, value, alpha, sign, keep, *out)
        reached = _hops(maps.into(h, value), _coefficients(alpha, sign, keep), rows, len(out))
        said = maps.linear(reached[1].view_as(h), out[0])
        for hop, weight in zip(reached[2:], out[1:], strict=True):
            said.add_(maps.linear(hop.view_as(h), weight))
        return said

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        h, query, key, value, alpha, sign, keep, *out = ctx.saved_tensors
        rows, maps, grad = ctx.rows, ctx.maps, grads[0].contiguous()
        w = _coefficients(alpha, sign, keep)
        reverse_w = by_source(w, rows)
        reached = _hops(maps.into(h, value), w, rows, len(out))
        grad_out = [maps.weight_gradient(grad, hop) for hop in reached[1:]]
        back = maps.into(grad, out[-1].t())  # gradient of what the last hop reached
        grad_w = sampled_dot(back, reached[-2], rows)
        for weight, hop in zip(out[-2::-1], reached[-3::-1], strict=True):
            back = reverse_bag(back, reverse_w, rows).add_(maps.into(grad, weight.t()))
            grad_w += sampled_dot(back, hop, rows)
        grad_v = reverse_bag(back, reverse_w, rows)
        grad_scores, grad_bias, grad_agreement = _softmax_gradients(grad_w, alpha, sign, keep, maps.width)
        grad_q = bag(maps.into(h, key), grad_scores, rows)
        grad_k = reverse_bag(maps.into(h, query), by_source(grad_scores, rows), rows)
        projections = ((grad_q, query), (grad_k, key), (grad_v, value))
        grad_h = maps.back(projections).view_as(h) if ctx.needs_input_grad[0] else None
        grad_into = [maps.weight_gradient(part, h) for part, _ in projections]
        return grad_h, *grad_into, grad_bias, grad_agreement, None, None, *grad_out


class _Maps:
    """Linear maps between the residual stream and rows, in the precision that autocast had when this was made."""

    def __init__(self, h: Tensor, rows: Rows) -> None:
        kind = h.device.type
        self.exact = torch.promote_types(h.dtype, torch.float32)
        self.low = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else self.exact
        self.state = h.shape[-1]
        self.width = h.numel() // max(1, len(rows.starts) - 1)

    def linear(self, x: Float[Tensor, "... d"], weight: Float[Tensor, "d d"]) -> Float[Tensor, "... d"]:
        return F.linear(x.to(self.low), weight.to(self.low)).to(self.exact)

    def into(self, x: Float[Tensor, "... d"], weight: Float[Tensor, "d d"]) -> Float[Tensor, "row head_dim"]:
        return self.linear(x, weight).view(-1, self.width)

    def back(self, parts: Sequence[tuple[Tensor, Tensor]]) -> Float[Tensor, "state d"]:
        """The gradient of what several maps read, from the gradients of what they gave."""
        (grad, weight), *others = ((self._lowered(grad), weight.to(self.low)) for grad, weight in parts)
        total = (grad @ weight).to(self.exact)
        for grad, weight in others:
            total = total.addmm_(grad, weight) if self.low == self.exact else total.add_(grad @ weight)
        return total

    def weight_gradient(self, grad: Tensor, read: Tensor) -> Float[Tensor, "d d"]:
        """Of one map, from the gradient of what it gave and what it read."""
        return (self._lowered(grad).t() @ self._lowered(read)).to(self.exact)

    def _lowered(self, x: Tensor) -> Float[Tensor, "state d"]:
        return x.reshape(-1, self.state).to(self.low)


def _hops(v: Tensor, w: Tensor, rows: Rows, hops: int) -> list[Float[Tensor, "row head_dim"]]:
    """v and what each hop reaches."""
    reached = [v]
    for _ in range(hops):
        reached.append(bag(reached[-1], w, rows))
    return reached


def _magnitude_and_sign(
    scores: Float[Tensor, "row neighbor"], bias: Tensor, agreement: Tensor, width: int
) -> tuple[Float[Tensor, "row neighbor"], Float[Tensor, "batch node time slot"]]:
    """Row by row in place: torch's softmax takes twenty times as long on rows shorter than a vector register."""
    alpha = torch.add(bias.unsqueeze(1), scores.view_as(agreement), alpha=width**-0.5).view_as(scores)
    alpha.sub_(alpha.amax(-1, keepdim=True)).exp_()
    alpha.div_(alpha.sum(-1, keepdim=True))
    return alpha, (2 * agreement).sigmoid_().mul_(2).sub_(1)  # tanh, which torch computes six times as slowly


def _coefficients(
    alpha: Float[Tensor, "row neighbor"], sign: Tensor, keep: Tensor
) -> Float[Tensor, "row neighbor"]:
    return (alpha.view_as(sign) * sign).mul_(keep).view_as(alpha)


def _softmax_gradients(
    grad_w: Float[Tensor, "row neighbor"], alpha: Tensor, sign: Tensor, keep: Tensor, width: int
) -> tuple[Float[Tensor, "row neighbor"], Tensor, Tensor]:
    """Of scores, bias and agreement."""
    grad = grad_w.view_as(sign) * keep
    grad_sign = torch.addcmul(grad, grad * sign, sign, value=-1).mul_(alpha.view_as(sign))
    grad_alpha = grad.mul_(sign).view_as(alpha)
    along = (grad_alpha * alpha).sum(-1, keepdim=True)
    grad_scores = grad_alpha.sub_(along).mul_(alpha)
    grad_bias = grad_scores.view_as(sign).sum((0, 2))
    return grad_scores.mul_(width**-0.5), grad_bias, grad_sign
