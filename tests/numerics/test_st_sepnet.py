"""ST-SepNet: its parts against plain code, its gates at their extremes, and what a forecaster of sensors must be."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from headway.errors import InputError
from headway.models.st_sepnet import STSepNet
from headway.nn import gates
from headway.nn.gates import AdaptiveGate, AttentionGate, LSTMGate
from headway.nn.inception import KERNELS, GatedInception
from headway.nn.trend import TransformerBranch, network_series
from headway.objectives.forecast_loss import absolute_error
from headway.types import Graph, PointForecast
from tensor_sizes import LargestTensor
from tiny_model import HISTORY, HORIZON, NODES, STD, stirred, tiny_batch, tiny_graph
from tiny_sepnet import made, network, stirred_model

# --- parts --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dilation", [1, 2])
def test_a_gated_inception_is_its_convolutions_written_step_by_step(dilation: int) -> None:
    torch.manual_seed(0)
    layer, h = GatedInception(8, dilation), torch.randn(2, 3, 9, 8)
    nn.init.normal_(layer.bias)
    found = layer(h)
    for step in range(9):
        parts = []
        for kernel, weight in zip(KERNELS, layer.kernels, strict=True):
            total = torch.zeros(2, 3, 2, 2)
            for tap in range(kernel):
                read = step - (kernel - 1 - tap) * dilation
                if read >= 0:
                    total = total + torch.einsum("bnd,dgc->bngc", h[:, :, read], weight[tap])
            parts.append(total)
        signal, share = (torch.cat(parts, -1) + layer.bias).unbind(2)
        expected = torch.tanh(signal) * torch.sigmoid(share)
        torch.testing.assert_close(found[:, :, step], expected, rtol=1e-4, atol=1e-5)


def test_the_average_series_counts_observed_sensors_only() -> None:
    batch = tiny_batch(missing=0.5)
    series = network_series(batch)
    for window in range(2):
        for step in range(HISTORY):
            seen = batch.history_observed[window, step, :, 0]
            expected = batch.history[window, step, seen, 0].mean() if seen.any() else torch.tensor(0.0)
            torch.testing.assert_close(series[window, step, 0], expected)
    assert series.shape == (2, HISTORY, 3)


def test_the_attention_of_the_transformer_is_that_of_torch() -> None:
    torch.manual_seed(0)
    block: Any = TransformerBranch(3, HISTORY, 12, 1, 2).blocks[0]
    theirs = nn.TransformerEncoderLayer(
        12, 2, 24, dropout=0.0, activation=F.gelu, batch_first=True, norm_first=True
    )
    pairs = {
        "self_attn.in_proj_weight": block.qkv.weight,
        "self_attn.in_proj_bias": block.qkv.bias,
        "self_attn.out_proj": block.out,
        "linear1": block.widen,
        "linear2": block.narrow,
        "norm1": block.attention_norm,
        "norm2": block.norm,
    }
    content = {}
    for name, part in pairs.items():
        held = (
            {name: part}
            if isinstance(part, Tensor)
            else {f"{name}.{key}": p for key, p in part.named_parameters()}
        )
        content |= held
    theirs.load_state_dict(content)
    h = torch.randn(2, HISTORY, 12)
    torch.testing.assert_close(block(h), theirs(h), rtol=1e-4, atol=1e-5)


# --- gates --------------------------------------------------------------------------------------------------


def forecasts() -> tuple[Tensor, Tensor]:
    random = torch.Generator().manual_seed(0)
    return torch.randn(2, HORIZON, NODES, generator=random), torch.randn(2, HORIZON, NODES, generator=random)


@pytest.mark.parametrize("joint", [NODES, 0])
def test_the_adaptive_gate_reduces_to_either_branch(joint: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gates, "JOINT_SENSORS", joint)
    gate, (time, space) = AdaptiveGate(NODES), forecasts()
    last = gate.joint if gate.joint is not None else gate.shared[-1]  # pyright: ignore[reportOptionalSubscript]
    share = gate.share(time, space)
    torch.testing.assert_close(gate(time, space), share * time + (1 - share) * space)
    for bias, branch in ((200.0, time), (-200.0, space)):
        nn.init.constant_(last.bias, bias)  # pyright: ignore[reportArgumentType]
        assert torch.equal(gate(time, space), branch)


def test_many_sensors_share_the_network_of_the_adaptive_gate() -> None:
    few, many = AdaptiveGate(600), AdaptiveGate(6000)
    sizes = [sum(parameter.numel() for parameter in gate.parameters()) for gate in (few, many)]
    assert sizes[0] == sizes[1] < 100


def test_the_attention_gate_is_its_equation_and_without_values_the_trend() -> None:
    gate, (time, space) = AttentionGate(NODES), forecasts()
    stirred(gate)
    weights = ((time * gate.query) @ (space * gate.key).transpose(1, 2) / NODES**0.5).softmax(-1)
    torch.testing.assert_close(gate(time, space), time + weights @ (space * gate.value))
    nn.init.zeros_(gate.value)
    assert torch.equal(gate(time, space), time)


def test_the_lstm_gate_is_that_of_torch_sensor_by_sensor() -> None:
    torch.manual_seed(0)
    gate, (time, space) = LSTMGate(), forecasts()
    stirred(gate)
    theirs = nn.LSTM(1, 16, batch_first=True)
    theirs.load_state_dict({f"{name}_l0": held for name, held in gate.cell.state_dict().items()})
    for node in range(NODES):
        start = gate.start(space[:, -1, node : node + 1]).unsqueeze(0)
        states, _ = theirs(time[:, :, node : node + 1], (start, torch.zeros_like(start)))
        torch.testing.assert_close(gate(time, space)[:, :, node], gate.out(states).squeeze(-1))


def test_one_branch_alone_is_not_moved_by_the_other() -> None:
    batch = tiny_batch()
    for gate, gone in (("spatial_only", "trend"), ("temporal_only", "space")):
        model = stirred_model(gate=gate)
        assert getattr(network(model), gone) is None
        assert not any(name.startswith(f"model.{gone}.") for name in model.state_dict())
        assert model(batch).point.isfinite().all()
    z = stirred_model(gate="temporal_only").standardize(batch)
    inner = network(stirred_model(gate="temporal_only"))
    assert inner.trend is not None and inner.gain is not None and inner.shift is not None
    expected = inner.trend(z).unsqueeze(-1) * inner.gain + inner.shift
    assert torch.equal(inner(z).point, expected)


def test_without_gain_and_shift_every_sensor_has_the_same_curve() -> None:
    model, batch = (
        stirred_model(gate="temporal_only", sensor_curve=False, choice={"anchors": False}),
        tiny_batch(),
    )
    point = model(batch).point
    assert torch.equal(point, point[:, :, :1].expand_as(point))


def test_a_distribution_is_moved_and_keeps_its_spread() -> None:
    model, batch = stirred_model(choice={"head": "mixture"}), tiny_batch()
    inner, z = network(model), model.standardize(batch)
    assert inner.space is not None and isinstance(inner.gate, AdaptiveGate)
    alone, joined = inner.space(z, inner.table, False), inner(z)
    curves = inner.curves(z, False)
    torch.testing.assert_close(joined.mean(), inner.gate(curves, alone.mean()), rtol=1e-4, atol=1e-5)
    assert torch.equal(joined.deviations, alone.deviations) and torch.equal(
        joined.log_weights, alone.log_weights
    )


def test_a_trend_alone_says_no_distribution() -> None:
    with pytest.raises(InputError, match=r"temporal_only .* model\.head: point"):
        made(gate="temporal_only", choice={"head": "mixture"})


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
