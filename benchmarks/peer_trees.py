"""LightGBM on a row for each (window, sensor, step): one model for all sensors and steps.

Enters: the prepared data. Leaves: a `Fitted`. Features: the history; of each context lag the readings around the
target and at the last step; how far ahead; slot of day and day of week of the target; the sensor, as a category.
Readings are scaled by sensor; those that are missing are NaN, which the trees have branches for.

Needs `pip install lightgbm==4.7.0`.

Glossary: R rows, N sensors, t the last row of the history.
"""

from __future__ import annotations

import importlib.util
from typing import Any

import numpy as np
import torch
from fitted import Fitted, peer_windows, training_scale

from headway.data.prepared import Prepared
from headway.types import Batch, Forecast, PointForecast

MODELS = ("lightgbm",)
ROWS, ROUNDS, PATIENCE, LEAVES, BINS = 700_000, 300, 30, 95, 127
AROUND = range(-2, 3)  # steps beside the target's time that are read a lag ago


def absent(model: str, prepared: Prepared) -> str:
    """Why it cannot run here; empty where it can."""
    return "" if importlib.util.find_spec("lightgbm") else "`pip install lightgbm==4.7.0` brings it"


def fit(model: str, prepared: Prepared, device: torch.device, seed: int) -> Fitted:
    """Trees fitted to sampled rows of training, as many as are best on sampled rows of validation."""
    import lightgbm  # pyright: ignore[reportMissingImports]

    table, random = _Table(prepared), np.random.default_rng(seed)
    rows, target = table.sample(prepared.meta.splits["train"], ROWS, random)
    choice = {
        "objective": "l1",
        "num_leaves": LEAVES,
        "learning_rate": 0.12,
        "min_data_in_leaf": 80,
        "feature_fraction": 0.8,
        "max_bin": BINS,
        "num_threads": torch.get_num_threads(),
        "verbose": -1,
        "seed": seed,
    }
    train = lightgbm.Dataset(rows, target, categorical_feature=[rows.shape[1] - 1], params={"max_bin": BINS})
    judged = table.sample(prepared.meta.splits["validation"], ROWS // 10, random)
    trees: Any = lightgbm.train(
        choice,
        train,
        ROUNDS,
        valid_sets=[lightgbm.Dataset(*judged, reference=train)],
        callbacks=[lightgbm.early_stopping(PATIENCE, verbose=False)],
    )

    def forecaster(batch: Batch) -> Forecast:
        said = trees.predict(table.grid(batch.origin.cpu().numpy()), num_threads=torch.get_num_threads())
        return PointForecast(point=torch.from_numpy(table.physical(said)).to(batch.fallback))

    windows = peer_windows(prepared, device, context=False)
    return Fitted(forecaster=forecaster, windows=windows, parameters=trees.best_iteration * LEAVES)


class _Table:
    """Rows of features of any windows, sensors and steps of one data set."""

    def __init__(self, prepared: Prepared) -> None:
        self.meta, self.calendar = prepared.meta, prepared.calendar
        self.mean, self.std = training_scale(prepared, per_sensor=True)
        seen = np.where(prepared.observed[..., 0], prepared.values[..., 0], np.float32(np.nan))
        self.scaled = (seen - self.mean) / self.std  # step N

    def sample(
        self, split: tuple[int, int], rows: int, random: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        """Features [R, F] and scaled targets [R] of random triples whose target was observed."""
        origin = random.choice(np.arange(*split), rows)
        sensor = random.integers(0, self.meta.sensors, rows)
        ahead = random.integers(1, self.meta.horizon + 1, rows)
        target = self.scaled[origin + ahead - 1, sensor]
        kept = np.isfinite(target)
        return self.features(origin[kept], sensor[kept], ahead[kept]), target[kept]

    def grid(self, origins: np.ndarray) -> np.ndarray:
        """Features of every step and sensor of these windows."""
        ahead, sensors = np.arange(1, self.meta.horizon + 1), np.arange(self.meta.sensors)
        triple = np.meshgrid(origins, ahead, sensors, indexing="ij")
        origin, step, sensor = (part.ravel() for part in triple)
        return self.features(origin, sensor, step)

    def physical(self, said: np.ndarray) -> np.ndarray:
        """Forecasts of `grid` in the target's unit, [window, horizon, N]."""
        scaled = said.reshape(-1, self.meta.horizon, self.meta.sensors)
        return (scaled * self.std + self.mean).astype(np.float32)

    def features(self, origin: np.ndarray, sensor: np.ndarray, ahead: np.ndarray) -> np.ndarray:
        """[R, F] of as many windows, sensors and steps (1 is the first); nothing at or after the origin is read."""
        now, at = origin - 1, origin + ahead - 1
        columns = [self.scaled[now - age, sensor] for age in reversed(range(self.meta.history))]
        for lag in self.meta.context:
            read = [*(at + offset - lag for offset in AROUND), now - lag]
            columns += [self._reading(row, origin, sensor) for row in read]
        slot, day = self.calendar[at].T
        return np.stack([*columns, ahead, slot, day, sensor], 1).astype(np.float32)

    def _reading(self, row: np.ndarray, origin: np.ndarray, sensor: np.ndarray) -> np.ndarray:
        known = (row >= 0) & (row < origin)
        return np.where(known, self.scaled[np.where(known, row, 0), sensor], np.nan)
