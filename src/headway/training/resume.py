"""Where a run begins: at its newest checkpoint, or at the anchors that are best on validation."""

from __future__ import annotations

import logging

import numpy as np
import torch

from headway.data.order import spread_origins
from headway.data.windows import Windows
from headway.errors import InputError
from headway.nn.anchors import fit_mix
from headway.training.checkpoint import load_newest, prune_checkpoints, save_checkpoint
from headway.training.course import Course
from headway.training.run import Run
from headway.training.state import TrainingState

KIND = "step"
KEPT = 2  # checkpoints: should the newest be damaged, the one before it is there
CHUNK = 64  # windows looked at together
ANCHOR_BYTES = 64 * 2**20  # of the windows that the anchor mix is fitted to

log = logging.getLogger(__name__)


def save(state: TrainingState, run: Run) -> None:
    """Write a checkpoint of this moment.

    Raises: CheckpointError when it cannot be written; the one before is kept.
    """
    tensors, numbers = state.pack()
    save_checkpoint(run.folder, f"{KIND}-{state.progress.step:010}", tensors, numbers)
    prune_checkpoints(run.folder, KIND, KEPT)
    run.saved()


def resume_or_start(state: TrainingState, windows: Windows, course: Course, run: Run) -> None:
    """Continue the newest checkpoint of this run; without one, begin.

    Raises: InputError when no validation target is observed; CheckpointError when there are checkpoints and none
        can be used.
    """
    chunks = np.array_split(course.validation, -(-len(course.validation) // CHUNK))
    if not any(windows.count_observed(chunk) for chunk in chunks):
        raise InputError(
            "no reading in the validation split is observed, so no weights could be called the best"
        )
    found = load_newest(run.folder, KIND)
    relative = None if found else run.relative()
    if relative is not None:
        found = load_newest(relative, KIND)
    if found and found[1]["progress"]["step"] > course.steps:
        log.info("the earlier run is past the %d steps asked for; starting fresh", course.steps)
        run.forget()
        found = None
    if found is None:
        start_mix(state, windows, course)
        return
    state.unpack(*found)
    if relative is not None:
        step = state.progress.step
        state.progress.notes.append(f"At step {step} training continued across a change of its code.")
    log.info("resuming at step %d of %d", state.progress.step, course.steps)


def start_mix(state: TrainingState, windows: Windows, course: Course) -> None:
    """Begin from, and be held to, the anchor mix that is best on the validation windows."""
    mix = state.model.mix
    if mix is None:
        return
    values = mix.start.numel() * mix.offsets.shape[0]  # anchors of one window
    count = max(1, ANCHOR_BYTES // (4 * values))
    chosen = spread_origins((0, len(course.validation)), min(count, len(course.validation)))
    batch = state.model.standardize(windows.gather(course.validation[chosen]))
    with torch.enable_grad():
        mix.set_start(fit_mix(batch))
