"""Where a run begins: at its newest checkpoint, or at the anchors that are best on validation."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import torch
from torch import Tensor

from headway.data.order import spread_origins
from headway.data.windows import Windows
from headway.errors import InputError
from headway.nn.anchors import fit_mix
from headway.training.checkpoint import CheckpointError, load_newest, prune_checkpoints, save_checkpoint
from headway.training.course import Course
from headway.training.run import Run, describe
from headway.training.state import Progress, TrainingState

KIND = "step"
KEPT = 2  # checkpoints: should the newest be damaged, the one before it is there
CHUNK = 64  # windows looked at together
ANCHOR_BYTES = 64 * 2**20  # of the windows that the anchor mix is fitted to

log = logging.getLogger(__name__)


def save(state: TrainingState, run: Run) -> None:
    """Write a checkpoint of this moment; the work of rank 0.

    Raises: CheckpointError when it cannot be written; the one before is kept.
    """
    if not run.ranks.first:
        return
    tensors, numbers = state.pack()
    numbers |= {"steps": run.steps, "machine": machine(run, next(state.model.parameters()).device)}
    save_checkpoint(run.folder, f"{KIND}-{state.progress.step:010}", tensors, numbers)
    prune_checkpoints(run.folder, KIND, KEPT)
    run.saved()


def resume_or_start(state: TrainingState, windows: Windows, course: Course, run: Run) -> None:
    """Continue the newest checkpoint of this run; without one, begin. Rank 0 does, and gives the others its state.

    A run that goes on elsewhere, or in smaller pieces, is no other experiment, but not the same to the bit either:
    that is said, also by the model card.

    Raises: InputError when no validation target is observed; CheckpointError when there are checkpoints and none
        can be used.
    """
    run.steps = course.steps
    if run.ranks.first:
        _resume_or_start(state, windows, course, run)
    given = run.ranks.share(state.to_bytes() if run.ranks.world > 1 else b"")
    if not run.ranks.first:
        state.take_bytes(given)


def _resume_or_start(state: TrainingState, windows: Windows, course: Course, run: Run) -> None:
    windows = windows.mapped()  # validation windows, also those that this rank does not hold
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
    _unpack(state, *found)
    progress = state.progress
    log.info("resuming at step %d of %d", progress.step, course.steps)
    if relative is not None:
        progress.notes.append(f"At step {progress.step} training continued across a change of its code.")
    if not course.is_over(progress.step, progress.epochs_since_best):
        _note_changes(progress, found[1].get("machine", {}), machine(run, windows.device))


def machine(run: Run, device: torch.device) -> dict[str, Any]:
    """What rounds numbers: it may change between pause and resume, but not without changing bits."""
    cpu = f"cpu, {torch.backends.cpu.get_cpu_capability()}"
    return {
        "torch": torch.__version__,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else cpu,
        "runtime.precision": run.runtime.precision,
        "runtime.micro_batch": run.runtime.micro_batch,
        "threads": torch.get_num_threads(),
        "ranks": run.ranks.world,
    }


def _note_changes(progress: Progress, before: dict[str, Any], now: dict[str, Any]) -> None:
    if before != now:
        changes = describe({"params": before}, {"params": now})
        log.warning("going on with %s: equal in law, not to the bit, to a run without the change", changes)
        progress.notes.append(f"At step {progress.step} training went on with {changes}.")


def _unpack(state: TrainingState, tensors: dict[str, Tensor], numbers: dict[str, Any]) -> None:
    try:
        state.unpack(tensors, numbers)
    except (KeyError, RuntimeError, TypeError, ValueError) as error:  # `same-params` across another model
        reason = str(error).splitlines()[0]
        raise CheckpointError(
            f"the checkpoint does not fit this code ({reason}); set runtime.resume: auto or never in params.yaml"
        ) from error


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
