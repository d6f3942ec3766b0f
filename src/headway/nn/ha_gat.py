"""HA-GAT: heterophily-aware attention over a sensor's neighbours - sparse, signed, two hops.

Two neighbouring sensors may stand on either side of a bottleneck: averaging them is wrong. Each sensor is
softly assigned to a latent traffic regime, and the pair of regimes decides the sign of the edge (after Wang
et al., "Heterophily-Aware Graph Attention Network", arXiv 2302.03228, whose classes become regimes here; the
self weight, the signs and the second hop follow brief A). A neighbour that runs against the sensor at all times
is learned as such, edge by edge.

    q, k, v     = W_q h, W_k h, W_v h                                    heads r of width d_h
    p_i         = softmax(W_2 relu(W_1 [h_i ; mean_j h_j]))              regimes, no labels
    s_ij        = tanh(p_i^T M^r p_j + b^r + 3 c_ij^r)                   preference in (-1, 1); c of each edge
    alpha_ij    = softmax_j(q_i . k_j / sqrt(d_h) + w_r . a_ij)          magnitude; a_ij edge features
    o1_i        = sum_j alpha_ij s_ij v_j
    o2_i        = sum_j alpha_ij s_ij o1_j                               second hop, same coefficients
    out_i       = LayerNorm(lambda * h_i + W_o [o1_i ; omega o2_i])      lambda per channel, near 0.9

so the coefficients of a sensor sum to at most 1 in absolute value. c starts at 0; where the graph is another
each time, as random trees are, there is none. A sensor without neighbours keeps LayerNorm(lambda * h). Softmax
and scores are float32 whatever the autocast.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from annotated_types import Ge, Interval, Le
from jaxtyping import Float
from torch import Tensor, nn

from headway.errors import InputError
from headway.nn.dropout import StepDropout
from headway.nn.neighbor_table import NeighborTable
from headway.nn.regimes import RegimeWeights
from headway.nn.signed_attention import Weights, signed_attention, signed_coefficients

SIGN_BIAS = math.atanh(0.9)  # signs start near +0.9: ordinary attention until the data say otherwise
SELF_LOGIT = 2.2  # sigmoid(2.2) = 0.9
EDGE_RATE = 3.0  # the optimizer moves every number alike, and from +0.9 to -0.9 it is as much as this


@dataclass(frozen=True, slots=True, kw_only=True)
class HAGATParams:
    """Section `ha_gat` of params.yaml.

    Attributes:
        hidden_dim: width of the residual stream, a multiple of `heads`.
        heads: attention heads, at most 2 (brief A).
        regimes: latent traffic regimes.
        hops: 1, or 2 for neighbours of neighbours through the same coefficients.
        attention_dropout: share of the coefficients dropped in training.
    """

    hidden_dim: Annotated[int, Ge(2)]
    heads: Annotated[int, Interval(ge=1, le=2)]
    regimes: Annotated[int, Ge(2), Le(32)]
    hops: Literal[1, 2]
    attention_dropout: Annotated[float, Interval(ge=0, lt=1)]

    def __post_init__(self) -> None:
        if self.hidden_dim % self.heads:
            raise InputError(
                f"ha_gat.hidden_dim: {self.hidden_dim} is no multiple of ha_gat.heads = {self.heads}"
            )


class HAGAT(nn.Module):
    """One layer; includes its own norm, so it is used without a further residual.

    Args:
        edge_features: width of a_ij.
        edges: sensors and neighbours of the one table that is read; None: of many, and no edge has a c.
    """

    def __init__(self, params: HAGATParams, edge_features: int, edges: tuple[int, int] | None = None) -> None:
        super().__init__()
        d, self.heads, self.hops = params.hidden_dim, params.heads, params.hops
        self.query = nn.Linear(d, d, bias=False)
        self.key = nn.Linear(d, d, bias=False)
        self.value = nn.Linear(d, d, bias=False)
        self.edge_bias = nn.Linear(edge_features, self.heads, bias=False)
        self.regime_self = nn.Linear(d, d // 2)
        self.regime_mean = nn.Linear(d, d // 2, bias=False)
        self.regime = nn.Linear(d // 2, params.regimes)
        self.preference = nn.Parameter(torch.zeros(self.heads, params.regimes, params.regimes))
        self.sign_bias = nn.Parameter(torch.full((self.heads,), SIGN_BIAS))
        self.edge_sign = nn.Embedding(edges[0], self.heads * edges[1]) if edges else None
        if self.edge_sign:
            nn.init.zeros_(self.edge_sign.weight)
        self.dropout = StepDropout(params.attention_dropout)
        self.out = nn.Linear(d * self.hops, d, bias=False)
        self.self_logit = nn.Parameter(torch.full((d,), SELF_LOGIT))
        self.hop_weight = nn.Parameter(torch.tensor(0.5))
        self.norm = nn.LayerNorm(d)

    def forward(
        self, h: Float[Tensor, "batch node time d"], table: NeighborTable
    ) -> Float[Tensor, "batch node time d"]:
        return self.norm(signed_attention(h, self._weights(table), self._keep(h, table), table))

    def coefficients(
        self, h: Float[Tensor, "batch node time d"], table: NeighborTable
    ) -> Float[Tensor, "row neighbor"]:
        """alpha_ij s_ij of every row (batch, node, time, head), to look at; 0 on padding. No gradient."""
        return signed_coefficients(h, self._weights(table), self._keep(h, table), table)

    def _weights(self, table: NeighborTable) -> Weights:
        first, *others = self.out.weight.chunk(self.hops, 1)
        return Weights(
            loop=torch.sigmoid(self.self_logit),
            query=self.query.weight * (self.heads / len(self.query.weight)) ** 0.5,
            key=self.key.weight,
            value=self.value.weight,
            out=torch.stack([first, *(self.hop_weight * weight for weight in others)]),
            bias=self._bias(table),
            usual=self._usual(table),
            regimes=RegimeWeights(
                own=self.regime_self.weight,
                own_bias=self.regime_self.bias,
                mean=self.regime_mean.weight,
                regime=self.regime.weight,
                regime_bias=self.regime.bias,
                preference=self.preference,
            ),
        )

    def _bias(self, table: NeighborTable) -> Float[Tensor, "node slot"]:
        """w_r . a_ij, with a finite floor, not -inf: a row without neighbours must give zeros, not NaN."""
        bias = self.edge_bias(table.features).float().transpose(1, 2)  # node head neighbor
        return bias.masked_fill(~table.valid.unsqueeze(1), torch.finfo(bias.dtype).min / 2).flatten(1)

    def _usual(self, table: NeighborTable) -> Float[Tensor, "node slot"]:
        """b^r + 3 c_ij^r."""
        usual = self.sign_bias.view(1, -1, 1)
        if self.edge_sign:
            usual = usual + EDGE_RATE * self.edge_sign.weight.view(len(table.valid), self.heads, -1)
        return usual.expand(len(table.valid), -1, table.valid.shape[1]).flatten(1)

    def _keep(
        self, h: Float[Tensor, "batch node time d"], table: NeighborTable
    ) -> Float[Tensor, "#batch node 1 head neighbor"]:
        """0 on padding and on what dropout drops."""
        valid = table.valid.unsqueeze(1).expand(-1, self.heads, -1)[None, :, None].float()
        return self.dropout(valid.expand(len(h), -1, -1, -1, -1)) if self.training else valid
