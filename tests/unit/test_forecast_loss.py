"""The loss is a sum over observed targets; nothing else can enter it, and no shape is broadcast."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from headway.objectives.forecast_loss import absolute_error
from headway.types import Forecast, PointForecast
from tiny_model import BATCH, HORIZON, NODES, tiny_batch


def forecast(seed: int = 3) -> Forecast:
    random = torch.Generator().manual_seed(seed)
    return PointForecast(point=(50 + torch.randn(BATCH, HORIZON, NODES, generator=random)).requires_grad_())


def test_the_loss_is_the_sum_of_errors_at_observed_targets() -> None:
    batch, said = tiny_batch(), forecast()
    entries = zip(
        said.point.flatten().tolist(),
        batch.target.flatten().tolist(),
        batch.target_observed.flatten(),
        strict=True,
    )
    expected = sum(abs(point - target) for point, target, seen in entries if seen)
    assert absolute_error(said, batch).item() == pytest.approx(expected)


def test_parts_of_a_batch_add_up_to_the_whole() -> None:
    batch, said = tiny_batch(), forecast()
    parts = [
        absolute_error(
            PointForecast(point=said.point[index]),
            replace(
                tiny_batch(batch=1), target=batch.target[index], target_observed=batch.target_observed[index]
            ),
        )
        for index in (slice(0, 1), slice(1, 2))
    ]
    torch.testing.assert_close(torch.stack(parts).sum(), absolute_error(said, batch))


def test_a_batch_without_any_target_adds_exactly_nothing() -> None:
    batch, said = tiny_batch(missing=1.0), forecast()
    loss = absolute_error(said, batch)
    assert loss.item() == 0
    loss.backward()
    assert said.point.grad is not None and said.point.grad.eq(0).all()


def test_what_stands_where_nothing_was_observed_does_not_matter() -> None:
    batch, said = tiny_batch(missing=0.5), forecast()
    other = replace(batch, target=torch.where(batch.target_observed, batch.target, 1e6))
    assert absolute_error(said, other).item() == absolute_error(said, batch).item()
    absolute_error(said, other).backward()
    assert said.point.grad is not None
    assert torch.equal(said.point.grad.ne(0), batch.target_observed)


def unchecked(point: torch.Tensor) -> Forecast:
    """A Forecast that the shape checker of the tests did not see, as in production."""
    made = object.__new__(PointForecast)
    object.__setattr__(made, "point", point)
    return made


@pytest.mark.parametrize(
    "shape",
    [
        (BATCH, NODES, HORIZON),
        (BATCH, HORIZON, NODES, 1),
        (BATCH, 1, NODES),  # brief A's model: one step, broadcast over twelve
        (BATCH, HORIZON, 1),
        (HORIZON, NODES),
        (1, HORIZON, NODES),
        (),
    ],
)
def test_a_forecast_of_another_shape_is_refused_and_not_broadcast(shape: tuple[int, ...]) -> None:
    with pytest.raises(AssertionError, match=r"against target \(2, 3, 5\)"):
        absolute_error(unchecked(torch.zeros(shape)), tiny_batch())
