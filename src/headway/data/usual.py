"""Anchors that are made of readings: the last one, and what was usual lately.

Enters: windows of readings and which of them were observed; unobserved ones are 0. Leaves: for each sensor the newest
reading, and the trailing climatology, each with whether it is known.

Glossary: n_w observed weeks, n_d observed days.

Equation: usual = (sum_w x_w + c * sum_d x_d / n_d) / (n_w + c), over observed readings, c = DAY_WEIGHT, 0 without
an observed day. Unknown where no reading is observed.

Source: models.md 0b. Only readings before the origin enter, in training as in use; the training climatology would
hold the target itself.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

# A trailing mean of n weeks is shrunk to the mean of the last days as if those were one more week.
DAY_WEIGHT = 1.0


def last_observed(
    history: Float[Tensor, "batch history node"], observed: Bool[Tensor, "batch history node"]
) -> tuple[Float[Tensor, "batch node"], Bool[Tensor, "batch node"]]:
    """The newest observed reading of each sensor, and whether there is one; 0 where there is none."""
    age = torch.arange(1, history.shape[1] + 1, device=history.device, dtype=torch.int16).view(1, -1, 1)
    newest = (age * observed).amax(1).long()  # 1-based step of the newest reading, 0 for none
    known = newest > 0
    last = history.gather(1, (newest - 1).clamp_(min=0).unsqueeze(1)).squeeze(1)
    return last * known, known


def trailing_climatology(
    weeks: Float[Tensor, "batch week horizon node"],
    weeks_observed: Bool[Tensor, "batch week horizon node"],
    days: Float[Tensor, "batch day horizon node"],
    days_observed: Bool[Tensor, "batch day horizon node"],
) -> tuple[Float[Tensor, "batch horizon node"], Bool[Tensor, "batch horizon node"]]:
    """What was usual lately: the mean of the last weeks at this time of week, shrunk to the last days.

    Returns: the equation of this module, 0 where unknown, and whether it is known.
    """
    # at most 52 weeks and 7 days: a byte counts them, an eighth of what has to be moved otherwise
    week_count, day_count = (
        observed.view(torch.uint8).sum(1, dtype=torch.uint8) for observed in (weeks_observed, days_observed)
    )
    any_day = day_count.clamp(max=1)
    known = (week_count | any_day).clamp_(max=1).view(torch.bool)
    day_mean = days.sum(1).div_(day_count.clamp_(min=1)).mul_(DAY_WEIGHT)
    weight = (DAY_WEIGHT * any_day).add_(week_count).clamp_(min=min(1.0, DAY_WEIGHT))
    return weeks.sum(1).add_(day_mean).div_(weight), known
