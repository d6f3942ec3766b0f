"""What one optimizer step keeps in memory, measured on one small window instead of guessed.

Enters: the records of params.yaml and the sizes of the data. Leaves: `Footprint`. A model of the same
sections and few sensors is run forward once on the CPU; the tensors kept for the backward pass are counted.
Their bytes grow linearly with the windows in memory and with the sensors, because nothing N x N exists.

Glossary: saved = kept from the forward pass until the backward pass. What an operator needs for a moment, and
the neighbor table written out as row numbers, come on top: this is a floor, not a forecast.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from headway.data.calendar import DAY
from headway.data.prepared import PreparedMeta
from headway.data.rules import NO_BOUNDS, Rules
from headway.data.split import WindowsParams
from headway.models import build
from headway.models.standardized import Standardized
from headway.objectives.forecast_loss import absolute_error
from headway.training.precision import Precision
from headway.types import Batch, Graph

FEW_SENSORS = 32
EDGE_FEATURES = 2
COPIES = 4  # of each weight: itself, its gradient, two moments of AdamW; float32


@dataclass(frozen=True, slots=True, kw_only=True)
class Footprint:
    """Bytes that training holds at least.

    Attributes:
        weights: trained numbers.
        window: of one window in memory.
    """

    weights: int
    window: int

    def step(self, micro_batch: int) -> int:
        """Bytes of a step with so many windows in memory."""
        return self.weights * COPIES * 4 + self.window * micro_batch

    def fitting(self, budget: float) -> int:
        """The largest power of two of windows that stays within `budget` bytes, at least 1."""
        windows = max(1, int((budget - self.weights * COPIES * 4) // self.window))
        return 1 << (windows.bit_length() - 1)


def measure_footprint(
    sections: Mapping[str, Any], sensors: int, step_seconds: int, precision: str
) -> Footprint:
    """Count what one window of the chosen model keeps.

    Args:
        sections: every section of params.yaml. sensors, step_seconds: of the data.
        precision: fp32 | bf16 | fp16; half precision is counted as bf16 on the CPU.
    """
    few = min(sensors, FEW_SENSORS)
    model, meta = _model(sections, few, step_seconds)
    by_sensor = _model(sections, few + 1, step_seconds)[0].parameter_count() - model.parameter_count()
    arithmetic = Precision(name="fp32" if precision == "fp32" else "bf16", device_type="cpu")
    saved = _saved_bytes(model, _batch(meta), arithmetic)
    weights = model.parameter_count() + by_sensor * (sensors - few)
    return Footprint(weights=weights, window=saved * sensors // few)


def _model(sections: Mapping[str, Any], sensors: int, step_seconds: int) -> tuple[Standardized, PreparedMeta]:
    meta = _meta(sections["windows"], sensors, step_seconds)
    graph = _graph(sensors, sections["preprocess"].max_neighbors)
    ones = torch.ones(len(meta.channels))
    with torch.random.fork_rng(devices=[]):
        return build(sections["model"], sections, meta, graph, 0 * ones, ones), meta


def _saved_bytes(model: Standardized, batch: Batch, precision: Precision) -> int:
    """Bytes of the distinct storages that a forward pass keeps, weights and buffers aside."""
    own = {tensor.untyped_storage().data_ptr() for tensor in [*model.parameters(), *model.buffers()]}
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor), precision.autocast():
        batch = model.standardize(batch)
        absolute_error(model.forecast_standard(batch), batch)
    return sum(kept.values())


def _meta(windows: WindowsParams, sensors: int, step_seconds: int) -> PreparedMeta:
    """A data set of these sizes; what no model reads is left empty."""
    return PreparedMeta(
        dataset="",
        variable="",
        unit="",
        source="",
        licence="",
        time_zone="UTC",
        steps=0,
        sensors=sensors,
        channels=("", *windows.inputs),
        covariates=windows.covariates,
        step_seconds=step_seconds,
        slots_per_day=-(-DAY // step_seconds),
        history=windows.history,
        horizon=windows.horizon,
        context=tuple(range(len(windows.context))),
        trailing=(1,) if windows.trailing_weeks else (),
        trailing_days=(),
        splits={},
        training_rows=0,
        scaling="global",
        rules=Rules(duplicates="mean", off_grid="error"),
        bounds=NO_BOUNDS,
        covariate_steps=1,
        files={},
    )


def _graph(sensors: int, degree: int) -> Graph:
    """Every sensor reads the next ones: the full table, which is the largest."""
    neighbors = (torch.arange(sensors)[:, None] + torch.arange(1, degree + 1)) % sensors
    return Graph(
        neighbors=neighbors.int(),
        valid=torch.ones_like(neighbors, dtype=torch.bool),
        features=torch.zeros(sensors, degree, EDGE_FEATURES),
    )


def _batch(meta: PreparedMeta) -> Batch:
    """One window in which everything is observed."""
    shape = {
        "history": (meta.history, meta.sensors, len(meta.channels)),
        "past": (meta.history, meta.sensors, len(meta.context)),
        "anchors": (meta.horizon, meta.sensors, 1 + len(meta.context) + len(meta.trailing)),
        "target": (meta.horizon, meta.sensors),
    }
    fields: dict[str, Tensor] = {}
    for name, sizes in shape.items():
        fields[name] = torch.zeros(1, *sizes)
        fields[f"{name}_observed"] = torch.ones(1, *sizes, dtype=torch.bool)
    return Batch(
        **fields,
        origin=torch.zeros(1, dtype=torch.int64),
        history_calendar=torch.zeros(1, meta.history, 2, dtype=torch.int64),
        covariates=torch.zeros(1, meta.history, len(meta.covariates)),
        fallback=torch.zeros(1, meta.horizon, meta.sensors),
        target_calendar=torch.zeros(1, meta.horizon, 2, dtype=torch.int64),
    )
