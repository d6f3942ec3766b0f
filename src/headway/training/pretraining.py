"""Pretraining: an encoder learns the geometry of trees; flat, resumable, the same bits however often interrupted.

    until the course is over:                          a step is one group of `batch_size` trees
        for piece in group: backward(losses / counts)  the group's pairs and growing nodes: cuts do not matter
        unscale, stop if not finite, clip, update
        at the end of an epoch: the losses of the validation trees beside the best constant's; keep the best weights
        when it is due: checkpoint

Enters: an encoder, a source of trees, an open run. Leaves: the encoder with its best weights, and the curves.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import torch
from annotated_types import Ge, Gt, Interval
from jaxtyping import Float
from torch import Tensor, nn

from headway.nn.tree_encoder import TreeBatch, TreeEncoder
from headway.objectives.gt_ssl import best_constant, growth_losses, order_losses, wrong_side
from headway.training.curves import Curves
from headway.training.ladder import release, step_down
from headway.training.memory import is_out_of_memory, memory_mib
from headway.training.nonfinite import refuse_non_finite
from headway.training.optimizer import make_optimizer, seed_step, set_rate
from headway.training.precision import Precision
from headway.training.progress import ProgressLine
from headway.training.resume import resume, save
from headway.training.run import Run
from headway.training.schedule import learning_rate
from headway.training.state import Progress, TrainingState
from headway.training.tree_batches import Asked, Scale, Targets, make_batch, to_device
from headway.training.tree_sources import Drawn, TreeSource

State = TrainingState[TreeEncoder]


@dataclass(frozen=True, slots=True, kw_only=True)
class PretrainParams:
    """Section `pretrain` of params.yaml.

    Attributes:
        method: none, or GT-SSL. encoder: whose messages: section and file of that name.
        transfer: what training takes over: nothing; weights that stay; weights that go on at a tenth of the rate.
        tree: random spanning trees, or the one of shortest paths.
        targets: those of the tree; or, as controls, of its nodes shuffled, or random ones.
        batch_size: trees of a step, however few of them fit in memory at once.
        epochs, epoch_steps: validations, and steps between two. validation_trees: what they look at.
        patience: validations without a lower loss before stopping; 0: never.
        lr, warmup_steps: the rate falls to 0 along a cosine. weight_decay: of matrices. clip_norm: 0: unlimited.
        interactions: rounds of messages. paths_per_node, pairs_per_node, ancestors, bins: see `Asked`.
        margin: by which unrelated nodes are to stick out. order_weight: of the order beside the growth.
    """

    method: Literal["none", "gt_ssl"]
    encoder: Literal["sgmp", "ha_gat"]
    transfer: Literal["none", "freeze", "finetune"]
    tree: Literal["spanning", "shortest"]
    targets: Targets
    seed: Annotated[int, Ge(0)]
    batch_size: Annotated[int, Ge(1)]
    epochs: Annotated[int, Ge(1)]
    epoch_steps: Annotated[int, Ge(1)]
    validation_trees: Annotated[int, Ge(1)]
    patience: Annotated[int, Ge(0)]
    lr: Annotated[float, Gt(0)]
    warmup_steps: Annotated[int, Ge(0)]
    weight_decay: Annotated[float, Ge(0)]
    clip_norm: Annotated[float, Ge(0)]
    interactions: Annotated[int, Interval(ge=1, le=8)]
    paths_per_node: Annotated[int, Ge(1)]
    pairs_per_node: Annotated[int, Ge(1)]
    ancestors: Annotated[int, Ge(1)]
    bins: Annotated[int, Ge(3)]
    margin: Annotated[float, Gt(0)]
    order_weight: Annotated[float, Ge(0)]

    @property
    def steps(self) -> int:
        """Of the whole course."""
        return self.epochs * self.epoch_steps

    def asked(self) -> Asked:
        """What a batch holds of each tree."""
        return Asked(
            paths_per_node=self.paths_per_node,
            pairs_per_node=self.pairs_per_node,
            ancestors=self.ancestors,
            bins=self.bins,
            targets=self.targets,
            operator=self.encoder,
        )

    def is_over(self, step: int, epochs_since_best: int) -> bool:
        """Whether pretraining ends after so many steps, so many epochs after its best one."""
        return step >= self.steps or (bool(self.patience) and epochs_since_best >= self.patience)

    def rate(self, update: int) -> float:
        """Learning rate of update 0, 1, ..."""
        return learning_rate(
            update,
            schedule="cosine",
            peak=self.lr,
            warmup=self.warmup_steps,
            total=self.steps,
            epoch_steps=self.epoch_steps,
            milestones=(),
            decay=1.0,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """What the losses of a group are divided by: its related pairs, unrelated pairs and growing nodes."""

    related: int
    unrelated: int
    grown: int

    @staticmethod
    def of(batches: Sequence[TreeBatch]) -> Counts:
        """Of all batches together; at least 1 each."""
        related = sum(int(batch.related.sum()) for batch in batches)
        pairs, grown = (sum(len(getattr(batch, name)) for batch in batches) for name in ("related", "grown"))
        return Counts(related=max(1, related), unrelated=max(1, pairs - related), grown=max(1, grown))


def pretrain(
    encoder: TreeEncoder,
    source: TreeSource,
    params: PretrainParams,
    run: Run,
    precision: Precision,
    curves: Path,
) -> Progress:
    """Train to the end, or leave with SystemExit once the state is saved.

    Returns: where the run ended; the encoder holds its best weights.
    Raises: Stopped when a loss is not finite, or when no checkpoint can be written or trusted.
    """
    device = next(encoder.parameters()).device
    optimizer = make_optimizer(encoder, params.lr, params.weight_decay)
    state = TrainingState(encoder, optimizer, precision.gradient_scaler())
    resume(state, run, params.steps, params.is_over)
    progress, judge = state.progress, Judge(source, params, device)
    line = ProgressLine(params.steps, progress.step, device)
    run.watch_signals()
    with Curves(curves, "loss") as drawn:
        drawn.replay(progress)
        while not params.is_over(progress.step, progress.epochs_since_best):
            loss = take_step(state, source, params, precision, run)
            line.advance(progress.step, params.batch_size, loss)
            closed = progress.step % params.epoch_steps == 0
            if closed:
                close_epoch(state, judge, params)
                cost = line.close_epoch(progress) | memory_mib(device)
                run.record({"step": progress.step, **cost})
            stopping = run.exit_code()  # asked once: what is left is what was saved
            if closed or stopping or run.checkpoint_due(progress.step):
                save(state, run)
            if closed:  # after the save: the curves never run ahead of the checkpoint
                drawn.add(progress)
            if stopping and not params.is_over(progress.step, progress.epochs_since_best):
                run.leave(progress.step, params.steps, stopping)
        drawn.summarize(progress, sum(weight.numel() for weight in encoder.parameters()))
    encoder.load_state_dict(state.best)
    return progress


def take_step(
    state: State, source: TreeSource, params: PretrainParams, precision: Precision, run: Run
) -> float:
    """One group forward and backward, and one update. Returns: the loss. Raises: NonFinite before the update."""
    progress = state.progress
    drawn = source.training(progress.step, params.batch_size)
    loss = accumulate(state, drawn, source.scale, params, precision, run)
    state.scaler.unscale_(state.optimizer)
    norm = nn.utils.clip_grad_norm_(state.model.parameters(), params.clip_norm or math.inf).item()
    refuse_non_finite(state, np.array([progress.step]), loss, norm, run)
    set_rate(state.optimizer, params.rate(progress.updates))
    state.scaler.step(state.optimizer)
    state.scaler.update()
    progress.count_step(loss, 1, norm)
    return loss


def accumulate(
    state: State, drawn: Drawn, scale: Scale, params: PretrainParams, precision: Precision, run: Run
) -> float:
    """Gradients of one group. Where memory runs out, once more in smaller pieces: the same trees, one update."""
    device = next(state.model.parameters()).device
    state.model.train()
    while True:
        state.optimizer.zero_grad(set_to_none=True)
        seed_step(params.seed, state.progress.step)
        loss, micro = 0.0, max(1, run.runtime.micro_batch)
        cuts = [slice(first, first + micro) for first in range(0, len(drawn.trees), micro)]
        pieces = [make_batch(drawn.trees[cut], drawn.seeds[cut], scale, params.asked()) for cut in cuts]
        counts = Counts.of(pieces)
        try:
            for piece in pieces:
                batch = to_device(piece, device)
                loss += backward_trees(
                    state.model, batch, counts, scale, params, precision, state.scaler
                ).item()
            return loss
        except (MemoryError, RuntimeError) as failure:
            if not is_out_of_memory(failure) or not step_down(state, run):
                raise
        batch = None
        release(state)


def backward_trees(
    encoder: TreeEncoder,
    batch: TreeBatch,
    counts: Counts,
    scale: Scale,
    params: PretrainParams,
    precision: Precision,
    scaler: torch.amp.GradScaler,
) -> Float[Tensor, ""]:
    """Add the gradient of these trees' share of the group's loss. Returns: that share, without a graph."""
    with precision.autocast():
        h, logits = encoder(batch)
    related, unrelated = order_losses(h, batch.pairs, batch.related, params.margin)
    order = related / counts.related + unrelated / counts.unrelated
    growth = growth_losses(logits, batch.growth, scale.reach, planar=scale.planar).sum() / counts.grown
    loss = growth + params.order_weight * order
    scaler.scale(loss).backward()
    return loss.detach()


def close_epoch(state: State, judge: Judge, params: PretrainParams) -> None:
    """Judge the validation trees, close a row of the curves, and keep the weights if they are the best so far."""
    scores = judge.scores(state.model)
    rate = params.rate(max(0, state.progress.updates - 1))
    if state.progress.close_epoch(scores["val/loss"], rate, scores):
        state.keep_best()


class Judge:
    """The validation trees, tree by tree, and what the best constant forecast of their growth would cost."""

    def __init__(self, source: TreeSource, params: PretrainParams, device: torch.device) -> None:
        self._params, self._scale = params, source.scale
        kept = source.validation(params.validation_trees)
        each = zip(kept.trees, kept.seeds, strict=True)
        made = [make_batch([tree], [seed], source.scale, params.asked()) for tree, seed in each]
        self.counts, self._batches = Counts.of(made), [to_device(batch, device) for batch in made]
        growth = torch.cat([batch.growth for batch in made])
        self.constant = (
            best_constant(growth, source.scale.reach, planar=source.scale.planar) if len(growth) else 0.0
        )

    @torch.no_grad()
    def scores(self, encoder: TreeEncoder) -> dict[str, float]:
        """Losses, and shares of the pairs on the wrong side of half the margin: of all, and of each kind."""
        encoder.eval()
        params, counts, scale = self._params, self.counts, self._scale
        sums = torch.zeros(3, dtype=torch.float64)
        wrong = np.zeros(2)
        for batch in self._batches:
            h, logits = encoder(batch)
            growth = growth_losses(logits, batch.growth, scale.reach, planar=scale.planar).sum()
            losses = (*order_losses(h, batch.pairs, batch.related, params.margin), growth)
            sums += torch.stack(losses).double().cpu()
            wrong += wrong_side(h, batch.pairs, batch.related, params.margin)
        related, unrelated, growth = (
            sums / torch.tensor([counts.related, counts.unrelated, counts.grown])
        ).tolist()
        order, shares = related + unrelated, wrong / [counts.related, counts.unrelated]
        return {
            "val/loss": growth + params.order_weight * order,
            "val/growth": growth,
            "val/growth_of_constant": self.constant,
            "val/order": order,
            "val/order_violations": float(shares.mean()),
            "val/ancestors_violated": float(shares[0]),
            "val/unrelated_confused": float(shares[1]),
        }
