"""A block whose spatial operator reads a few steps at a time, for when memory has run out.

Sensors read each other at each time alone, so steps can go one slice after another: each slice is computed again in
the backward pass, and only one holds the inside of the operator. The numbers are the same to rounding; dropout masks
are drawn slice by slice, so they are others.

Enters: h, the neighbor table. Leaves: what the operator makes of them.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from headway.nn.neighbor_table import NeighborTable

MOST_SLICES = 8


class SpatialBlock(nn.Module):
    """What the blocks of all models have in common: an operator `(h, table) -> h` over sensors.

    Attributes:
        slices: pieces along time that the operator is given one by one.
    """

    def __init__(self, spatial: nn.Module) -> None:
        super().__init__()
        self.spatial = spatial
        self.slices = 1

    def over_sensors(
        self, h: Float[Tensor, "batch node time d"], table: NeighborTable
    ) -> Float[Tensor, "batch node time d"]:
        """The operator on every step."""
        if self.slices == 1 or not torch.is_grad_enabled():
            return self.spatial(h, table)
        parts = h.chunk(self.slices, 2)
        return torch.cat([checkpoint(self.spatial, part, table, use_reentrant=False) for part in parts], 2)


def history_slices(model: nn.Module) -> int:
    """Slices that the blocks of a model go by; 1: all steps at once."""
    return max((block.slices for block in _blocks(model)), default=1)


def slice_history(model: nn.Module, slices: int) -> None:
    """Let every block of a model go by so many slices."""
    for block in _blocks(model):
        block.slices = slices


def _blocks(model: nn.Module) -> list[SpatialBlock]:
    return [module for module in model.modules() if isinstance(module, SpatialBlock)]
