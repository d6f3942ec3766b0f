"""The learning rate as a function of the update: nothing to save, nothing to resume."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

Schedule = Literal["constant", "cosine", "multistep"]


def learning_rate(
    update: int,
    *,
    schedule: Schedule,
    peak: float,
    warmup: int,
    total: int,
    epoch_steps: int,
    milestones: Sequence[int],
    decay: float,
) -> float:
    """The learning rate of update 0, 1, ... (a step that fp16 skipped is not an update).

    Args:
        peak: the rate after `warmup` linear updates. total: updates of the whole run, for cosine.
        milestones: epochs after which multistep multiplies by `decay`.
    """
    if update < warmup:
        return peak * (update + 1) / warmup
    match schedule:
        case "constant":
            return peak
        case "cosine":
            done = min(1.0, (update - warmup) / max(1, total - warmup))
            return peak * 0.5 * (1 + math.cos(math.pi * done))
        case "multistep":
            return peak * decay ** sum(update >= epoch * epoch_steps for epoch in milestones)


def depends_on_length(schedule: Schedule) -> bool:
    """Whether training longer changes the rates of the steps already taken."""
    return schedule == "cosine"
