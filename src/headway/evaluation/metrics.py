"""Masked errors as sums and counts, divided once.

Enter: a forecast, its target and the observed mask, physical units. Leave: MAE, RMSE, MAPE, WAPE,
R2 and their counts by horizon step, hour of day and sensor. Only observed entries count:
  MAE  = sum |e| / n                      RMSE = sqrt(sum e^2 / n)
  MAPE = 100 sum |e|/|y| / n'             n' counts the targets with |y| > floor
  WAPE = 100 sum |e| / sum |y|            R2   = 1 - sum e^2 / sum (y - mean y)^2
What has nothing to divide by is None, never 0 and never NaN.
Glossary: batch B, horizon H, sensor N, error e = forecast - target y, group = what sums are kept by.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, Int
from torch import Tensor

from headway.data.calendar import HOURS

_FLAT = 1e-12  # share of the shifted squares below which the spread of a target is rounding


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    """The five metrics of one group and how many observed targets they rest on; percent for MAPE, WAPE."""

    mae: float | None
    rmse: float | None
    mape: float | None
    wape: float | None
    r2: float | None
    count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorSums:
    """Sums over observed targets, one entry a group; two of them add up to the sums of both.

    Attributes:
        count: observed targets.
        absolute: |e|.
        squared: e^2.
        relative: |e| / |y| where |y| is above the floor.
        relative_count: how many those are.
        magnitude: |y|.
        shifted: y - center; squares of y itself would cancel in R2.
        shifted_squared: (y - center)^2.
    """

    count: Float64[np.ndarray, " group"]
    absolute: Float64[np.ndarray, " group"]
    squared: Float64[np.ndarray, " group"]
    relative: Float64[np.ndarray, " group"]
    relative_count: Float64[np.ndarray, " group"]
    magnitude: Float64[np.ndarray, " group"]
    shifted: Float64[np.ndarray, " group"]
    shifted_squared: Float64[np.ndarray, " group"]

    @classmethod
    def from_terms(cls, terms: Float64[np.ndarray, "term group"]) -> ErrorSums:
        return cls(**dict(zip(_TERMS, terms, strict=True)))

    def __add__(self, other: ErrorSums) -> ErrorSums:
        return ErrorSums.from_terms(self._terms() + other._terms())

    def total(self) -> ErrorSums:
        """The sums of all groups together, as a single group."""
        return ErrorSums.from_terms(self._terms().sum(axis=1, keepdims=True))

    def scores(self) -> list[Scores]:
        """The metrics of every group, in the groups' order."""
        return [_scores(dict(zip(_TERMS, group, strict=True))) for group in self._terms().T.tolist()]

    def _terms(self) -> Float64[np.ndarray, "term group"]:
        return np.stack([getattr(self, name) for name in _TERMS])


_TERMS = tuple(field.name for field in fields(ErrorSums))


@dataclass(frozen=True, slots=True, kw_only=True)
class Errors:
    """The same errors summed three ways: by horizon step [H], hour of the target [24], sensor [N]."""

    by_horizon: ErrorSums
    by_hour: ErrorSums
    by_sensor: ErrorSums

    def __add__(self, other: Errors) -> Errors:
        return Errors(
            by_horizon=self.by_horizon + other.by_horizon,
            by_hour=self.by_hour + other.by_hour,
            by_sensor=self.by_sensor + other.by_sensor,
        )


def measure(
    point: Float[Tensor, "batch horizon node"],
    target: Float[Tensor, "batch horizon node"],
    observed: Bool[Tensor, "batch horizon node"],
    hour: Int[np.ndarray, "batch horizon"],
    *,
    mape_floor: float,
    center: float,
) -> Errors:
    """Sum the errors of one batch in float64, on the device of the forecast.

    Args:
        point, target: physical units; the target's value counts only where `observed`.
        hour: 0..23, local civil hour of each target step.
        mape_floor: MAPE skips targets of at most this size.
        center: a constant near the mean of the target, the same in every call whose sums are added.
    """
    terms = _error_terms(point, target, observed, mape_floor=mape_floor, center=center)
    by_step = torch.stack([term.sum(dim=2) for term in terms]).cpu().numpy()  # [8, B, H]
    by_sensor = torch.stack([term.sum(dim=(0, 1)) for term in terms]).cpu().numpy()  # [8, N]
    by_hour = [np.bincount(hour.ravel(), weights=term.ravel(), minlength=HOURS) for term in by_step]
    return Errors(
        by_horizon=ErrorSums.from_terms(by_step.sum(axis=1)),
        by_hour=ErrorSums.from_terms(np.stack(by_hour)),
        by_sensor=ErrorSums.from_terms(by_sensor),
    )


def _error_terms(
    point: Float[Tensor, "batch horizon node"],
    target: Float[Tensor, "batch horizon node"],
    observed: Bool[Tensor, "batch horizon node"],
    *,
    mape_floor: float,
    center: float,
) -> list[Float64[Tensor, "batch horizon node"]]:
    """What each field of ErrorSums sums, in its order; 0 where not observed."""
    nothing = torch.zeros((), dtype=torch.float64, device=target.device)
    # where, not times: an unobserved entry may hold anything, and NaN * 0 is NaN
    truth = torch.where(observed, target.double(), nothing)
    error = torch.where(observed, point.double() - truth, nothing)
    shifted = torch.where(observed, truth - center, nothing)
    magnitude, absolute = truth.abs(), error.abs()
    sizable = observed & (magnitude > mape_floor)
    relative = torch.where(sizable, absolute / magnitude.where(sizable, nothing + 1), nothing)
    return [
        observed.double(),
        absolute,
        error.square(),
        relative,
        sizable.double(),
        magnitude,
        shifted,
        shifted.square(),
    ]


def _scores(sums: dict[str, float]) -> Scores:
    count = sums["count"]
    mean_square = _ratio(sums["squared"], count)
    unexplained = _ratio(sums["squared"], _spread(sums))
    return Scores(
        mae=_ratio(sums["absolute"], count),
        rmse=None if mean_square is None else math.sqrt(mean_square),
        mape=_ratio(100 * sums["relative"], sums["relative_count"]),
        wape=_ratio(100 * sums["absolute"], sums["magnitude"]),
        r2=None if unexplained is None else 1 - unexplained,
        count=int(count),
    )


def _spread(sums: dict[str, float]) -> float:
    """Sum of (y - mean y)^2; 0 where the targets are all equal."""
    if sums["count"] == 0:
        return 0.0
    spread = sums["shifted_squared"] - sums["shifted"] ** 2 / sums["count"]
    return spread if spread > _FLAT * sums["shifted_squared"] else 0.0


def _ratio(numerator: float, denominator: float) -> float | None:
    return numerator / denominator if denominator > 0 else None
