"""Split-conformal calibration: intervals that hold what they promise on data like the validation data.

    s = max(low - y, y - high)      how far a reading lies outside its interval (negative: inside)
    widen = the ceil((n + 1) a)-th smallest s of n validation readings, for each interval a, horizon and sensor group

Enters: what came of forecasts of validation windows. Leaves: a Calibrator, which moves the ends of the intervals of
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

INTERVALS = (0.95, 0.9, 0.8, 0.5)  # the widest first
LEVELS = tuple((1 - a) / 2 for a in INTERVALS) + tuple((1 + a) / 2 for a in reversed(INTERVALS))
MOST_GROUPS, LEAST_READINGS = 8, 2000  # of sensors; of a group at a horizon
WIDTH_OF = INTERVALS.index(0.8)


@dataclass(frozen=True, slots=True, kw_only=True)
class Intervals:
    """What a mixture says before calibration: the ends of INTERVALS, and its median."""

    low: Float[Tensor, "batch horizon node interval"]
    high: Float[Tensor, "batch horizon node interval"]
    median: Float[Tensor, "batch horizon node"]

    @classmethod
    def of(cls, mixture: Mixture) -> Intervals:
        lower, upper = LEVELS[: len(INTERVALS)], LEVELS[len(INTERVALS) :][::-1]
        return cls(low=mixture.quantiles(lower), high=mixture.quantiles(upper), median=mixture.point)

    def quantiles(self) -> Float[Tensor, "batch horizon node level"]:
        """The quantiles of LEVELS as the mixture has them."""
        return torch.cat([self.low, self.high.flip(-1)], -1)

    def window(self, row: int) -> Intervals:
        """Those of one window of the batch."""
        rows = slice(row, row + 1)
        return Intervals(low=self.low[rows], high=self.high[rows], median=self.median[rows])


@dataclass(frozen=True, slots=True, kw_only=True)
class Misses:
    """How far the readings of some windows lay outside their intervals: s of this module.

    Attributes:
        outside: the unit of the target, in memory at 16 bytes a target.
        width: of the 80 % interval, summed over the horizon.
    """

    outside: Float[np.ndarray, "window horizon node interval"]
    observed: Bool[np.ndarray, "window horizon node"]
    width: Float[np.ndarray, "window node"]

    @classmethod
    def of(
        cls,
        said: Intervals,
        target: Float[Tensor, "batch horizon node"],
        observed: Bool[Tensor, "batch horizon node"],
    ) -> Misses:
        y = target.unsqueeze(-1)
        return cls(
            outside=torch.maximum(said.low - y, y - said.high).float().cpu().numpy(),
            observed=observed.cpu().numpy(),
            width=(said.high - said.low)[..., WIDTH_OF].double().sum(1).cpu().numpy(),
        )


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

    def quantiles(self, said: Intervals) -> Float[Tensor, "batch horizon node level"]:
        """The calibrated quantiles of LEVELS, rising; intervals stay nested and around the median."""
        by = self.widen[:, self.group].transpose(1, 2).to(said.low)  # interval horizon node
        by = by.permute(1, 2, 0)  # horizon node interval
        median = said.median.unsqueeze(-1)
        low, high = torch.minimum(said.low - by, median), torch.maximum(said.high + by, median)
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


def fit_calibrator(misses: Iterable[Misses]) -> Calibrator:
    """Fit to what came of forecasts that the model was not trained on.

    Raises: InputError where no target is observed.
    """
    found = list(misses)
    if not any(part.observed.any() for part in found):
        raise InputError("no target is observed, so intervals cannot be calibrated")
    outside, observed, width = (
        np.concatenate([getattr(part, name) for part in found]) for name in ("outside", "observed", "width")
    )
    return _fit(outside, observed, width.sum(0))


def _fit(
    outside: Float[np.ndarray, "window horizon node interval"],
    observed: Bool[np.ndarray, "window horizon node"],
    width: Float[np.ndarray, " node"],
) -> Calibrator:
    group, readings = _group_sensors(observed.sum(0), width)
    groups = int(group.max()) + 1
    widen = np.empty((len(INTERVALS), groups, outside.shape[1]), np.float32)
    for g in range(groups):
        for h in range(outside.shape[1]):
            found = outside[:, h, group == g][observed[:, h, group == g]]
            widen[:, g, h] = [_conformal_quantile(found[:, i], a) for i, a in enumerate(INTERVALS)]
    return Calibrator(group=torch.from_numpy(group), widen=torch.from_numpy(widen), readings=readings)


def _group_sensors(
    count: Int[np.ndarray, "horizon node"], width: Float[np.ndarray, " node"]
) -> tuple[Int[np.ndarray, " node"], int]:
    """The group of each sensor, and the fewest readings that a group has at a horizon.

    Groups are equally many sensors of similar width, and as many as leave each LEAST_READINGS; else there is one.
    """
    rank, fewest = np.argsort(np.argsort(width, kind="stable"), kind="stable"), int(count.sum(1).min())
    for groups in range(min(MOST_GROUPS, len(width), fewest // LEAST_READINGS), 1, -1):
        group = rank * groups // len(width)
        readings = min(int(count[:, group == g].sum(1).min()) for g in range(groups))
        if readings >= LEAST_READINGS:
            return group, readings
    return np.zeros_like(rank), fewest


def _conformal_quantile(scores: Float[np.ndarray, " reading"], interval: float) -> float:
    """The ceil((n + 1) a)-th smallest; the largest where n is too small for that, 0 for nothing observed."""
    if not len(scores):
        return 0.0
    rank = min(math.ceil((len(scores) + 1) * interval), len(scores))
    return float(np.partition(scores, rank - 1)[rank - 1])
