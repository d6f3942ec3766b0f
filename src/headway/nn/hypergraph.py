"""An adaptive hypergraph as a spatial operator: sets of sensors that are found while the model learns.

    F     = tanh(3 L E)                                     the place of each sensor, from its vector E
    e_i   = {i} and the q - 1 sensors nearest to F_i        chosen again every R steps of training
    w_ie  = softmax_{i in e}(-|F_i - c_e|^2 / tau)          c_e the mean of the members, squares averaged
    X^q   = convolution along the hyperedges of order q     nn/hypergraph_conv.py
    out   = LayerNorm(h + sum_q gamma_q X^q)

Choosing the members has no gradient; w_ie has one, through which sensors that help each other move together and are
chosen at the next rebuild. Order 2 is brief D's pairwise graph, A_ij = relu(tanh(3 (F1_i . F2_j - F2_i . F1_j)))
over the strongest sensors of each row, read along and against its edges (`pairs: mixprop`; products are averaged, or
the tanh is flat and no pair learns), or hyperedges of two like every other order (`pairs: edges`). Order 1 is a
sensor alone.

The members are buffers: checkpoints and models hold them, evaluation never changes them.

Source: brief D and models.md 2c. The soft incidence w_ie is this project's: in brief D nothing is learned here.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from annotated_types import Ge, Gt, Interval, MinLen
from jaxtyping import Float
from torch import Tensor, nn

from headway.errors import InputError
from headway.graph.hypergraph import WEIGHT, nearest_members, road_members, strongest_pairs
from headway.nn.hypergraph_conv import HyperedgeConv, Kind, MixProp
from headway.nn.neighbor_table import NeighborTable
from headway.nn.stepwise import Stepwise
from headway.types import Graph

SATURATION = 3.0  # MTGNN's, in both tanh


@dataclass(frozen=True, slots=True, kw_only=True)
class HypergraphParams:
    """Section `hypergraph` of params.yaml.

    Attributes:
        hidden_dim: width of the residual stream.
        orders: sizes of the hyperedges, each once; 1 is a sensor alone, 2 a pair.
        pairs: what order 2 is: mixprop, a directed graph read two hops far; edges, hyperedges of two.
        mixing: fixed, gamma is `shares`; learned, it starts there; gated, each sensor's state decides.
        shares: of the orders, in their place; they sum to 1.
        kind: of the convolution.
        graph: adaptive, learned places; static, the roads; mixed, hyperedges of both.
        rebuild_steps: steps of training after which the members are chosen again.
        node_dim: width of the vectors of the sensors.
        neighbors: sensors that one reads in the directed graph of order 2.
        tau: how sharply a member far from the middle loses weight.
    """

    hidden_dim: Annotated[int, Ge(2)]
    orders: Annotated[tuple[Annotated[int, Interval(ge=1, le=5)], ...], MinLen(1)]
    pairs: Literal["mixprop", "edges"]
    mixing: Literal["fixed", "learned", "gated"]
    shares: tuple[Annotated[float, Interval(ge=0, le=1)], ...]
    kind: Kind
    graph: Literal["adaptive", "static", "mixed"]
    rebuild_steps: Annotated[int, Ge(1)]
    node_dim: Annotated[int, Ge(1)]
    neighbors: Annotated[int, Interval(ge=1, le=15)]
    tau: Annotated[float, Gt(0)]

    def __post_init__(self) -> None:
        if len(set(self.orders)) != len(self.orders):
            raise InputError(f"hypergraph.orders: {list(self.orders)} names an order twice")
        if len(self.shares) != len(self.orders) or not math.isclose(sum(self.shares), 1, abs_tol=1e-6):
            raise InputError(
                f"hypergraph.shares: {list(self.shares)} must have a share for each of "
                f"hypergraph.orders = {list(self.orders)}, and sum to 1"
            )
        if self.mixing != "fixed" and not all(self.shares):
            raise InputError(f"hypergraph.shares: a share of 0 can only be fixed, not {self.mixing}")


class Hypergraph(Stepwise):
    """One layer; includes its own norm, so it is used without a further residual."""

    fixed: Tensor

    def __init__(self, params: HypergraphParams, graph: Graph) -> None:
        super().__init__()
        d, count = params.hidden_dim, len(params.orders)
        self.rebuild_steps, self.mixing, self.shares = params.rebuild_steps, params.mixing, params.shares
        self.orders = nn.ModuleList(
            PairsOfGraph(params, graph)
            if order == 2 and params.pairs == "mixprop"
            else Hyperedges(order, params, graph)
            for order in params.orders
        )
        self.register_buffer("fixed", torch.tensor(params.shares), persistent=False)
        start = self.fixed.log()
        self.logits = nn.Parameter(start) if params.mixing == "learned" and count > 1 else None
        self.gate = nn.Linear(d, count) if params.mixing == "gated" and count > 1 else None
        if self.gate is not None:
            with torch.no_grad():
                self.gate.bias.copy_(start)
        self.norm = nn.LayerNorm(d)

    def forward(
        self, h: Float[Tensor, "batch node time d"], table: NeighborTable
    ) -> Float[Tensor, "batch node time d"]:
        batch, _, time, _ = h.shape
        rows = h.float().transpose(0, 1).flatten(1, 2)  # node (batch time) d
        gamma = self.gamma(rows)
        mixed = torch.zeros_like(rows)
        for number, order in enumerate(self.orders):
            if self.mixing != "fixed" or self.shares[number]:
                mixed = mixed + gamma[..., number : number + 1] * order(rows)
        return self.norm(h + mixed.unflatten(1, (batch, time)).transpose(0, 1))

    def gamma(self, rows: Float[Tensor, "node row d"]) -> Float[Tensor, "... order"]:
        """The share of each order: of all rows, or of each."""
        if self.gate is not None:
            return self.gate(rows).float().softmax(-1)
        if self.logits is not None:
            return self.logits.softmax(-1)
        return self.fixed

    def begin_step(self, step: int) -> None:
        """Choose the members again when it is time."""
        if step % self.rebuild_steps == 0:
            for order in self.orders:
                assert isinstance(order, Hyperedges | PairsOfGraph)
                order.rebuild()


class Places(nn.Module):
    """F = tanh(3 L E): where each sensor lies."""

    def __init__(self, nodes: int, node_dim: int) -> None:
        super().__init__()
        self.vectors = nn.Parameter(torch.randn(nodes, node_dim))
        self.map = nn.Linear(node_dim, node_dim)

    def forward(self) -> Float[Tensor, "node dimension"]:
        return torch.tanh(SATURATION * self.map(self.vectors).float())


class Hyperedges(nn.Module):
    """The hyperedges of one order: around each sensor one by roads, one by learned places, or both."""

    members: Tensor
    present: Tensor
    road: Tensor

    def __init__(self, order: int, params: HypergraphParams, graph: Graph) -> None:
        super().__init__()
        nodes = len(graph.neighbors)
        self.order, self.tau = order, params.tau
        adaptive = params.graph != "static" and min(order, nodes) > 1
        self.places = Places(nodes, params.node_dim) if adaptive else None
        self.conv = HyperedgeConv(
            params.hidden_dim, params.kind if order > 1 or params.kind == "hsage" else "hgcn"
        )
        members, present, road = road_members(graph, order)
        roads = nodes if params.graph != "adaptive" or not adaptive else 0  # rows before the adaptive ones
        pad = nodes if adaptive else 0
        self.register_buffer("members", torch.cat([members[:roads], members[:pad]]))
        self.register_buffer("present", torch.cat([present[:roads], present[:pad]]))
        self.register_buffer("road", (road / road.sum(1, keepdim=True).clamp(min=1e-12))[:roads])
        self.rebuild()

    def forward(self, x: Float[Tensor, "node row d"]) -> Float[Tensor, "node row d"]:
        return self.conv(x, self.members, self.present, self.weights())

    def weights(self) -> Float[Tensor, "edge member"]:
        """w_ie; 0 where not present."""
        if self.places is None:
            return self.road
        roads = len(self.road)
        points = self.places()[self.members[roads:]]  # edge member dimension
        there = self.present[roads:]
        middle = (points * there.unsqueeze(-1)).sum(1, keepdim=True)
        middle = middle / there.sum(1).clamp(min=1).view(-1, 1, 1)
        scores = -(points - middle).square().mean(-1) / self.tau
        soft = scores.masked_fill(~there, torch.finfo(scores.dtype).min).softmax(1) * there
        return torch.cat([self.road, soft])

    @torch.no_grad()
    def rebuild(self) -> None:
        """Choose the members by the places as they are now."""
        if self.places is not None:
            roads = len(self.road)
            members, present = nearest_members(self.places(), self.order)
            self.members[roads:], self.present[roads:] = members, present


class PairsOfGraph(nn.Module):
    """Brief D's order 2: the neighbors by road, those of a learned directed graph, or both."""

    neighbors: Tensor
    road: Tensor

    def __init__(self, params: HypergraphParams, graph: Graph) -> None:
        super().__init__()
        nodes, adaptive = len(graph.neighbors), params.graph != "static"
        self.source = Places(nodes, params.node_dim) if adaptive else None
        self.target = Places(nodes, params.node_dim) if adaptive else None
        self.conv = MixProp(params.hidden_dim)
        roads = graph.neighbors.shape[1] if params.graph != "adaptive" else 0
        weight = graph.features[..., WEIGHT].float() * graph.valid
        own = torch.arange(nodes).unsqueeze(1).expand(-1, params.neighbors if adaptive else 0)
        self.register_buffer("neighbors", torch.cat([graph.neighbors.long()[:, :roads], own], 1))
        self.register_buffer("road", weight[:, :roads].clone())
        self.rebuild()

    def forward(self, x: Float[Tensor, "node row d"]) -> Float[Tensor, "node row d"]:
        return self.conv(x, self.neighbors, self.weights())

    def weights(self) -> Float[Tensor, "node neighbor"]:
        """A_ij of the chosen pairs; a pair that is weak in both directions has 0."""
        if self.source is None or self.target is None:
            return self.road
        source, target = self.source(), self.target()
        chosen = self.neighbors[:, self.road.shape[1] :]
        pull = source.unsqueeze(1) * target[chosen] - target.unsqueeze(1) * source[chosen]
        pull = pull.mean(-1)
        return torch.cat([self.road, torch.relu(torch.tanh(SATURATION * pull))], 1)

    @torch.no_grad()
    def rebuild(self) -> None:
        """Choose the strongest pairs by the places as they are now."""
        if self.source is not None and self.target is not None:
            roads = self.road.shape[1]
            count = self.neighbors.shape[1] - roads
            self.neighbors[:, roads:] = strongest_pairs(self.source(), self.target(), count)
