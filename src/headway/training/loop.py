"""The training loop: flat, resumable, the same bits however often it is interrupted.

    until the course is over:                             a step is one group of `batch_size` windows
        for micro in share: backward(error / observed)    a rank's share; the group's targets: cuts do not matter
        add gradients over ranks, unscale, stop if not finite, clip, update
        at the end of an epoch: validate, keep the best weights, close a row of the curves
        when it is due: checkpoint

Enters: a model, its windows, an open run. Leaves: the model with its best weights, and the curves. Several ranks
run this same loop: what one of them decides alone is first agreed, and rank 0 does the writing.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int
from torch import nn

from headway.data.windows import Windows
from headway.errors import Stopped
from headway.models.standardized import Standardized
from headway.objectives.forecast_loss import absolute_error
from headway.training.course import Course, TrainParams
from headway.training.curves import Curves
from headway.training.ladder import release, step_down
from headway.training.memory import is_out_of_memory, memory_mib
from headway.training.nonfinite import refuse_non_finite
from headway.training.optimizer import make_optimizer, seed_step, set_rate
from headway.training.piece import backward_piece
from headway.training.precision import Precision
from headway.training.progress import ProgressLine
from headway.training.ranks import Ranks, RanksLost
from headway.training.resume import save
from headway.training.run import Run
from headway.training.start import resume_or_start
from headway.training.state import Progress, TrainingState
from headway.training.transfer import SHARE


def train(
    model: Standardized,
    windows: Windows,
    splits: dict[str, tuple[int, int]],
    params: TrainParams,
    run: Run,
    precision: Precision,
    curves: Path,
    slow: frozenset[str] = frozenset(),
) -> Progress:
    """Train to the end, or leave with SystemExit once the state is saved.

    Args:
        model, windows: on the same device. splits: as in PreparedMeta.
        run: opened for this experiment. curves: folder that dvclive writes.
        slow: names of weights that were pretrained and get a share of the learning rate.
    Returns: where the run ended; the model holds its best weights.
    Raises: InputError without training or validation readings; Stopped when a loss is not finite, or when no
        checkpoint can be written or trusted.
    """
    course = Course(params, splits)
    optimizer = make_optimizer(model, params.lr, params.weight_decay, slow, SHARE)
    state = TrainingState(model, optimizer, precision.gradient_scaler())
    resume_or_start(state, windows, course, run)
    progress = state.progress
    line = ProgressLine(course.steps, progress.step, windows.device)
    run.watch_signals()
    with Curves(curves if run.ranks.first else None, "mae") as drawn:
        drawn.replay(progress)
        while not course.is_over(progress.step, progress.epochs_since_best):
            origins = course.origins(progress.step)
            with saved_if_ranks_are_lost(state, run):
                loss = take_step(state, windows, origins, course, precision, run)
            line.advance(progress.step, len(origins), loss)
            closed = course.closes_epoch(progress.step)
            if closed:
                close_epoch(state, windows, course, precision, run)
                cost = line.close_epoch(progress) | memory_mib(windows.device)
                run.record({"step": progress.step, **cost})
            stopping = run.agreed_exit_code()  # asked once: what is left is what was saved
            if closed or stopping or run.checkpoint_due(progress.step):
                save(state, run)
            if closed:  # after the save: the curves never run ahead of the checkpoint
                drawn.add(progress)
            if stopping and not course.is_over(progress.step, progress.epochs_since_best):
                run.leave(progress.step, course.steps, stopping)
        drawn.summarize(progress, model.parameter_count())
    model.load_state_dict(state.best)
    return progress


@contextmanager
def saved_if_ranks_are_lost(state: TrainingState[Standardized], run: Run) -> Iterator[None]:
    """In a step: nothing is updated before all agree, so what is saved is the moment before it."""
    try:
        yield
    except RanksLost:
        save(state, run)
        raise


def take_step(
    state: TrainingState[Standardized],
    windows: Windows,
    origins: Int[np.ndarray, " group"],
    course: Course,
    precision: Precision,
    run: Run,
) -> float:
    """One group forward and backward; one update, unless nothing is observed or fp16 overflows.

    Returns: mean loss of the group in z-units; nan when nothing is observed.
    Raises: NonFinite before the update.
    """
    progress, model, ranks = state.progress, state.model, run.ranks
    model.begin_step(progress.step)
    share = course.share(origins, ranks.rank, ranks.world)
    observed = int(ranks.total(windows.count_observed(share))[0])
    if not observed:
        progress.step += 1
        return math.nan
    error = accumulate(state, windows, share, observed, course, precision, run)
    if model.mix is not None and course.params.anchor_pull:
        state.scaler.scale(course.params.anchor_pull * model.mix.pull()).backward()
    state.scaler.unscale_(state.optimizer)
    norm = nn.utils.clip_grad_norm_(model.parameters(), course.params.clip_norm or math.inf).item()
    refuse_non_finite(state, origins, error, norm, run)
    set_rate(state.optimizer, course.learning_rate(progress.updates))
    state.scaler.step(state.optimizer)
    state.scaler.update()
    progress.count_step(error, observed, norm)
    return error / observed


def accumulate(
    state: TrainingState[Standardized],
    windows: Windows,
    origins: Int[np.ndarray, " group"],
    observed: int,
    course: Course,
    precision: Precision,
    run: Run,
) -> float:
    """Gradients of one group, from this rank's share. Where memory runs out, once more in smaller pieces on every
    rank: the same windows, one update.

    Returns: summed error in z-units, over all ranks.
    Raises: what the allocator raised, here or as OutOfMemory elsewhere, when nothing smaller is left.
    """
    state.model.train()
    while True:
        state.optimizer.zero_grad(set_to_none=True)
        seed_step(course.params.seed, state.progress.step, run.ranks.rank)
        error, micro, shortage = 0.0, run.runtime.micro_batch, None
        try:
            for first in range(0, len(origins), micro):
                batch = windows.gather(origins[first : first + micro])
                error += backward_piece(state.model, batch, observed, precision, state.scaler).item()
        except (MemoryError, RuntimeError) as failure:
            if not is_out_of_memory(failure):
                raise
            shortage = failure
        error, short = run.ranks.total(error, shortage is not None)
        if not short:
            run.ranks.add_gradients(state.model.parameters())
            return error
        if not step_down(state, run):
            raise shortage or MemoryError("out of memory on another rank")
        shortage = batch = None
        release(state)


def close_epoch(
    state: TrainingState[Standardized], windows: Windows, course: Course, precision: Precision, run: Run
) -> None:
    """Validate, close a row of the curves, and keep the weights if they are the best so far."""
    ranks = run.ranks
    ranks.take_first(state.model.parameters())
    share = course.validation_share(ranks.rank, ranks.world)
    mae = validation_mae(state.model, windows, share, run.runtime.micro_batch, precision, ranks)
    last_update = max(0, state.progress.updates - 1)
    rate = course.learning_rate(last_update)
    if state.progress.close_epoch(mae, rate, {"val/mae": mae}):
        state.keep_best()


@torch.no_grad()
def validation_mae(
    model: Standardized,
    windows: Windows,
    origins: Int[np.ndarray, " window"],
    micro_batch: int,
    precision: Precision,
    ranks: Ranks,
) -> float:
    """Mean absolute error over the observed targets of every rank's windows, in the target's unit.

    Raises: Stopped when a forecast is not finite, though every update was.
    """
    model.eval()
    error, count = 0.0, 0
    for first in range(0, len(origins), micro_batch):
        batch = windows.gather(origins[first : first + micro_batch])
        with precision.autocast():
            forecast = model(batch)
        error += absolute_error(forecast, batch).item()
        count += int(batch.target_observed.sum())
    error, count = ranks.total(error, count)
    if not math.isfinite(error):
        cure = "set runtime.precision: fp32" if precision.name != "fp32" else "a lower train.lr may help"
        raise Stopped(f"a validation forecast is not finite in {precision.name}; {cure}")
    return error / count
