"""ST-SepNet as a whole: what a forecaster of sensors must be."""

from __future__ import annotations

import pytest
import torch

from headway.errors import InputError
from headway.models.st_sepnet import STSepNet
from headway.types import PointForecast
from tiny_model import stirred, tiny_batch
from tiny_sepnet import made, stirred_model

# --- the whole ----------------------------------------------------------------------------------------------


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
        forecast = model.forecast_standard(z)
        assert isinstance(forecast, PointForecast)
        # squared: of the absolute error's gradient, signs that balance may leave nothing
        (forecast.point - z.target).square().mean().backward()
        optimizer.step()
    for name, parameter in model.named_parameters():
        assert name in saved
        assert not torch.equal(parameter, before[name]), name


def test_a_width_that_the_kernels_do_not_divide_is_refused() -> None:
    with pytest.raises(
        InputError, match=r"the 4 kernels of st_sepnet: 4 does not divide hypergraph\.hidden_dim = 6"
    ):
        made(hypergraph={"hidden_dim": 6})


def test_a_head_that_says_a_point_is_joined_as_a_point() -> None:
    model = stirred_model()
    assert isinstance(model.model, STSepNet)
    assert isinstance(model.model(model.standardize(tiny_batch())), PointForecast)
