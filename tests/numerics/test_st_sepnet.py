"""ST-SepNet as a whole: what a forecaster of sensors must be."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import pytest
import torch
from torch import Tensor

from headway.errors import InputError
from headway.models.st_sepnet import STSepNet
from headway.nn import gates
from headway.objectives.forecast_loss import absolute_error
from headway.types import Graph, PointForecast
from tensor_sizes import LargestTensor
from tiny_model import HORIZON, NODES, STD, stirred, tiny_batch, tiny_graph
from tiny_sepnet import made, network, stirred_model

# --- the whole ----------------------------------------------------------------------------------------------

NODE_AXIS = ("history", "history_observed", "past", "past_observed", "anchors", "anchors_observed")


@pytest.mark.parametrize("gate", ["attention", "lstm", "spatial_only"])
def test_renaming_the_sensors_renames_the_forecast(gate: str) -> None:
    """Of the adaptive gate the sensors have fixed places in its matrix."""
    graph, batch = tiny_graph(), tiny_batch()
    model, order = stirred_model(gate=gate, hypergraph={"graph": "static"}), torch.tensor([2, 4, 1, 0, 3])
    place = torch.empty_like(order)
    place[order] = torch.arange(NODES)
    moved = Graph(
        neighbors=place[graph.neighbors[order].long()].int(),
        valid=graph.valid[order],
        features=graph.features[order],
    )
    renamed, content = made(gate=gate, graph=moved, hypergraph={"graph": "static"}), model.state_dict()
    fixed = (".table.", ".members", ".present", ".road", ".neighbors")
    own = ("model.space.embedding.node.weight", "mix.offsets", "model.gain", "model.shift")
    own += tuple(f"model.gate.{name}" for name in ("query", "key", "value"))
    for name in own:
        if name in content:
            content[name] = content[name][order]
    content |= {
        name: held for name, held in renamed.state_dict().items() if any(part in name for part in fixed)
    }
    renamed.load_state_dict(content)
    names = (*NODE_AXIS, "fallback", "target", "target_observed")
    other = replace(batch, **{name: getattr(batch, name).index_select(2, order) for name in names})
    torch.testing.assert_close(renamed(other).point, model(batch).point[:, :, order], rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("head", ["point", "mixture"])
def test_a_window_is_forecast_alike_alone_and_among_others(head: str) -> None:
    model, batch = stirred_model(choice={"head": head}), tiny_batch(batch=3)
    second = replace(batch, **{field.name: getattr(batch, field.name)[1:2] for field in fields(batch)})
    torch.testing.assert_close(model(second).point, model(batch).point[1:2], rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize("gate", ["adaptive", "attention", "lstm", "spatial_only", "temporal_only"])
def test_an_untrained_model_forecasts_the_anchor_mix(gate: str) -> None:
    model, batch = made(gate=gate), tiny_batch()
    z = model.standardize(batch)
    assert model.mix is not None
    assert network(model)(z).point.eq(0).all()
    assert torch.equal(model.forecast_standard(z).point, model.mix(z))


@pytest.mark.parametrize("spatial", ["hypergraph", "gatv2", "ha_gat"])
@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    "shape",
    [
        {},
        {"channels": 3, "covariates": 2},
        {"lags": 0},
        {"nodes": 1},
        {"history": 1, "horizon": 1},
        {"missing": 1.0},
    ],
)
def test_every_parameter_gets_a_finite_gradient(
    shape: dict[str, Any], precision: torch.dtype, spatial: str
) -> None:
    facts = {name: count for name, count in shape.items() if name != "missing"}
    nodes = shape.get("nodes", NODES)
    model = made(graph=tiny_graph(nodes), facts=facts, choice={"spatial": spatial}).train()
    stirred(model)
    with torch.autocast("cpu", dtype=precision, enabled=precision != torch.float32):
        point = model(tiny_batch(**shape)).point
    assert point.shape == (2, shape.get("horizon", HORIZON), nodes) and point.dtype == torch.float32
    point.square().sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name


@pytest.mark.parametrize("gate", ["adaptive", "attention", "lstm", "spatial_only", "temporal_only"])
@pytest.mark.parametrize("temporal", ["linear", "transformer", "st_mamba"])
def test_every_branch_and_gate_is_saved_and_trained(temporal: str, gate: str) -> None:
    model, batch = made(temporal=temporal, gate=gate).train(), tiny_batch(missing=0.0)
    stirred(model)
    z, saved = model.standardize(batch), set(model.state_dict())
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for step in range(3):
        model.begin_step(step)
        optimizer.zero_grad()
        absolute_error(model.forecast_standard(z), z).backward()
        optimizer.step()
    for name, parameter in model.named_parameters():
        assert name in saved
        assert not torch.equal(parameter, before[name]), name


def test_two_forwards_in_evaluation_are_identical() -> None:
    model, batch = stirred_model(dropout=0.5), tiny_batch()
    assert torch.equal(model(batch).point, model(batch).point)


def test_a_bf16_forecast_is_near_that_in_float32() -> None:
    model, batch = stirred_model(), tiny_batch()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = model(batch).point
    torch.testing.assert_close(rough, model(batch).point, rtol=0.02, atol=0.05 * STD)


def test_the_correction_can_be_learned() -> None:
    model, batch = made().train(), tiny_batch(missing=0.0)
    z = model.standardize(batch)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    losses = []
    for _ in range(80):
        optimizer.zero_grad()
        losses.append(absolute_error(model.forecast_standard(z), z))
        losses[-1].backward()
        optimizer.step()
    assert losses[-1] < 0.3 * losses[0]


def largest_and_saved(nodes: int) -> tuple[int, int]:
    """Numbers of the largest tensor of a step, and of all that is kept for its backward pass."""
    model = made(graph=tiny_graph(nodes), facts={"nodes": nodes}).train()
    batch, kept = tiny_batch(nodes=nodes, batch=1), {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes() // 4
        return tensor

    with LargestTensor() as sizes:
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            loss = model(batch).point.square().sum()
        loss.backward()
    return sizes.numel, sum(kept.values())


def test_above_the_joint_gate_memory_grows_with_the_sensors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gates, "JOINT_SENSORS", 0)
    (few, few_kept), (many, many_kept) = largest_and_saved(250), largest_and_saved(500)
    assert many <= 2 * few and many < 500 * 500
    assert few_kept < many_kept <= 2.1 * few_kept


@pytest.mark.parametrize("temporal", ["linear", "transformer", "st_mamba"])
def test_a_layer_computed_again_has_the_same_gradients_to_the_bit(temporal: str) -> None:
    batch, found = tiny_batch(), []
    for again in (False, True):
        model = made(dropout=0.3, temporal=temporal).train()
        stirred(model)
        model.set_recompute(again)
        torch.manual_seed(5)
        absolute_error(model.forecast_standard(model.standardize(batch)), batch).backward()
        found.append([parameter.grad for parameter in model.parameters() if parameter.grad is not None])
    assert all(torch.equal(kept, again) for kept, again in zip(*found, strict=True))


def test_a_width_that_the_kernels_do_not_divide_is_refused() -> None:
    with pytest.raises(
        InputError, match=r"the 4 kernels of st_sepnet: 4 does not divide hypergraph\.hidden_dim = 6"
    ):
        made(hypergraph={"hidden_dim": 6})


def test_a_head_that_says_a_point_is_joined_as_a_point() -> None:
    model = stirred_model()
    assert isinstance(model.model, STSepNet)
    assert isinstance(model.model(model.standardize(tiny_batch())), PointForecast)
