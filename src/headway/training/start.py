"""Where training begins: at its newest checkpoint, or at the anchors that are best on validation.

Enters: fresh weights, an open run. Leaves: the same state on every rank: rank 0 finds it, and gives it to the others.
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Int

from headway.data.order import spread_origins
from headway.data.windows import Windows
from headway.errors import InputError
from headway.models.standardized import Standardized
from headway.nn.anchors import fit_mix
from headway.training.course import Course
from headway.training.resume import resume
from headway.training.run import Run
from headway.training.state import TrainingState

CHUNK = 64  # windows looked at together
ANCHOR_BYTES = 64 * 2**20  # of the windows that the anchor mix is fitted to


def resume_or_start(state: TrainingState[Standardized], windows: Windows, course: Course, run: Run) -> None:
    """Continue the newest checkpoint of this run; without one, begin.

    Raises: InputError when no target of training or of validation is observed; as `resume`.
    """
    if run.ranks.first:
        _resume_or_start(state, windows.mapped(), course, run)
    given = run.ranks.share(state.to_bytes() if run.ranks.world > 1 else b"")
    if not run.ranks.first:
        state.take_bytes(given)


def _resume_or_start(state: TrainingState[Standardized], windows: Windows, course: Course, run: Run) -> None:
    """`windows`: also those of validation that this rank does not hold."""
    if not _observed(windows, course.training()):
        raise InputError("no target of the training split is observed, so nothing could be learned")
    if not _observed(windows, course.validation):
        raise InputError(
            f"no target is observed in the {len(course.validation)} windows of validation that training looks at, so "
            "no weights could be called the best; train.validation_windows: 0 looks at all, and "
            "metrics/preprocess/quality.html shows what is missing"
        )
    if not resume(state, run, course.steps, course.is_over):
        start_mix(state, windows, course)


def _observed(windows: Windows, origins: Int[np.ndarray, " window"]) -> bool:
    """Whether any target of these windows is; the first that is ends the search."""
    return any(windows.count_observed(chunk) for chunk in np.array_split(origins, -(-len(origins) // CHUNK)))


def start_mix(state: TrainingState[Standardized], windows: Windows, course: Course) -> None:
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
