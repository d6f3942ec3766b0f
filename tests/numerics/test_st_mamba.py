"""The whole model: it does not know sensors by their place, never looks ahead, and starts at the anchor mix."""

from __future__ import annotations

import copy
from dataclasses import fields, replace
from typing import Any

import pytest
import torch
from torch import Tensor

from headway.models.st_mamba import STMamba
from headway.models.standardized import Standardized
from headway.nn.embedding import DayWaves
from headway.nn.ha_gat import HAGAT
from headway.nn.hypergraph import Hypergraph
from headway.nn.none import NoNeighbors
from tiny_model import (
    HISTORY,
    MODEL,
    ST_MAMBA,
    stirred,
    tiny_batch,
    tiny_graph,
    tiny_meta,
    tiny_model,
)


def network(model: Standardized) -> STMamba:
    assert isinstance(model.model, STMamba)
    return model.model


def made(**changes: Any) -> Standardized:
    model = tiny_model(tiny_meta(), tiny_graph(), **changes)
    stirred(model)
    return model


@pytest.mark.parametrize("spatial", ["ha_gat", "hypergraph", "none"])
def test_a_later_step_never_changes_an_earlier_state(spatial: Any) -> None:
    model = network(made(choice=replace(MODEL, spatial=spatial)))
    h = model.embedding(tiny_batch())
    changed = h.clone()
    changed[:, :, 4:] += torch.randn(changed[:, :, 4:].shape, generator=torch.Generator().manual_seed(0))
    for block in model.blocks:
        h, changed = block(h, model.table), block(changed, model.table)
    difference = (h - changed).abs().amax((0, 1, 3))
    assert difference[:4].max() < 1e-5
    assert difference[4:].min() > 1e-3


def test_the_state_is_that_of_the_last_step() -> None:
    model = network(made())
    h = model.embedding(tiny_batch())
    longer = torch.cat([h, h[:, :, :1]], 2)
    assert not torch.allclose(model.state(longer), model.state(h))
    blocks = longer
    for block in model.blocks:
        blocks = block(blocks, model.table)
    torch.testing.assert_close(blocks[:, :, HISTORY - 1], model.state(h), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("history", [12, 47])
def test_below_48_steps_there_is_one_scale(history: int) -> None:
    model = network(tiny_model(tiny_meta(history=history), tiny_graph()))
    assert not model.multi_scale and model.scale_score is None


def test_at_48_steps_the_switch_turns_three_scales_on_and_off() -> None:
    meta, graph = tiny_meta(history=48), tiny_graph()
    assert network(tiny_model(meta, graph)).multi_scale
    assert not network(tiny_model(meta, graph, multi_scale=False)).multi_scale


def test_three_scales_read_the_last_12_then_24_by_twos_then_48_by_fours() -> None:
    model = tiny_model(tiny_meta(history=48), tiny_graph())
    stirred(model)
    inner = network(model)
    h = inner.embedding(tiny_batch(history=48))
    windows = [h[:, :, 36:], h[:, :, 25::2], h[:, :, 3::4]]
    assert [window.shape[2] for window in windows] == [12, 12, 12]
    states = torch.stack([inner.state(window) for window in windows])
    assert inner.scale_score is not None
    weights = torch.softmax(states @ inner.scale_score.weight[0], 0)
    expected = (weights.unsqueeze(-1) * states).sum(0)
    torch.testing.assert_close(inner.mixed_state(h), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("switch", "column"), [("time_of_day_embedding", 0), ("day_of_week_embedding", 1)])
def test_the_clock_enters_while_its_switch_is_on(switch: str, column: int) -> None:
    batch, with_it, without = tiny_batch(), made(), made(**{switch: False})
    clock = batch.history_calendar.clone()
    clock[..., column] = (clock[..., column] + 1) % 7
    other = replace(batch, history_calendar=clock)
    assert not torch.allclose(with_it(batch).point, with_it(other).point)
    assert torch.equal(without(batch).point, without(other).point)


def test_the_time_of_day_is_smooth_and_midnight_is_no_seam() -> None:
    waves = DayWaves(288, 16)
    vectors = waves(torch.arange(2 * 288).unsqueeze(0))[0]
    assert torch.equal(vectors[:288], vectors[288:])
    steps = vectors.diff(dim=0).norm(dim=1)
    apart = (vectors[:288] - vectors[:288].roll(144, 0)).norm(dim=1)
    assert steps.max() < apart.mean() / 4


def test_sensors_that_read_the_same_differ_while_the_node_embedding_is_on() -> None:
    batch = tiny_batch()
    names = ("history", "history_observed", "past", "past_observed")
    alike = {name: getattr(batch, name)[:, :, :1].expand_as(getattr(batch, name)) for name in names}
    batch = replace(batch, **alike)
    bare = network(made(node_embedding=False)).embedding(batch)
    assert torch.equal(bare[:, 0], bare[:, 1])
    h = network(made()).embedding(batch)
    assert not torch.isclose(h[:, 0], h[:, 1]).any()


def test_a_model_with_every_embedding_off_keeps_a_float32_stream_under_autocast() -> None:
    off = {"node_embedding": False, "time_of_day_embedding": False, "day_of_week_embedding": False}
    model = made(**off)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert network(model).embedding(tiny_batch()).dtype == torch.float32
        assert model(tiny_batch()).point.dtype == torch.float32


def test_inputs_with_foreign_strides_give_the_same_forecast() -> None:
    model, batch = made(), tiny_batch()

    def turned(tensor: Tensor) -> Tensor:
        return tensor.transpose(0, -1).contiguous().transpose(0, -1)

    foreign = replace(batch, **{field.name: turned(getattr(batch, field.name)) for field in fields(batch)})
    torch.testing.assert_close(model(foreign).point, model(batch).point, rtol=1e-5, atol=1e-4)


def test_a_copy_forecasts_the_same() -> None:
    model, batch = made(), tiny_batch()
    assert torch.equal(copy.deepcopy(model)(batch).point, model(batch).point)


def test_the_chosen_operator_is_the_one_that_runs() -> None:
    for spatial, kind in (("ha_gat", HAGAT), ("hypergraph", Hypergraph), ("none", NoNeighbors)):
        choice = replace(MODEL, spatial=spatial)
        blocks = network(tiny_model(tiny_meta(), tiny_graph(), choice=choice)).blocks
        assert len(blocks) == ST_MAMBA.layers
        assert all(type(block.spatial) is kind for block in blocks)


def test_days_of_the_week_that_training_saw_once_are_left_out() -> None:
    meta = tiny_meta()
    short = replace(meta, training_rows=meta.training_rows - 1)
    names = [set(tiny_model(each, tiny_graph()).state_dict()) for each in (meta, short)]
    assert names[0] - names[1] == {"model.embedding.day.weight"} and not names[1] - names[0]
