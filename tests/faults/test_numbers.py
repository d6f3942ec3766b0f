"""Numbers that overflow while training (faults 35, 36)."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from interrupt import checkpoints, run_folder, train_until
from torch import Tensor

from headway import models
from headway.data.prepared import Prepared
from headway.training import loop, nonfinite
from headway.training.nonfinite import SKIPS_IN_ROW, NonFinite
from tiny_run import TRAIN, results, train_params, train_tiny

STEPS = TRAIN.epochs * TRAIN.epoch_steps


class InfiniteGradient(torch.autograd.Function):
    """Finite forward, infinite backward."""

    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        return value.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        return gradient * math.inf


def overflow_at(steps: range, monkeypatch: pytest.MonkeyPatch) -> None:
    """The gradients of these steps are infinite; every group is cut in two."""
    original, calls = models.absolute_error, iter(range(10**6))

    def absolute_error(forecast: Any, batch: Any) -> Tensor:
        error = original(forecast, batch)
        overflows = torch.is_grad_enabled() and next(calls) // 2 in steps
        return InfiniteGradient.apply(error) if overflows else error  # pyright: ignore

    monkeypatch.setattr(models, "absolute_error", absolute_error)


def saved_state(project: Path) -> dict[str, Any]:
    return json.loads((checkpoints(project)[0] / "state.json").read_text())


def test_fault_35_an_overflow_of_fp16_skips_the_update_and_halves_the_scale(
    prepared: Prepared, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train_until(4, project, prepared, precision="fp16")
    before = saved_state(project)
    overflow_at(range(0, 2), monkeypatch)
    train_until(6, project, prepared, precision="fp16")
    after = saved_state(project)
    assert after["scaler"]["scale"] == before["scaler"]["scale"] / 4
    assert after["progress"]["step"] == 6 and after["progress"]["updates"] == 4, "the schedule has not moved"
    assert after["progress"]["skipped_in_row"] == 2
    progress = train_tiny(project, prepared, precision="fp16").progress
    assert (progress.step, progress.updates, progress.skipped_in_row) == (STEPS, STEPS - 2, 0)


def test_fault_35_a_run_in_fp16_that_is_killed_between_overflows_continues_to_the_same_bits(
    prepared: Prepared, project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The scale and the number of skips are in the checkpoint."""
    left = []
    for folder, kills in ((project, []), (tmp_path / "killed", [4])):
        folder.mkdir(exist_ok=True)
        with monkeypatch.context() as context:
            context.chdir(folder)
            context.setenv("DVC_ROOT", str(folder))
            for step in kills:
                with monkeypatch.context() as inner:
                    overflow_at(range(2, 4), inner)
                    train_until(step, folder, prepared, precision="fp16")
            overflow_at(range(2, 4) if not kills else range(0), context)
            train_tiny(folder, prepared, precision="fp16")
            left.append(results(folder))
    assert left[0] == left[1]


def test_fault_35_overflows_without_an_end_stop(
    prepared: Prepared, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    overflow_at(range(2, 10**6), monkeypatch)
    with pytest.raises(NonFinite, match=rf"gradient of step {2 + SKIPS_IN_ROW} is not finite"):
        train_tiny(project, prepared, train=train_params(epochs=9), precision="fp16")
    assert saved_state(project)["progress"]["updates"] == 2


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_fault_36_an_infinite_gradient_without_a_scaler_stops_before_the_update(
    precision: str, prepared: Prepared, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as context:
        overflow_at(range(5, 6), context)
        with pytest.raises(NonFinite, match=r"the gradient of step 5 is not finite; no weight was changed"):
            train_tiny(project, prepared, precision=precision)
    report = json.loads((run_folder(project) / nonfinite.REPORT).read_text())
    assert report["gradient_norm"] in ("inf", "nan") and math.isfinite(float(report["loss"]))
    assert saved_state(project)["progress"]["step"] == 5
    assert train_tiny(project, prepared, precision=precision).progress.step == STEPS


def test_a_validation_forecast_that_is_not_finite_stops_and_keeps_the_last_checkpoint(
    prepared: Prepared, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = loop.absolute_error
    spoiled = lambda *batch: original(*batch) * (1.0 if torch.is_grad_enabled() else math.nan)  # noqa: E731
    monkeypatch.setattr(loop, "absolute_error", spoiled)
    with pytest.raises(RuntimeError, match=r"validation forecast is not finite in fp32"):
        train_tiny(project, prepared)
    assert saved_state(project)["progress"]["step"] == 2
