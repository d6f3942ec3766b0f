"""The mutation of the promise: a checkpoint that lacks any of its parts does not continue to the same bits.

Were a test here to fail, the equality tests would not be watching that part, or it would not be needed.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import fields
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
from headway.training.nonfinite import SKIPS_IN_ROW
from headway.training.state import Progress
from tiny_run import results, train_params, train_tiny

RUN = train_params(seed=4, lr=0.05, patience=2, epochs=5)  # the second epoch is its best, the fourth its last
PAUSE = 14  # within the fourth epoch
OF_FP16 = {"skipped_in_row"}  # tested below
FIELDS = [field.name for field in fields(Progress) if field.name not in OF_FP16]
GROUPS = ("model.", "best.", ".exp_avg", ".exp_avg_sq", ".step")


@pytest.fixture(scope="module")
def paused(
    prepared: Prepared, tmp_path_factory: pytest.TempPathFactory, whole: object
) -> tuple[Path, dict[str, str]]:
    """The .resume of a run that was continued with another micro-batch and killed, and what it leaves."""
    folder = tmp_path_factory.mktemp("paused")
    with pytest.MonkeyPatch.context() as context:
        context.chdir(folder)
        context.setenv("DVC_ROOT", str(folder))
        train_until(2, folder, prepared, train=RUN, micro_batch=4)
        train_until(PAUSE, folder, prepared, train=RUN)
        shutil.copytree(folder / ".resume", folder / "kept")
        progress = train_tiny(folder, prepared, train=RUN).progress
    assert (progress.best_epoch, progress.step) == (2, 16), (
        "the best was found before the pause, the end is after it"
    )
    return folder / "kept", results(folder)


def change(checkpoint: Path, edit: Callable[[dict[str, Tensor], dict[str, Any]], object]) -> None:
    """Edit tensors and state of a checkpoint, and make it look whole."""
    tensors, state = load_file(checkpoint / TENSORS), json.loads((checkpoint / STATE).read_text())
    edit(tensors, state)
    save_file(tensors, checkpoint / TENSORS)
    (checkpoint / STATE).write_text(json.dumps(state))
    manifest = {name: _fingerprint(checkpoint / name) for name in (TENSORS, STATE)}
    (checkpoint / MANIFEST).write_text(json.dumps(manifest))


def continued(project: Path, prepared: Prepared, kept: Path, edit: Callable[..., object]) -> dict[str, str]:
    """What a run leaves that is continued from the newest checkpoint after an edit; nothing where it stops."""
    shutil.copytree(kept, project / ".resume")
    change(checkpoints(project)[0], edit)
    try:
        train_tiny(project, prepared, train=RUN)
    except (RuntimeError, KeyError):  # it does not go on at all
        return {}
    return results(project)


def test_a_checkpoint_that_lacks_nothing_continues_to_the_same_bits(
    prepared: Prepared, project: Path, paused: tuple[Path, dict[str, str]]
) -> None:
    kept, whole = paused
    assert continued(project, prepared, kept, lambda *_: None) == whole


@pytest.mark.parametrize("field", FIELDS)
def test_without_a_number_of_its_progress_a_run_ends_otherwise(
    field: str, prepared: Prepared, project: Path, paused: tuple[Path, dict[str, str]]
) -> None:
    kept, whole = paused
    assert continued(project, prepared, kept, lambda _, state: state["progress"].pop(field)) != whole


def test_without_its_machine_a_run_ends_otherwise(
    prepared: Prepared, project: Path, paused: tuple[Path, dict[str, str]]
) -> None:
    kept, whole = paused
    assert continued(project, prepared, kept, lambda _, state: state.pop("machine")) != whole


@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize("dropped", [True, False], ids=["dropped", "zeroed"])
def test_without_a_group_of_its_tensors_a_run_ends_otherwise(
    group: str, dropped: bool, prepared: Prepared, project: Path, paused: tuple[Path, dict[str, str]]
) -> None:
    def edit(tensors: dict[str, Tensor], _: object) -> None:
        names = [name for name in tensors if name.startswith(group) or name.endswith(group)]
        assert names
        for name in names:
            tensors[name].zero_()
            if dropped:
                del tensors[name]

    kept, whole = paused
    assert continued(project, prepared, kept, edit) != whole


def test_every_tensor_and_number_of_a_checkpoint_is_dropped_above(
    paused: tuple[Path, dict[str, str]],
) -> None:
    (newest,) = paused[0].glob(f"train/*/step-*{PAUSE}")
    state = json.loads((newest / STATE).read_text())
    assert set(state["progress"]) == {*FIELDS, *OF_FP16}
    assert set(state) == {"schema", "progress", "machine", "scaler", "steps"}, "the steps are only shown"
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
