"""Signed attention over a neighbor table, as one function that keeps little for its backward pass.

    q, k, v   = W_q h, W_k h, W_v h                               heads of width d_h
    alpha_ij  = softmax_j(q_i . k_j + bias_ij)                    magnitude; W_q has been divided by sqrt(d_h)
    sign_ij   = tanh(agreement_ij + usual_ij)                     agreement of regimes, headway.nn.regimes
    w_ij      = keep_ij alpha_ij sign_ij                          signed coefficient
    o^1, o^2  = w v, w o^1                                        hops through the same coefficients
    out       = loop * h + W_1 o^1 + W_2 o^2

Kept are h, the hidden layer of the regimes, alpha and the signs; the projections and what each hop reaches are made
again. `benchmarks/attention.py` measures time and memory. Enters: the residual stream, the weights, what is known of
the edges. Leaves: each state and what its neighbors say. Rows are those of `headway.nn.neighbor_table`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from headway.nn.coefficients import coefficients, weigh_, weigh_back
from headway.nn.edges import bag, bag_and_dot, reverse_bag, sampled_dot
from headway.nn.neighbor_table import NeighborTable
from headway.nn.products import Products
from headway.nn.regimes import Regimes, RegimeWeights


class Weights(NamedTuple):
    """What is learned; slot = (head, neighbor).

    Attributes:
        loop: of a sensor's own state.
        query, key, value: into the heads.
        out: of each hop, out of them.
        bias: added to scores; very negative on padding.
        usual: agreement of an edge at all times.
        regimes: what decides about the rest of it.
    """

    loop: Float[Tensor, " d"]
    query: Float[Tensor, "d d"]
    key: Float[Tensor, "d d"]
    value: Float[Tensor, "d d"]
    out: Float[Tensor, "hop d d"]
    bias: Float[Tensor, "node slot"]
    usual: Float[Tensor, "node slot"]
    regimes: RegimeWeights

    @classmethod
    def of(cls, tensors: Sequence[Tensor]) -> Weights:
        """Back from `flat`."""
        *own, _ = cls._fields
        return cls(**dict(zip(own, tensors, strict=False)), regimes=RegimeWeights(*tensors[len(own) :]))

    @property
    def flat(self) -> tuple[Tensor, ...]:
        """All tensors one after the other."""
        return *self[:-1], *self.regimes


class _Kept(NamedTuple):
    """What the backward pass does not make again."""

    hidden: Float[Tensor, "state half"]
    alpha: Float[Tensor, "batch node time head neighbor"]
    sign: Float[Tensor, "batch node time head neighbor"]


def signed_attention(
    h: Float[Tensor, "batch node time d"],
    weights: Weights,
    keep: Float[Tensor, "#batch node 1 head neighbor"],
    table: NeighborTable,
) -> Float[Tensor, "batch node time d"]:
    """What each state keeps of itself and its neighbors say, over as many hops as there are maps out.

    Args: keep: 0 on padding and on what dropout drops; it has no gradient.
    Under autocast the linear maps take its precision, and nothing else does.
    """
    return _SignedAttention.apply(h, keep, table, *weights.flat)


def signed_coefficients(
    h: Float[Tensor, "batch node time d"],
    weights: Weights,
    keep: Float[Tensor, "#batch node 1 head neighbor"],
    table: NeighborTable,
) -> Float[Tensor, "row neighbor"]:
    """w of this module, to look at; it has no gradient."""
    products = Products(h)
    with torch.no_grad(), torch.autocast(h.device.type, enabled=False):
        return _Attention(h, weights, keep, table, products).coefficients()


class _SignedAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, h: Tensor, keep: Tensor, table: NeighborTable, *given: Tensor) -> Tensor:
        ctx.table, ctx.products = table, (products := Products(h))
        with torch.autocast(h.device.type, enabled=False):
            attention = _Attention(h, Weights.of(given), keep, table, products)
            ctx.save_for_backward(h, keep, *attention.kept, *given)
            return attention.say()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        h, keep, *rest = ctx.saved_tensors
        kept, given = _Kept(*rest[: len(_Kept._fields)]), rest[len(_Kept._fields) :]
        with torch.autocast(h.device.type, enabled=False):
            attention = _Attention(h, Weights.of(given), keep, ctx.table, ctx.products, kept)
            grad_h, grad_weights = attention.back(grads[0])
        return grad_h, None, None, *grad_weights.flat


class _Attention:
    """The states that read each other, and what is kept of them, which is made where it is not given."""

    def __init__(
        self,
        h: Float[Tensor, "batch node time d"],
        weights: Weights,
        keep: Float[Tensor, "#batch node 1 head neighbor"],
        table: NeighborTable,
        products: Products,
        kept: _Kept | None = None,
    ) -> None:
        self.h, self.states = h, h.flatten(0, 2).to(products.exact)
        self.weights, self.keep, self.table, self.products = weights, keep, table, products
        batch, nodes, time, width = h.shape
        heads = len(weights.regimes.preference)
        self.rows, self.width = table.rows(batch, time, heads), width // heads
        self.edges = batch, nodes, time, heads, keep.shape[-1]
        self.kept = kept or self._weighed()

    def coefficients(self) -> Float[Tensor, "row neighbor"]:
        return coefficients(self.kept.alpha, self.kept.sign, self.keep).flatten(0, 3)

    def say(self) -> Float[Tensor, "batch node time d"]:
        """What leaves the attention."""
        said = torch.empty(self.h.shape, dtype=self.states.dtype, device=self.h.device)
        flat = torch.mul(self.states, self.weights.loop, out=said.view_as(self.states))
        w, reached = self.coefficients(), self._into(self.weights.value)
        for weight in self.weights.out:
            reached = bag(reached, w, self.rows)
            self.products.add(flat, reached.view_as(flat), weight.t())
        return said

    def back(
        self, grad: Float[Tensor, "batch node time d"]
    ) -> tuple[Float[Tensor, "batch node time d"], Weights]:
        """The gradients of h and of the weights, from that of what left."""
        weights, products, rows, states = self.weights, self.products, self.rows, self.states
        grad = grad.reshape(states.shape)
        grad_w, grad_v, grad_out = self._hops_back(grad)
        grads = weigh_back(grad_w.view(self.edges), self.kept.alpha, self.kept.sign, self.keep)
        grad_scores, grad_agreement = grads.scores.flatten(0, 3), grads.agreement.flatten(0, 3)
        grad_q = bag(self._into(weights.key), grad_scores, rows)
        grad_k = reverse_bag(self._into(weights.query), grad_scores, rows)
        grad_states = grad * weights.loop
        into = [part.view_as(grad) for part in (grad_q, grad_k, grad_v)]
        for part, weight in zip(into, (weights.query, weights.key, weights.value), strict=True):
            products.add(grad_states, part, weight)
        grad_regimes = self._regimes(self.kept.hidden).back(grad_agreement, rows, grad_states)
        query, key, value = (products.of(part.t(), states) for part in into)
        grad_weights = Weights(
            loop=(grad * states).sum(0),
            query=query,
            key=key,
            value=value,
            out=grad_out,
            bias=grads.bias.flatten(1),
            usual=grads.usual.flatten(1),
            regimes=grad_regimes,
        )
        return grad_states.view_as(self.h), grad_weights

    def _weighed(self) -> _Kept:
        weights, regimes = self.weights, self._regimes()
        scores = sampled_dot(self._into(weights.query), self._into(weights.key), self.rows).view(self.edges)
        agreement = regimes.agreement(self.rows).view(self.edges)
        weigh_(scores, agreement, *(of.unflatten(1, self.edges[3:]) for of in (weights.bias, weights.usual)))
        return _Kept(regimes.hidden, alpha=scores, sign=agreement)

    def _regimes(self, hidden: Float[Tensor, "state half"] | None = None) -> Regimes:
        return Regimes(self.states, self.h.shape[:3], self.weights.regimes, self.table, self.products, hidden)

    def _into(self, weight: Float[Tensor, "d d"]) -> Float[Tensor, "row head_dim"]:
        return self.products.of(self.states, weight.t()).view(-1, self.width)

    def _hops_back(
        self, grad: Float[Tensor, "state d"]
    ) -> tuple[Float[Tensor, "row neighbor"], Float[Tensor, "row head_dim"], Float[Tensor, "hop d d"]]:
        """Of the coefficients, of v and of the maps out."""
        w, products, rows = self.coefficients(), self.products, self.rows
        *others, last = self.weights.out
        # gradients of what the hops reached, the last first
        backs = [products.of(grad, last).view(-1, self.width)]
        for weight in reversed(others):
            back = reverse_bag(backs[-1], w, rows)
            products.add(back.view_as(grad), grad, weight)
            backs.append(back)
        grad_v = reverse_bag(backs[-1], w, rows)
        reached, found, grad_out = self._into(self.weights.value), [], []
        while backs:
            reached, dots = bag_and_dot(reached, w, backs.pop(), rows)
            found.append(dots)
            grad_out.append(products.of(grad.t(), reached.view_as(grad)))
        grad_w, *more = found
        for dots in more:
            grad_w += dots
        return grad_w, grad_v, torch.stack(grad_out)
