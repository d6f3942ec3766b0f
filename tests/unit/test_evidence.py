"""What a short test split cannot prove."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
import torch

from headway.data.prepared import Prepared
from headway.data.windows import Windows
from headway.evaluation.evidence import FEW, Evidence
from headway.evaluation.report import EvaluateParams, evaluate
from headway.types import Batch, Forecast, PointForecast
from tiny_prepared import HORIZON, tiny_prepared


def found(prepared: Prepared, model: dict[int, float], naive: float) -> str:
    """The warning where the model errs by `model[moment]` (0 elsewhere) and the naive forecast by `naive`."""
    evidence = Evidence(prepared.meta)
    batch = Windows(prepared).gather(torch.arange(*prepared.meta.splits["test"]))
    moments = batch.origin[:, None] + torch.arange(HORIZON)
    errors = moments.clone().float().apply_(lambda moment: model.get(int(moment), 0.0))
    evidence.add(batch, {"headway": batch.target + errors[:, :, None], "naive": batch.target + naive})
    return evidence.warning("headway")


def test_few_moments_are_counted_once_however_many_windows_and_sensors_look_at_them() -> None:
    prepared = tiny_prepared(test=(300, 310), sensors=50, missing=0)
    assert "readings at 12 moments within 0.5 days" in found(prepared, {}, naive=1.0)


def test_a_moment_without_readings_is_no_evidence() -> None:
    prepared = tiny_prepared(test=(300, 310), missing=0)
    prepared.observed[303] = False
    assert "readings at 11 moments" in found(prepared, {}, naive=1.0)


def test_the_standard_error_is_that_of_the_gain_by_moment() -> None:
    prepared = tiny_prepared(test=(300, 310), missing=0)
    gain = np.full(12, 2.0)
    gain[3] = 2.0 - 1.2
    sentence = found(prepared, {303: 1.2}, naive=2.0)
    error = np.std(gain, ddof=1) / np.sqrt(12)
    assert f"errs {gain.mean():.2g} km/h less than naive, with a standard error of {error:.2g}" in sentence


def test_enough_moments_say_nothing() -> None:
    prepared = tiny_prepared(test=(250, 250 + FEW), missing=0)
    assert found(prepared, {}, naive=1.0) == ""


def test_a_test_split_without_a_reading_is_no_evidence_at_all() -> None:
    prepared = tiny_prepared(test=(300, 310))
    prepared.observed[:] = False
    assert found(prepared, {}, naive=1.0).startswith("no evidence: no target of the test split was read")


def test_evaluate_says_it(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def last(batch: Batch) -> Forecast:
        return PointForecast(point=torch.zeros_like(batch.target))

    prepared = tiny_prepared(test=(300, 310))
    params = EvaluateParams(minutes=(60,), mape_floor=0.001, prediction_stride=0)
    with caplog.at_level(logging.WARNING):
        evaluate(
            prepared,
            Windows(prepared).gather,
            last,
            params,
            16,
            metrics=tmp_path / "metrics",
            predictions=tmp_path / "test.parquet",
        )
    assert "little evidence: the test split has readings at 12 moments" in caplog.text
    assert "No hour of the week comes twice" in caplog.text
