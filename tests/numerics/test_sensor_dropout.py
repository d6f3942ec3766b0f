"""Sensors that training silences: what is taken from them, and that nothing is taken from the others."""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
import pytest
import torch

from headway.data.windows import Windows
from headway.nn.sensor_dropout import drop_sensors, without_readings
from tiny_model import HISTORY, HORIZON, MODEL, NODES, stirred, tiny_batch, tiny_graph, tiny_meta, tiny_model
from tiny_prepared import tiny_prepared

READ = ("history", "past", "anchors")
DAYS = tiny_meta().context  # two lags, both longer than history and horizon


def silent(*nodes: int) -> torch.Tensor:
    mask = torch.zeros(2, NODES, dtype=torch.bool)
    mask[1, list(nodes)] = True
    return mask


def test_a_sensor_silent_for_long_has_no_reading_and_no_mask_left() -> None:
    batch = tiny_batch(missing=0.0)
    found = without_readings(batch, DAYS, lately=silent(), long=silent(3))
    for name in READ:
        assert getattr(found, name)[1, :, 3].eq(0).all()
        assert not getattr(found, f"{name}_observed")[1, :, 3].any()


def test_a_sensor_silent_lately_keeps_yesterday_last_week_and_what_is_usual() -> None:
    batch = tiny_batch(missing=0.0)
    found = without_readings(batch, DAYS, lately=silent(3), long=silent())
    assert not found.history_observed[1, :, 3].any() and found.history[1, :, 3].eq(0).all()
    assert not found.anchors_observed[1, :, 3, 0].any(), "the last reading is of the history"
    assert torch.equal(found.past, batch.past)
    assert torch.equal(found.anchors[..., 1:], batch.anchors[..., 1:])


@pytest.mark.parametrize("trailing_weeks", [0, 4])
def test_of_a_sensor_silent_lately_no_reading_of_its_history_is_left_behind_a_lag(
    trailing_weeks: int,
) -> None:
    windows = readings_apart(trailing_weeks)
    batch = windows.gather(np.array([60, 70]))
    found = without_readings(batch, windows.context, lately=silent(3), long=silent())
    of_history = set(range(70 - HISTORY, 70))
    lags = slice(0, len(windows.context)), slice(1, 1 + len(windows.context))
    for name, own in zip(("past", "anchors"), lags, strict=True):
        before, after = (getattr(each, name)[1, :, 3, own].long() for each in (batch, found))
        seen = getattr(found, f"{name}_observed")[1, :, 3, own]
        assert of_history & set(before.flatten().tolist()), "the lags are short enough to read it"
        assert torch.equal(after, torch.where(seen, before, 0))
        assert seen.flatten().tolist() == [row not in of_history for row in before.flatten().tolist()]
        others = [node for node in range(NODES) if node != 3]
        assert torch.equal(getattr(found, name)[:, :, others], getattr(batch, name)[:, :, others])
        if trailing_weeks:
            assert torch.equal(getattr(found, name)[..., -1], getattr(batch, name)[..., -1])


def readings_apart(trailing_weeks: int) -> Windows:
    """Windows of a series whose every reading is the number of its row, with lags around the history's length."""
    made = tiny_prepared(steps=200, sensors=NODES, missing=0.0)
    rows = np.arange(200, dtype=np.float32)[:, None, None]
    lags = (HORIZON, HISTORY + 1, HISTORY + HORIZON - 1, HISTORY + HORIZON)
    weeks = tuple(9 * week for week in range(1, 1 + trailing_weeks))
    meta = replace(made.meta, history=HISTORY, horizon=HORIZON, context=lags, trailing=weeks)
    return Windows(replace(made, meta=meta, values=np.broadcast_to(rows, made.values.shape).copy()))


def test_nothing_else_of_the_batch_changes() -> None:
    batch = tiny_batch()
    found = without_readings(batch, DAYS, lately=silent(0, 3), long=silent(3))
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
    found = drop_sensors(batch, 0.2, DAYS)
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


def test_a_model_in_training_knows_which_lags_of_its_data_lie_in_the_history() -> None:
    choice, meta = replace(MODEL, sensor_dropout=0.9999), replace(tiny_meta(lags=1), context=(HORIZON,))
    model = stirred(tiny_model(meta, tiny_graph(), choice=choice)).train()
    z = model.standardize(tiny_batch(lags=1, missing=0.0))  # pyright: ignore[reportCallIssue]
    past, anchors = z.past.clone(), z.anchors.clone()
    past[:, HORIZON:, :, 0] += 1
    anchors[..., 1] += 1
    said = []
    for batch in (z, replace(z, past=past), replace(z, anchors=anchors)):
        torch.manual_seed(0)  # at which every sensor is silent, some of them lately
        said.append(model.forecast_standard(batch).point)  # pyright: ignore[reportCallIssue]
    assert torch.equal(said[0], said[1]) and torch.equal(said[0], said[2])
