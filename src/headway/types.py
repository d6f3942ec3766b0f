"""The nouns every module speaks: Batch, Graph, Forecast.

Glossary: batch B, history L, horizon H, node (= sensor) N, channel C, anchor A, neighbor k; beside: the readings of
the context lags and what was usual, which stand beside each reading of the history.
The border layout is B T N C. A reading that was not observed is 0 in the values and False in the
mask beside it; nothing downstream ever infers "missing" from a value.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from headway.mixture import Mixture


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Windows of readings, in physical units outside `Standardized` and in z-units inside it.

    A window is named by its origin `t`, the row of its first target step: history is rows
    [t - L, t), target is rows [t, t + H). Every other reading is strictly before the origin, but for `fallback`,
    which is a statistic of the training rows.

    Attributes:
        origin: row of the first target step in the prepared array.
        history: channel 0 is the target variable, further channels are `windows.inputs`.
        history_observed: which of them were really read.
        history_calendar: (slot of day, day of week) in local civil time.
        covariates: `windows.covariates` at the history steps (0 where missing).
        past: per history step the target variable one context lag before it, and the trailing climatology.
        past_observed: False where that lies before the series or was not read.
        anchors: per target step the last observed reading, the reading of each context lag, and
            the trailing climatology, in this order.
        anchors_observed: False anchors get no weight.
        fallback: training climatology of each target step, for a sensor without any anchor.
        target_calendar: (slot of day, day of week) of each target step.
        target: what is to be forecast.
        target_observed: the only entries that loss and metrics may count.
    """

    origin: Int[Tensor, " batch"]
    history: Float[Tensor, "batch history node channel"]
    history_observed: Bool[Tensor, "batch history node channel"]
    history_calendar: Int[Tensor, "batch history 2"]
    covariates: Float[Tensor, "batch history covariate"]
    past: Float[Tensor, "batch history node beside"]
    past_observed: Bool[Tensor, "batch history node beside"]
    anchors: Float[Tensor, "batch horizon node anchor"]
    anchors_observed: Bool[Tensor, "batch horizon node anchor"]
    fallback: Float[Tensor, "batch horizon node"]
    target_calendar: Int[Tensor, "batch horizon 2"]
    target: Float[Tensor, "batch horizon node"]
    target_observed: Bool[Tensor, "batch horizon node"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Graph:
    """A sensor graph as a neighbour table of fixed degree k (<= 15); a sensor is not its own neighbour.

    Attributes:
        neighbors: row i lists the sensors that sensor i reads; padding repeats i itself.
        valid: False on padding.
        features: per edge the z-scored log distance and the edge weight; 0 on padding.
        positions: meters in a frame of the network's own, a row a sensor; none for operators without geometry.
        paths: third-order paths i -> j -> k -> p, those of a sensor together; likewise.
    """

    neighbors: Int[Tensor, "node neighbor"]
    valid: Bool[Tensor, "node neighbor"]
    features: Float[Tensor, "node neighbor feature"]
    positions: Float[Tensor, "place 3"] = field(default_factory=lambda: torch.zeros(0, 3))
    paths: Int[Tensor, "4 path"] = field(default_factory=lambda: torch.zeros(4, 0, dtype=torch.int32))


@dataclass(frozen=True, slots=True, kw_only=True)
class PointForecast:
    """One number a step, in the units of the batch it was made from.

    Attributes:
        point: the forecast that the mean absolute error judges.
    """

    point: Float[Tensor, "batch horizon node"]

    def shifted(self, by: Float[Tensor, "..."]) -> PointForecast:
        """The forecast of the target + by."""
        return PointForecast(point=self.point + by)

    def scaled(self, by: Float[Tensor, "..."]) -> PointForecast:
        """The forecast of the target * by."""
        return PointForecast(point=self.point * by)


Forecast = PointForecast | Mixture
"""What a model says about the target: both kinds have a `point`, can be `shifted` and `scaled`."""
