"""ST-SepNet: its parts against plain code, its gates at their extremes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from headway.data.calendar import SATURDAY
from headway.errors import InputError
from headway.models.st_sepnet import make_trend
from headway.nn import gates
from headway.nn.gates import AdaptiveGate, AttentionGate, LSTMGate
from headway.nn.inception import KERNELS, GatedInception
from headway.nn.trend import TransformerBranch, network_series
from tiny_model import HISTORY, HORIZON, NODES, SLOTS_PER_DAY, stirred, tiny_batch, tiny_meta
from tiny_sepnet import PARAMS, made, network, stirred_model

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
    assert series.shape == (2, HISTORY, 4)


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


@pytest.mark.parametrize("days", [13, 14])
def test_the_curve_has_no_weekend_where_training_saw_each_day_of_the_week_but_once(days: int) -> None:
    meta, batch = replace(tiny_meta(), training_rows=days * SLOTS_PER_DAY), tiny_batch()
    trend = make_trend(PARAMS, meta)
    stirred(trend)
    kind, hour = batch.target_calendar.clone(), batch.target_calendar.clone()
    kind[..., 1] = (kind[..., 1] < SATURDAY) * SATURDAY  # a working day for a weekend, and the reverse
    hour[..., 0] = (hour[..., 0] + 1) % SLOTS_PER_DAY
    said, of_kind, of_hour = (
        trend(replace(batch, target_calendar=calendar)) for calendar in (batch.target_calendar, kind, hour)
    )
    assert torch.equal(said, of_kind) == (days < 14) and not torch.equal(said, of_hour)


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
