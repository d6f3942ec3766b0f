"""Forecasts that learn next to nothing: the naive ones of the evaluate stage, and our anchors by themselves.

    trailing_climatology   what was usual lately, the last of our anchors; where unknown the historical average
    anchor_mix             the mix of all anchors that is best on validation: our model before its first step

Enters: the prepared data. Leaves: a `Fitted`. The historical average is the fixed training climatology.
"""

from __future__ import annotations

import torch
from fitted import Fitted
from project_copy import VALIDATION_WINDOWS
from torch import nn

from headway.data.order import spread_origins
from headway.data.prepared import Prepared
from headway.data.windows import Windows
from headway.models.baselines import NAIVE, naive_forecasts
from headway.models.standardized import Standardized
from headway.nn.anchors import AnchorMix, fit_mix
from headway.types import Batch, Forecast, PointForecast

MODELS = (*NAIVE, "trailing_climatology", "anchor_mix")


def absent(model: str, prepared: Prepared) -> str:
    """Why there is no such forecast for this series; empty where there is one."""
    if model == "trailing_climatology" and not prepared.meta.trailing:
        return "the windows have no trailing weeks"
    if model in NAIVE and model not in naive_forecasts(prepared):
        return "a week is no whole number of steps, or shorter than the horizon"
    return ""


def fit(model: str, prepared: Prepared, device: torch.device) -> Fitted:
    """The forecast of this name."""
    windows = Windows(prepared, device)
    match model:
        case "trailing_climatology":
            return Fitted(forecaster=trailing_climatology, windows=windows, parameters=0)
        case "anchor_mix":
            return _fit_anchor_mix(prepared, windows)
    usual = prepared.climatology.size if model == "historical_average" else 0
    return Fitted(forecaster=naive_forecasts(prepared)[model], windows=windows, parameters=usual)


def trailing_climatology(batch: Batch) -> Forecast:
    """What was usual lately."""
    known = batch.anchors_observed[..., -1]
    return PointForecast(point=torch.where(known, batch.anchors[..., -1], batch.fallback))


class _NoCorrection(nn.Module):
    """The model whose forecast is the anchor mix."""

    def forward(self, batch: Batch) -> Forecast:
        return PointForecast(point=torch.zeros_like(batch.fallback))


def _fit_anchor_mix(prepared: Prepared, windows: Windows) -> Fitted:
    meta = prepared.meta
    mix = AnchorMix(meta.sensors, meta.horizon, 1 + meta.beside())
    mean, std = (torch.from_numpy(prepared.scaler[name]) for name in ("mean", "std"))
    model = Standardized(_NoCorrection(), mix, mean, std).to(windows.device)
    chosen = spread_origins(meta.splits["validation"], VALIDATION_WINDOWS)
    mix.set_start(fit_mix(model.standardize(windows.gather(chosen))))
    return Fitted(forecaster=model.eval(), windows=windows, parameters=mix.logits.numel())
