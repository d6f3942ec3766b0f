"""A run that is interrupted and continued ends with the bits of one that was not (faults 1-3, 9, 10, 23, 34)."""

from __future__ import annotations

import json
import logging
import os
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from interrupt import Killed, checkpoints, run_folder, train_until

from headway import models
from headway.data.prepared import Prepared
from headway.errors import Stopped
from headway.training import nonfinite
from headway.training.nonfinite import NonFinite
from headway.training.run import Run
from tiny_run import TRAIN, results, train_params, train_tiny

STEPS = TRAIN.epochs * TRAIN.epoch_steps


def test_two_runs_of_one_experiment_leave_the_same_bytes(
    prepared: Prepared, project: Path, whole: dict[str, str]
) -> None:
    train_tiny(project, prepared)
    assert results(project) == whole
    named = {"models/train/model.safetensors", "models/train/README.md", "metrics/train/metrics.json"}
    assert named <= set(whole)


@pytest.mark.parametrize("step", [0, 1, 3, 4, 5, 8, STEPS - 1])
def test_fault_01_a_kill_at_any_step_changes_no_bit(
    step: int, prepared: Prepared, project: Path, whole: dict[str, str]
) -> None:
    train_until(step, project, prepared)
    assert not (project / "models").exists()
    train_tiny(project, prepared)
    assert results(project) == whole


def test_fault_01_a_kill_at_every_step_changes_no_bit(
    prepared: Prepared, project: Path, whole: dict[str, str]
) -> None:
    for step in range(2, STEPS, 2):
        train_until(step, project, prepared)
    train_tiny(project, prepared)
    assert results(project) == whole


def test_fault_01_a_kill_while_the_best_weights_are_published_changes_no_bit(
    prepared: Prepared, project: Path, whole: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(*_: Any) -> None:
        raise Killed

    with monkeypatch.context() as context:
        context.setattr("headway.serving.publish.write_model_card", die)
        with pytest.raises(Killed):
            train_tiny(project, prepared)
    assert not (project / "models/train").exists()
    train_tiny(project, prepared)
    assert results(project) == whole


@pytest.mark.parametrize("code", [130, 143, 75])
def test_fault_02_and_03_an_asked_for_stop_saves_the_step_and_says_so_by_its_exit_code(
    code: int, prepared: Prepared, project: Path, whole: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = {"times": 0}

    def exit_code(_: Run) -> int:
        asked["times"] += 1
        return code if asked["times"] > 5 else 0

    with monkeypatch.context() as context:
        context.setattr(Run, "exit_code", exit_code)
        with pytest.raises(SystemExit) as stopped:
            train_tiny(project, prepared, checkpoint_steps=1000)
    assert stopped.value.code == code
    assert checkpoints(project)[0].name.endswith("06"), "the step it stopped at, whatever the cadence"
    train_tiny(project, prepared)
    assert results(project) == whole


def test_fault_03_a_budget_of_hours_stops_with_75(
    prepared: Prepared, project: Path, whole: dict[str, str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        train_tiny(project, prepared, max_hours=1e-9)
    assert stopped.value.code == 75
    train_tiny(project, prepared)
    assert results(project) == whole


def no_memory_on_the_gpu() -> None:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


@pytest.mark.parametrize(
    "ask",
    [lambda: torch.empty(2**55), lambda: np.ones(2**55), no_memory_on_the_gpu],
    ids=["torch", "numpy", "gpu"],
)
def test_fault_09_a_step_that_never_fits_stops_with_advice_and_the_rerun_continues(
    ask: Callable[[], object], prepared: Prepared, project: Path, whole: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    original, calls = models.absolute_error, iter(range(10**6))

    def needs_memory(*batch: Any) -> Any:
        if torch.is_grad_enabled() and next(calls) >= 11:  # from the second half of step 5
            ask()
        return original(*batch)

    with monkeypatch.context() as context:
        context.setattr(models, "absolute_error", needs_memory)
        with pytest.raises(Stopped) as stopped:
            train_tiny(project, prepared)
    assert re.fullmatch(
        r"out of memory: the peak was \d+ MiB with runtime\.micro_batch: 1; docs/training\.md lists what else "
        r"helps\. "
        r"`dvc repro` then continues from the last checkpoint", str(stopped.value)
    )  # fmt: skip
    assert checkpoints(project)[0].name.endswith("04"), "an update may have been cut short: nothing is saved"
    train_tiny(project, prepared)
    assert results(project) == whole


def test_fault_09_one_window_without_memory_is_sent_to_what_else_helps(
    prepared: Prepared, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(models, "absolute_error", lambda *_: no_memory_on_the_gpu())
    with pytest.raises(Stopped, match=r"runtime\.micro_batch: 1; docs/training\.md lists what else helps\. "):
        train_tiny(project, prepared, micro_batch=1)


def test_an_error_that_is_not_of_memory_is_not_called_so(
    prepared: Prepared, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(models, "absolute_error", lambda *_: torch.zeros(2) + torch.zeros(3))
    with pytest.raises(RuntimeError, match="must match the size"):
        train_tiny(project, prepared)


@pytest.mark.parametrize("jump", [-40 * 365 * 86_400, 10 * 365 * 86_400], ids=["back", "forth"])
def test_fault_10_a_clock_that_jumps_in_another_time_zone_changes_nothing(
    jump: int, prepared: Prepared, project: Path, whole: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    train_until(5, project, prepared)
    for path in run_folder(project).rglob("*"):
        os.utime(path, (0, 0))  # dates of files decide nothing either
    now = time.time
    with monkeypatch.context() as context:
        context.setattr(time, "time", lambda: now() + jump)
        context.setenv("TZ", "Pacific/Kiritimati")
        time.tzset()
        train_until(9, project, prepared)
    time.tzset()
    assert [path.name[-2:] for path in checkpoints(project)] == ["08", "06"], "the newest steps are kept"
    train_tiny(project, prepared)
    assert results(project) == whole


def test_fault_23_curves_have_neither_doubled_nor_missing_rows(prepared: Prepared, project: Path) -> None:
    train_until(9, project, prepared)
    train_tiny(project, prepared)
    rows = (project / "metrics/train/plots/metrics/val/mae.tsv").read_text().splitlines()[1:]
    assert [row.split("\t")[0] for row in rows] == ["1", "2", "3"]


def test_more_epochs_continue_a_finished_run_where_the_schedule_allows_it(
    prepared: Prepared, project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    longer = train_params(epochs=TRAIN.epochs + 2)
    train_tiny(project, prepared)
    caplog.set_level(logging.INFO)
    extended = train_tiny(project, prepared, train=longer)
    assert f"resuming at step {STEPS}" in caplog.text
    fresh = tmp_path / "fresh"
    fresh.mkdir()
    monkeypatch.chdir(fresh)
    monkeypatch.setenv("DVC_ROOT", str(fresh))
    assert train_tiny(fresh, prepared, train=longer).progress == extended.progress
    assert results(fresh) == results(project)


def test_fault_34_a_loss_that_is_not_finite_stops_before_the_update_and_is_repeated_exactly(
    prepared: Prepared, project: Path, whole: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    original = models.absolute_error
    calls = {"count": 0}

    def spoiled(*batch: Any) -> Any:
        calls["count"] += torch.is_grad_enabled()
        return original(*batch) * (float("nan") if calls["count"] == 11 else 1.0)

    with monkeypatch.context() as context:
        context.setattr(models, "absolute_error", spoiled)
        with pytest.raises(NonFinite, match=r"step 5 .*dvc repro train"):
            train_tiny(project, prepared)
    report = json.loads((run_folder(project) / nonfinite.REPORT).read_text())
    assert report["step"] == 5 and len(report["origins"]) == TRAIN.batch_size
    assert checkpoints(project)[0].name.endswith("05")
    train_tiny(project, prepared)
    assert results(project) == whole, "nothing of the spoiled step was kept"
