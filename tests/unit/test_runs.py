"""The runs that lie in .resume are told apart, looked at without being disturbed, and pruned with care."""

from __future__ import annotations

import fcntl
import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from headway.__main__ import main
from headway.commands.runs import inspect_runs, list_runs, prune_runs, runs_table
from headway.models import section_records
from headway.training.experiment import identity
from headway.training.pretrain_experiment import identity as pretraining_identity
from project_params import ROOT, sections_of
from tiny_prepared import tiny_prepared

MANIFEST = tiny_prepared().manifest


def write_run(
    store: Path, sections: dict[str, Any], *, step: int = 0, steps: int = 1000, tired: int = 0
) -> Path:
    """A run folder as the train stage leaves it, with one checkpoint."""
    folder = store / "train" / f"{step:016x}"
    checkpoint = folder / f"step-{step:010}"
    checkpoint.mkdir(parents=True)
    names = ("model", "train", *section_records(sections["model"]))
    decisive = identity(tiny_prepared(), {name: sections[name] for name in names}, Path(__file__))
    (folder / "identity.json").write_text(json.dumps(decisive))
    (folder / "sequence").write_text(str(step))
    (folder / "lock").write_text("pid 1 on host, since yesterday")
    progress = {"step": step, "best_error": 3.14159, "epochs_since_best": tired}
    (checkpoint / "state.json").write_text(json.dumps({"progress": progress, "steps": steps}))
    return folder


def write_pretraining(store: Path, sections: dict[str, Any], *, step: int) -> Path:
    """A run folder as the pretrain stage leaves it, with one checkpoint."""
    folder = store / "pretrain" / f"{step:016x}"
    checkpoint = folder / f"step-{step:010}"
    checkpoint.mkdir(parents=True)
    data = tiny_prepared()
    placed = replace(data, meta=replace(data.meta, files={"geometry.safetensors": {"sha256": "0"}}))
    decisive = pretraining_identity(placed, sections, Path(__file__))
    (folder / "identity.json").write_text(json.dumps(decisive))
    (folder / "sequence").write_text(str(step))
    progress = {"step": step, "best_error": 0.5, "epochs_since_best": 0}
    (checkpoint / "state.json").write_text(json.dumps({"progress": progress, "steps": 500}))
    return folder


@contextmanager
def another_process_training(folder: Path) -> Iterator[None]:
    hold = (
        "import fcntl, sys; file = open(sys.argv[1], 'a+'); fcntl.lockf(file, fcntl.LOCK_EX); "
        "print('held', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", hold, str(folder / "lock")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as owner:
        assert owner.stdout is not None and owner.stdout.readline() == b"held\n"
        yield
        owner.communicate()


def test_no_run_is_kept_at_first(tmp_path: Path) -> None:
    assert [found.found for found in inspect_runs(tmp_path / ".resume", sections_of())] == ["none kept"]
    assert runs_table([]) == "no run is kept in .resume\n"


def test_a_run_of_these_parameters_tells_how_far_it_is(tmp_path: Path) -> None:
    sections = sections_of()
    write_run(tmp_path, sections, step=250)
    (found,) = inspect_runs(tmp_path, sections, MANIFEST)
    assert found.status == "ok" and found.found.startswith("step 250 of 1000, ")
    assert "this experiment" in found.found


def test_a_run_of_other_parameters_tells_what_differs_and_the_newest_comes_first(tmp_path: Path) -> None:
    sections = sections_of()
    write_run(tmp_path, sections, step=250)
    write_run(tmp_path, sections_of(train={"seed": 99}), step=300)
    first, second = inspect_runs(tmp_path, sections, "another state of the data")
    assert first.found.endswith(f"train.seed: 99 -> {sections['train'].seed}, prepared.meta.json")
    assert second.found.endswith("another experiment: prepared.meta.json")


def test_a_pretraining_is_told_and_kept_as_a_training_is(tmp_path: Path) -> None:
    sections = sections_of(pretrain={"method": "gt_ssl"})
    mine = write_pretraining(tmp_path, sections, step=40)
    other = write_pretraining(tmp_path, sections_of(pretrain={"method": "gt_ssl", "lr": 0.5}), step=50)
    second, first = inspect_runs(tmp_path, sections, MANIFEST)
    assert first.status == "ok" and first.found.startswith("step 40 of 500, ")
    assert "this experiment" in first.found
    assert second.found.endswith(f"pretrain.lr: 0.5 -> {sections['pretrain'].lr}")
    said = prune_runs(list_runs(tmp_path, sections))
    assert mine.exists() and not other.exists()
    assert "kept     pretrain/00000000, step 40 of 500, 0.0 MiB: the run of params.yaml" in said


def test_a_run_in_training_names_its_owner_and_is_not_disturbed(tmp_path: Path) -> None:
    folder = write_run(tmp_path, sections_of(), step=250)
    with another_process_training(folder):
        (found,) = inspect_runs(tmp_path, sections_of(), MANIFEST)
    assert found.status == "note" and found.found.endswith("in training by pid 1 on host, since yesterday")
    with (folder / "lock").open("a") as file:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # looking at it did not take it


def test_a_run_folder_that_cannot_be_read_is_a_note(tmp_path: Path) -> None:
    folder = write_run(tmp_path, sections_of(), step=250)
    (folder / "identity.json").write_text("{")
    (found,) = inspect_runs(tmp_path, sections_of())
    assert found.status == "note" and found.help.startswith("rm -r ")


def test_a_damaged_newest_checkpoint_does_not_hide_the_one_that_will_be_used(tmp_path: Path) -> None:
    folder = write_run(tmp_path, sections_of(), step=250)
    (folder / "step-0000000300").mkdir()
    (run,) = list_runs(tmp_path, sections_of(), MANIFEST)
    assert run.state == "step 250 of 1000"


def test_the_table_says_how_far_each_run_is_and_what_it_is_of(tmp_path: Path) -> None:
    sections = sections_of()
    patience = sections["train"].patience
    write_run(tmp_path, sections, step=250)
    write_run(tmp_path, sections, step=300, steps=300)
    write_run(tmp_path, sections, step=400, tired=patience)
    folder = write_run(tmp_path, sections_of(train={"lr": 0.5}), step=500)
    with another_process_training(folder):
        lines = runs_table(list_runs(tmp_path, sections, MANIFEST)).splitlines()
    assert lines[0].split("  ")[0] == "run" and lines[-1].startswith("4 run(s), ")
    assert "pid 1 on host, since yesterday" in lines[1]
    assert f"train.lr: 0.5 -> {sections['train'].lr}" in lines[1]
    assert "finished at step 400" in lines[2] and "finished at step 300" in lines[3]
    assert " ".join(lines[4].split()) == "train/00000000 step 250 of 1000 3.142 0.0 MiB - nothing"


def test_pruning_removes_what_params_do_not_describe_and_nobody_trains(tmp_path: Path) -> None:
    sections, other = sections_of(), sections_of(train={"seed": 99})
    mine = write_run(tmp_path, sections, step=1)
    free = write_run(tmp_path, other, step=2)
    taken = write_run(tmp_path, other, step=3)
    unknown = write_run(tmp_path, other, step=4)
    (unknown / "identity.json").write_text("{")
    nothing = tmp_path / "train/5"
    nothing.mkdir()  # killed before its first checkpoint
    with another_process_training(taken):
        said = prune_runs(list_runs(tmp_path, sections, MANIFEST))
    assert all(folder.exists() for folder in (mine, taken, unknown))
    assert not any(folder.exists() for folder in (free, nothing))
    assert "kept     train/00000000, step 1 of 1000, 0.0 MiB: the run of params.yaml" in said
    assert "in training by pid 1" in said and said.count("removed  train/") == 2 and "freed 0.0 MiB" in said


def test_the_command_lists_and_prunes_the_store_of_dvc_s_root(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    project = tmp_path / "project"
    project.mkdir()
    (project / "params.yaml").symlink_to(ROOT / "params.yaml")
    monkeypatch.chdir(project)
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    folder = write_run(tmp_path / ".resume", sections_of(train={"seed": 99}), step=250)
    assert main(["runs"]) == 0
    assert "train.seed: 99 -> 0" in capsys.readouterr().out
    assert main(["runs", "--prune"]) == 0
    assert "removed  train/00000000, step 250 of 1000" in capsys.readouterr().out and not folder.exists()
