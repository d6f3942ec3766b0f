"""STMGT: its blocks against torch's own layers, and what a forecaster of sensors must be."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from headway.errors import InputError
from headway.models.stmgt import Attention, Block, Temporal, TimeEncoding, Weather
from headway.nn.gatv2 import GATv2
from headway.nn.ha_gat import HAGAT
from headway.nn.hypergraph import Hypergraph
from headway.nn.none import NoNeighbors
from headway.objectives.forecast_loss import absolute_error
from headway.types import Graph
from tensor_sizes import LargestTensor
from tiny_model import HISTORY, HORIZON, NODES, STD, stirred, tiny_graph
from tiny_stmgt import PARAMS, WEATHER, made, network, stirred_model, windows

# --- parts --------------------------------------------------------------------------------------------------


def test_the_attention_is_that_of_torch() -> None:
    torch.manual_seed(0)
    ours, theirs = Attention(8, 2), nn.MultiheadAttention(8, 2, batch_first=True)
    theirs.load_state_dict(
        {
            "in_proj_weight": torch.cat([ours.query.weight, ours.key_value.weight]),
            "in_proj_bias": torch.cat([ours.query.bias, ours.key_value.bias]),
            "out_proj.weight": ours.out.weight,
            "out_proj.bias": ours.out.bias,
        }
    )
    reader, read = torch.randn(3, 5, 8), torch.randn(3, 4, 8)
    torch.testing.assert_close(ours(reader, read), theirs(reader, read, read)[0], rtol=1e-5, atol=1e-5)


def test_a_block_is_its_equations_written_sensor_by_sensor() -> None:
    model = network(stirred_model())
    block, table = model.blocks[0], model.table
    assert isinstance(block, Block)
    x = torch.randn(2, NODES, HISTORY, 8, generator=torch.Generator().manual_seed(0))
    space, temporal = block.spatial(x, table), block.temporal
    for node in range(NODES):
        past = temporal.attention_norm(x[:, node] + temporal.attention(x[:, node], x[:, node]))
        past = temporal.norm(past + temporal.narrow(nn.functional.gelu(temporal.widen(past))))
        assert block.gate is not None
        share = torch.sigmoid(block.gate(torch.cat([space[:, node], past], -1)))
        expected = block.norm(share * space[:, node] + (1 - share) * past + x[:, node])
        torch.testing.assert_close(block(x, table)[:, node], expected, rtol=1e-4, atol=1e-5)


def test_without_a_gate_space_and_time_are_added() -> None:
    model = network(stirred_model(gate="sum"))
    block, table = model.blocks[0], model.table
    assert isinstance(block, Block) and block.gate is None
    x = torch.randn(2, NODES, HISTORY, 8)
    expected = block.norm(block.spatial(x, table) + block.temporal(x) + x)
    assert torch.equal(block(x, table), expected)


def test_the_clock_knows_minutes_and_closes_the_day() -> None:
    torch.manual_seed(0)
    time = TimeEncoding(replace(PARAMS, step_embedding=False), 8, HISTORY, 288)

    def at(slot: int, day: int = 2) -> Tensor:
        return time(torch.tensor([[[slot, day]]]))[0, 0]

    five_minutes, one_hour = (at(1) - at(0)).norm(), (at(12) - at(0)).norm()
    assert 0 < five_minutes < one_hour / 6
    torch.testing.assert_close((at(287) - at(0)).norm(), five_minutes, rtol=0.05, atol=0)
    days = [at(0, day) for day in range(7)]
    assert len({tuple(day.tolist()) for day in days}) == 7
    with torch.no_grad():
        time.weekend.weight[1] += 1
    moved = [not torch.equal(at(0, day), days[day]) for day in range(7)]
    assert moved == [False] * 5 + [True] * 2


@pytest.mark.parametrize("silenced", ["attention.out", "narrow"])
def test_dropout_acts_on_the_attention_and_on_the_feed_forward_layer(silenced: str) -> None:
    torch.manual_seed(0)
    temporal, x = Temporal(replace(PARAMS, dropout=0.5), 8), torch.randn(2, NODES, HISTORY, 8)
    for parameter in temporal.get_submodule(silenced).parameters():
        nn.init.zeros_(parameter)
    assert not torch.equal(temporal.train()(x), temporal(x))
    assert torch.equal(temporal.eval()(x), temporal(x))


def test_dropout_acts_on_what_is_read_of_the_weather() -> None:
    torch.manual_seed(0)
    layer = Weather(replace(PARAMS, dropout=0.5), 8, WEATHER)
    inputs = torch.randn(2, NODES, 8), torch.randn(2, HISTORY, WEATHER), torch.randn(2, HISTORY, 8)
    assert not torch.equal(layer.train()(*inputs), layer(*inputs))
    assert torch.equal(layer.eval()(*inputs), layer(*inputs))


# --- the whole ----------------------------------------------------------------------------------------------

NODE_AXIS = ("history", "history_observed", "past", "past_observed", "anchors", "anchors_observed")


def test_renaming_the_sensors_renames_the_forecast() -> None:
    graph, batch = tiny_graph(), windows()
    model, order = stirred_model(), torch.tensor([2, 4, 1, 0, 3])
    place = torch.empty_like(order)
    place[order] = torch.arange(NODES)
    moved = Graph(
        neighbors=place[graph.neighbors[order].long()].int(),
        valid=graph.valid[order],
        features=graph.features[order],
    )
    renamed, content = made(graph=moved), model.state_dict()
    for name in ("model.embedding.node.weight", "mix.offsets"):
        content[name] = content[name][order]
    content |= {name: held for name, held in renamed.state_dict().items() if ".table." in name}
    renamed.load_state_dict(content)
    names = (*NODE_AXIS, "fallback", "target", "target_observed")
    other = replace(batch, **{name: getattr(batch, name).index_select(2, order) for name in names})
    torch.testing.assert_close(renamed(other).point, model(batch).point[:, :, order], rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize("head", ["point", "mixture"])
def test_a_window_is_forecast_alike_alone_and_among_others(head: str) -> None:
    model, batch = stirred_model(choice={"head": head}), windows(batch=3)
    second = replace(batch, **{field.name: getattr(batch, field.name)[1:2] for field in fields(batch)})
    torch.testing.assert_close(model(second).point, model(batch).point[1:2], rtol=1e-5, atol=1e-3)


def test_an_untrained_model_forecasts_the_anchor_mix() -> None:
    model, batch = made(), windows()
    z = model.standardize(batch)
    assert model.mix is not None
    assert network(model)(z).point.eq(0).all()
    assert torch.equal(model.forecast_standard(z).point, model.mix(z))


@pytest.mark.parametrize("spatial", ["gatv2", "ha_gat", "hypergraph", "none"])
@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    "shape",
    [
        {},
        {"channels": 3, "covariates": 0},
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
        point = model(windows(**shape)).point
    assert point.shape == (2, shape.get("horizon", HORIZON), nodes) and point.dtype == torch.float32
    point.square().sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name


def test_a_bf16_forecast_is_near_that_in_float32() -> None:
    model, batch = stirred_model(), windows()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = model(batch).point
    torch.testing.assert_close(rough, model(batch).point, rtol=0.02, atol=0.02 * STD)


@pytest.mark.parametrize("spatial", ["gatv2", "ha_gat", "hypergraph"])
def test_the_correction_can_be_learned(spatial: str) -> None:
    model, batch = made(choice={"spatial": spatial}).train(), windows(missing=0.0)
    z = model.standardize(batch)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    losses = []
    for _ in range(60):
        optimizer.zero_grad()
        losses.append(absolute_error(model.forecast_standard(z), z))
        losses[-1].backward()
        optimizer.step()
    assert losses[-1] < 0.3 * losses[0]


def largest_and_saved(nodes: int) -> tuple[int, int]:
    """Numbers of the largest tensor of a step, and of all that is kept for its backward pass."""
    model = made(graph=tiny_graph(nodes), facts={"nodes": nodes}).train()
    batch, kept = windows(nodes=nodes, batch=1), {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes() // 4
        return tensor

    with LargestTensor() as sizes:
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            loss = model(batch).point.square().sum()
        loss.backward()
    return sizes.numel, sum(kept.values())


def test_memory_grows_with_the_sensors_not_with_their_square() -> None:
    (few, few_kept), (many, many_kept) = largest_and_saved(250), largest_and_saved(500)
    assert many <= 2 * few and many < 500 * 500 * HISTORY / 8
    assert few_kept < many_kept <= 2.1 * few_kept


def test_the_chosen_operator_is_the_one_that_runs() -> None:
    kinds = {"gatv2": GATv2, "ha_gat": HAGAT, "hypergraph": Hypergraph, "none": NoNeighbors}
    for spatial, kind in kinds.items():
        blocks = network(made(choice={"spatial": spatial})).blocks
        assert len(blocks) == PARAMS.layers
        assert all(type(block.spatial) is kind for block in blocks)


def test_heads_that_do_not_divide_the_width_are_refused() -> None:
    with pytest.raises(InputError, match=r"stmgt\.heads: 3 does not divide gatv2\.hidden_dim = 8"):
        made(heads=3)


def test_a_block_computed_again_has_the_same_gradients_to_the_bit() -> None:
    batch, found = windows(), []
    for again in (False, True):
        model = made(dropout=0.3, gatv2={"edge_dropout": 0.3, "attention_dropout": 0.2}).train()
        model.set_recompute(again)
        torch.manual_seed(5)
        absolute_error(model.forecast_standard(model.standardize(batch)), batch).backward()
        found.append([parameter.grad for parameter in model.parameters() if parameter.grad is not None])
    assert all(torch.equal(kept, again) for kept, again in zip(*found, strict=True))
