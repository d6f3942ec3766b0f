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
from headway.nn.neighbor_table import NeighborTable, edge_dot, neighbor_mean
from headway.nn.signed_attention import Edges, signed_attention, signed_coefficients

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
        out = list(self.out.weight.chunk(self.hops, 1))
        out[1:] = [self.hop_weight * weight for weight in out[1:]]
        into = (self.query.weight, self.key.weight, self.value.weight)
        rows = table.rows(h.shape[0], h.shape[2], self.heads)
        said = signed_attention(h, into, out, self._edges(h, table), rows)
        return self.norm(torch.addcmul(said, torch.sigmoid(self.self_logit), h))

    def coefficients(
        self, h: Float[Tensor, "batch node time d"], table: NeighborTable
    ) -> Float[Tensor, "row neighbor"]:
        """alpha_ij s_ij of every row (batch, node, time, head), to look at; 0 on padding. No gradient."""
        rows = table.rows(h.shape[0], h.shape[2], self.heads)
        return signed_coefficients(h, self.query.weight, self.key.weight, self._edges(h, table), rows)

    def regimes(
        self, h: Float[Tensor, "batch node time d"], table: NeighborTable
    ) -> Float[Tensor, "batch node time regime"]:
        """p: the soft regime of each sensor at each time, from itself and the mean of its neighbours."""
        # the mean of projections is the projection of the mean, in half the width
        neighborhood = neighbor_mean(self.regime_mean(h).float(), table)
        hidden = torch.relu(self.regime_self(h) + neighborhood)
        return self.regime(hidden).float().softmax(-1)

    def _edges(self, h: Float[Tensor, "batch node time d"], table: NeighborTable) -> Edges:
        bias = self.edge_bias(table.features).float().transpose(1, 2)  # node head neighbor
        # A finite floor, not -inf: a row without neighbours must give zeros, not NaN.
        bias = bias.masked_fill(~table.valid.unsqueeze(1), torch.finfo(bias.dtype).min / 2)
        keep = table.valid.unsqueeze(1).expand_as(bias).to(bias.dtype)[None, :, None]
        keep = self.dropout(keep.expand(len(h), -1, -1, -1, -1)) if self.training else keep
        agreement = self._agreement(h, table).flatten(-2)
        return Edges(bias=bias.flatten(1), agreement=agreement, keep=keep.flatten(-2))

    def _agreement(
        self, h: Float[Tensor, "batch node time d"], table: NeighborTable
    ) -> Float[Tensor, "batch node time head neighbor"]:
        """p_i^T M^r p_j + b^r + 3 c_ij^r, of which the tanh is the sign of an edge."""
        p = self.regimes(h, table)
        regimes, rows = p.shape[-1], table.rows(h.shape[0], h.shape[2], self.heads)
        with torch.autocast(h.device.type, enabled=False):
            wanted = p.flatten(0, 2) @ self.preference.transpose(0, 1).flatten(1)  # row (head regime)
            of_heads = p.unsqueeze(3).expand(-1, -1, -1, self.heads, -1)
            agreement = edge_dot(wanted.view(-1, regimes), of_heads.reshape(-1, regimes), rows)
        usual = self.sign_bias.unsqueeze(-1)  # head 1, or node 1 head neighbor
        if self.edge_sign:
            usual = usual + EDGE_RATE * self.edge_sign.weight.view(len(h[0]), 1, self.heads, -1)
        return agreement.view(*h.shape[:3], self.heads, -1) + usual
