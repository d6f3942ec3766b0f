"""The spatial operator that reads no neighbour: what a model does without its graph."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from annotated_types import Ge
from jaxtyping import Float
from torch import Tensor, nn

from headway.nn.neighbor_table import NeighborTable


@dataclass(frozen=True, slots=True, kw_only=True)
class NoneParams:
    """Section `none` of params.yaml.

    Attributes:
        hidden_dim: width of the residual stream.
    """

    hidden_dim: Annotated[int, Ge(2)]


class NoNeighbors(nn.Module):
    """LayerNorm(h), so that the rest of the model sees the scale it sees after any other operator."""

    def __init__(self, params: NoneParams) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(params.hidden_dim)

    def forward(
        self, h: Float[Tensor, "batch node time d"], table: NeighborTable
    ) -> Float[Tensor, "batch node time d"]:
        return self.norm(h)
