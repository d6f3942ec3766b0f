"""STMGT: its blocks against torch's own layers, and what a forecaster of sensors must be."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from headway.errors import InputError
from headway.models.stmgt import Attention, Block, Temporal, TimeEncoding, Weather
from headway.nn.gatv2 import GATv2
from headway.nn.ha_gat import HAGAT
from headway.nn.hypergraph import Hypergraph
from headway.nn.none import NoNeighbors
from tiny_model import HISTORY, NODES
from tiny_stmgt import PARAMS, WEATHER, made, network, stirred_model

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
    time = TimeEncoding(replace(PARAMS, step_embedding=False), 8, HISTORY, 288, True)

    def at(slot: int, day: int = 2) -> Tensor:
        return time(torch.tensor([[[slot, day]]]))[0, 0]

    five_minutes, one_hour = (at(1) - at(0)).norm(), (at(12) - at(0)).norm()
    assert 0 < five_minutes < one_hour / 6
    torch.testing.assert_close((at(287) - at(0)).norm(), five_minutes, rtol=0.05, atol=0)
    days = [at(0, day) for day in range(7)]
    assert time.weekend is not None
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


def test_the_chosen_operator_is_the_one_that_runs() -> None:
    kinds = {"gatv2": GATv2, "ha_gat": HAGAT, "hypergraph": Hypergraph, "none": NoNeighbors}
    for spatial, kind in kinds.items():
        blocks = network(made(choice={"spatial": spatial})).blocks
        assert len(blocks) == PARAMS.layers
        assert all(type(block.spatial) is kind for block in blocks)


def test_heads_that_do_not_divide_the_width_are_refused() -> None:
    with pytest.raises(InputError, match=r"stmgt\.heads: 3 does not divide gatv2\.hidden_dim = 8"):
        made(heads=3)
