"""STMGT's size against the origin's, and that every key of its sections acts."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import pytest
import torch
from torch import Tensor

from headway.models.standardized import Standardized
from headway.models.stmgt import SlotClock, STMGTParams, TimeEncoding
from headway.nn.gatv2 import GATv2Params
from tiny_model import HISTORY, NODES, stirred
from tiny_stmgt import GATV2, PARAMS, made, network, stirred_model, windows

# --- size ---------------------------------------------------------------------------------------------------


def origin_parameters(d: int, components: int) -> int:
    """The origin's count from its shapes: 3 layers, 4 heads, 3 weather columns, 12 steps ahead."""
    gat = 2 * (4 * d * d + 4 * d) + 4 * d + d  # two maps to 4 heads of width d, the scores, a bias
    attention, feed_forward, norm = 4 * d * d + 4 * d, 8 * d * d + 5 * d, 2 * d
    block = gat + attention + feed_forward + (2 * d * d + d) + 4 * norm
    clock = 7 * d // 2 + 2 * d // 4 + (2 + d // 2 + d // 4) * d + d
    reading, weather, unused = 2 * d, 4 * d + attention + norm, 4 * d
    heads = 3 * (d * 12 * components + 12 * components)
    return 3 * block + clock + reading + weather + unused + heads


@pytest.mark.parametrize(
    ("d", "components", "published"), [(64, 3, 304_236), (96, 5, 680_628), (128, 7, 1_206_524)]
)
def test_the_size_is_that_of_the_origin_but_for_what_is_named_here(
    d: int, components: int, published: int
) -> None:
    assert origin_parameters(d, components) == published
    model = made(
        facts={"history": 12, "horizon": 12, "lags": 0},
        gatv2={"hidden_dim": d, "heads": 4},
        layers=3,
        heads=4,
        expand=4,
        node_embedding=False,
        step_embedding=False,
    )
    trunk = sum(p.numel() for name, p in model.model.named_parameters() if not name.startswith("head."))
    left_out = 4 * d  # a layer that the origin makes and never uses
    heads = 3 * (d * 12 * components + 12 * components)  # ours are src/headway/nn/heads.py's
    masks = 3 * d  # was the reading observed, what was usual, was that known: three more inputs
    edge_features = 3 * 2 * 4 * d  # distance and weight of an edge, in every layer and head
    assert trunk == published - heads - left_out + masks + edge_features
    assert {64: 298_688, 96: 665_376, 128: 1_176_960}[d] == trunk


def test_what_this_project_adds_has_the_size_of_its_vectors() -> None:
    def count(**changes: Any) -> int:
        return sum(p.numel() for p in made(**changes).model.parameters())

    d = GATV2.hidden_dim
    assert count() - count(step_embedding=False) == HISTORY * d
    assert count() - count(node_embedding=False) == 32 * NODES + 32 * d


# --- keys ---------------------------------------------------------------------------------------------------

OTHER_STMGT = {
    "layers": 1,
    "heads": 4,
    "expand": 2,
    "dropout": 0.5,
    "gate": "sum",
    "weather": False,
    "clock": "slots",
    "step_embedding": False,
    "node_embedding": False,
}
OTHER_GATV2 = {"hidden_dim": 16, "heads": 1, "attention_dropout": 0.5, "edge_dropout": 0.5}


def training_forecast(model: Standardized) -> Tensor:
    stirred(model.train())
    torch.manual_seed(0)
    return model(windows()).point


@pytest.mark.parametrize("key", [field.name for field in fields(STMGTParams)])
def test_every_key_of_stmgt_acts(key: str) -> None:
    changed = training_forecast(made(**{key: OTHER_STMGT[key]}))
    assert not torch.allclose(changed, training_forecast(made()), atol=1e-2)


@pytest.mark.parametrize("key", [field.name for field in fields(GATv2Params)])
def test_every_key_of_gatv2_acts(key: str) -> None:
    changed = training_forecast(made(gatv2={key: OTHER_GATV2[key]}))
    assert not torch.allclose(changed, training_forecast(made()), atol=1e-2)


def test_weather_moves_the_forecast_while_its_switch_is_on() -> None:
    batch = windows()
    other = replace(batch, covariates=batch.covariates + 1)
    on, off = stirred_model(), stirred_model(weather=False)
    assert not torch.allclose(on(other).point, on(batch).point, atol=1e-3)
    assert torch.equal(off(other).point, off(batch).point)


@pytest.mark.parametrize("step_embedding", [True, False])
def test_when_the_weather_was_is_told_by_the_vectors_of_steps(step_embedding: bool) -> None:
    model, batch = stirred_model(clock="none", step_embedding=step_embedding), windows()
    turned = replace(batch, covariates=batch.covariates.flip(1))
    alike = torch.allclose(model(turned).point, model(batch).point, rtol=1e-5, atol=1e-3)
    assert alike is not step_embedding


def test_a_data_set_without_covariates_makes_the_model_without_weather() -> None:
    dry = {"covariates": 0}
    with_key, without = made(facts=dry), made(facts=dry, weather=False)
    assert network(with_key).weather is None
    assert with_key.state_dict().keys() == without.state_dict().keys()
    assert torch.equal(with_key(windows(**dry)).point, without(windows(**dry)).point)


@pytest.mark.parametrize("clock", ["smooth", "slots", "none"])
@pytest.mark.parametrize("column", [0, 1])
def test_the_clock_enters_unless_it_is_none(clock: str, column: int) -> None:
    model, batch = stirred_model(clock=clock), windows()
    other = batch.history_calendar.clone()
    other[..., column] = (other[..., column] + 3) % 7
    moved = model(replace(batch, history_calendar=other)).point
    assert torch.equal(moved, model(batch).point) == (clock == "none")


@pytest.mark.parametrize("step_embedding", [True, False])
def test_only_the_vectors_of_steps_and_clock_tell_the_order_of_the_readings(step_embedding: bool) -> None:
    model, batch = stirred_model(clock="none", step_embedding=step_embedding), windows()
    head: Any = network(model).head
    torch.nn.init.zeros_(head.decoder.window.weight)  # which reads every step apart
    names = ("history", "history_observed", "past", "past_observed", "covariates")
    turned = replace(batch, **{name: getattr(batch, name).flip(1) for name in names})
    alike = torch.allclose(model(turned).point, model(batch).point, rtol=1e-5, atol=1e-3)
    assert alike is not step_embedding


@pytest.mark.parametrize("knows_weeks", [True, False])
def test_a_slot_clock_has_no_day_where_training_saw_each_day_but_once(knows_weeks: bool) -> None:
    clock, slot = SlotClock(8, 24, knows_weeks), torch.tensor([[3]])
    monday, tuesday = (clock(slot, torch.tensor([[day]])) for day in (0, 1))
    assert torch.equal(monday, tuesday) != knows_weeks


@pytest.mark.parametrize("knows_weeks", [True, False])
def test_a_smooth_clock_has_no_day_where_training_saw_each_day_but_once(knows_weeks: bool) -> None:
    time = TimeEncoding(replace(PARAMS, clock="smooth", step_embedding=False), 8, 1, 24, knows_weeks)
    friday, saturday, later = (time(torch.tensor([[[slot, day]]])) for slot, day in ((3, 4), (3, 5), (4, 4)))
    assert torch.equal(friday, saturday) != knows_weeks and not torch.equal(friday, later)
