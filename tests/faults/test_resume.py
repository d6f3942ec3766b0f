"""A run that is interrupted and continued ends with the bits of one that was not (faults 1-3, 23, 26, 27)."""

from __future__ import annotations

import json
import logging
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from headway.data.prepared import Prepared
from headway.training import loop, nonfinite
from headway.training.checkpoint import _fingerprint, list_checkpoints
from headway.training.nonfinite import NonFinite
from headway.training.resume import KIND
from headway.training.run import Run
from tiny_run import SECTIONS, TRAIN, results, train_params, train_tiny

STEPS = TRAIN.epochs * TRAIN.epoch_steps


class Killed(BaseException):
    """Stands for SIGKILL: nothing catches it, nothing is saved."""


@pytest.fixture
def whole(prepared: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """What a run that nobody interrupts leaves."""
    folder = tmp_path / "whole"
    folder.mkdir()
    with monkeypatch.context() as context:
        context.chdir(folder)
        context.setenv("DVC_ROOT", str(folder))
        train_tiny(folder, prepared)
    return results(folder)


def kill_before_step(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Die when `step` steps are done and the next is about to begin."""
    original = loop.take_step

    def take_step(state: Any, *rest: Any) -> float:
        if state.progress.step == step:
            raise Killed
        return original(state, *rest)

    monkeypatch.setattr(loop, "take_step", take_step)


def run_folder(project: Path) -> Path:
    (folder,) = (project / ".resume/train").iterdir()
    return folder


def test_two_runs_of_one_experiment_leave_the_same_bytes(
    prepared: Prepared, project: Path, whole: dict[str, str]
) -> None:
    train_tiny(project, prepared)
    assert results(project) == whole
    assert {"models/train/model.safetensors", "models/train/README.md", "metrics/train/metrics.json"} <= set(
        whole
    )


@pytest.mark.parametrize("step", [0, 1, 3, 4, 5, 8, STEPS - 1])
def test_fault_01_a_kill_at_any_step_changes_no_bit(
    step: int, prepared: Prepared, project: Path, whole: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as context:
        kill_before_step(step, context)
        with pytest.raises(Killed):
            train_tiny(project, prepared)
    assert not (project / "models").exists()
    train_tiny(project, prepared)
    assert results(project) == whole


def test_fault_01_a_kill_at_every_step_changes_no_bit(
    prepared: Prepared, project: Path, whole: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for step in range(2, STEPS, 2):
        with monkeypatch.context() as context:
            kill_before_step(step, context)
            with pytest.raises(Killed):
                train_tiny(project, prepared)
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
        return code if asked["times"] > 10 else 0

    with monkeypatch.context() as context:
        context.setattr(Run, "exit_code", exit_code)
        with pytest.raises(SystemExit) as stopped:
            train_tiny(project, prepared, checkpoint_steps=1000)
    assert stopped.value.code == code
    assert list_checkpoints(run_folder(project), KIND), (
        "the step it stopped at is saved, whatever the cadence"
    )
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


def test_fault_23_curves_have_neither_doubled_nor_missing_rows(
    prepared: Prepared, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as context:
        kill_before_step(9, context)
        with pytest.raises(Killed):
            train_tiny(project, prepared)
    train_tiny(project, prepared)
    rows = (project / "metrics/train/plots/metrics/val/mae.tsv").read_text().splitlines()[1:]
    assert [row.split("\t")[0] for row in rows] == ["1", "2", "3"]


def test_fault_26_other_parameters_start_fresh_and_the_difference_is_said(
    prepared: Prepared, project: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with monkeypatch.context() as context:
        kill_before_step(6, context)
        with pytest.raises(Killed):
            train_tiny(project, prepared)
    caplog.set_level(logging.INFO)
    train_tiny(project, prepared, train=train_params(lr=0.02))
    assert "train.lr: 0.01 -> 0.02" in caplog.text
    assert "resuming" not in caplog.text


def test_going_back_to_the_old_parameters_continues_the_old_run(
    prepared: Prepared, project: Path, whole: dict[str, str], monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    with monkeypatch.context() as context:
        kill_before_step(7, context)
        with pytest.raises(Killed):
            train_tiny(project, prepared)
    train_tiny(project, prepared, train=train_params(lr=0.02))
    caplog.set_level(logging.INFO)
    train_tiny(project, prepared)
    assert f"resuming at step 6 of {STEPS}" in caplog.text
    assert results(project) == whole


def test_fault_27_another_runtime_continues_the_same_run(
    prepared: Prepared, project: Path, whole: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as context:
        kill_before_step(6, context)
        with pytest.raises(Killed):
            train_tiny(project, prepared)
    train_tiny(project, prepared, checkpoint_steps=3, keep_runs=2)
    assert results(project) == whole


def test_resume_never_starts_over(
    prepared: Prepared, project: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with monkeypatch.context() as context:
        kill_before_step(6, context)
        with pytest.raises(Killed):
            train_tiny(project, prepared)
    caplog.set_level(logging.INFO)
    train_tiny(project, prepared, resume="never")
    assert "resuming" not in caplog.text


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


def test_fewer_epochs_than_a_finished_run_start_fresh(
    prepared: Prepared, project: Path, caplog: pytest.LogCaptureFixture
) -> None:
    train_tiny(project, prepared)
    caplog.set_level(logging.INFO)
    shorter = train_tiny(project, prepared, train=train_params(epochs=1))
    assert "starting fresh" in caplog.text
    assert shorter.progress.step == TRAIN.epoch_steps


def test_more_epochs_of_a_cosine_are_another_run(
    prepared: Prepared, project: Path, caplog: pytest.LogCaptureFixture
) -> None:
    train_tiny(project, prepared, train=train_params(schedule="cosine"))
    caplog.set_level(logging.INFO)
    train_tiny(project, prepared, train=train_params(schedule="cosine", epochs=4))
    assert "train.epochs: 3 -> 4" in caplog.text


def test_fault_34_a_loss_that_is_not_finite_stops_before_the_update_and_is_repeated_exactly(
    prepared: Prepared, project: Path, whole: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    original = loop.absolute_error
    calls = {"count": 0}

    def spoiled(*batch: Any) -> Any:
        calls["count"] += torch.is_grad_enabled()
        return original(*batch) * (float("nan") if calls["count"] == 11 else 1.0)

    with monkeypatch.context() as context:
        context.setattr(loop, "absolute_error", spoiled)
        with pytest.raises(NonFinite, match=r"step 5 .*dvc repro train"):
            train_tiny(project, prepared)
    report = json.loads((run_folder(project) / nonfinite.REPORT).read_text())
    assert report["step"] == 5 and len(report["origins"]) == TRAIN.batch_size
    assert list_checkpoints(run_folder(project), KIND)[0].name.endswith("5")
    train_tiny(project, prepared)
    assert results(project) == whole, "nothing of the spoiled step was kept"


PARTS = (".exp_avg", ".exp_avg_sq", ".step", "model.", "step", "updates", "epoch_error", "curve", "best_mae")


@pytest.mark.parametrize("part", PARTS)
def test_a_state_with_a_part_spoiled_does_not_continue_to_the_same_bits(
    part: str, prepared: Prepared, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Were this test to fail for a part, the equality tests above would not be watching it."""
    train = train_params(schedule="cosine")  # the rate of every update differs
    with monkeypatch.context() as context:
        kill_before_step(6, context)
        with pytest.raises(Killed):
            train_tiny(project, prepared, train=train)
    shutil.copytree(project / ".resume", project / "kept")
    train_tiny(project, prepared, train=train)
    whole = results(project)
    shutil.rmtree(project / ".resume")
    shutil.move(project / "kept", project / ".resume")
    spoil(list_checkpoints(run_folder(project), KIND)[0], part)
    train_tiny(project, prepared, train=train)
    assert results(project) != whole


def spoil(checkpoint: Path, part: str) -> None:
    """Halve a part of a checkpoint, and make it look whole."""
    tensors = load_file(checkpoint / "tensors.safetensors")
    state = json.loads((checkpoint / "state.json").read_text())
    progress = state["progress"]
    if part == "curve":
        progress["curve"] = []
    elif part in progress:
        progress[part] = progress[part] / 2 if isinstance(progress[part], float) else progress[part] // 2
    else:
        changed = {
            name: tensors[name] / 2 for name in tensors if name.endswith(part) or name.startswith(part)
        }
        assert changed, part
        tensors |= {name: tensor.to(tensors[name].dtype) for name, tensor in changed.items()}
    save_file(tensors, checkpoint / "tensors.safetensors")
    (checkpoint / "state.json").write_text(json.dumps(state))
    manifest = {name: _fingerprint(checkpoint / name) for name in ("tensors.safetensors", "state.json")}
    (checkpoint / "manifest.json").write_text(json.dumps(manifest))


def test_resume_same_params_continues_across_a_change_of_code_and_the_card_says_so(
    prepared: Prepared, project: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with monkeypatch.context() as context:
        kill_before_step(6, context)
        with pytest.raises(Killed):
            train_tiny(project, prepared)
    monkeypatch.setattr("headway.training.experiment.code_digest", lambda *_: "changed")
    caplog.set_level(logging.INFO)
    trained = train_tiny(project, prepared, resume="same-params")
    assert f"resuming at step 6 of {STEPS}" in caplog.text
    assert trained.progress.notes
    assert trained.progress.notes[0] in (project / "models/train/README.md").read_text()


def test_fault_29_a_change_of_code_starts_fresh_by_default(
    prepared: Prepared, project: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with monkeypatch.context() as context:
        kill_before_step(6, context)
        with pytest.raises(Killed):
            train_tiny(project, prepared)
    monkeypatch.setattr("headway.training.experiment.code_digest", lambda *_: "changed")
    caplog.set_level(logging.INFO)
    train_tiny(project, prepared)
    assert "starting fresh; an earlier run differs in code" in caplog.text


def test_fault_31_another_major_version_of_torch_starts_fresh(
    prepared: Prepared, project: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with monkeypatch.context() as context:
        kill_before_step(6, context)
        with pytest.raises(Killed):
            train_tiny(project, prepared)
    monkeypatch.setattr("headway.training.experiment.torch.__version__", "3.0.0")
    caplog.set_level(logging.INFO)
    train_tiny(project, prepared)
    assert "differs in torch" in caplog.text


def test_fault_28_other_data_starts_fresh(
    prepared: Prepared, project: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with monkeypatch.context() as context:
        kill_before_step(6, context)
        with pytest.raises(Killed):
            train_tiny(project, prepared)
    caplog.set_level(logging.INFO)
    train_tiny(project, replace(prepared, manifest="1" * 64))
    assert "differs in prepared" in caplog.text


def test_a_model_of_other_operator_trains_too(prepared: Prepared, project: Path) -> None:
    from headway.nn.none import NoneParams

    choice = replace(SECTIONS["model"], spatial="none", anchors=False)
    sections = {**SECTIONS, "model": choice, "none": NoneParams(hidden_dim=8)}
    del sections["ha_gat"]
    assert train_tiny(project, prepared, sections=sections).progress.step == STEPS
