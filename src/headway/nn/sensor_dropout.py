"""Sensors that fall silent: what training must have seen for a forecast to survive it.

Enters: a batch, and which sensors of which windows are silent. Leaves: the same batch without their readings; their
targets stay, so that a network learns to forecast a sensor from its neighbors and from what is usual there.

A sensor that fell silent a moment ago has its readings of yesterday and last week; one that has been silent for
weeks has nothing. Training draws both equally often.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from jaxtyping import Bool
from torch import Tensor

from headway.types import Batch


def drop_sensors(batch: Batch, share: float) -> Batch:
    """Silence this share of the sensors of each window, drawn anew: half of them lately, half for long."""
    drawn = torch.rand(len(batch.origin), batch.history.shape[2], device=batch.history.device)
    return without_readings(batch, lately=drawn < share, long=drawn < share / 2)


def without_readings(
    batch: Batch, *, lately: Bool[Tensor, "batch node"], long: Bool[Tensor, "batch node"]
) -> Batch:
    """The batch without the history of sensors silent lately, and without any reading of those silent for long.

    Args: batch: in z-units, where a reading that was not observed is 0.
    """
    gone = long[:, None, :, None]
    recent = gone | lately[:, None, :, None]
    history_observed = batch.history_observed & ~recent
    past_observed = batch.past_observed & ~gone
    last, others = batch.anchors_observed[..., :1], batch.anchors_observed[..., 1:]
    anchors_observed = torch.cat([last & ~recent, others & ~gone], -1)
    return replace(
        batch,
        history=batch.history * history_observed,
        history_observed=history_observed,
        past=batch.past * past_observed,
        past_observed=past_observed,
        anchors=batch.anchors * anchors_observed,
        anchors_observed=anchors_observed,
    )
