"""What a training step holds at its peak: `headway.training.storages` with windows of a data set's sizes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch

from headway.data.prepared import PreparedMeta
from headway.data.windows import before_and_after
from headway.models.standardized import Standardized
from headway.training.piece import backward_piece
from headway.training.precision import Precision
from headway.training.storages import StepMemory, trace_activations, trace_piece
from headway.types import Batch


def trace_step(
    model: Standardized, meta: PreparedMeta, micro_batch: int, precision: Precision, *, accumulate: bool
) -> StepMemory:
    """Run a step with so many windows in memory on fake tensors.

    Args:
        model: as training has it; it is copied. accumulate: whether a group has more than one piece, so that
            gradients are there already when the next piece begins.
    """
    return trace_piece(model, *_piece(meta, micro_batch, precision), accumulate=accumulate)


def trace_modules(
    model: Standardized, meta: PreparedMeta, micro_batch: int, precision: Precision, *, accumulate: bool
) -> dict[str, int]:
    """Bytes of the activations of the same step by the name of the module that made them, the largest first."""
    return trace_activations(model, *_piece(meta, micro_batch, precision), accumulate=accumulate)


def _piece(
    meta: PreparedMeta, micro_batch: int, precision: Precision
) -> tuple[Callable[[Any], Batch], Callable[[Standardized, Batch], None]]:
    """What makes the windows, and what a step does with them."""
    arithmetic = replace(precision, device_type="cpu")
    scaler = torch.amp.GradScaler("cpu", enabled=False)

    def backward(twin: Standardized, batch: Batch) -> None:
        backward_piece(twin, batch, 1, arithmetic, scaler)

    return lambda _: windows_of_size(meta, micro_batch), backward


def windows_of_size(meta: PreparedMeta, windows: int) -> Batch:
    """So many windows of a data set of these sizes, everything in them observed and 0."""
    sizes = {
        "past": (meta.history, meta.sensors, meta.beside()),
        "anchors": (meta.horizon, meta.sensors, 1 + meta.beside()),
    }
    masks = {f"{name}_observed": torch.ones(windows, *size, dtype=torch.bool) for name, size in sizes.items()}
    readings = {name: torch.zeros(windows, *size) for name, size in sizes.items()}
    steps = meta.history + meta.horizon
    whole = windows, steps, meta.sensors, len(meta.channels)
    calendar = torch.zeros(windows, steps, 2, dtype=torch.int16)
    return Batch(
        **before_and_after(meta.history, torch.zeros(whole), torch.ones(whole, dtype=torch.bool), calendar),
        **readings,
        **masks,
        origin=torch.zeros(windows, dtype=torch.int64),
        covariates=torch.zeros(windows, meta.history, len(meta.covariates)),
        fallback=torch.zeros(windows, meta.horizon, meta.sensors),
    )
