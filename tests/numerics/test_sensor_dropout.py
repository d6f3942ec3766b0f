"""Sensors that training silences: what is taken from them, and that nothing is taken from the others."""

from __future__ import annotations

from dataclasses import fields, replace

import pytest
import torch

from headway.nn.sensor_dropout import drop_sensors, without_readings
from tiny_model import MODEL, NODES, stirred, tiny_batch, tiny_graph, tiny_meta, tiny_model

READ = ("history", "past", "anchors")


def silent(*nodes: int) -> torch.Tensor:
    mask = torch.zeros(2, NODES, dtype=torch.bool)
    mask[1, list(nodes)] = True
    return mask


def test_a_sensor_silent_for_long_has_no_reading_and_no_mask_left() -> None:
    batch = tiny_batch(missing=0.0)
    found = without_readings(batch, lately=silent(), long=silent(3))
    for name in READ:
        assert getattr(found, name)[1, :, 3].eq(0).all()
        assert not getattr(found, f"{name}_observed")[1, :, 3].any()


def test_a_sensor_silent_lately_keeps_yesterday_last_week_and_what_is_usual() -> None:
    batch = tiny_batch(missing=0.0)
    found = without_readings(batch, lately=silent(3), long=silent())
    assert not found.history_observed[1, :, 3].any() and found.history[1, :, 3].eq(0).all()
    assert not found.anchors_observed[1, :, 3, 0].any(), "the last reading is of the history"
    assert torch.equal(found.past, batch.past)
    assert torch.equal(found.anchors[..., 1:], batch.anchors[..., 1:])


def test_nothing_else_of_the_batch_changes() -> None:
    batch = tiny_batch()
    found = without_readings(batch, lately=silent(0, 3), long=silent(3))
    others = [node for node in range(NODES) if node not in (0, 3)]
    for field in fields(batch):
        before, after = getattr(batch, field.name), getattr(found, field.name)
        if field.name.removesuffix("_observed") in READ:
            assert torch.equal(before[0], after[0])
            assert torch.equal(before[:, :, others], after[:, :, others])
        else:
            assert torch.equal(before, after)


def test_the_share_is_that_of_sensors_of_windows_and_half_of_it_is_silent_for_long() -> None:
    batch = tiny_batch(batch=4000, missing=0.0)
    torch.manual_seed(0)
    found = drop_sensors(batch, 0.2)
    assert 1 - found.history_observed.float().mean().item() == pytest.approx(0.2, abs=0.02)
    assert 1 - found.past_observed.float().mean().item() == pytest.approx(0.1, abs=0.02)


def test_training_silences_sensors_and_a_forecast_does_not() -> None:
    choice = replace(MODEL, sensor_dropout=0.9)
    meta, graph, batch = tiny_meta(), tiny_graph(), tiny_batch()
    with_key, without = (stirred(tiny_model(meta, graph, choice=each)) for each in (choice, MODEL))
    assert torch.equal(with_key(batch).point, without(batch).point)
    z = with_key.standardize(batch)  # pyright: ignore[reportCallIssue]
    torch.manual_seed(0)
    trained = [model.train().forecast_standard(z).point for model in (with_key, without)]  # pyright: ignore
    assert not torch.allclose(*trained, atol=1e-3)
