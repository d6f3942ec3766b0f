"""The anchor mix: only what was observed has weight, and it starts at, and is held to, its fitted start."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from headway.nn.anchors import AnchorMix, fit_mix
from headway.types import Batch
from tiny_model import BATCH, HORIZON, NODES, stirred, tiny_batch, tiny_graph, tiny_meta, tiny_model

ANCHORS = 4


def mix() -> AnchorMix:
    made = AnchorMix(NODES, HORIZON, ANCHORS)
    stirred(made)
    return made


def all_observed(batch: Batch) -> Batch:
    return replace(batch, anchors_observed=torch.ones_like(batch.anchors_observed))


def test_the_mix_is_the_softmax_over_observed_anchors() -> None:
    made, batch = mix(), tiny_batch()
    found = made(batch)
    assert found.shape == (BATCH, HORIZON, NODES)
    for b in range(BATCH):
        for h in range(HORIZON):
            for node in range(NODES):
                seen = batch.anchors_observed[b, h, node]
                weights = torch.softmax((made.logits[h] + made.offsets[node])[seen], 0)
                expected = (weights * batch.anchors[b, h, node][seen]).sum()
                torch.testing.assert_close(found[b, h, node], expected)


def test_an_anchor_that_was_not_observed_has_no_weight() -> None:
    made, batch = mix(), tiny_batch()
    other = torch.where(batch.anchors_observed, batch.anchors, 1e6)
    assert torch.equal(made(replace(batch, anchors=other)), made(batch))


def test_an_anchor_that_is_alone_is_the_mix_however_small_its_weight_would_be() -> None:
    made, batch = mix(), tiny_batch(missing=0.0)
    with torch.no_grad():
        made.logits[:, 0] = 300
    alone = torch.arange(ANCHORS).eq(ANCHORS - 1).expand_as(batch.anchors_observed)
    found = made(replace(batch, anchors_observed=alone))
    torch.testing.assert_close(found, batch.anchors[..., -1])
    found.sum().backward()
    assert made.logits.grad is not None and made.logits.grad.isfinite().all()


def test_without_any_anchor_the_mix_is_the_climatology() -> None:
    made, batch = mix(), tiny_batch(missing=1.0)
    assert torch.equal(made(batch), batch.fallback)
    made(batch).sum().backward()
    assert made.logits.grad is not None and made.logits.grad.eq(0).all()


def test_one_sensor_without_anchors_leaves_the_others_alone() -> None:
    made, batch = mix(), all_observed(tiny_batch())
    seen = batch.anchors_observed.clone()
    seen[0, 1, 2] = False
    found, before = made(replace(batch, anchors_observed=seen)), made(batch)
    assert found[0, 1, 2] == batch.fallback[0, 1, 2]
    same = torch.ones_like(found).bool()
    same[0, 1, 2] = False
    assert torch.equal(found[same], before[same])


def test_the_mix_stays_between_its_anchors() -> None:
    made, batch = mix(), all_observed(tiny_batch())
    found = made(batch)
    assert (found >= batch.anchors.amin(-1) - 1e-3).all() and (found <= batch.anchors.amax(-1) + 1e-3).all()


@pytest.mark.parametrize("best", range(ANCHORS))
def test_the_fit_finds_the_best_anchor_of_each_horizon(best: int) -> None:
    batch = all_observed(tiny_batch(batch=8, missing=0.0))
    which = [(best + step) % ANCHORS for step in range(HORIZON)]
    target = torch.stack([batch.anchors[:, step, :, anchor] for step, anchor in enumerate(which)], 1)
    made = AnchorMix(NODES, HORIZON, ANCHORS)
    made.set_start(fit_mix(replace(batch, target=target)))
    assert made.weights().argmax(-1).tolist() == which
    assert made.weights().amax(-1).min() > 0.9


def test_the_fit_beats_every_single_anchor_and_counts_observed_targets_only() -> None:
    batch = all_observed(tiny_batch(batch=8, missing=0.0))
    truth = (batch.anchors * torch.tensor([0.1, 0.6, 0.3, 0.0])).sum(-1)
    seen = torch.rand(truth.shape, generator=torch.Generator().manual_seed(0)) < 0.4
    batch = replace(batch, target=torch.where(seen, truth, -1e4), target_observed=seen)
    made = AnchorMix(NODES, HORIZON, ANCHORS)
    made.set_start(fit_mix(batch))

    def error(forecast: Tensor) -> float:
        return (forecast - truth)[seen].abs().mean().item()

    assert error(made(batch)) < 0.2 * min(error(batch.anchors[..., anchor]) for anchor in range(ANCHORS))


def test_a_fit_to_nothing_observed_is_the_plain_mean() -> None:
    assert torch.equal(fit_mix(tiny_batch(missing=1.0)), torch.zeros(HORIZON, ANCHORS))


def test_the_pull_is_zero_at_the_start_and_grows_away_from_it() -> None:
    made = AnchorMix(NODES, HORIZON, ANCHORS)
    made.set_start(torch.randn(HORIZON, ANCHORS))
    assert made.pull().item() == 0
    with torch.no_grad():
        made.logits[0, 0] += 2
        made.offsets[1, 1] += 3
    assert made.pull().item() == pytest.approx(4 / (HORIZON * ANCHORS) + 9 / (NODES * ANCHORS))
    made.pull().backward()
    assert made.logits.grad is not None and made.logits.grad[0, 0] > 0


def test_the_start_is_saved_with_the_model() -> None:
    made, loaded = AnchorMix(NODES, HORIZON, ANCHORS), AnchorMix(NODES, HORIZON, ANCHORS)
    made.set_start(torch.randn(HORIZON, ANCHORS))
    loaded.load_state_dict(made.state_dict())
    assert loaded.pull().item() == 0 and torch.equal(loaded.weights(), made.weights())


def test_zero_correction_reproduces_the_mix_in_physical_units() -> None:
    model, batch = tiny_model(tiny_meta(), tiny_graph()), tiny_batch()
    assert model.mix is not None
    stirred(model.mix)
    torch.testing.assert_close(model(batch).point, model.mix(batch), rtol=1e-5, atol=1e-3)
