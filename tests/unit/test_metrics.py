"""What the metrics say at their edges; their values are checked in numerics."""

from __future__ import annotations

import numpy as np
import torch

from headway.evaluation.metrics import Errors, Scores, measure


def errors_of(
    point: list[float], target: list[float], observed: list[bool], floor: float = 0.001, center: float = 10.0
) -> Errors:
    """Windows with one step and one sensor, in the hours 0, 1, 2, ..."""
    shape = (len(point), 1, 1)
    return measure(
        torch.tensor(point).view(shape),
        torch.tensor(target).view(shape),
        torch.tensor(observed).view(shape),
        np.arange(len(point)).reshape(-1, 1),
        mape_floor=floor,
        center=center,
    )


def total_of(errors: Errors) -> Scores:
    return errors.by_horizon.total().scores()[0]


def test_a_small_example_by_hand() -> None:
    scores = total_of(errors_of([12.0, 9.0, 99.0], [10.0, 13.0, 0.0], [True, True, False]))
    assert (scores.mae, scores.count) == (3.0, 2)
    assert scores.rmse == 10**0.5
    assert scores.mape == 100 * (2 / 10 + 4 / 13) / 2
    assert scores.wape == 100 * 6 / 23
    assert scores.r2 == 1 - 20 / 4.5


def test_nothing_observed_gives_none_and_never_a_number() -> None:
    nothing = Scores(mae=None, rmse=None, mape=None, wape=None, r2=None, count=0)
    errors = errors_of([1.0, 2.0], [3.0, 4.0], [False, False])
    assert total_of(errors) == nothing
    assert errors.by_sensor.scores() == [nothing]


def test_mape_skips_targets_at_the_floor_and_the_others_do_not() -> None:
    scores = total_of(errors_of([5.0, 8.0], [1.0, 10.0], [True, True], floor=1.0))
    assert scores.mape == 20.0
    assert (scores.mae, scores.count) == (3.0, 2)


def test_targets_of_zero_alone_have_no_percentage() -> None:
    scores = total_of(errors_of([1.0, 3.0], [0.0, 0.0], [True, True]))
    assert (scores.mape, scores.wape) == (None, None)
    assert scores.mae == 2.0


def test_r2_is_none_where_the_targets_do_not_differ() -> None:
    for count in range(2, 24):  # for some of them rounding alone leaves a spread above 0
        equal = errors_of([11.0] * count, [48.3] * count, [True] * count, center=47.1234567)
        assert total_of(equal).r2 is None
    assert total_of(errors_of([11.0], [48.3], [True])).r2 is None


def test_an_hour_without_targets_is_none_and_the_others_are_their_own() -> None:
    by_hour = errors_of([1.0, 2.0, 3.0], [2.0, 4.0, 6.0], [True, False, True]).by_hour.scores()
    assert [scores.mae for scores in by_hour[:4]] == [1.0, None, 3.0, None]
    assert len(by_hour) == 24


def test_a_batch_of_half_empty_windows_is_not_a_mean_of_means() -> None:
    first = errors_of([1.0, 0.0, 0.0], [11.0, 0.0, 0.0], [True, False, False])
    second = errors_of([10.0, 10.0, 10.0], [11.0, 11.0, 11.0], [True, True, True])
    assert total_of(first + second).mae == 13 / 4
