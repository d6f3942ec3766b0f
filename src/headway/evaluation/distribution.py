"""Scores of a forecast distribution, as sums and counts by horizon step, divided once.

Enter: mixtures and ensembles, the calibrated quantiles, targets and masks, physical units. Leave, by horizon:
  CRPS       mean continuous ranked probability score, exact; in the unit of the target, and MAE for a single number
  NLL        mean -log p(y), nats, raw units
  pinball    mean over LEVELS of max(q (y - x), (q - 1)(y - x)) at quantile x of level q
  coverage   share of readings inside the interval;  width: mean width of it
  below      share of readings below the quantile of a level: what the reliability diagram shows
  PIT        how often F(y) falls into each of BINS equal bins; flat where the distribution is honest
and, by hour of the target, the width of the 80 % interval (sharpness).
Glossary: level = probability of a quantile, interval = central probability, raw = before calibration, recalibrated =
calibrated anew each day (recalibration.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from headway.data.calendar import HOURS
from headway.mixture import Mixture
from headway.models.calibration import INTERVALS, LEVELS, WIDTH_OF
from headway.models.naive_distributions import Ensemble

BINS = 20
KINDS = ("raw", "calibrated", "recalibrated")


@dataclass(slots=True, kw_only=True)
class QuantileSums:
    """Sums over observed targets of one set of quantiles, by horizon step.

    Attributes:
        pinball: summed over levels too.
        below: readings below each quantile. covered, width: of each interval.
        width_by_hour: of the 80 % interval, by local hour of the target.
    """

    pinball: Float[np.ndarray, " horizon"]
    below: Float[np.ndarray, "horizon level"]
    covered: Float[np.ndarray, "horizon interval"]
    width: Float[np.ndarray, "horizon interval"]
    width_by_hour: Float[np.ndarray, " 24"] = field(default_factory=lambda: np.zeros(HOURS))

    @classmethod
    def empty(cls, horizon: int) -> QuantileSums:
        intervals = len(INTERVALS)
        return cls(
            pinball=np.zeros(horizon),
            below=np.zeros((horizon, 2 * intervals)),
            covered=np.zeros((horizon, intervals)),
            width=np.zeros((horizon, intervals)),
        )

    def add(
        self,
        quantiles: Float[Tensor, "batch horizon node level"],
        target: Float[Tensor, "batch horizon node"],
        observed: Bool[Tensor, "batch horizon node"],
        hour: Int[np.ndarray, "batch horizon"],
    ) -> None:
        """Add one batch, in float64."""
        quantiles, y, mask = quantiles.double(), target.double().unsqueeze(-1), observed.unsqueeze(-1)
        levels = torch.tensor(LEVELS, dtype=torch.float64, device=quantiles.device)
        loss = torch.maximum(levels * (y - quantiles), (levels - 1) * (y - quantiles))
        low, high = quantiles[..., : len(INTERVALS)], quantiles[..., len(INTERVALS) :].flip(-1)
        width = (high - low) * mask
        self.pinball += _by_step((loss * mask).sum(-1, keepdim=True))[:, 0]
        self.below += _by_step((y < quantiles) & mask)
        self.covered += _by_step((y >= low) & (y <= high) & mask)
        self.width += _by_step(width)
        by_step = width[..., WIDTH_OF].sum(2).cpu().numpy()  # batch horizon
        self.width_by_hour += np.bincount(hour.ravel(), by_step.ravel(), minlength=HOURS)


@dataclass(slots=True, kw_only=True)
class DistributionSums:
    """Everything that is summed of the model's distribution and of the naive ones.

    Attributes:
        count: observed targets by horizon; count_by_hour: by local hour.
        crps: forecast -> sums by horizon. nll: of the model. pit: counts of F(y) by horizon and bin.
        quantiles: kind -> sums.
    """

    count: Float[np.ndarray, " horizon"]
    count_by_hour: Float[np.ndarray, " 24"]
    crps: dict[str, Float[np.ndarray, " horizon"]]
    nll: Float[np.ndarray, " horizon"]
    pit: Float[np.ndarray, "horizon bin"]
    quantiles: dict[str, QuantileSums]

    @classmethod
    def empty(cls, horizon: int) -> DistributionSums:
        return cls(
            count=np.zeros(horizon),
            count_by_hour=np.zeros(HOURS),
            crps={},
            nll=np.zeros(horizon),
            pit=np.zeros((horizon, BINS)),
            quantiles={},
        )

    def add(
        self,
        mixture: Mixture,
        said: Mapping[str, Float[Tensor, "batch horizon node level"]],
        target: Float[Tensor, "batch horizon node"],
        observed: Bool[Tensor, "batch horizon node"],
        hour: Int[np.ndarray, "batch horizon"],
    ) -> None:
        """Add what the model says of one batch; `said` has the quantiles of each of KINDS."""
        exact, y = mixture.double(), torch.where(observed, target, 0.0).double()
        self.count += _by_step(observed.unsqueeze(-1))[:, 0]
        observed_by_step = observed.sum(2).cpu().numpy()
        self.count_by_hour += np.bincount(hour.ravel(), observed_by_step.ravel(), minlength=HOURS)
        self.add_crps("headway", exact.crps(y), observed)
        self.nll -= _by_step(torch.where(observed, exact.log_density(y), 0.0).unsqueeze(-1))[:, 0]
        bins = (exact.distribution(y) * BINS).long().clamp(0, BINS - 1)
        self.pit += _by_step(torch.nn.functional.one_hot(bins, BINS) * observed.unsqueeze(-1))
        for kind in KINDS:
            sums = self.quantiles.setdefault(kind, QuantileSums.empty(len(self.count)))
            sums.add(said[kind], y, observed, hour)

    def add_naive(
        self,
        ensembles: Mapping[str, Ensemble],
        target: Float[Tensor, "batch horizon node"],
        observed: Bool[Tensor, "batch horizon node"],
    ) -> None:
        """Add what the naive distributions say of the same batch."""
        y = torch.where(observed, target, 0.0).double()
        for name, ensemble in ensembles.items():
            self.add_crps(name, Ensemble(members=ensemble.members.double()).crps(y), observed)

    def add_crps(
        self,
        name: str,
        crps: Float[Tensor, "batch horizon node"],
        observed: Bool[Tensor, "batch horizon node"],
    ) -> None:
        found = _by_step(torch.where(observed, crps, 0.0).unsqueeze(-1))[:, 0]
        self.crps[name] = self.crps.get(name, 0) + found


def _by_step(terms: Tensor) -> Float[np.ndarray, "horizon entry"]:
    """Sums over batch and node of [batch, horizon, node, entry], in float64."""
    return terms.double().sum((0, 2)).cpu().numpy()
