"""The order of training windows: a permutation a pass, and nothing but (seed, step) decides it."""

from __future__ import annotations

import numpy as np
import pytest

from headway.data.order import (
    group_origins,
    partition_bounds,
    partitioned_origins,
    spread_origins,
    steps_per_pass,
)

SPLIT = (12, 35)  # 23 windows


def one_pass(number: int, seed: int = 0, batch_size: int = 5) -> list[int]:
    steps = steps_per_pass(SPLIT[1] - SPLIT[0], batch_size)
    groups = [group_origins(SPLIT, batch_size, seed, number * steps + step) for step in range(steps)]
    return np.concatenate(groups).tolist()


@pytest.mark.parametrize("number", [0, 1, 7])
@pytest.mark.parametrize("batch_size", [1, 5, 23, 100])
def test_every_pass_visits_every_window_once(number: int, batch_size: int) -> None:
    assert sorted(one_pass(number, batch_size=batch_size)) == list(range(*SPLIT))


def test_windows_are_not_in_time_order() -> None:
    assert one_pass(0) != sorted(one_pass(0))


def test_the_last_group_of_a_pass_is_smaller_and_counts_as_a_step() -> None:
    assert steps_per_pass(23, 5) == 5
    assert [len(group_origins(SPLIT, 5, 0, step)) for step in range(6)] == [5, 5, 5, 5, 3, 5]
    assert steps_per_pass(20, 5) == 4
    assert steps_per_pass(3, 5) == 1


def test_every_seed_and_every_pass_have_their_own_order() -> None:
    orders = {tuple(one_pass(number, seed)) for number in range(4) for seed in range(4)}
    # among them (seed 0, pass 1) and (seed 1, pass 0), which seed + pass would merge
    assert len(orders) == 16


def test_a_step_is_the_same_whatever_was_asked_before() -> None:
    straight = [group_origins(SPLIT, 5, 3, step).tolist() for step in range(12)]
    resumed = [group_origins(SPLIT, 5, 3, step).tolist() for step in reversed(range(12))]
    assert straight == resumed[::-1]


def test_changing_a_group_does_not_change_the_order() -> None:
    before = group_origins(SPLIT, 5, 0, 0).copy()
    group_origins(SPLIT, 5, 0, 0)[:] = 0
    assert np.array_equal(group_origins(SPLIT, 5, 0, 0), before)


def test_the_batch_size_cuts_the_order_and_does_not_change_it() -> None:
    assert one_pass(2, batch_size=5) == one_pass(2, batch_size=23) == one_pass(2, batch_size=4)


def test_the_order_is_pinned() -> None:
    # a resumed run must meet the order it began with, whatever the version of this code
    assert group_origins((0, 10), 10, 7, 2).tolist() == [7, 0, 3, 1, 8, 4, 9, 6, 2, 5]


@pytest.mark.parametrize("count", [0, 23, 24])
def test_all_validation_windows_come_in_time_order(count: int) -> None:
    assert spread_origins(SPLIT, count).tolist() == list(range(*SPLIT))


def test_few_validation_windows_are_spread_evenly() -> None:
    few = spread_origins((100, 200), 7)
    assert len(few) == 7 and few[0] == 100 and few[-1] < 200
    assert set(np.diff(few)) <= {14, 15}
    assert spread_origins((100, 200), 1).tolist() == [100]


@pytest.mark.parametrize("together", [1, 2])
@pytest.mark.parametrize("partitions", [1, 2, 4, 23])
def test_a_partitioned_pass_visits_every_window_once_and_takes_from_all_parts_evenly(
    partitions: int, together: int
) -> None:
    steps = steps_per_pass(23, 8)
    groups = [partitioned_origins(SPLIT, 8, 0, step, partitions, together) for step in range(steps)]
    assert sorted(np.concatenate(groups)) == list(range(*SPLIT))
    bounds = partition_bounds(SPLIT, partitions)
    assert (
        bounds[0] == SPLIT[0] and bounds[-1] == SPLIT[1] and max(np.diff(bounds)) - min(np.diff(bounds)) <= 1
    )
    for group in groups[:-1]:
        counts = np.histogram(group, bounds)[0]
        assert max(counts) - min(counts) <= 1


def test_whole_batches_of_a_part_follow_each_other_in_time() -> None:
    for step in range(5):
        group = partitioned_origins((0, 40), 8, 0, step, 2, 4)
        assert (np.diff(group[0::2]) == 1).all() and (np.diff(group[1::2]) == 1).all()
        assert group[0] < 20 <= group[1]


def test_a_part_has_its_own_order_in_every_pass_and_a_step_is_the_same_whatever_was_asked_before() -> None:
    orders = [
        np.concatenate([partitioned_origins((0, 20), 5, 0, 4 * n + s, 2, 1) for s in range(4)])
        for n in (0, 1)
    ]
    assert orders[0].tolist() != orders[1].tolist()
    assert (orders[0][0::2] + 10).tolist() != orders[0][1::2].tolist()
    again = partitioned_origins((0, 20), 5, 0, 2, 2, 1)
    assert again.tolist() == orders[0][10:15].tolist()
