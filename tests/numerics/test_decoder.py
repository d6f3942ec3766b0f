"""The decoder of the heads: what it reads, and what its layers do."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from headway.nn.decoder import Decoder, DecoderParams
from headway.types import Batch
from tiny_model import HISTORY, HORIZON, NODES, stirred, tiny_batch

PARAMS = DecoderParams(hidden_dim=6, layers=2, dropout=0.0)
WIDTH = 8
READINGS = HISTORY * (1 + 3) + HORIZON * 4


def decoder(params: DecoderParams = PARAMS) -> Decoder:
    torch.manual_seed(0)
    made = Decoder(params, WIDTH, READINGS)
    stirred(made)
    return made


def state(batch: Batch) -> torch.Tensor:
    return torch.randn(len(batch.origin), NODES, WIDTH, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", ["history", "past", "anchors"])
@pytest.mark.parametrize("what", ["", "_observed"])
def test_every_reading_and_every_mask_of_a_window_moves_what_the_head_is_given(name: str, what: str) -> None:
    batch, module = tiny_batch(), decoder()
    given = getattr(batch, name + what)
    for step in range(given.shape[1]):
        for kind in range(given.shape[-1]):
            other = given.clone()
            other[:, step, 0, kind] = ~other[:, step, 0, kind] if what else other[:, step, 0, kind] + 1
            moved = module(state(batch), replace(batch, **{name + what: other})) - module(state(batch), batch)
            assert moved[:, 0].abs().amax(-1).gt(0).all(), (step, kind)
            assert moved[:, 1:].eq(0).all(), "a sensor's window was read by another"


def test_without_layers_it_is_linear_in_state_and_window() -> None:
    batch, module = tiny_batch(missing=0.0), decoder(replace(PARAMS, layers=0))
    twice = replace(batch, history=2 * batch.history, past=2 * batch.past, anchors=2 * batch.anchors)
    nothing = replace(batch, history=0 * batch.history, past=0 * batch.past, anchors=0 * batch.anchors)
    once, base = module(state(batch), batch), module(0 * state(batch), nothing)
    torch.testing.assert_close(
        module(2 * state(batch), twice) - base, 2 * (once - base), rtol=1e-4, atol=1e-3
    )


def test_layers_are_those_of_the_equation() -> None:
    batch, module, bare = tiny_batch(), decoder(), decoder(replace(PARAMS, layers=0))
    bare.load_state_dict({key: value for key, value in module.state_dict().items() if "layers" not in key})
    x = bare(state(batch), batch)
    for layer in module.layers:
        weights = dict(layer.named_parameters())
        inner = torch.relu(x @ weights["widen.weight"].T + weights["widen.bias"])
        x = x + inner @ weights["narrow.weight"].T + weights["narrow.bias"]
    torch.testing.assert_close(module(state(batch), batch), x)


def test_a_dropped_layer_is_dropped_whole_and_for_one_sensor_of_one_window() -> None:
    batch = tiny_batch(batch=200)
    module = decoder(replace(PARAMS, layers=1, dropout=0.25)).train()
    bare = decoder(replace(PARAMS, layers=0))
    bare.load_state_dict({key: value for key, value in module.state_dict().items() if "layers" not in key})
    x, whole = bare(state(batch), batch), module.eval()(state(batch), batch)
    torch.manual_seed(2)
    share = (module.train()(state(batch), batch) - x) / (whole - x)
    assert share.std(-1).max() < 1e-3  # the same for the whole width
    dropped = share[..., 0].abs() < 1e-3
    torch.testing.assert_close(share[~dropped], torch.full_like(share[~dropped], 1 / 0.75), rtol=1e-3, atol=0)
    assert dropped.float().mean().item() == pytest.approx(0.25, abs=0.05)
