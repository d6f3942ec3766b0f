"""From an encoder to a model: identities from geometry, operators from rounds, fixed or slow."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import get_args, get_type_hints

import pytest
import torch

from headway.errors import InputError
from headway.models import ModelParams
from headway.models.standardized import Standardized
from headway.nn.embedding import WindowEmbedding
from headway.nn.sgmp import Interaction, SGMPParams
from headway.training.optimizer import make_optimizer, set_rate
from headway.training.transfer import Transfer, apply_transfer, read_transfer, write_nothing, write_transfer
from tiny_model import NODES, tiny_graph, tiny_meta, tiny_model
from tiny_sepnet import made as made_sepnet
from tiny_stmgt import made as made_stmgt

NODE = "model.embedding.node.weight"
MADE: dict[str, Callable[[], Standardized]] = {
    "st_mamba": lambda: tiny_model(tiny_meta(), tiny_graph()),
    "stmgt": made_stmgt,
    "st_sepnet": made_sepnet,
}
PARAMS = SGMPParams(hidden_dim=8, distance_centers=4, angle_centers=4, paths_per_sensor=2)


@pytest.fixture
def handed(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    layers = torch.nn.ModuleList([Interaction(PARAMS, 2)])
    write_transfer(tmp_path / "t.safetensors", "finetune", "sgmp", layers, torch.randn(NODES, 8))
    return tmp_path / "t.safetensors"


def test_identities_keep_the_distances_of_the_encoders_embeddings(handed: Path) -> None:
    model, transfer = tiny_model(tiny_meta(), tiny_graph()), read_transfer(handed)
    assert apply_transfer(model, "ha_gat", transfer) == {NODE}
    own, theirs = dict(model.named_parameters())[NODE].detach(), transfer.tensors["sensors"]
    ratio = torch.pdist(own) / torch.pdist(theirs)
    torch.testing.assert_close(ratio, ratio.mean().expand_as(ratio), rtol=1e-3, atol=1e-4)
    assert own.square().mean().item() == pytest.approx(1, rel=1e-3)


@pytest.mark.parametrize("name", get_args(get_type_hints(ModelParams)["name"]))
def test_every_model_takes_the_identities_over_whichever_of_its_parts_has_them(
    name: str, handed: Path
) -> None:
    model = MADE[name]()
    (table,) = (each for each in model.modules() if isinstance(each, WindowEmbedding))
    assert table.node is not None
    before = table.node.weight.detach().clone()
    (found,) = apply_transfer(model, "none", read_transfer(handed))
    assert dict(model.named_parameters())[found] is table.node.weight
    assert not torch.allclose(table.node.weight, before, atol=0.1)


def test_a_model_that_embeds_no_sensors_is_told_so(handed: Path) -> None:
    for model in (made_sepnet(gate="temporal_only"), made_stmgt(node_embedding=False)):
        with pytest.raises(InputError, match="with spatial none that embeds no sensors takes nothing over"):
            apply_transfer(model, "none", read_transfer(handed))


def test_what_is_frozen_gets_no_gradient_and_what_is_finetuned_a_tenth_of_the_rate(handed: Path) -> None:
    transfer = read_transfer(handed)
    frozen = tiny_model(tiny_meta(), tiny_graph())
    told = Transfer(mode="freeze", encoder="sgmp", digest="x", tensors=transfer.tensors)
    assert apply_transfer(frozen, "ha_gat", told) == frozenset()
    assert not dict(frozen.named_parameters())[NODE].requires_grad
    model = tiny_model(tiny_meta(), tiny_graph())
    optimizer = make_optimizer(model, 0.1, 0.01, apply_transfer(model, "ha_gat", transfer), 0.1)
    set_rate(optimizer, 0.02)
    weight = dict(model.named_parameters())[NODE]
    rates = {
        group["lr"] for group in optimizer.param_groups if any(each is weight for each in group["params"])
    }
    assert rates == {0.002}  # of a table; linear maps get twice the rate
    assert {group["lr"] for group in optimizer.param_groups} == {0.02, 0.04, 0.002}
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(list(model.parameters()))


def test_of_other_sensors_is_refused(handed: Path) -> None:
    model = tiny_model(tiny_meta(nodes=7), tiny_graph(7))
    with pytest.raises(InputError, match="of another network or width"):
        apply_transfer(model, "ha_gat", read_transfer(handed))


def test_nothing_is_a_file_that_changes_no_weight(tmp_path: Path) -> None:
    write_nothing(tmp_path / "none.safetensors")
    found = read_transfer(tmp_path / "none.safetensors")
    assert (
        found == Transfer()
        and apply_transfer(tiny_model(tiny_meta(), tiny_graph()), "ha_gat", found) == frozenset()
    )
