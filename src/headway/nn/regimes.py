"""Soft regimes of states, and how well the regimes at the two ends of an edge agree.

    hidden_i       = relu(W_1 h_i + b_1 + mean_j W_2 h_j)
    p_i            = softmax(W_3 hidden_i + b_3)
    agreement_ij^r = p_i^T M^r p_j                                for head r

The mean of projections is the projection of the mean, in half the width. This is a part of an operator with a
gradient of its own, `headway.nn.signed_attention`. Rows are those of `headway.nn.neighbor_table`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from headway.nn.edges import bag, neighbor_mean, neighbor_mean_back, reverse_bag, sampled_dot
from headway.nn.exponentials import softmax_, softmax_back
from headway.nn.neighbor_table import NeighborTable, Rows
from headway.nn.products import Products


class RegimeWeights(NamedTuple):
    """W_1, b_1, W_2, W_3, b_3 and M."""

    own: Float[Tensor, "half d"]
    own_bias: Float[Tensor, " half"]
    mean: Float[Tensor, "half d"]
    regime: Float[Tensor, "regime half"]
    regime_bias: Float[Tensor, " regime"]
    preference: Float[Tensor, "head regime regime"]


class Regimes:
    """Those of some states, p, and p^T M: what each would have its neighbors be.

    Args: shape: windows, sensors and steps of the states. hidden: the hidden layer where it has been kept.
    """

    def __init__(
        self,
        states: Float[Tensor, "state d"],
        shape: Sequence[int],
        weights: RegimeWeights,
        table: NeighborTable,
        products: Products,
        hidden: Float[Tensor, "state half"] | None = None,
    ) -> None:
        self.states, self.shape = states, shape
        self.weights, self.table, self.products = weights, table, products
        self.hidden = self._hidden_layer() if hidden is None else hidden
        heads, regimes = weights.preference.shape[:2]
        self.p = softmax_(products.of(self.hidden, weights.regime.t()).add_(weights.regime_bias))
        self.joined = weights.preference.transpose(0, 1).flatten(1)  # M as regime (head regime)
        self.wanted = (self.p @ self.joined).view(-1, regimes)  # of rows
        self.of_heads = self.p.unsqueeze(1).expand(-1, heads, -1).reshape(-1, regimes)

    def agreement(self, rows: Rows) -> Float[Tensor, "row neighbor"]:
        """That of each edge."""
        return sampled_dot(self.wanted, self.of_heads, rows)

    def back(
        self, grad: Float[Tensor, "row neighbor"], rows: Rows, grad_states: Float[Tensor, "state d"]
    ) -> RegimeWeights:
        """The gradients of the weights, from that of the agreement; adds to that of the states."""
        heads, regimes = self.weights.preference.shape[:2]
        grad_wanted = bag(self.of_heads, grad, rows).view(len(self.p), -1)
        grad_p = reverse_bag(self.wanted, grad, rows).view(-1, heads, regimes).sum(1)
        grad_scores = softmax_back(grad_p.addmm_(grad_wanted, self.joined.t()), self.p)
        grad_hidden = self.products.of(grad_scores, self.weights.regime)
        grad_hidden = torch.ops.aten.threshold_backward(grad_hidden, self.hidden, 0)
        near = neighbor_mean_back(grad_hidden.view(*self.shape, -1), self.table).view_as(grad_hidden)
        self.products.add(grad_states, grad_hidden, self.weights.own)
        self.products.add(grad_states, near, self.weights.mean)
        return RegimeWeights(
            own=self.products.of(grad_hidden.t(), self.states),
            own_bias=grad_hidden.sum(0),
            mean=self.products.of(near.t(), self.states),
            regime=self.products.of(grad_scores.t(), self.hidden),
            regime_bias=grad_scores.sum(0),
            preference=(self.p.t() @ grad_wanted).view(regimes, heads, regimes).transpose(0, 1),
        )

    def _hidden_layer(self) -> Float[Tensor, "state half"]:
        near = self.products.of(self.states, self.weights.mean.t()).view(*self.shape, -1)
        hidden = self.products.of(self.states, self.weights.own.t()).add_(self.weights.own_bias)
        return hidden.add_(neighbor_mean(near, self.table).view_as(hidden)).relu_()
