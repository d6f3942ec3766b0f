"""Intervals that follow a season: what they are fitted to, and what they cover then."""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
import torch

from headway.evaluation.recalibration import FEWEST, LESSONS, Recalibration, lesson_origins
from headway.mixture import Mixture
from headway.models.calibration import Calibrator, Intervals
from headway.types import Batch
from tiny_model import tiny_batch
from tiny_prepared import tiny_prepared

NODES, HORIZON, TEST = 3, 2, 500
META = replace(
    tiny_prepared().meta,
    horizon=HORIZON,
    step_seconds=3600,
    splits={"train": (0, 300), "validation": (300, TEST), "test": (TEST, TEST + 400)},
)
AS_IT_IS = Calibrator(
    group=torch.zeros(NODES, dtype=torch.int64), widen=torch.zeros(4, 1, HORIZON), readings=1
)


def said(origins: range, deviation: float) -> tuple[Batch, Intervals]:
    """Readings of this deviation, of which the model thinks that it is 1."""
    shape = (len(origins), HORIZON, NODES, 1)
    batch = tiny_batch(batch=len(origins), horizon=HORIZON, nodes=NODES, missing=0.1, seed=origins.start)
    noise = torch.randn(shape[:3], generator=torch.Generator().manual_seed(origins.start))
    mixture = Mixture(log_weights=torch.zeros(shape), means=torch.zeros(shape), deviations=torch.ones(shape))
    batch = replace(batch, origin=torch.tensor(origins), target=deviation * noise * batch.target_observed)
    return batch, Intervals.of(mixture)


def windows_of(batch: Batch, rows: slice) -> Batch:
    return Batch(**{field.name: getattr(batch, field.name)[rows] for field in fields(batch)})


def before_the_test() -> Recalibration:
    """It has seen validation readings of deviation 1."""
    rolling = Recalibration(META, AS_IT_IS)
    earlier = rolling.earlier_origins().tolist()
    rolling.learn(*said(range(earlier[0], earlier[-1] + 1), 1.0))
    return rolling


def coverage(batch: Batch, quantiles: torch.Tensor) -> float:
    """Of the 80 % interval."""
    inside = (batch.target >= quantiles[..., 2]) & (batch.target <= quantiles[..., -3])
    return inside[batch.target_observed].float().mean().item()


def test_lessons_are_the_newest_windows_whose_readings_are_all_known() -> None:
    for step_seconds, apart in ((300, 12), (900, 4), (3600, 1), (86_400, 1)):
        meta = replace(META, step_seconds=step_seconds, horizon=12)
        origins = lesson_origins(9000, meta, 0)
        assert len(origins) == LESSONS and (np.diff(origins) == apart).all()
        assert 9000 - apart < origins[-1] + 12 <= 9000
        assert (lesson_origins(9000, meta, 8900) >= 8900).all()


def test_intervals_follow_readings_that_grow_restless() -> None:
    rolling = before_the_test()
    batch, intervals = said(range(TEST, TEST + 400), 2.0)
    quantiles = rolling.quantiles(batch, intervals)
    late = slice(LESSONS + 24, None)
    known = windows_of(batch, late)
    assert coverage(known, AS_IT_IS.quantiles(intervals)[late]) < 0.6
    assert abs(coverage(known, quantiles[late]) - 0.8) < 0.04


def test_no_reading_of_a_day_or_of_what_is_unknown_when_it_begins_moves_its_intervals() -> None:
    batch, intervals = said(range(TEST, TEST + 60), 1.0)
    begins = 48  # of the third day
    later = batch.target.clone()
    for row, origin in enumerate(batch.origin.tolist()):
        unknown = [step for step in range(HORIZON) if origin + step >= TEST + begins]
        later[row, unknown] += 99
    found = []
    for target in (batch.target, later):
        rolling = before_the_test()
        found.append(rolling.quantiles(replace(batch, target=target), intervals))
    assert torch.equal(*found)


def test_quantiles_do_not_depend_on_the_size_of_a_batch() -> None:
    batch, intervals = said(range(TEST, TEST + 60), 1.5)
    found = []
    for size in (60, 7):
        rolling = before_the_test()
        parts = []
        for first in range(0, 60, size):
            rows = slice(first, first + size)
            own = Intervals(low=intervals.low[rows], high=intervals.high[rows], median=intervals.median[rows])
            parts.append(rolling.quantiles(windows_of(batch, rows), own))
        found.append(torch.cat(parts))
    assert torch.equal(*found)


def test_what_validation_asked_for_stays_until_a_day_of_forecasts_is_known() -> None:
    short = replace(META, splits=META.splits | {"validation": (TEST - FEWEST, TEST)})
    rolling = Recalibration(short, AS_IT_IS)
    assert rolling.earlier_origins().tolist() == list(range(TEST - FEWEST, TEST))
    batch, intervals = said(range(TEST - FEWEST, TEST), 3.0)
    rolling.learn(batch, intervals)
    batch, intervals = said(range(TEST, TEST + 25), 3.0)
    quantiles = rolling.quantiles(batch, intervals)
    assert torch.equal(quantiles[:24], AS_IT_IS.quantiles(intervals)[:24])
    assert not torch.equal(quantiles[24:], AS_IT_IS.quantiles(intervals)[24:])
