"""Linear forecasts in closed form: a map from the last readings, and from those a day and a week ago, to each step.

    L2   w = (X'X + p n I)^-1 X'y                     L1   the same, each error weighted by 1 / |error|, three times

    linear_lags                 the history alone, one map for all sensors: what DLinear and NLinear can express
    linear_context              history and context, one map for all sensors
    linear_context_per_sensor   history and context, a map for each sensor

Enters: the prepared data. Leaves: a `Fitted`. A reading that is missing is 0 after scaling, as in the networks.

Glossary: B windows, N sensors, F features (readings and a 1), H horizon, G maps (1 or N), p the penalty, picked on
validation, n the summed weight of the observed targets.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from fitted import Fitted, peer_windows, training_scale
from torch import Tensor

from headway.data.prepared import Prepared
from headway.data.windows import Windows
from headway.types import Batch, Forecast, PointForecast

MODELS = ("linear_lags", "linear_context", "linear_context_per_sensor")
PENALTIES, REWEIGHTINGS, SMALLEST_ERROR = (1e-3, 1e-2, 1e-1), 3, 0.02
FIT_WINDOWS, LOOK_WINDOWS, CHUNK = 16_000, 300, 128  # a few hundred weights need no more windows than these


def absent(model: str, prepared: Prepared) -> str:
    """Why there is no such forecast for this series; empty where there is one."""
    return "" if model == "linear_lags" or prepared.meta.context else "no context lag fits the series"


def fit(model: str, prepared: Prepared, device: torch.device) -> Fitted:
    """The forecast of this name."""
    windows = peer_windows(prepared, device, context=model != "linear_lags")
    scale = training_scale(prepared, per_sensor=model != "linear_lags")
    mean, std = (torch.from_numpy(part).to(device) for part in scale)
    maps = prepared.meta.sensors if model == "linear_context_per_sensor" else 1
    linear = _Linear(windows=windows, mean=mean, std=std, maps=maps)
    origins = _whole_windows(windows, prepared.meta.splits["train"])
    first = linear.products(origins)
    candidates = [_solve(*first, penalty) for penalty in PENALTIES]
    best = int(np.argmin(linear.errors(candidates, prepared.meta.splits["validation"])))
    weights = candidates[best]
    for _ in range(REWEIGHTINGS):
        weights = _solve(*linear.products(origins, weights), PENALTIES[best])

    def forecaster(batch: Batch) -> Forecast:
        return PointForecast(point=linear.forecast(batch, weights))

    return Fitted(forecaster=forecaster, windows=windows, parameters=weights.numel())


@dataclass(frozen=True, slots=True, kw_only=True)
class _Linear:
    """Features and products of windows; `mean` and `std` are [N]."""

    windows: Windows
    mean: Tensor
    std: Tensor
    maps: int

    def products(self, origins: np.ndarray, weights: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """X'WX [G, H, F, F] and X'Wy [G, H, F]; W is the mask, over the errors of these weights if they are given."""
        squares, moments = torch.zeros(()), torch.zeros(())
        for batch in self._batches(origins):
            x = self._features(batch)  # N B F
            y = ((batch.target - self.mean) / self.std * batch.target_observed).permute(2, 0, 1)
            weight = batch.target_observed.permute(2, 0, 1).float()  # N B H
            if self.maps == 1:
                x, y, weight = (part.reshape(1, -1, part.shape[-1]) for part in (x, y, weight))
            if weights is not None:
                weight = weight / (x @ weights.mT - y).abs().clamp(min=SMALLEST_ERROR)
            weighted = [x * weight[..., step : step + 1] for step in range(y.shape[-1])]
            squares = squares + torch.stack([part.mT @ x for part in weighted], 1).double()
            moments = moments + (x.mT @ (weight * y)).mT.double()
        return squares, moments

    def errors(self, candidates: list[Tensor], split: tuple[int, int]) -> list[float]:
        """Validation MAE of each."""
        origins = np.arange(*split)
        origins = origins[:: max(1, len(origins) // LOOK_WINDOWS)]
        total = torch.zeros(len(candidates), dtype=torch.float64)
        for batch in self._batches(origins):
            said = torch.stack([self.forecast(batch, weights) for weights in candidates])
            total += ((said - batch.target).abs() * batch.target_observed).double().sum((1, 2, 3)).cpu()
        return total.tolist()

    def forecast(self, batch: Batch, weights: Tensor) -> Tensor:
        """In physical units, [B, H, N]."""
        said = (self._features(batch) @ weights.mT).permute(1, 2, 0)
        return said * self.std + self.mean

    def _features(self, batch: Batch) -> Tensor:
        """[N, B, F]: the history, then of each lag the history and the horizon so long ago, then 1."""
        mean, std, lags = self.mean.unsqueeze(-1), self.std.unsqueeze(-1), batch.past.shape[-1]
        history = (batch.history[..., 0] - self.mean) / self.std * batch.history_observed[..., 0]
        past = (batch.past - mean) / std * batch.past_observed
        ahead, known = (part[..., 1 : 1 + lags] for part in (batch.anchors, batch.anchors_observed))
        ahead = (ahead - mean) / std * known
        parts = [history, *past.unbind(-1), *ahead.unbind(-1), torch.ones_like(history[:, :1])]
        return torch.cat(parts, 1).permute(2, 0, 1).contiguous()

    def _batches(self, origins: np.ndarray) -> Iterator[Batch]:
        for first in range(0, len(origins), CHUNK):
            yield self.windows.gather(origins[first : first + CHUNK])


def _whole_windows(windows: Windows, split: tuple[int, int]) -> np.ndarray:
    """Training windows, evenly spread; those alone whose context lies in the series, where they are the most."""
    origins = np.arange(*split)
    whole = origins[origins >= windows.history + max(windows.context, default=0)]
    kept = whole if len(whole) >= len(origins) / 2 else origins
    return kept[:: 1 + len(kept) // FIT_WINDOWS]


def _solve(squares: Tensor, moments: Tensor, penalty: float) -> Tensor:
    """Weights [G, H, F]; the 1 is hardly penalized."""
    count = squares[..., -1, -1].clamp(min=1.0)
    ridge = torch.eye(squares.shape[-1], dtype=squares.dtype, device=squares.device)
    ridge[-1, -1] = 1e-6
    full = squares + penalty * count[..., None, None] * ridge
    return torch.linalg.solve(full, moments.unsqueeze(-1)).squeeze(-1).float()
