"""GATv2: attention over a sensor's neighbours whose scores are not linear in the two sensors.

    l_j, r_i  = W_l h_j + b_l, W_r h_i + b_r                      heads c of the full width d each
    e_ij^c    = a^c . LeakyReLU(l_j^c + r_i^c + W_e^c f_ij)       f_ij edge features
    alpha^c   = softmax_j(e^c)                                    over the neighbours that are there
    out_i     = LayerNorm(h_i + mean_c sum_j alpha_ij^c l_j^c + b)

after Brody, Alon & Yahav (2022), "How attentive are graph attention networks?", arXiv 2105.14491, with the
heads averaged as in brief B. There the norm stands on the attention alone, and a sensor reads itself as one of
its neighbours; here it keeps itself, so that the operator fits any model and a sensor without neighbours keeps
LayerNorm(h + b).

The argument of the LeakyReLU is a vector per edge and head, heads x k times the stream. It is never whole in
memory: scores are made neighbour by neighbour in chunks of `CHUNK` numbers and made again in the backward pass,
where sums over the readers of a sensor run over the sorted table: no scatter, no atomic addition. Scores and
softmax are float32 whatever the autocast.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any

import torch
import torch.nn.functional as F
from annotated_types import Ge, Interval
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from headway.nn.dropout import StepDropout
from headway.nn.edges import weighted_sum
from headway.nn.native import device_of
from headway.nn.neighbor_table import NeighborTable

SLOPE = 0.2  # of the LeakyReLU below zero
CHUNK = {"cpu": 2**19, "cuda": 2**24}  # numbers of a chunk: what a core's cache holds; what keeps a GPU busy


@dataclass(frozen=True, slots=True, kw_only=True)
class GATv2Params:
    """Section `gatv2` of params.yaml.

    Attributes:
        hidden_dim: width of the residual stream, and of every head.
        heads: attention heads, averaged.
        attention_dropout: share of the coefficients dropped in training.
        edge_dropout: share of the edges that a window does without in training, at all its steps; the other
            neighbours take their weight.
    """

    hidden_dim: Annotated[int, Ge(2)]
    heads: Annotated[int, Interval(ge=1, le=8)]
    attention_dropout: Annotated[float, Interval(ge=0, lt=1)]
    edge_dropout: Annotated[float, Interval(ge=0, lt=1)]


class GATv2(nn.Module):
    """One layer; includes its own norm, so it is used without a further residual."""

    def __init__(self, params: GATv2Params, edge_features: int) -> None:
        super().__init__()
        d, self.heads, self.edge_dropout = params.hidden_dim, params.heads, params.edge_dropout
        self.source = nn.Linear(d, self.heads * d)
        self.reader = nn.Linear(d, self.heads * d)
        self.edge = nn.Linear(edge_features, self.heads * d, bias=False)
        self.attention = nn.Parameter(nn.init.xavier_uniform_(torch.empty(self.heads, d)))
        self.bias = nn.Parameter(torch.zeros(d))
        self.dropout = StepDropout(params.attention_dropout)
        self.norm = nn.LayerNorm(d)

    def forward(
        self, h: Float[Tensor, "batch node time d"], table: NeighborTable
    ) -> Float[Tensor, "batch node time d"]:
        batch, _, time, d = h.shape
        source = self._by_head(self.source(h))
        alpha = self._alpha(source, h, table)
        rows = table.rows(batch, time, self.heads)
        messages = weighted_sum(source.view(-1, d), self.dropout(alpha).flatten(0, 3), rows)
        return self.norm(h + messages.view_as(source).mean(3) + self.bias)

    def coefficients(
        self, h: Float[Tensor, "batch node time d"], table: NeighborTable
    ) -> Float[Tensor, "batch node time head neighbor"]:
        """alpha before dropout; 0 on padding and on dropped edges."""
        return self._alpha(self._by_head(self.source(h)), h, table)

    def _alpha(self, source: Tensor, h: Tensor, table: NeighborTable) -> Tensor:
        reader = self._by_head(self.reader(h))
        scores = additive_scores(
            source, reader, self.edge.weight, self.attention, table.features, table.neighbors
        )
        present = self._present(table.valid, len(h))
        # A finite floor, not -inf: a sensor without neighbours must give zeros, not NaN.
        return scores.masked_fill(~present, torch.finfo(scores.dtype).min).softmax(-1) * present

    def _present(
        self, valid: Bool[Tensor, "node neighbor"], batch: int
    ) -> Bool[Tensor, "#batch node 1 1 neighbor"]:
        """Edges that are there: those of the table, in training less the dropped ones of each window."""
        if not self.training or not self.edge_dropout:
            return valid[None, :, None, None]
        kept = F.dropout(torch.ones(batch, *valid.shape, device=valid.device), self.edge_dropout) > 0
        return (valid & kept)[:, :, None, None]

    def _by_head(self, x: Float[Tensor, "... width"]) -> Float[Tensor, "... head d"]:
        return x.float().unflatten(-1, (self.heads, -1))


def additive_scores(
    source: Float[Tensor, "batch node time head d"],
    reader: Float[Tensor, "batch node time head d"],
    edge_weight: Float[Tensor, "width feature"],
    attention: Float[Tensor, "head d"],
    features: Float[Tensor, "node neighbor feature"],
    neighbors: Int[Tensor, "node neighbor"],
) -> Float[Tensor, "batch node time head neighbor"]:
    """attention . LeakyReLU(source of the neighbour + reader + edge_weight features), width = head x d.

    Scores of padding mean nothing and must get no gradient. Features get none.
    """
    with torch.autocast(source.device.type, enabled=False):
        return _AdditiveScores.apply(source, reader, edge_weight, attention, features, neighbors)


class _AdditiveScores(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *inputs: Tensor) -> Tensor:
        ctx.save_for_backward(*inputs)
        source, reader, edge_weight, attention, features, neighbors = inputs
        scores = source.new_empty(*source.shape[:-1], neighbors.shape[1])
        for part in _chunks(source):
            for slot in range(neighbors.shape[1]):
                edge = features[:, slot] @ edge_weight.T
                argument = _argument(source[part], reader[part], edge, neighbors[:, slot])
                scores[part][..., slot] = F.leaky_relu_(argument, SLOPE).mul_(attention).sum(-1)
        return scores

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """With t = gradient of a score * slope, all is sums of t: over slots, readers, windows and steps."""
        source, reader, edge_weight, attention, features, neighbors = ctx.saved_tensors
        by_source, by_reader = torch.zeros_like(source), torch.zeros_like(reader)
        by_edge = torch.zeros_like(edge_weight)
        readers = _Readers(neighbors)
        for part in _chunks(source):
            for slot in range(neighbors.shape[1]):
                g = grads[0][part][..., slot].unsqueeze(-1)
                edge = features[:, slot] @ edge_weight.T
                argument = _argument(source[part], reader[part], edge, neighbors[:, slot])
                t = torch.ops.aten.leaky_relu_backward(g, argument, SLOPE, False)
                by_source[part] += readers.sum(t, slot)
                by_reader[part] += t
                by_edge += t.sum((0, 2)).flatten(1).T @ features[:, slot]
        by_attention = (edge_weight * by_edge).sum(-1).view_as(attention)
        for x, by_x in ((source, by_source), (reader, by_reader)):
            by_attention = by_attention + (x * by_x).sum((0, 1, 2))
        by_edge *= attention.reshape(-1, 1)
        return by_source.mul_(attention), by_reader.mul_(attention), by_edge, by_attention, None, None


def _argument(source: Tensor, reader: Tensor, edge: Tensor, read: Tensor) -> Tensor:
    """Of the LeakyReLU, for one neighbour of every sensor: batch node time head d."""
    heads, d = source.shape[-2:]
    return source.index_select(1, read).add_(reader).add_(edge.view(-1, 1, heads, d))


def _chunks(x: Float[Tensor, "batch node time head d"]) -> Iterator[tuple[slice, slice, slice]]:
    """Windows and steps in blocks of about CHUNK numbers; a block is at least one step of one window."""
    batch, _, time = x.shape[:3]
    fitting = max(1, CHUNK[device_of(x)] * batch * time // max(1, x.numel()))  # (window, step) pairs
    steps, windows = min(time, fitting), max(1, fitting // time)
    for window in range(0, batch, windows):
        for step in range(0, time, steps):
            yield slice(window, window + windows), slice(None), slice(step, step + steps)


class _Readers:
    """Who reads each sensor through one slot: the transpose of `index_select`, in a fixed order."""

    def __init__(self, neighbors: Int[Tensor, "node neighbor"]) -> None:
        read, self.order = neighbors.T.contiguous().sort(dim=1, stable=True)  # neighbor node
        nodes = torch.arange(len(neighbors), device=neighbors.device).expand_as(read)
        self.starts = torch.searchsorted(read, nodes.contiguous())

    def sum(
        self, t: Float[Tensor, "batch node time head d"], slot: int
    ) -> Float[Tensor, "batch node time head d"]:
        """Row j is the sum of the rows of the sensors that read j through this slot."""
        batch, nodes = t.shape[:2]
        window = torch.arange(batch, device=t.device).unsqueeze(1) * nodes
        order, starts = (window + table[slot] for table in (self.order, self.starts))
        rows = t.reshape(batch * nodes, -1)
        return F.embedding_bag(order.flatten(), rows, starts.flatten(), mode="sum").view_as(t)
