"""A tiny hypergraph operator, for its tests."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from headway.nn.hypergraph import Hypergraph
from headway.types import Graph
from tiny_model import HYPERGRAPH, tiny_graph


def made_operator(roads: Graph | None = None, **changes: Any) -> Hypergraph:
    """A fresh operator in evaluation mode; shares are even unless told."""
    orders = changes.get("orders", HYPERGRAPH.orders)
    changes = {"shares": tuple(1 / len(orders) for _ in orders), **changes}
    torch.manual_seed(0)
    return Hypergraph(replace(HYPERGRAPH, **changes), with_weights(roads or tiny_graph())).eval()


def with_weights(graph: Graph) -> Graph:
    """The graph with weights of roads, which lie between 0 and 1."""
    features = graph.features.clone()
    features[..., 1] = features[..., 1].abs().clamp(0.1, 1.0) * graph.valid
    return replace(graph, features=features)
