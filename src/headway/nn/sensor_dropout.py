"""Sensors that fall silent: what training must have seen for a forecast to survive it.

Enters: a batch, and which sensors of which windows are silent. Leaves: the same batch without their readings; their
targets stay, so that a network learns to forecast a sensor from its neighbors and from what is usual there.

A sensor that fell silent lately has its readings of yesterday and last week, as far as these are older than the
history; one that has been silent for weeks has nothing. Training draws both equally often. What was usual is the mean
of several weeks and stays whole, where a day of it lies in the history too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Int
from torch import Tensor

from headway.types import Batch


def drop_sensors(batch: Batch, share: float, context: Sequence[int]) -> Batch:
    """Silence this share of the sensors of each window, drawn anew: half of them lately, half for long.

    Args: context: lags of the data, in steps.
    """
    drawn = torch.rand(len(batch.origin), batch.history.shape[2], device=batch.history.device)
    return without_readings(batch, context, lately=drawn < share, long=drawn < share / 2)


def without_readings(
    batch: Batch,
    context: Sequence[int],
    *,
    lately: Bool[Tensor, "batch node"],
    long: Bool[Tensor, "batch node"],
) -> Batch:
    """The batch without the history of sensors silent lately, and without any reading of those silent for long.

    Args: batch: in z-units, where a reading that was not observed is 0. context: lags of the data, in steps.
    """
    history, device = batch.history.shape[1], batch.history.device
    gone = long[:, None, :, None]
    recent = gone | lately[:, None, :, None]
    step = torch.arange(history + batch.target.shape[1], device=device)  # history, then target
    past = _in_history(step[:history], context, batch.past.shape[-1])
    anchors = _in_history(step[history:], [0, *context], batch.anchors.shape[-1])
    history_observed = batch.history_observed & ~recent
    past_observed = batch.past_observed & ~(gone | recent & past)
    anchors_observed = batch.anchors_observed & ~(gone | recent & anchors)
    return replace(
        batch,
        history=batch.history * history_observed,
        history_observed=history_observed,
        past=batch.past * past_observed,
        past_observed=past_observed,
        anchors=batch.anchors * anchors_observed,
        anchors_observed=anchors_observed,
    )


def _in_history(
    step: Int[Tensor, " step"], lags: Sequence[int], readings: int
) -> Bool[Tensor, "step 1 {readings}"]:
    """Whether each reading beside these steps, which count from the oldest of the history, is of the history.

    Args: lags: of the first of the readings. What is behind them was usual, and no reading of the history.
    """
    found = step[:, None, None] >= torch.tensor(lags, dtype=torch.int64, device=step.device)
    return F.pad(found, (0, readings - len(lags)))
