"""An encoder of the nodes of trees, and what it is pretrained to say of them.

Enters: `TreeBatch`, one or more trees side by side. Leaves: h [node, d], which the pairs of a tree order, and for
nodes with children, roots aside, the histograms of where these are.

    x     = MLP(features)                                             then `interactions` rounds of messages
    h     = softplus(8 W x)                                           both ways along the links: the order
    u     = the same encoder over links to ancestors only             no message comes from below
    grown = MLP_2K+H->H->H->2K [histograms of the links to the next ancestors; u]

so the forecast of growth reads links and messages of ancestors alone, and no feature counts children. Features are
measured by the whole tree all the same: a node's place on the axes of the tree's spread, its way and depth as shares
of the longest and the deepest. Messages are those of SGMP, or of HA-GAT on the table of neighbors.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import assert_never

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from headway.nn.ha_gat import HAGAT, HAGATParams
from headway.nn.neighbor_table import NeighborTable
from headway.nn.sgmp import Interaction, PathSet, SGMPParams

# Embeddings that begin all but equal never part: V has no gradient at 0. Without it two seeds of three stalled.
STRETCH = 8.0
EDGE_FEATURES = 2  # of HA-GAT: standardized log length and weight
EncoderParams = SGMPParams | HAGATParams
Surroundings = PathSet | NeighborTable


@dataclass(frozen=True, slots=True, kw_only=True)
class TreeBatch:
    """Trees side by side, as one set of nodes.

    Attributes:
        features: what is known of a node. upward: the same without the number of its children.
        around: paths or neighbors both ways. above: towards the root only.
        pairs: (a, b) of one tree. related: a is an ancestor of b; else neither is one.
        grown: nodes with children, roots aside. ancestry, growth: their histograms, of links above and of links to
            children.
    """

    features: Float[Tensor, "node feature"]
    upward: Float[Tensor, "node feature"]
    around: Surroundings
    above: Surroundings
    pairs: Int[Tensor, "2 pair"]
    related: Bool[Tensor, " pair"]
    grown: Int[Tensor, " row"]
    ancestry: Float[Tensor, "row halves"]
    growth: Float[Tensor, "row halves"]


class TreeEncoder(nn.Module):
    """Features and surroundings to h.

    Args:
        params: section of the messages' operator, which says how wide they are.
        features: per node. interactions: rounds. angles: 2 in the plane, else 3. bins: K of each histogram.
    """

    def __init__(
        self, params: EncoderParams, *, features: int, interactions: int, angles: int, bins: int
    ) -> None:
        super().__init__()
        width = params.hidden_dim
        self.embed = nn.Sequential(nn.Linear(features, width), nn.ReLU(), nn.Linear(width, width))
        self.layers = nn.ModuleList(_layer(params, angles) for _ in range(interactions))
        self.order = nn.Linear(width, width)
        self.grow = nn.Sequential(
            nn.Linear(2 * bins + width, width),
            nn.ReLU(),
            nn.Linear(width, width),
            nn.ReLU(),
            nn.Linear(width, 2 * bins),
        )

    def forward(self, batch: TreeBatch) -> tuple[Float[Tensor, "node d"], Float[Tensor, "row halves"]]:
        """h, and the logits of the growth of the nodes that grow."""
        h = self.encode(batch.features, batch.around)
        u = self.encode(batch.upward, batch.above)[batch.grown]
        return h, self.grow(torch.cat([batch.ancestry, u], 1)).float()

    def encode(
        self, features: Float[Tensor, "node feature"], surroundings: Surroundings
    ) -> Float[Tensor, "node d"]:
        """h of every node: not negative."""
        x = self.embed(features).float()
        for layer in self.layers:
            if isinstance(surroundings, PathSet):
                x = layer(x.unsqueeze(1), surroundings).squeeze(1)
            else:
                x = layer(x[None, :, None], surroundings)[0, :, 0]
        return F.softplus(STRETCH * self.order(x).float())

    def set_recompute(self, recompute: bool) -> None:
        """Whether messages go in chunks and are computed again in the backward pass."""
        for layer in self.layers:
            if isinstance(layer, Interaction):
                layer.recompute = recompute

    def recomputes(self) -> bool:
        """Whether they do; HA-GAT has nothing worth computing twice."""
        return all(layer.recompute for layer in self.layers if isinstance(layer, Interaction))

    def save_memory(self) -> str:
        """Compute messages again from here on.

        Returns: what was given up; empty where nothing is left.
        """
        if self.recomputes():
            return ""
        self.set_recompute(True)
        return "activations computed again"


def _layer(params: EncoderParams, angles: int) -> nn.Module:
    match params:
        case SGMPParams():
            return Interaction(params, angles)
        case HAGATParams():
            return HAGAT(params, EDGE_FEATURES)
        case unknown:
            assert_never(unknown)
