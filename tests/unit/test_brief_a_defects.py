"""The defects of brief A's code that this project must not have, one by one (docs/beware.md).

The lost accumulation group is tested with the training loop; the mask after scaling also in test_standardized.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from headway.errors import InputError
from headway.models import ModelParams, build, section_records
from headway.models.st_mamba import Block
from headway.models.standardized import Standardized
from headway.nn import edges
from headway.nn.ha_gat import HAGAT
from headway.nn.mamba import Mamba2
from headway.nn.neighbor_table import NeighborTable
from headway.objectives.forecast_loss import absolute_error
from headway.types import Graph
from tiny_model import (
    HA_GAT,
    HORIZON,
    MODEL,
    NODES,
    POINT,
    ST_MAMBA,
    stirred,
    tiny_batch,
    tiny_graph,
    tiny_meta,
    tiny_model,
)

LENGTH = 4  # sensors 5, steps 4, horizon 3: all different, so exchanged axes do not fit


def stirred_model(graph: Graph, **changes: Any) -> Standardized:
    model = tiny_model(tiny_meta(history=LENGTH), graph, **changes)
    stirred(model)
    return model


def moved(model: Standardized, *, step: int, sensor: int) -> Tensor:
    """How much the forecast of each sensor moves when one reading of the history moves."""
    batch = tiny_batch(history=LENGTH, missing=0.0)
    history = batch.history.clone()
    history[:, step, sensor] += 20
    return (model(replace(batch, history=history)).point - model(batch).point).abs().amax((0, 1))


def chain() -> Graph:
    """Sensor i reads sensor i - 1 only."""
    neighbors = (torch.arange(NODES) - 1).clamp(min=0).unsqueeze(1).int()
    valid = torch.arange(NODES).unsqueeze(1) > 0
    return Graph(neighbors=neighbors, valid=valid, features=torch.zeros(NODES, 1, 2))


@pytest.mark.parametrize("step", range(LENGTH))
def test_axes_stay_apart_a_reading_reaches_its_own_sensor_from_every_step(step: int) -> None:
    alone = stirred_model(chain(), choice=replace(MODEL, spatial="none"))
    for sensor in range(NODES):
        found = moved(alone, step=step, sensor=sensor)
        assert found[sensor] > 1e-4
        assert found[torch.arange(NODES) != sensor].eq(0).all()


@pytest.mark.parametrize("step", range(LENGTH))
def test_axes_stay_apart_a_reading_reaches_readers_within_two_hops_a_block(step: int) -> None:
    model = stirred_model(chain(), layers=1)
    found = moved(model, step=step, sensor=0)
    assert found[0] > 1e-4 and found[1] > 1e-5
    assert found[4].item() == 0  # four sensors on: two hops, and one by the neighbors' mean, do not get there
    assert moved(model, step=step, sensor=4)[:4].eq(0).all()  # nobody reads the last sensor


def test_axes_stay_apart_in_each_operator() -> None:
    h = torch.randn(2, NODES, LENGTH, HA_GAT.hidden_dim, generator=torch.Generator().manual_seed(0))
    changed = h.clone()
    changed[1, 2, 1] = 0
    spatial, table = HAGAT(HA_GAT, edge_features=2), NeighborTable(chain())
    where = (spatial(changed, table) - spatial(h, table)).abs().amax(-1) > 1e-6
    assert where[1, :, 1].nonzero().flatten().tolist() == [2, 3, 4]  # itself, its reader, the reader's reader
    assert int(where.sum()) == 3
    temporal = Mamba2(HA_GAT.hidden_dim, expand=1, head_dim=4, state_dim=3, conv_width=3)
    past = (temporal(changed.flatten(0, 1)) - temporal(h.flatten(0, 1))).view_as(h).abs().amax(-1) > 1e-9
    assert past[1, 2].tolist() == [False, True, True, True]
    assert int(past.sum()) == 3


def test_the_mask_comes_before_the_scale() -> None:
    # missing readings are 0 in the arrays and -6 deviations after scaling: they must not be learned from
    model, batch = tiny_model(tiny_meta(), tiny_graph()), tiny_batch(missing=0.5)
    z = model.standardize(batch)
    whole = absolute_error(model.forecast_standard(z), z)
    garbage = torch.where(batch.target_observed, batch.target, 123.0)
    again = model.standardize(replace(batch, target=garbage))
    assert torch.equal(absolute_error(model.forecast_standard(again), again), whole)
    shifted = torch.where(batch.history_observed, batch.history, 123.0)
    assert torch.equal(model(replace(batch, history=shifted)).point, model(batch).point)


def unknown(**names: str) -> ModelParams:
    """A choice that the strict reader of params.yaml would have refused already."""
    choice = object.__new__(ModelParams)
    for name in ModelParams.__slots__:
        object.__setattr__(choice, name, names.get(name, getattr(MODEL, name)))
    return choice


@pytest.mark.parametrize("names", [{"name": "pointwise_mlp"}, {"spatial": "dense"}])
def test_an_unknown_part_is_an_error_and_never_another_part(names: dict[str, str]) -> None:
    choice = unknown(**names)
    with pytest.raises(AssertionError, match=next(iter(names.values()))):
        section_records(choice)
    sections = section_records(MODEL)
    given: dict[str, Any] = {name: None for name in sections} | {
        "ha_gat": HA_GAT,
        "dense": HA_GAT,
        "point": POINT,
        "st_mamba": ST_MAMBA,
        "pointwise_mlp": ST_MAMBA,
    }
    with pytest.raises(AssertionError, match=next(iter(names.values()))):
        build(choice, given, tiny_meta(), tiny_graph(), torch.zeros(1), torch.ones(1))


def test_a_missing_kernel_changes_the_speed_and_not_the_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    batch, answers = tiny_batch(), []
    without_c, without_either = ("why_not_in_c", lambda: "left out"), ("_BAG_GRADIENT", None)
    for missing in ((), (without_c,), (without_c, without_either)):
        for name, value in missing:
            monkeypatch.setattr(edges, name, value)
        model = tiny_model(tiny_meta(), tiny_graph()).train()
        stirred(model)
        z = model.standardize(batch)
        absolute_error(model.forecast_standard(z), z).backward()
        answers.append([p.grad for p in model.parameters()])
    for with_kernel, *others in zip(*answers, strict=True):
        for without in others:
            torch.testing.assert_close(with_kernel, without, rtol=1e-4, atol=1e-4)


def test_widths_that_do_not_fit_are_an_error_that_names_the_keys() -> None:
    with pytest.raises(InputError, match=r"st_mamba\.head_dim: 3 does not divide .*ha_gat\.hidden_dim = 8"):
        tiny_model(tiny_meta(), tiny_graph(), head_dim=3)


def test_a_graph_of_other_sensors_is_refused() -> None:
    with pytest.raises(AssertionError):
        tiny_model(tiny_meta(), tiny_graph(nodes=NODES + 1))


def test_the_forecast_has_a_number_for_every_step_and_sensor() -> None:
    model, batch = tiny_model(tiny_meta(), tiny_graph()), tiny_batch()
    assert model(batch).point.shape == batch.target.shape == (2, HORIZON, NODES)


def test_attention_has_no_residual_but_its_own_self_weight() -> None:
    # brief A added the input twice: here a layer whose aggregate is silenced is LayerNorm(lambda h), no more
    layer = HAGAT(HA_GAT, edge_features=2)
    torch.nn.init.zeros_(layer.out.weight)
    h = torch.randn(1, NODES, LENGTH, HA_GAT.hidden_dim)
    scaled = torch.nn.functional.layer_norm(torch.sigmoid(layer.self_logit) * h, (HA_GAT.hidden_dim,))
    torch.testing.assert_close(layer(h, NeighborTable(tiny_graph())), scaled, rtol=1e-5, atol=1e-5)


def test_a_block_adds_the_past_to_the_state_once() -> None:
    torch.manual_seed(0)
    layer, table = (
        Block(ST_MAMBA, HA_GAT.hidden_dim, HAGAT(HA_GAT, edge_features=2)),
        NeighborTable(tiny_graph()),
    )
    h = torch.randn(2, NODES, LENGTH, HA_GAT.hidden_dim)
    past = torch.stack([layer.temporal(h[:, node]) for node in range(NODES)], 1)
    expected = layer.spatial(torch.nn.functional.layer_norm(h + past, (HA_GAT.hidden_dim,)), table)
    torch.testing.assert_close(layer(h, table), expected, rtol=1e-4, atol=1e-5)
