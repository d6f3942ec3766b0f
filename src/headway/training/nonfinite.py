"""A loss or gradient that is not finite stops the run before the update, and can be repeated exactly.

The state is saved as it was before the step, so the next `dvc repro` takes that very step again; what the
step looked like is written beside it.
"""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
from jaxtyping import Int

from headway.errors import Stopped
from headway.training.resume import save
from headway.training.run import Run
from headway.training.state import TrainingState

REPORT = "nonfinite.json"
SKIPS_IN_ROW = 20  # overflows of fp16 after which its scale is not the reason any more


class NonFinite(Stopped):
    """A loss or gradient is not finite; nothing was updated."""


def refuse_non_finite(
    state: TrainingState[Any], origins: Int[np.ndarray, " group"], error: float, norm: float, run: Run
) -> None:
    """Pass when loss and gradient are finite, or when fp16 overflowed: its scaler skips the update and halves.

    Raises: NonFinite after saving the state before the step and a report of it.
    """
    progress = state.progress
    overflow = state.scaler.is_enabled() and progress.skipped_in_row < SKIPS_IN_ROW
    if math.isfinite(error) and (math.isfinite(norm) or overflow):
        return
    save(state, run)
    if run.ranks.first:
        _report(state, origins, error, norm, run)
    what = "gradient" if math.isfinite(error) else "loss"
    raise NonFinite(
        f"the {what} of step {progress.step} is not finite; no weight was changed. {run.folder / REPORT} lists its "
        f"windows and weights, and `dvc repro {run.stage}` repeats exactly this step; a lower {run.stage}.lr or "
        f"{run.stage}.clip_norm starts a run of its own"
    )


def _report(
    state: TrainingState[Any], origins: Int[np.ndarray, " group"], error: float, norm: float, run: Run
) -> None:
    report = {
        "step": state.progress.step,
        "origins": origins.tolist(),
        "loss": str(error),
        "gradient_norm": str(norm),
        "parameters": {
            name: {
                "largest": str(parameter.detach().abs().max().item()),
                "largest_gradient": str(
                    parameter.grad.abs().max().item() if parameter.grad is not None else 0.0
                ),
            }
            for name, parameter in state.model.named_parameters()
        },
    }
    (run.folder / REPORT).write_text(json.dumps(report, indent=1) + "\n")
