"""Something changed while a run was paused: it goes on, or starts fresh, and says which (faults 14, 26-31)."""

from __future__ import annotations

import ast
import importlib
import logging
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import pytest
from interrupt import checkpoints, train_until

from headway.data.prepared import Prepared
from headway.nn.none import NoneParams
from headway.training.checkpoint import CheckpointError
from headway.training.identity import _tree, code_digest, describe
from tiny_run import SECTIONS, TRAIN, results, tiny_data, train_params, train_tiny

STEPS = TRAIN.epochs * TRAIN.epoch_steps


@pytest.fixture
def paused(prepared: Prepared, project: Path, caplog: pytest.LogCaptureFixture) -> Path:
    """The project with a run killed at step 6, whose messages are heard from now on."""
    train_until(6, project, prepared)
    caplog.set_level(logging.INFO)
    return project


def test_fault_26_other_parameters_start_fresh_and_the_old_ones_continue(
    prepared: Prepared, paused: Path, whole: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    train_tiny(paused, prepared, train=train_params(lr=0.02))
    assert "starting fresh; an earlier run differs in train.lr: 0.01 -> 0.02" in caplog.text
    assert "resuming" not in caplog.text
    train_tiny(paused, prepared)
    assert f"resuming at step 6 of {STEPS}" in caplog.text
    assert results(paused) == whole


def test_fault_27_another_runtime_continues_the_same_run(
    prepared: Prepared, paused: Path, whole: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    train_tiny(paused, prepared, checkpoint_steps=3, keep_runs=2, max_hours=9.0)
    assert f"resuming at step 6 of {STEPS}" in caplog.text
    assert results(paused) == whole


def test_fault_28_other_data_start_fresh_and_the_changed_files_are_named(
    prepared: Prepared, paused: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    train_tiny(paused, tiny_data(tmp_path, start="2024-01-02"))
    (line,) = (line for line in caplog.messages if line.startswith("starting fresh"))
    assert "prepared.meta.json" in line and "prepared.time.npy" in line
    assert "prepared.values.npy" not in line and "prepared.graph.safetensors" not in line, "they are the same"


def test_fault_29_a_change_of_code_starts_fresh_by_default(
    prepared: Prepared, paused: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("headway.training.experiment.code_digest", lambda *_: "changed")
    train_tiny(paused, prepared)
    assert "starting fresh; an earlier run differs in code" in caplog.text


def test_fault_29_a_comment_is_no_change_of_code_and_a_statement_of_a_module_or_the_script_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module, script = tmp_path / "small_package.py", tmp_path / "script.py"
    module.write_text("RATE = 1\n")
    script.write_text("import small_package\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setitem(sys.modules, "small_package", importlib.import_module("small_package"))
    before = code_digest("small_package", script)
    module.write_text("# twice as fast as 2\n\nRATE = (\n    1\n)\n")
    assert code_digest("small_package", script) == before
    module.write_text("RATE = 2\n")
    changed = code_digest("small_package", script)
    script.write_text("import small_package as package\n")
    assert len({before, changed, code_digest("small_package", script)}) == 3


def test_fault_29_c_beside_a_module_is_code_and_its_comments_are_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module, script = tmp_path / "package_with_c.py", tmp_path / "script.py"
    for path in (module, script):
        path.write_text("")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setitem(sys.modules, "package_with_c", importlib.import_module("package_with_c"))
    found = [code_digest("package_with_c", script)]
    for source in ("int rate = 1;", "/* one,\n * not two */ int\n  rate = 1; /**/", "int rate = 2;"):
        module.with_suffix(".c").write_text(source)
        found.append(code_digest("package_with_c", script))
    module.with_suffix(".h").write_text("int unit = 1;")
    found.append(code_digest("package_with_c", script))
    without, before, commented, changed, with_header = found
    assert before == commented
    assert len({without, before, changed, with_header}) == 4


def test_fault_29_resume_same_params_continues_across_a_change_of_code_and_the_card_says_so(
    prepared: Prepared, paused: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("headway.training.experiment.code_digest", lambda *_: "changed")
    trained = train_tiny(paused, prepared, resume="same-params")
    assert f"resuming at step 6 of {STEPS}" in caplog.text
    (note,) = trained.progress.notes
    assert "change of its code" in note and note in (paused / "models/train/README.md").read_text()


def test_fault_29_the_run_to_be_continued_is_not_pruned(
    prepared: Prepared, paused: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("headway.training.experiment.code_digest", lambda *_: "changed")
    train_tiny(paused, prepared, resume="same-params", keep_runs=1)
    assert f"resuming at step 6 of {STEPS}" in caplog.text


def test_fault_29_a_change_of_the_model_s_code_that_no_checkpoint_fits_is_refused(
    prepared: Prepared, paused: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("headway.training.experiment.code_digest", lambda *_: "changed")
    monkeypatch.setattr(
        "headway.training.state._under",
        lambda tensors, prefix: {"strange." + name: tensors[name] for name in tensors},
    )
    with pytest.raises(CheckpointError, match=r"does not fit this code .*runtime\.resume"):
        train_tiny(paused, prepared, resume="same-params")


def test_fault_31_another_major_version_of_torch_starts_fresh(
    prepared: Prepared, paused: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("headway.training.experiment.torch.__version__", "3.0.0")
    train_tiny(paused, prepared)
    assert "starting fresh; an earlier run differs in torch" in caplog.text


def test_fault_31_another_minor_version_of_torch_goes_on_and_is_warned_of(
    prepared: Prepared, paused: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("headway.training.resume.torch.__version__", "2.99.0")
    trained = train_tiny(paused, prepared)
    assert "-> 2.99.0: equal in law, not to the bit" in caplog.text
    assert "-> 2.99.0" in trained.progress.notes[0]


def test_fault_14_another_arithmetic_goes_on_and_is_warned_of(
    prepared: Prepared, paused: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The warning is the same for another device; this machine has no second one."""
    train_tiny(paused, prepared, precision="bf16", micro_batch=4)
    assert "runtime.micro_batch: 8 -> 4, runtime.precision: fp32 -> bf16: equal in law" in caplog.text
    assert "runtime.precision: fp32 -> bf16" in (paused / "models/train/README.md").read_text()


def test_fault_14_another_processor_goes_on_and_is_warned_of(
    prepared: Prepared, paused: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("headway.training.resume.processor", lambda: "another one")
    train_tiny(paused, prepared)
    assert "-> another one, " in caplog.text and "equal in law" in caplog.text


def test_a_minor_version_of_python_that_adds_empty_fields_to_syntax_trees_changes_no_code() -> None:
    class FunctionDef(ast.FunctionDef):
        _fields = (*ast.FunctionDef._fields, "type_params", "comment")
        type_params: ClassVar[list[object]] = []
        comment = None

    (written,) = ast.parse("def f(a=None): return a").body
    later = FunctionDef(**{name: getattr(written, name) for name in written._fields})
    assert _tree(later) == _tree(written)


def test_a_run_that_was_finished_is_published_again_whatever_the_runtime(
    prepared: Prepared, project: Path, whole: dict[str, str]
) -> None:
    train_tiny(project, prepared)
    train_tiny(project, prepared, micro_batch=4, precision="bf16")
    assert results(project) == whole, (
        "no step was taken in the other arithmetic, and the card tells of the first"
    )


def test_a_run_whose_folder_is_copied_to_another_place_goes_on_there(
    prepared: Prepared, paused: Path, whole: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    """As on another machine: nothing in an identity or a checkpoint is a path or a host."""
    there = Path(shutil.copytree(paused / ".resume", tmp_path / "there/.resume")).parent
    monkeypatch.chdir(there)
    monkeypatch.setenv("DVC_ROOT", str(there))
    train_tiny(there, prepared)
    assert f"resuming at step 6 of {STEPS}" in caplog.text
    assert results(there) == whole


def test_resume_never_starts_over(
    prepared: Prepared, paused: Path, whole: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    train_tiny(paused, prepared, resume="never")
    assert "resuming" not in caplog.text
    assert results(paused) == whole


def test_fewer_epochs_than_a_run_has_taken_start_fresh(
    prepared: Prepared, paused: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shorter = train_tiny(paused, prepared, train=train_params(epochs=1))
    assert "past the 4 steps asked for; starting fresh" in caplog.text
    assert shorter.progress.step == TRAIN.epoch_steps
    steps = [path.name[-2:] for path in checkpoints(paused)]
    assert steps == ["04", "02"], "those of the longer run would be taken for newer ones"


def test_more_epochs_of_a_cosine_are_another_run(
    prepared: Prepared, project: Path, caplog: pytest.LogCaptureFixture
) -> None:
    train_until(6, project, prepared, train=train_params(schedule="cosine"))
    caplog.set_level(logging.INFO)
    train_tiny(project, prepared, train=train_params(schedule="cosine", epochs=4))
    assert "train.epochs: 3 -> 4" in caplog.text


def test_a_model_of_another_operator_trains_too(prepared: Prepared, project: Path) -> None:
    choice = replace(SECTIONS["model"], spatial="none", anchors=False)
    sections = {**SECTIONS, "model": choice, "none": NoneParams(hidden_dim=8)}
    del sections["ha_gat"]
    assert train_tiny(project, prepared, sections=sections).progress.step == STEPS


def test_the_sections_of_another_model_are_not_listed_key_by_key() -> None:
    one = {
        "params": {"model": {"name": "st_mamba"}, "ha_gat": {"heads": 2}, "train": {"lr": 0.1}},
        "code": "a",
    }
    other = {"params": {"model": {"name": "stmgt"}, "gatv2": {"heads": 4}, "train": {"lr": 0.2}}, "code": "b"}
    assert describe(one, other) == "code, model.name: st_mamba -> stmgt, train.lr: 0.1 -> 0.2"
    assert describe(one, one) == "nothing" and describe({}, one) == "everything"
