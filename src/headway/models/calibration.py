"""Split-conformal calibration: intervals that hold what they promise on data like the validation data.

    s = max(low - y, y - high)      how far a reading lies outside its interval (negative: inside)
    widen = the ceil((n + 1) a)-th smallest s of n validation readings, for each interval a, horizon and sensor group

Enters: forecasts of validation windows as mixtures. Leaves: a Calibrator, which moves the ends of the intervals of
later forecasts. It lives beside the weights, in calibration.json of the model folder. Sensors are grouped by the
width of their intervals where the data allow: a quiet sensor must not be widened for a restless one.
Source: Romano, Patterson, Candes 2019, "Conformalized quantile regression", Theorem 1; evaluation.md, Distributions.

Glossary: interval a = central probability; level = probability of a quantile; group g of sensors.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from headway.errors import InputError
from headway.mixture import Mixture
from headway.types import Batch

INTERVALS = (0.95, 0.9, 0.8, 0.5)  # the widest first
LEVELS = tuple((1 - a) / 2 for a in INTERVALS) + tuple((1 + a) / 2 for a in reversed(INTERVALS))
MOST_GROUPS, LEAST_READINGS = 8, 2000  # of sensors; of a group at a horizon
WIDTH_OF = INTERVALS.index(0.8)


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibrator:
    """How far the ends of each interval move outward, in the unit of the target.

    Attributes:
        group: which group each sensor belongs to.
        widen: negative where the raw interval was too wide.
        readings: what a group's horizon was fitted to at least.
    """

    group: Int[Tensor, " node"]
    widen: Float[Tensor, "interval group horizon"]
    readings: int

    def quantiles(self, mixture: Mixture) -> Float[Tensor, "batch horizon node level"]:
        """The calibrated quantiles of LEVELS, rising; intervals stay nested and around the median."""
        low, high = raw_intervals(mixture)
        by = self.widen[:, self.group].transpose(1, 2).to(low)  # interval horizon node
        by = by.permute(1, 2, 0)  # horizon node interval
        median = mixture.point.unsqueeze(-1)
        low, high = torch.minimum(low - by, median), torch.maximum(high + by, median)
        low = low.flip(-1).cummin(-1).values.flip(-1)  # from the narrowest interval outward
        high = high.flip(-1).cummax(-1).values.flip(-1)
        return torch.cat([low, high.flip(-1)], -1)

    def write(self, path: Path) -> None:
        """As JSON."""
        content = {
            "intervals": INTERVALS,
            "group": self.group.tolist(),
            "widen": self.widen.tolist(),
            "readings": self.readings,
        }
        path.write_text(json.dumps(content) + "\n")

    @classmethod
    def read(cls, path: Path, nodes: int, horizon: int) -> Calibrator:
        """Raises: InputError where the file is absent, damaged or of another model."""
        try:
            content = json.loads(path.read_text())
            found = cls(
                group=torch.tensor(content["group"], dtype=torch.int64),
                widen=torch.tensor(content["widen"], dtype=torch.float32),
                readings=int(content["readings"]),
            )
            groups = int(found.group.max()) + 1 if nodes else 0
            fits = found.group.shape == (nodes,) and found.widen.shape == (len(INTERVALS), groups, horizon)
            if not fits or content["intervals"] != list(INTERVALS) or not found.widen.isfinite().all():
                raise ValueError("shapes or intervals of another model")
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(
                f"{path} cannot be used ({error}); run `dvc repro train`, or `dvc pull`"
            ) from None
        return found


def raw_intervals(
    mixture: Mixture,
) -> tuple[Float[Tensor, "batch horizon node interval"], Float[Tensor, "batch horizon node interval"]]:
    """Lower and upper ends of INTERVALS as the mixture has them."""
    lower, upper = LEVELS[: len(INTERVALS)], LEVELS[len(INTERVALS) :][::-1]
    return mixture.quantiles(lower), mixture.quantiles(upper)


def raw_quantiles(mixture: Mixture) -> Float[Tensor, "batch horizon node level"]:
    """The quantiles of LEVELS as the mixture has them."""
    return mixture.quantiles(LEVELS)


def fit_calibrator(forecasts: Iterable[tuple[Batch, Mixture]]) -> Calibrator:
    """Fit to forecasts of validation windows in physical units.

    All scores are in memory at once: 16 bytes a target.
    Raises: InputError where no validation target is observed.
    """
    scores, observed, width, count = [], [], 0.0, 0
    for batch, mixture in forecasts:
        low, high = raw_intervals(mixture)
        target = batch.target.unsqueeze(-1)
        scores.append(torch.maximum(low - target, target - high).float().cpu().numpy())
        observed.append(batch.target_observed.cpu().numpy())
        width = width + (high - low)[..., WIDTH_OF].double().sum((0, 1)).cpu().numpy()
        count += 1
    if not count or not any(mask.any() for mask in observed):
        raise InputError("no validation target is observed, so intervals cannot be calibrated")
    known = np.concatenate(observed)
    return _fit(np.concatenate(scores), known, np.asarray(width))


def _fit(
    scores: Float[np.ndarray, "window horizon node interval"],
    observed: Bool[np.ndarray, "window horizon node"],
    width: Float[np.ndarray, " node"],
) -> Calibrator:
    fewest = int(observed.sum((0, 2)).min())
    groups = max(1, min(MOST_GROUPS, len(width), fewest // LEAST_READINGS))
    rank = np.argsort(np.argsort(width, kind="stable"), kind="stable")
    group = rank * groups // len(width)
    widen = np.empty((len(INTERVALS), groups, scores.shape[1]), np.float32)
    readings = math.inf
    for g in range(groups):
        for h in range(scores.shape[1]):
            found = scores[:, h, group == g][observed[:, h, group == g]]
            readings = min(readings, len(found))
            widen[:, g, h] = [_conformal_quantile(found[:, i], a) for i, a in enumerate(INTERVALS)]
    return Calibrator(group=torch.from_numpy(group), widen=torch.from_numpy(widen), readings=int(readings))


def _conformal_quantile(scores: Float[np.ndarray, " reading"], interval: float) -> float:
    """The ceil((n + 1) a)-th smallest; the largest where n is too small for that, 0 for nothing observed."""
    if not len(scores):
        return 0.0
    rank = min(math.ceil((len(scores) + 1) * interval), len(scores))
    return float(np.partition(scores, rank - 1)[rank - 1])
