"""The mutation of the promise: a checkpoint that lacks any of its parts does not continue to the same bits.

Were a test here to fail, the equality tests would not be watching that part, or it would not be needed.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import pytest
from interrupt import Killed, checkpoints, kill_before_step, train_until
from safetensors.torch import load_file, save_file
from test_numbers import overflow_at
from torch import Tensor

from headway.data.prepared import Prepared
from headway.errors import Stopped
from headway.training.checkpoint import MANIFEST, STATE, TENSORS, _fingerprint
from headway.training.course import TrainParams
from headway.training.nonfinite import SKIPS_IN_ROW
from headway.training.state import Progress
from tiny_run import results, train_params, train_tiny

BEST_EPOCH, LAST_STEP, PAUSE = 2, 16, 14  # the best is found before the pause, the end comes after it
SEEDS = 30
OF_FP16 = {"skipped_in_row"}  # tested below
FIELDS = [field.name for field in fields(Progress) if field.name not in OF_FP16]
GROUPS = ("model.", "best.", ".momentum", ".exp_avg", ".exp_avg_sq", ".step")


@dataclass(frozen=True, slots=True, kw_only=True)
class Paused:
    """The .resume of a run that was continued with another micro-batch and killed, and what it leaves in the end."""

    kept: Path
    results: dict[str, str]
    train: TrainParams


@pytest.fixture(scope="module")
def paused(prepared: Prepared, tmp_path_factory: pytest.TempPathFactory, whole: object) -> Paused:
    train = stopping_early(prepared, tmp_path_factory.mktemp("tried"))
    folder = tmp_path_factory.mktemp("paused")
    with inside(folder):
        train_until(2, folder, prepared, train=train, micro_batch=4)
        train_until(PAUSE, folder, prepared, train=train)
        shutil.copytree(folder / ".resume", folder / "kept")
        progress = train_tiny(folder, prepared, train=train).progress
    assert (progress.best_epoch, progress.step) == (BEST_EPOCH, LAST_STEP)
    return Paused(kept=folder / "kept", results=results(folder), train=train)


def stopping_early(prepared: Prepared, folder: Path) -> TrainParams:
    """The first seed whose run has its best epoch and its end where the pause needs them: another model, another."""
    for seed in range(SEEDS):
        train = train_params(seed=seed, lr=0.08, patience=2, epochs=5)
        with inside(folder):
            train_until(2, folder, prepared, train=train, micro_batch=4)
            progress = train_tiny(folder, prepared, train=train).progress
        if (progress.best_epoch, progress.step) == (BEST_EPOCH, LAST_STEP):
            return train
    raise AssertionError(
        f"none of {SEEDS} seeds has its best in epoch {BEST_EPOCH} and ends at step {LAST_STEP}"
    )


@contextmanager
def inside(folder: Path) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as context:
        context.chdir(folder)
        context.setenv("DVC_ROOT", str(folder))
        yield


def change(checkpoint: Path, edit: Callable[[dict[str, Tensor], dict[str, Any]], object]) -> None:
    """Edit tensors and state of a checkpoint, and make it look whole."""
    tensors, state = load_file(checkpoint / TENSORS), json.loads((checkpoint / STATE).read_text())
    edit(tensors, state)
    save_file(tensors, checkpoint / TENSORS)
    (checkpoint / STATE).write_text(json.dumps(state))
    manifest = {name: _fingerprint(checkpoint / name) for name in (TENSORS, STATE)}
    (checkpoint / MANIFEST).write_text(json.dumps(manifest))


def continued(
    project: Path, prepared: Prepared, paused: Paused, edit: Callable[..., object]
) -> dict[str, str]:
    """What a run leaves that is continued from the newest checkpoint after an edit; nothing where it stops."""
    shutil.copytree(paused.kept, project / ".resume")
    change(checkpoints(project)[0], edit)
    try:
        train_tiny(project, prepared, train=paused.train)
    except (RuntimeError, KeyError):  # it does not go on at all
        return {}
    return results(project)


def test_a_checkpoint_that_lacks_nothing_continues_to_the_same_bits(
    prepared: Prepared, project: Path, paused: Paused
) -> None:
    assert continued(project, prepared, paused, lambda *_: None) == paused.results


@pytest.mark.parametrize("field", FIELDS)
def test_without_a_number_of_its_progress_a_run_ends_otherwise(
    field: str, prepared: Prepared, project: Path, paused: Paused
) -> None:
    assert (
        continued(project, prepared, paused, lambda _, state: state["progress"].pop(field)) != paused.results
    )


def test_without_its_slices_a_run_ends_otherwise(prepared: Prepared, project: Path, paused: Paused) -> None:
    assert continued(project, prepared, paused, lambda _, state: state.pop("slices")) != paused.results


@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize("dropped", [True, False], ids=["dropped", "zeroed"])
def test_without_a_group_of_its_tensors_a_run_ends_otherwise(
    group: str, dropped: bool, prepared: Prepared, project: Path, paused: Paused
) -> None:
    def edit(tensors: dict[str, Tensor], _: object) -> None:
        names = [name for name in tensors if name.startswith(group) or name.endswith(group)]
        assert names
        for name in names:
            tensors[name].zero_()
            if dropped:
                del tensors[name]

    assert continued(project, prepared, paused, edit) != paused.results


def test_every_tensor_and_number_of_a_checkpoint_is_dropped_above(
    paused: Paused,
) -> None:
    (newest,) = paused.kept.glob(f"train/*/step-*{PAUSE}")
    state = json.loads((newest / STATE).read_text())
    assert set(state["progress"]) == {*FIELDS, *OF_FP16}
    assert set(state) == {"schema", "progress", "scaler", "slices", "steps"}, "the steps are only shown"
    for name in load_file(newest / TENSORS):
        assert any(name.startswith(group) or name.endswith(group) for group in GROUPS), name


@pytest.mark.parametrize("part", ["", "skipped_in_row", "scale"])
def test_without_the_scale_or_the_skips_of_fp16_a_run_stops_elsewhere(
    part: str, prepared: Prepared, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every gradient from step 2 on overflows; the run is killed at step 8."""

    def edit(_: object, state: dict[str, Any]) -> None:
        state["progress" if part == "skipped_in_row" else "scaler"].pop(part, None)

    longer = train_params(epochs=9)
    with monkeypatch.context() as context:
        overflow_at(range(2, 10**6), context)
        kill_before_step(8, context)
        with pytest.raises(Killed):
            train_tiny(project, prepared, train=longer, precision="fp16")
    change(checkpoints(project)[0], edit)
    overflow_at(range(10**6), monkeypatch)
    with pytest.raises(Stopped) as stopped:
        train_tiny(project, prepared, train=longer, precision="fp16")
    expected = f"the gradient of step {2 + SKIPS_IN_ROW} is not finite"
    assert (expected in str(stopped.value)) == (not part)
