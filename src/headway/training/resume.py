"""Checkpoints of a run: one is written, the newest is continued."""

from __future__ import annotations

import logging
import platform
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from headway.training.checkpoint import CheckpointError, load_newest, prune_checkpoints, save_checkpoint
from headway.training.identity import describe
from headway.training.run import Run
from headway.training.state import Progress, TrainingState

KIND = "step"
KEPT = 2  # checkpoints: should the newest be damaged, the one before it is there

log = logging.getLogger(__name__)


def save(state: TrainingState[Any], run: Run) -> None:
    """Write a checkpoint of this moment; the work of rank 0.

    Raises: CheckpointError when it cannot be written; the one before is kept.
    """
    if not run.ranks.first:
        return
    state.progress.machine = machine(run, next(state.model.parameters()).device)
    tensors, numbers = state.pack()
    numbers |= {"steps": run.steps}
    save_checkpoint(run.folder, f"{KIND}-{state.progress.step:010}", tensors, numbers)
    prune_checkpoints(run.folder, KIND, KEPT)
    run.saved()


def resume(state: TrainingState[Any], run: Run, steps: int, is_over: Callable[[int, int], bool]) -> bool:
    """Continue the newest checkpoint of this run, of `steps` steps in all. Returns: False where there is none.

    A run that goes on elsewhere, or in smaller pieces, is no other experiment, but not the same to the bit either:
    that is said, also by the model card.

    Args: is_over: whether a run ends after so many steps, so many epochs after its best one.
    Raises: CheckpointError when there are checkpoints and none can be used.
    """
    run.steps = steps
    found = load_newest(run.folder, KIND)
    relative = None if found else run.relative()
    if relative is not None:
        found = load_newest(relative, KIND)
    if found and found[1]["progress"]["step"] > steps:
        log.info("the earlier run is past the %d steps asked for; starting fresh", steps)
        run.forget()
        found = None
    if found is None:
        return False
    _unpack(state, *found)
    progress = state.progress
    log.info("resuming at step %d of %d", progress.step, steps)
    if relative is not None:
        progress.notes.append(f"At step {progress.step} training continued across a change of its code.")
    if not is_over(progress.step, progress.epochs_since_best):
        device = next(state.model.parameters()).device
        _note_changes(progress, machine(run, device))
    return True


def machine(run: Run, device: torch.device) -> dict[str, Any]:
    """What rounds numbers: it may change between pause and resume, but not without changing bits."""
    cpu = f"{processor()}, {torch.backends.cpu.get_cpu_capability()}"
    return {
        "torch": torch.__version__,
        "kind": device.type,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else cpu,
        "scan": run.scan,
        "runtime.precision": run.runtime.precision,
        "runtime.micro_batch": run.runtime.micro_batch,
        "threads": torch.get_num_threads(),
        "ranks": run.ranks.world,
    }


@cache
def processor() -> str:
    """Its model, as the kernel names it; else its architecture."""
    with suppress(OSError, StopIteration):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return platform.processor() or platform.machine()


def _note_changes(progress: Progress, now: dict[str, Any]) -> None:
    if progress.machine != now:
        changes = describe({"params": progress.machine}, {"params": now})
        log.warning("going on with %s: equal in law, not to the bit, to a run without the change", changes)
        progress.notes.append(f"At step {progress.step} training went on with {changes}.")


def _unpack(state: TrainingState[Any], tensors: dict[str, Tensor], numbers: dict[str, Any]) -> None:
    try:
        state.unpack(tensors, numbers)
    except (KeyError, RuntimeError, TypeError, ValueError) as error:  # `same-params` across another model
        reason = str(error).splitlines()[0]
        raise CheckpointError(
            f"the checkpoint does not fit this code ({reason}); set runtime.resume: auto or never in params.yaml"
        ) from error
