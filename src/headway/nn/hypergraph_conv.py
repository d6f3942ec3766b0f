"""Convolution along hyperedges, and along the pairs of a directed graph.

    X_e = relu(sum_{i in e} w_ie X_i W) U          w_ie sums to 1 over the members of e
    X_v = D_v^-1 sum_{e with v} w_ve X_e           D_v = sum_{e with v} w_ve

    hgcn    X_v
    hgat    the same with w_ie softmaxed together with an attention of member i to its hyperedge:
            softmax_{i in e}(log w_ie + (Q X_i) . (K sum_i w_ie X_i) / sqrt d) on the way to the hyperedge
    hsage   C [X_v ; S X]

    MixProp  h_0 = x,  h_{j+1} = a x + (1 - a) (A + I) h_j / its row sums;  L [h_0 ; h_1 ; h_2] for A and for A^T

Layout: node first, [node, row, d] with row = (window, step): an index table of a few thousand entries then acts on
whole rows. Sums over the hyperedges of a sensor run in a fixed order through the sorted table: no atomic addition.
Tensors kept for the backward pass are inputs and outputs, never one per member.

Source: brief D; Feng et al. 2019, "Hypergraph neural networks", arXiv 1809.09401; Wu et al. 2020 (MTGNN), arXiv
2005.11650, for MixProp; models.md 2c. In brief D's code the layers are made anew, with random weights, in each call.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

Kind = Literal["hgcn", "hgat", "hsage"]
HOPS, KEEP = 2, 0.05  # of MixProp


class HyperedgeConv(nn.Module):
    """Sensors to hyperedges and back.

    Args: d: width. kind: see the module.
    """

    def __init__(self, d: int, kind: Kind) -> None:
        super().__init__()
        self.inward = nn.Linear(d, d, bias=False)
        self.outward = nn.Linear(d, d)
        self.query = nn.Linear(d, d, bias=False) if kind == "hgat" else None
        self.key = nn.Linear(d, d, bias=False) if kind == "hgat" else None
        self.own = nn.Linear(d, d, bias=False) if kind == "hsage" else None
        self.combine = nn.Linear(2 * d, d) if kind == "hsage" else None

    def forward(
        self,
        x: Float[Tensor, "node row d"],
        members: Int[Tensor, "edge member"],
        present: Bool[Tensor, "edge member"],
        weights: Float[Tensor, "edge member"],
    ) -> Float[Tensor, "node row d"]:
        """`weights`: 0 where not present."""
        constant = weights.unsqueeze(-1)
        inward = constant if self.query is None else self._attention(x, members, present, constant)
        edges = to_edges(self.inward(x).float(), inward, members)
        edges = self.outward(torch.relu(edges)).float()
        degree = to_nodes(torch.ones_like(constant[:, :1]), constant, members, len(x))
        out = to_nodes(edges, constant, members, len(x)) / degree.clamp(min=1e-12)
        if self.own is None or self.combine is None:
            return out
        return self.combine(torch.cat([out, self.own(x).float()], -1)).float()

    def _attention(self, x: Tensor, members: Tensor, present: Tensor, constant: Tensor) -> Tensor:
        assert self.query is not None and self.key is not None
        middle = self.key(to_edges(x, constant, members)).float()
        scores = member_dots(middle, self.query(x).float(), members) / math.sqrt(x.shape[-1])
        there = present.unsqueeze(-1)
        scores = scores + torch.where(there, constant, 1.0).log()
        return scores.masked_fill(~there, torch.finfo(scores.dtype).min).softmax(1) * there


class MixProp(nn.Module):
    """Two hops along a directed graph and two against it."""

    def __init__(self, d: int) -> None:
        super().__init__()
        self.along = nn.Linear((1 + HOPS) * d, d)
        self.against = nn.Linear((1 + HOPS) * d, d)

    def forward(
        self,
        x: Float[Tensor, "node row d"],
        neighbors: Int[Tensor, "node neighbor"],
        weights: Float[Tensor, "node neighbor"],
    ) -> Float[Tensor, "node row d"]:
        """`weights`: of the edges by which a sensor reads its neighbors; 0 on padding."""
        weights = weights.unsqueeze(-1)
        out_sum = 1 + weights.sum(1, keepdim=True)
        in_sum = 1 + to_nodes(torch.ones_like(out_sum), weights, neighbors, len(x))
        along, against = [x], [x]
        for _ in range(HOPS):
            there = (along[-1] + to_edges(along[-1], weights, neighbors)) / out_sum
            back = (against[-1] + to_nodes(against[-1], weights, neighbors, len(x))) / in_sum
            along.append(KEEP * x + (1 - KEEP) * there)
            against.append(KEEP * x + (1 - KEEP) * back)
        return (self.along(torch.cat(along, -1)) + self.against(torch.cat(against, -1))).float()


def to_edges(
    x: Float[Tensor, "node row d"],
    weights: Float[Tensor, "edge member #row"],
    members: Int[Tensor, "edge member"],
) -> Float[Tensor, "edge row d"]:
    """out[e] = sum_k weights[e, k] x[members[e, k]]."""
    return _ToEdges.apply(x, weights, members)


def to_nodes(
    edges: Float[Tensor, "edge row d"],
    weights: Float[Tensor, "edge member #row"],
    members: Int[Tensor, "edge member"],
    nodes: int,
) -> Float[Tensor, "node row d"]:
    """out[i] = sum of weights[e, k] edges[e] over the places (e, k) where i is a member."""
    return _ToNodes.apply(edges, weights, members, nodes)


def member_dots(
    edges: Float[Tensor, "edge row d"], x: Float[Tensor, "node row d"], members: Int[Tensor, "edge member"]
) -> Float[Tensor, "edge member row"]:
    """out[e, k] = edges[e] . x[members[e, k]]."""
    return _MemberDots.apply(edges, x, members)


class _ToEdges(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weights: Tensor, members: Tensor) -> Tensor:
        ctx.save_for_backward(x, weights, members)
        return _gather(x, weights, members)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (x, weights, members), (into_x, into_weights, _) = ctx.saved_tensors, ctx.needs_input_grad
        by_x = _spread(grads[0], weights, members, len(x)) if into_x else None
        by_weights = _dots(grads[0], x, members, weights.shape[-1]) if into_weights else None
        return by_x, by_weights, None


class _ToNodes(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, edges: Tensor, weights: Tensor, members: Tensor, nodes: int) -> Tensor:
        ctx.save_for_backward(edges, weights, members)
        return _spread(edges, weights, members, nodes)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (edges, weights, members), (into_edges, into_weights, *_) = ctx.saved_tensors, ctx.needs_input_grad
        by_edges = _gather(grads[0], weights, members) if into_edges else None
        by_weights = _dots(edges, grads[0], members, weights.shape[-1]) if into_weights else None
        return by_edges, by_weights, None, None


class _MemberDots(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, edges: Tensor, x: Tensor, members: Tensor) -> Tensor:
        ctx.save_for_backward(edges, x, members)
        return _dots(edges, x, members, edges.shape[1])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        edges, x, members = ctx.saved_tensors
        return _gather(x, grads[0], members), _spread(edges, grads[0], members, len(x)), None


def _gather(x: Tensor, weights: Tensor, members: Tensor) -> Tensor:
    out = x.new_zeros(len(members), *x.shape[1:])
    for slot in range(members.shape[1]):
        out.addcmul_(x.index_select(0, members[:, slot]), weights[:, slot].unsqueeze(-1))
    return out


def _dots(edges: Tensor, x: Tensor, members: Tensor, rows: int) -> Tensor:
    """Per row, or, where the weight is of all rows, summed over them."""
    out = edges.new_empty(*members.shape, rows)
    for slot in range(members.shape[1]):
        dots = (edges * x.index_select(0, members[:, slot])).sum(-1)
        out[:, slot] = dots if rows == edges.shape[1] else dots.sum(1, keepdim=True)
    return out


def _spread(edges: Tensor, weights: Tensor, members: Tensor, nodes: int) -> Tensor:
    """Each sensor sums over its places, in the order of the table."""
    node, place = members.flatten().sort(stable=True)
    starts = torch.searchsorted(node, torch.arange(nodes + 1, device=node.device))
    if weights.shape[-1] == 1:
        flat, source = edges.flatten(1), place // members.shape[1]
        own = weights.flatten()[place].to(flat.dtype)
    else:
        flat, source = (weights.unsqueeze(-1) * edges.unsqueeze(1)).flatten(0, 1).flatten(1), place
        own = None
    out = torch.embedding_bag(flat, source, starts, False, 0, False, own, True)[0]
    return out.view(nodes, *edges.shape[1:])
