"""Index-batched windows against naive slices of the arrays, field by field; nothing of the future enters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from headway.data.prepared import Prepared
from headway.data.usual import DAY_WEIGHT, last_observed, trailing_climatology
from headway.data.windows import Residence, Windows, held_bytes, row_spans
from headway.training.trace import windows_of_size
from headway.training.window_plan import series_bytes
from headway.types import Batch
from tiny_prepared import HISTORY, HORIZON, tiny_prepared

STEPS, SENSORS, CHANNELS, COVARIATES = 400, 5, 2, 3
CONTEXT, WEEKS, DAYS = (24, 30), (168, 336), (24, 48, 72)  # hours
ALL_ORIGINS = np.arange(HISTORY, STEPS - HORIZON + 1)


@pytest.fixture(scope="module")
def prepared() -> Prepared:
    return with_channels(tiny_prepared(steps=STEPS, sensors=SENSORS))


def with_channels(tiny: Prepared) -> Prepared:
    random = np.random.default_rng(1)
    observed = random.random((STEPS, SENSORS, CHANNELS)) >= 0.3
    return replace(
        tiny,
        values=np.where(observed, random.normal(50, 8, observed.shape), 0).astype(np.float32),
        observed=observed,
        covariates=random.normal(size=(STEPS, COVARIATES)).astype(np.float32),
        meta=replace(
            tiny.meta,
            channels=("speed", "flow"),
            covariates=("rain", "wind", "sun"),
            context=CONTEXT,
            trailing=WEEKS,
            trailing_days=DAYS,
        ),
    )


def reading(prepared: Prepared, row: int | np.integer, sensor: int) -> float | None:
    """The target variable, None where the row does not exist or nothing was read."""
    if not 0 <= row < STEPS or not prepared.observed[row, sensor, 0]:
        return None
    return float(prepared.values[row, sensor, 0])


def mean(readings: Sequence[float | None]) -> tuple[float, int]:
    known = [value for value in readings if value is not None]
    return (sum(known) / len(known) if known else 0.0), len(known)


def usual(prepared: Prepared, row: int | np.integer, sensor: int, ago: Sequence[int] = DAYS) -> float | None:
    """The trailing climatology by its formula: n weeks and the mean of the days as one more week."""
    weekly, weeks = mean([reading(prepared, row - lag, sensor) for lag in WEEKS])
    daily, days = mean([reading(prepared, row - lag, sensor) for lag in ago])
    weight = DAY_WEIGHT if days else 0.0
    return (weeks * weekly + weight * daily) / (weeks + weight) if weeks + weight else None


def assert_readings(values: torch.Tensor, observed: torch.Tensor, expected: Sequence[float | None]) -> None:
    assert observed.flatten().tolist() == [value is not None for value in expected]
    np.testing.assert_allclose(values.flatten(), [value or 0.0 for value in expected], rtol=1e-5)


def test_histories_and_targets_of_every_window_equal_naive_slices(prepared: Prepared) -> None:
    batch = Windows(prepared).gather(ALL_ORIGINS)
    assert batch.origin.tolist() == ALL_ORIGINS.tolist()
    for index, origin in enumerate(ALL_ORIGINS):
        before, after = slice(origin - HISTORY, origin), slice(origin, origin + HORIZON)
        np.testing.assert_array_equal(batch.history[index], prepared.values[before])
        np.testing.assert_array_equal(batch.history_observed[index], prepared.observed[before])
        np.testing.assert_array_equal(batch.covariates[index], prepared.covariates[before])
        np.testing.assert_array_equal(batch.target[index], prepared.values[after, :, 0])
        np.testing.assert_array_equal(batch.target_observed[index], prepared.observed[after, :, 0])
        np.testing.assert_array_equal(batch.history_calendar[index], prepared.calendar[before])
        np.testing.assert_array_equal(batch.target_calendar[index], prepared.calendar[after])


def test_the_fallback_is_the_climatology_of_the_target_s_time_of_week(prepared: Prepared) -> None:
    batch = Windows(prepared).gather(ALL_ORIGINS)
    for index, origin in enumerate(ALL_ORIGINS):
        slot, day = prepared.calendar[origin : origin + HORIZON].T.astype(int)
        np.testing.assert_array_equal(batch.fallback[index], prepared.climatology[24 * day + slot])


def test_the_past_is_the_history_one_lag_earlier_and_what_was_usual_then(prepared: Prepared) -> None:
    batch = Windows(prepared).gather(ALL_ORIGINS)
    assert batch.past.shape == (len(ALL_ORIGINS), HISTORY, SENSORS, len(CONTEXT) + 1)
    for index, origin in enumerate(ALL_ORIGINS):
        expected = []
        for row in range(origin - HISTORY, origin):
            for sensor in range(SENSORS):
                expected += [reading(prepared, row - lag, sensor) for lag in CONTEXT]
                expected.append(usual(prepared, row, sensor))
        assert_readings(batch.past[index], batch.past_observed[index], expected)


def test_anchors_are_the_last_reading_the_context_and_what_was_usual(prepared: Prepared) -> None:
    batch = Windows(prepared).gather(ALL_ORIGINS)
    for index, origin in enumerate(ALL_ORIGINS):
        expected = []
        for row in range(origin, origin + HORIZON):
            for sensor in range(SENSORS):
                history = [reading(prepared, origin - age, sensor) for age in range(1, HISTORY + 1)]
                expected.append(next((value for value in history if value is not None), None))
                expected += [reading(prepared, row - lag, sensor) for lag in CONTEXT]
                expected.append(usual(prepared, row, sensor))
        assert_readings(batch.anchors[index], batch.anchors_observed[index], expected)


def test_rows_before_the_series_are_not_observed(prepared: Prepared) -> None:
    everything = replace(prepared, observed=np.ones_like(prepared.observed))
    batch = Windows(everything).gather(np.array([HISTORY, 24, 168]))
    assert batch.past_observed[..., 0].all((1, 2)).tolist() == [False, False, True]
    # 20..23 less a day is negative
    assert batch.past_observed[1, :, 0].tolist() == [[False, False, False]] * HISTORY
    assert batch.anchors_observed[..., 1].all((1, 2)).tolist() == [False, True, True]
    assert batch.anchors_observed[..., -1].all((1, 2)).tolist() == [False, True, True]
    assert not batch.past[~batch.past_observed].any() and not batch.anchors[~batch.anchors_observed].any()


def names_that_moved(before: Batch, after: Batch) -> set[str]:
    names = [field.name for field in fields(Batch)]
    return {name for name in names if not torch.equal(getattr(before, name), getattr(after, name))}


@pytest.mark.parametrize("origin", [HISTORY, 30, 170, STEPS - HORIZON])
def test_no_reading_at_or_after_the_origin_enters_anything_but_the_target(
    prepared: Prepared, origin: int
) -> None:
    values, observed, covariates = (
        array.copy() for array in (prepared.values, prepared.observed, prepared.covariates)
    )
    values[origin:], observed[origin:] = 999, ~observed[origin:]
    covariates[origin:] = 999
    future = replace(prepared, values=values, observed=observed, covariates=covariates)
    before, after = (Windows(data).gather(np.array([origin])) for data in (prepared, future))
    assert names_that_moved(before, after) == {"target", "target_observed"}


def test_the_newest_reading_before_the_origin_does_enter(prepared: Prepared) -> None:
    values, observed = prepared.values.copy(), np.ones_like(prepared.observed)
    values[199] = 999
    before = Windows(replace(prepared, observed=observed)).gather(np.array([200]))
    after = Windows(replace(prepared, observed=observed, values=values)).gather(np.array([200]))
    assert names_that_moved(before, after) == {"history", "anchors"}
    assert after.history[0, -1].eq(999).all() and after.anchors[0, ..., 0].eq(999).all()


def test_without_context_and_trailing_weeks_the_only_anchor_is_the_last_reading() -> None:
    batch = Windows(tiny_prepared()).gather(np.array([300, 301]))
    assert batch.past.shape == batch.past_observed.shape == (2, HISTORY, 3, 0)
    assert batch.covariates.shape == (2, HISTORY, 0)
    assert batch.anchors.shape == batch.anchors_observed.shape == (2, HORIZON, 3, 1)
    last, known = last_observed(batch.history[..., 0], batch.history_observed[..., 0])
    assert torch.equal(batch.anchors[:, 1, :, 0], last)
    assert torch.equal(batch.anchors_observed[:, 1, :, 0], known)


def test_weeks_without_days_are_enough_for_the_trailing_climatology(prepared: Prepared) -> None:
    weekly = replace(prepared, meta=replace(prepared.meta, context=(), trailing=(168,), trailing_days=()))
    batch = Windows(weekly).gather(np.array([300]))
    assert batch.anchors.shape[-1] == 2
    expected = [reading(prepared, row - 168, sensor) for row in range(300, 303) for sensor in range(SENSORS)]
    assert_readings(batch.anchors[..., 1], batch.anchors_observed[..., 1], expected)


def usual_of(observed: Sequence[bool]) -> tuple[torch.Tensor, torch.Tensor]:
    """Two weeks ago 60 and 40, three days ago 20, 30 and 10, where they were observed."""
    seen = torch.tensor(observed).view(1, 5, 1, 1)
    readings = torch.tensor([60.0, 40.0, 20.0, 30.0, 10.0]).view(1, 5, 1, 1) * seen
    return trailing_climatology(readings[:, :2], seen[:, :2], readings[:, 2:], seen[:, 2:])


@pytest.mark.parametrize(
    ("observed", "expected"),
    [
        ((True, True, True, True, False), (60 + 40 + DAY_WEIGHT * 25) / (2 + DAY_WEIGHT)),
        ((False, True, False, False, False), 40),
        ((False, False, True, True, True), 20),
        ((False, False, False, False, False), None),
    ],
)
def test_what_was_usual_is_shrunk_to_the_last_days(observed: Sequence[bool], expected: float | None) -> None:
    found, known = usual_of(observed)
    assert known.item() is (expected is not None)
    assert found.item() == pytest.approx(expected or 0)


def test_origins_may_come_in_any_order_and_more_than_once(prepared: Prepared) -> None:
    windows = Windows(prepared)
    batch, alone = windows.gather(torch.tensor([350, 20, 350])), windows.gather(np.array([350]))
    for field in fields(Batch):
        found = getattr(batch, field.name)
        assert torch.equal(found[0], found[2])
        assert torch.equal(found[:1], getattr(alone, field.name))


@pytest.mark.parametrize("origin", [HISTORY - 1, STEPS - HORIZON + 1])
def test_a_window_that_reaches_outside_the_series_is_refused(prepared: Prepared, origin: int) -> None:
    with pytest.raises(AssertionError, match=rf"outside the series: origins \[{origin}\]"):
        Windows(prepared).gather(np.array([200, origin]))


def test_a_lag_that_would_read_the_future_is_refused(prepared: Prepared) -> None:
    with pytest.raises(AssertionError, match="reads the future"):
        Windows(replace(prepared, meta=replace(prepared.meta, context=(HORIZON - 1,))))


def test_observed_targets_are_counted_as_the_batch_shows_them(prepared: Prepared) -> None:
    windows, origins = Windows(prepared), np.array([4, 90, 397, 90])
    assert windows.count_observed(origins) == int(windows.gather(origins).target_observed.sum())
    assert 0 < windows.count_observed(origins) < 4 * HORIZON * SENSORS


@pytest.mark.parametrize("data", ["memory", "device"])
def test_wherever_the_readings_are_held_the_windows_are_the_same_bits(
    data: Residence, prepared: Prepared
) -> None:
    origins = ALL_ORIGINS[::-7].copy()
    mapped, held = Windows(prepared), Windows(prepared, "cpu", data)
    assert names_that_moved(mapped.gather(origins), held.gather(origins)) == set()
    assert held.count_observed(origins) == mapped.count_observed(origins)
    assert held.held[0].data_ptr() != mapped.held[0].data_ptr(), "a copy"
    assert held.mapped().held[0].data_ptr() == mapped.mapped().held[0].data_ptr()


@pytest.mark.parametrize("data", ["memmap", "memory", "device"])
@pytest.mark.parametrize("parts", [(), ((HISTORY, 40), (180, 200), (330, 350))])
def test_lags_that_context_days_and_weeks_share_are_read_once_and_give_each_its_own(
    data: Residence, parts: tuple[tuple[int, int], ...], prepared: Prepared
) -> None:
    lags = {"context": (168, 30, 24), "trailing": (168, 336), "trailing_days": tuple(range(24, 169, 24))}
    shared = replace(prepared, meta=replace(prepared.meta, **lags))
    windows = Windows(shared, "cpu", data, parts)
    assert windows.lags == [30, *range(24, 169, 24), 336]
    for origin in (HISTORY, 29, 30, 31, 180, 199, 335, 349):
        batch, rows = windows.gather(np.array([origin])), range(origin, origin + HORIZON)
        cells = [(row, sensor) for row in rows for sensor in range(SENSORS)]
        for place, lag in enumerate(lags["context"], 1):
            assert_readings(
                batch.anchors[..., place],
                batch.anchors_observed[..., place],
                [reading(shared, row - lag, sensor) for row, sensor in cells],
            )
        expected = [usual(shared, row, sensor, lags["trailing_days"]) for row, sensor in cells]
        assert_readings(batch.anchors[..., -1], batch.anchors_observed[..., -1], expected)
        before = [
            (row - HISTORY, sensor) for row in range(origin, origin + HISTORY) for sensor in range(SENSORS)
        ]
        expected = [usual(shared, row, sensor, lags["trailing_days"]) for row, sensor in before]
        assert_readings(batch.past[..., -1], batch.past_observed[..., -1], expected)


def test_days_and_weeks_that_do_not_lie_in_order_are_refused(prepared: Prepared) -> None:
    with pytest.raises(AssertionError, match="a week is a day in the middle"):
        Windows(replace(prepared, meta=replace(prepared.meta, trailing=(24, 168))))


def test_how_many_windows_are_gathered_at_once_changes_no_bit(
    prepared: Prepared, monkeypatch: pytest.MonkeyPatch
) -> None:
    origins = np.random.default_rng(0).permutation(ALL_ORIGINS)
    batch = Windows(prepared).gather(origins)
    for fewest in (1, 3 * HORIZON * SENSORS * 6):
        monkeypatch.setattr("headway.data.windows.FEWEST", fewest)
        assert names_that_moved(batch, Windows(prepared).gather(origins)) == set()


def test_of_a_part_of_the_series_only_the_rows_that_its_windows_read_are_held(prepared: Prepared) -> None:
    back = HISTORY + max(*WEEKS, *CONTEXT)
    parts = [(350, 360), (375, 380)]
    held = Windows(prepared, "cpu", "memory", parts)
    assert row_spans(prepared.meta, STEPS, parts) == [(350 - back, 379 + HORIZON)], "they overlap"
    assert len(held.held[0]) == len(held.held[1]) == 379 + HORIZON - 350 + back
    origins = np.r_[350:360, 375:380]
    assert names_that_moved(Windows(prepared).gather(origins), held.gather(origins)) == set()
    assert names_that_moved(held.mapped().gather(ALL_ORIGINS), Windows(prepared).gather(ALL_ORIGINS)) == set()


def test_parts_that_lie_apart_are_held_apart_and_nothing_between_them(prepared: Prepared) -> None:
    short = replace(prepared, meta=replace(prepared.meta, context=(), trailing=(), trailing_days=()))
    held = Windows(short, "cpu", "memory", [(100, 110), (300, 301), (20, 20)])
    assert len(held.held[0]) == (10 + HISTORY + HORIZON - 1) + (HISTORY + HORIZON)
    origins = np.array([300, 100, 109])
    assert names_that_moved(Windows(short).gather(origins), held.gather(origins)) == set()
    for origin in (99, 110, 200, 302):  # rows of 99, 110 and 302 are held in part
        with pytest.raises(IndexError, match=rf"not held: origins \[{origin}\]"):
            held.gather(np.array([105, origin]))


def test_a_copy_takes_the_bytes_that_are_planned_for_it(prepared: Prepared) -> None:
    held = Windows(prepared, "cpu", "device")
    tensors = (*held.held, held.climatology)
    taken = sum(tensor.nbytes for tensor in tensors)
    meta = replace(prepared.meta, sensors=SENSORS)
    assert held_bytes(meta, [(0, STEPS)], SENSORS) == taken
    assert series_bytes(meta, STEPS, "device", "cuda") == series_bytes(meta, STEPS, "memory", "cpu") == taken
    assert series_bytes(meta, STEPS, "memory", "cuda") == series_bytes(meta, STEPS, "memmap", "cpu") == 0


class Moves(TorchDispatchMode):
    """Counts the tensors that go from one device to another."""

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        if func is torch.ops.aten._to_copy.default and made.device != args[0].device:
            self.count += 1
        return made


def test_on_the_device_a_batch_is_gathered_and_only_the_origins_move(prepared: Prepared) -> None:
    # the meta device stands for a GPU: tensors have shapes there, and do not mix with those of the CPU
    held, mapped = Windows(prepared, "meta", "device"), Windows(prepared, "meta")
    with Moves() as moves:
        batch = held.gather(np.array([350, 351, 352]))
    assert {getattr(batch, field.name).device.type for field in fields(Batch)} == {"meta"}
    assert moves.count == 1
    with Moves() as moves:
        held.gather(np.array([300, 301, 302]))  # two weeks before them there is no series
    assert moves.count == 3, "the numbers of the histories and of the targets that begin before it"
    with Moves() as moves:
        mapped.gather(np.array([350, 351, 352]))
    assert moves.count == len(fields(Batch)), "from memory every field is moved"


def test_an_opened_folder_gives_the_windows_of_its_arrays(tmp_path: Path, prepared: Prepared) -> None:
    for name in ("values", "observed"):
        np.save(tmp_path / f"{name}.npy", getattr(prepared, name))
    mapped = {name: np.load(tmp_path / f"{name}.npy", mmap_mode="c") for name in ("values", "observed")}
    before, after = (
        Windows(data).gather(np.array([40, 300])) for data in (prepared, replace(prepared, **mapped))
    )
    assert names_that_moved(before, after) == set()


@pytest.mark.parametrize("channels", [1, CHANNELS])
def test_a_batch_holds_as_many_bytes_as_the_plan_says(prepared: Prepared, channels: int) -> None:
    origins = ALL_ORIGINS[-8:]
    one = replace(
        prepared,
        values=prepared.values[..., :channels],
        observed=prepared.observed[..., :channels],
        meta=replace(prepared.meta, channels=prepared.meta.channels[:channels]),
    )
    found, planned = (
        {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in parts}
        for parts in (
            [getattr(batch, field.name) for field in fields(batch)]
            for batch in (Windows(one).gather(origins), windows_of_size(one.meta, len(origins)))
        )
    )
    assert sum(found.values()) == sum(planned.values())


def test_history_and_target_share_no_number(prepared: Prepared) -> None:
    batch = Windows(prepared).gather(ALL_ORIGINS[-8:])
    target, history = batch.target.clone(), batch.history.clone()
    batch.history.fill_(-1)
    assert torch.equal(batch.target, target)
    batch.target.fill_(-2)
    assert (batch.history == -1).all() and not torch.equal(history, batch.history)
