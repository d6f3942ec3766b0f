"""How many trees are held in memory at once, and whether messages are kept or computed again in chunks.

Enters: an encoder, the trees of a step. Leaves: a `Plan`, by the same ladder as training: pieces of the group first,
then recomputation. What else makes a step smaller changes its result, and so is a parameter: in this order the tree
itself (a spanning tree instead of all links), `pretrain.paths_per_node`, the widths.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from headway.nn.tree_encoder import TreeBatch, TreeEncoder
from headway.training.plan import Planner
from headway.training.precision import Precision
from headway.training.pretraining import Counts, PretrainParams, backward_trees
from headway.training.storages import StepMemory, trace_piece
from headway.training.tree_batches import Scale, make_batch, mapped
from headway.training.tree_sources import Drawn, TreeSource

ONE = Counts(related=1, unrelated=1, grown=1)


class TreePlanner(Planner):
    """Plans for one encoder; a choice is traced with the trees of the first step."""

    def __init__(
        self, encoder: TreeEncoder, source: TreeSource, params: PretrainParams, precision: Precision
    ) -> None:
        super().__init__(encoder, params.batch_size, precision, params.batch_size)
        self._encoder, self._source, self._params = encoder, source, params

    def _trace(self, windows: int, *, accumulate: bool) -> StepMemory:
        drawn = self._source.training(0, windows)
        batch = batch_of(drawn, self._source.scale, self._params)
        return trace_trees(
            self._encoder, batch, self._source.scale, self._params, self._precision, accumulate=accumulate
        )


def batch_of(drawn: Drawn, scale: Scale, params: PretrainParams) -> TreeBatch:
    """These trees in one piece."""
    return make_batch(drawn.trees, drawn.seeds, scale, params.asked())


def trace_trees(
    encoder: TreeEncoder,
    batch: TreeBatch,
    scale: Scale,
    params: PretrainParams,
    precision: Precision,
    *,
    accumulate: bool,
) -> StepMemory:
    """Run a step with these trees in memory on fake tensors."""
    arithmetic = replace(precision, device_type="cpu")
    scaler = torch.amp.GradScaler("cpu", enabled=False)

    def backward(twin: TreeEncoder, fake: TreeBatch) -> None:
        backward_trees(twin, fake, ONE, scale, params, arithmetic, scaler)

    def make(fakes: FakeTensorMode) -> TreeBatch:
        return mapped(batch, lambda tensor: torch.empty_like(fakes.from_tensor(tensor)))

    return trace_piece(encoder, make, backward, accumulate=accumulate)
