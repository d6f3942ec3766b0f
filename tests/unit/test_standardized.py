"""The unit border: km/h outside, z-units inside, and masks that no scaling can move."""

from __future__ import annotations

from dataclasses import fields, replace
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from headway.mixture import Mixture
from headway.models.standardized import SMALLEST_STD, Standardized
from headway.objectives.forecast_loss import absolute_error, mixture_loss
from headway.types import Batch, Forecast, PointForecast
from tiny_model import MEAN, MODEL, NODES, STD, tiny_batch, tiny_graph, tiny_meta, tiny_model

CHANNELS = 2
SCALERS = {
    "global": (torch.tensor([MEAN, 900.0]), torch.tensor([STD, 250.0])),
    "per_sensor": (
        torch.tensor([[40.0, 45, 50, 55, 60], [800.0, 850, 900, 950, 1000]]),
        torch.tensor([[4.0, 5, 6, 7, 8], [100.0, 150, 200, 250, 300]]),
    ),
}


class Echo(nn.Module):
    """A model that says the same number of every target step."""

    def __init__(self, said: float) -> None:
        super().__init__()
        self.said = said

    def forward(self, batch: Batch) -> Forecast:
        return PointForecast(point=torch.full_like(batch.target, self.said))


def given_up(model: Standardized) -> list[str]:
    """What `save_memory` gives up until nothing is left."""
    return list(iter(model.save_memory, ""))


@pytest.fixture(params=["global", "per_sensor"])
def scaler(request: pytest.FixtureRequest) -> tuple[Tensor, Tensor]:
    return SCALERS[request.param]


def of_sensor(numbers: Tensor, channel: int) -> Tensor:
    """The scaler's numbers of one channel for every sensor."""
    return numbers[channel].expand(NODES)


def test_a_batch_in_z_units_is_that_of_the_formula(scaler: tuple[Tensor, Tensor]) -> None:
    batch = tiny_batch(channels=CHANNELS)
    z = Standardized(Echo(0), None, *scaler).standardize(batch)
    mean, std = of_sensor(scaler[0], 0), of_sensor(scaler[1], 0)
    for channel in range(CHANNELS):
        expected = (batch.history[..., channel] - of_sensor(scaler[0], channel)) / of_sensor(
            scaler[1], channel
        )
        seen = batch.history_observed[..., channel]
        torch.testing.assert_close(z.history[..., channel][seen], expected[seen])
    torch.testing.assert_close(z.fallback, (batch.fallback - mean) / std)
    torch.testing.assert_close(
        z.target[batch.target_observed], ((batch.target - mean) / std)[batch.target_observed]
    )
    for name in ("past", "anchors"):
        seen = getattr(batch, f"{name}_observed")
        expected = (getattr(batch, name) - mean[:, None]) / std[:, None]
        torch.testing.assert_close(getattr(z, name)[seen], expected[seen])


def test_what_was_not_observed_is_zero_and_masks_and_clock_are_untouched(
    scaler: tuple[Tensor, Tensor],
) -> None:
    batch = tiny_batch(channels=CHANNELS, covariates=1)
    z = Standardized(Echo(0), None, *scaler).standardize(batch)
    for name in ("history", "past", "anchors", "target"):
        seen = getattr(batch, f"{name}_observed")
        assert not seen.all() and getattr(z, name)[~seen].eq(0).all()
    for field in fields(Batch):
        if field.name.endswith(("observed", "calendar")) or field.name in ("origin", "covariates"):
            assert getattr(z, field.name) is getattr(batch, field.name)


def test_a_forecast_comes_back_in_the_unit_of_the_target(scaler: tuple[Tensor, Tensor]) -> None:
    batch = replace(tiny_batch(channels=CHANNELS), target_observed=torch.ones(2, 3, NODES).bool())
    model = Standardized(Echo(0), None, *scaler)
    back = model.to_physical(PointForecast(point=model.standardize(batch).target)).point
    torch.testing.assert_close(back, batch.target, rtol=1e-5, atol=1e-4)
    above = Standardized(Echo(1.5), None, *scaler)(batch).point
    expected = of_sensor(scaler[0], 0) + 1.5 * of_sensor(scaler[1], 0)
    torch.testing.assert_close(above, expected.expand_as(above))


@pytest.mark.parametrize("anchors", [True, False])
def test_a_fresh_model_on_speeds_forecasts_speeds_of_the_data_s_range(anchors: bool) -> None:
    # brief B's model was trained on z-scored inputs against raw targets and forecast 150 km/h
    model = tiny_model(tiny_meta(), tiny_graph(), choice=replace(MODEL, anchors=anchors))
    for missing in (0.0, 0.5, 1.0):
        batch = tiny_batch(batch=8, missing=missing)
        seen = torch.cat([batch.anchors[batch.anchors_observed], batch.fallback.flatten()])
        point = model(batch).point
        assert point.min() >= seen.min() - 1e-3 and point.max() <= seen.max() + 1e-3


def test_a_sensor_without_spread_does_not_divide_by_zero() -> None:
    model = Standardized(Echo(0), None, torch.tensor([MEAN]), torch.tensor([0.0]))
    assert model.std.item() == pytest.approx(SMALLEST_STD)
    batch = tiny_batch()
    assert model.standardize(batch).history.isfinite().all() and model(batch).point.eq(MEAN).all()


def test_targets_that_were_not_observed_add_nothing_to_the_loss(scaler: tuple[Tensor, Tensor]) -> None:
    model, batch = Standardized(Echo(0.3), None, *scaler), tiny_batch(channels=CHANNELS, missing=0.5)
    z = model.standardize(batch)
    seen = batch.target_observed
    expected = (0.3 - (batch.target - of_sensor(scaler[0], 0)) / of_sensor(scaler[1], 0))[seen].abs().sum()
    torch.testing.assert_close(absolute_error(model.forecast_standard(z), z), expected)


def test_a_reading_equal_to_the_mean_counts_and_a_missing_one_never_does() -> None:
    # defect of brief A: its loss took `target != 0` after scaling for the mask
    model = Standardized(Echo(1.0), None, torch.tensor([MEAN]), torch.tensor([STD]))
    batch = tiny_batch(missing=1.0)
    target, seen = batch.target.clone(), batch.target_observed.clone()
    target[0, 0, 0], seen[0, 0, 0] = MEAN, True
    z = model.standardize(replace(batch, target=target, target_observed=seen))
    assert z.target.eq(0).all()
    assert absolute_error(model.forecast_standard(z), z).item() == pytest.approx(1.0)
    target[0, 0, 0], seen[0, 0, 0] = 0.0, True  # a true zero, e.g. a flow at night
    z = model.standardize(replace(batch, target=target, target_observed=seen))
    assert absolute_error(model.forecast_standard(z), z).item() == pytest.approx(1 + MEAN / STD)


def test_memory_is_given_up_to_an_end_also_where_no_sensor_reads_another() -> None:
    model = tiny_model(tiny_meta(), tiny_graph())
    assert len(given_up(model)) > 2
    model = Standardized(Echo(0), None, *SCALERS["global"])
    model.set_recompute(True)
    assert given_up(model) == []


def test_the_scaler_is_data_and_not_weights() -> None:
    model = tiny_model(tiny_meta(), tiny_graph())
    assert not {"mean", "std"} & set(model.state_dict())
    assert model.parameter_count() == sum(p.numel() for p in model.parameters() if p.requires_grad)


def test_an_error_counts_by_its_size_in_the_unit_of_the_target_whatever_the_scaling(
    scaler: tuple[Tensor, Tensor],
) -> None:
    model, batch = Standardized(Echo(0.3), None, *scaler), tiny_batch(channels=CHANNELS, missing=0.3)
    z = model.standardize(batch)
    physical = absolute_error(model(batch), batch)
    found = model.summed_loss(model.forecast_standard(z), z)
    torch.testing.assert_close(found * model.std[0].mean(), physical)


def test_with_a_scale_for_every_sensor_a_likelihood_weighs_all_alike_and_a_squared_error_by_its_unit() -> (
    None
):
    batch = tiny_batch(missing=0.0)
    weight = SCALERS["per_sensor"][1][0] / SCALERS["per_sensor"][1][0].mean()
    for mean_square, wanted in ((0.0, torch.ones(NODES)), (1e6, weight.square())):
        found = []
        for std in (torch.ones(1, NODES), SCALERS["per_sensor"][1][:1]):
            loss = partial(mixture_loss, mean_square=mean_square, spread=0.0, entropy=0.0)
            means = torch.zeros(*batch.target.shape, 1, requires_grad=True)
            said = Mixture(
                log_weights=torch.zeros_like(means), means=means, deviations=torch.ones_like(means)
            )
            z = replace(batch, target=(batch.target - MEAN) / STD)
            Standardized(Echo(0), None, torch.full_like(std, MEAN), std, loss).summed_loss(said, z).backward()
            assert means.grad is not None
            found.append(means.grad.squeeze(-1))
        torch.testing.assert_close(found[1], found[0] * wanted, rtol=1e-4, atol=1e-4)
