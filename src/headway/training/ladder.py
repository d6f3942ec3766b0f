"""When memory runs out in mid-run: smaller pieces of the same group, then recomputation, slices, then a report.

The group is begun again, so the update is that of the same windows; only dropout masks, which are drawn piece by
piece, are others. What was changed is in the log, in the run's record and in the notes of the model card.
"""

from __future__ import annotations

import gc
import logging
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any

import torch

from headway.training.memory import out_of_memory_says, peak_mib
from headway.training.run import Run
from headway.training.state import TrainingState

log = logging.getLogger(__name__)


def memory_may_run_out(run: Run, device: torch.device) -> AbstractContextManager[None]:
    """Around training: nothing is saved, because an update may have been cut short.

    Raises: Stopped naming the peak and the micro-batch that needed it.
    """

    def advice() -> str:
        micro = run.runtime.micro_batch
        smaller = (
            f"set it to {micro // 2} in params.yaml"
            if micro > 1
            else "docs/training.md lists what else helps"
        )
        return (
            f": the peak was {peak_mib(device):.0f} MiB with runtime.micro_batch: {micro}; {smaller}. "
            "`dvc repro` then continues from the last checkpoint"
        )

    return out_of_memory_says(advice)


def beside_the_steps() -> str:
    """What helps where memory runs out in a stage that trains, but not in a step."""
    return (
        " outside the steps of training, so runtime.micro_batch does not help; free some memory, or set "
        "runtime.device: cpu, then `dvc repro`"
    )


def step_down(state: TrainingState[Any], run: Run) -> bool:
    """Need less memory from here on. Returns: False when nothing is left to give up."""
    windows, progress = run.runtime.micro_batch, state.progress
    if windows > 1:
        run.runtime = replace(run.runtime, micro_batch=windows // 2)
        change = f"runtime.micro_batch: {windows} -> {windows // 2}"
    else:
        change = state.model.save_memory()
    if not change:
        return False
    log.warning("out of memory in step %d; going on with %s", progress.step, change)
    run.record({"step": progress.step, "out_of_memory": change})
    progress.notes.append(f"In step {progress.step} memory ran out; training went on with {change}.")
    return True


def release(state: TrainingState[Any]) -> None:
    """Drop what the broken step left, also from the GPU allocator's own store."""
    state.optimizer.zero_grad(set_to_none=True)
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
