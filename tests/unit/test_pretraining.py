"""Pretraining learns what trees teach, and controls that teach nothing learn nothing."""

from __future__ import annotations

import json
import math
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from headway.errors import InputError
from headway.graph.tree import make_tree
from headway.nn import sgmp
from headway.nn.ha_gat import HAGATParams
from headway.nn.neighbor_table import NeighborTable
from headway.nn.sgmp import PathSet
from headway.objectives.gt_ssl import growth_losses, order_losses
from headway.training.network import road_network
from headway.training.precision import Precision
from headway.training.pretrain_experiment import make_encoder
from headway.training.pretraining import Counts, PretrainParams, backward_trees, pretrain
from headway.training.run import Run
from headway.training.state import Progress
from headway.training.tree_batches import link_turns, make_batch, measure_scale, node_features
from headway.training.tree_plan import batch_of, trace_trees
from headway.training.tree_sources import GivenTrees, TreeSource
from tiny_prepared import tiny_prepared
from tiny_run import RUNTIME
from tiny_trees import PRETRAIN, SGMP, bushes, pretrain_params, tiny_source

FP32 = Precision(name="fp32", device_type="cpu")
SECTIONS: dict[str, Any] = {
    "sgmp": SGMP,
    "ha_gat": HAGATParams(hidden_dim=24, heads=2, regimes=3, hops=2, attention_dropout=0.0),
}
COURSE = {"epochs": 3, "epoch_steps": 40, "validation_trees": 4}
each_encoder = pytest.mark.parametrize("encoder", ["sgmp", "ha_gat"])


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DVC_ROOT", os.fspath(tmp_path))
    return tmp_path


def course(here: Path, params: PretrainParams, source: TreeSource) -> Progress:
    encoder = make_encoder({**SECTIONS, "pretrain": params}, source, 0)
    with Run("pretrain", {"code": repr(params)}, replace(RUNTIME, micro_batch=2)) as run:
        return pretrain(encoder, source, params, run, FP32, here / "curves")


@pytest.mark.parametrize(("encoder", "seed"), [("sgmp", 0), ("sgmp", 1), ("sgmp", 2), ("ha_gat", 0)])
def test_growth_falls_below_the_best_constant_and_pairs_are_ordered(
    encoder: str, seed: int, here: Path
) -> None:
    params = pretrain_params(encoder=encoder, seed=seed, **COURSE)
    curve = course(here, params, tiny_source(params)).curve
    assert curve[-1]["val/growth"] < 0.85 * curve[-1]["val/growth_of_constant"]
    assert curve[-1]["val/order_violations"] < 0.05
    losses = [row["val/loss"] for row in curve]
    assert max(losses[1:]) <= losses[0] and curve[-1]["val/loss"] == pytest.approx(min(losses), rel=0.05)
    assert max(row["train/grad_norm"] for row in curve) < 20


@pytest.mark.parametrize("targets", ["shuffled_tree", "random"])
def test_controls_do_not_learn(targets: str, here: Path) -> None:
    params = pretrain_params(targets=targets, **COURSE | {"epochs": 2})
    last = course(here, params, tiny_source(params)).curve[-1]
    assert last["val/growth"] > 0.95 * last["val/growth_of_constant"]
    assert last["val/order_violations"] > 0.4


@each_encoder
def test_a_group_cut_in_pieces_has_the_gradient_of_the_whole(encoder: str) -> None:
    params = pretrain_params(encoder=encoder)
    source = tiny_source(params)
    drawn = source.training(0, 4)
    model = make_encoder({**SECTIONS, "pretrain": params}, source, 0).train()
    scaler = FP32.gradient_scaler()
    found = []
    for size in (4, 1):
        cuts = [slice(first, first + size) for first in range(0, 4, size)]
        pieces = [
            make_batch(drawn.trees[cut], drawn.seeds[cut], source.scale, params.asked()) for cut in cuts
        ]
        model.zero_grad()
        for piece in pieces:
            backward_trees(model, piece, Counts.of(pieces), source.scale, params, FP32, scaler)
        found.append(
            [parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None]
        )
    for whole, cut in zip(*found, strict=True):
        torch.testing.assert_close(whole, cut, rtol=1e-3, atol=1e-5)


def test_messages_computed_again_in_chunks_have_the_same_gradient() -> None:
    source = tiny_source()
    batch = batch_of(source.training(0, 2), source.scale, PRETRAIN)
    model = make_encoder({**SECTIONS, "pretrain": PRETRAIN}, source, 0).train()
    found = []
    for recompute in (False, True):
        model.set_recompute(recompute)
        model.zero_grad()
        backward_trees(model, batch, Counts.of([batch]), source.scale, PRETRAIN, FP32, FP32.gradient_scaler())
        found.append(
            [parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None]
        )
    for kept, again in zip(*found, strict=True):
        torch.testing.assert_close(kept, again, rtol=1e-4, atol=1e-6)


def test_growth_is_forecast_from_ancestors_alone() -> None:
    tree, *_ = bushes(1, 0)
    source = GivenTrees([tree], [tree], 0)
    batch = batch_of(source.training(0, 1), source.scale, PRETRAIN)
    assert isinstance(batch.above, PathSet)
    node, *passed = batch.above.nodes.numpy()
    for other in passed:
        assert (tree.is_ancestor(other, node) | (other == node)).all()
    assert (np.stack(passed) != node).any(), "not only paths of one node"
    assert (batch.upward[:, :2] == 0).all() and (batch.features[:, :2] != 0).any()


def test_features_and_turns_do_not_change_when_a_tree_is_turned_and_moved() -> None:
    tree, *_ = bushes(1, 1)
    scale = measure_scale(tree.length, planar=False)
    turn, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))
    other = make_tree(tree.parent, tree.positions @ (turn * np.sign(np.linalg.det(turn))).T + [5, -3, 2])
    np.testing.assert_allclose(node_features(tree, scale), node_features(other, scale), atol=1e-5)
    np.testing.assert_allclose(link_turns(tree, planar=False), link_turns(other, planar=False), atol=1e-6)


@pytest.mark.parametrize("uneven", [0.0, 0.01, 0.2])
def test_links_of_nearly_equal_length_have_weights_that_are_not_zero(uneven: float) -> None:
    lengths = np.tile([1 - uneven, 1 + uneven], 10)
    tree = make_tree(np.array([-1, 0, 1]), np.array([[0, 0, 0], [lengths[0], 0, 0], [2.0, 0, 0]]))
    scale = measure_scale(lengths, planar=True)
    batch = make_batch([tree], [[0]], scale, replace(PRETRAIN, encoder="ha_gat").asked())
    assert isinstance(batch.around, NeighborTable)
    weights = batch.around.features[..., 1][batch.around.valid]
    assert weights.min() > 0.2 and weights.max() < 0.6


def test_histograms_of_growth_sum_to_one_and_real_ancestors_are_not_zeros() -> None:
    source = tiny_source()
    batch = batch_of(source.training(0, 3), source.scale, PRETRAIN)
    for half in batch.growth.chunk(2, 1):
        torch.testing.assert_close(half.sum(1), torch.ones(len(half)))
    assert batch.ancestry.sum(1).min() > 0.5 and batch.ancestry.var(0).max() > 0.01
    assert batch.related.float().mean().item() == pytest.approx(0.5, abs=0.05)


def test_an_encoder_that_says_one_thing_of_all_nodes_pays_the_whole_margin() -> None:
    source = tiny_source()
    batch = batch_of(source.training(0, 1), source.scale, PRETRAIN)
    h = torch.ones(len(batch.features), 4)
    related, unrelated = order_losses(h, batch.pairs, batch.related, 1.0)
    assert related == 0 and unrelated == (~batch.related).sum()
    assert growth_losses(torch.zeros_like(batch.growth), batch.growth, 2.0, planar=True).min() > 0


def test_the_traced_step_is_smaller_in_chunks_and_grows_with_the_trees(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sgmp.CHUNK, "cpu", 2**13)
    source = tiny_source()
    model = make_encoder({**SECTIONS, "pretrain": PRETRAIN}, source, 0)

    def peak(trees: int, recompute: bool) -> int:
        model.set_recompute(recompute)
        batch = batch_of(source.training(0, trees), source.scale, PRETRAIN)
        return trace_trees(model, batch, source.scale, PRETRAIN, FP32, accumulate=False).peak

    assert peak(4, True) < peak(4, False)
    assert peak(1, False) < peak(2, False) < peak(4, False)


def test_a_network_without_places_is_refused_with_a_sentence() -> None:
    with pytest.raises(InputError, match=r"sensors\.parquet of 'tiny' does not give latitude and longitude"):
        road_network(tiny_prepared(), "pretrain.method: gt_ssl")
    known = replace(tiny_prepared(), positions=np.zeros((3, 3), np.float32))
    with pytest.raises(InputError, match="no sensor of 'tiny' has a neighbor"):
        road_network(known, "pretrain.method: gt_ssl")


def test_a_collection_gives_every_tree_once_an_epoch_and_keeps_the_validation_trees_apart() -> None:
    trees = bushes(7, 2, nodes=5)
    source = GivenTrees(trees[:5], trees[5:], seed=4)
    first = [source.training(step, 1).trees[0] for step in range(10)]
    assert (
        {id(tree) for tree in first[:5]}
        == {id(tree) for tree in first[5:]}
        == {id(tree) for tree in trees[:5]}
    )
    assert [id(tree) for tree in first[:5]] != [id(tree) for tree in first[5:]]
    assert source.validation(9).trees == trees[5:]
    assert json.dumps(source.training(3, 2).seeds) == json.dumps(source.training(3, 2).seeds)
    assert math.isclose(source.scale.unit, 1.0, rel_tol=1e-6)
