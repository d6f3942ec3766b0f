"""The runs that lie in .resume are told apart, and looking at one does not disturb it."""

from __future__ import annotations

import fcntl
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from headway.commands.runs import inspect_runs
from headway.training.experiment import identity
from project_params import sections_of
from tiny_prepared import tiny_prepared


def write_run(store: Path, sections: dict[str, Any], *, step: int = 0) -> Path:
    """A run folder as the train stage leaves it, with one checkpoint."""
    folder = store / "train" / f"{step:016x}"
    checkpoint = folder / f"step-{step:010}"
    checkpoint.mkdir(parents=True)
    names = ("model", "train", "st_mamba", "ha_gat", "point")
    decisive = identity(tiny_prepared(), {name: sections[name] for name in names}, Path(__file__))
    (folder / "identity.json").write_text(json.dumps(decisive))
    (folder / "sequence").write_text(str(step))
    (folder / "lock").write_text("pid 1 on host, since yesterday,")
    (checkpoint / "state.json").write_text(json.dumps({"progress": {"step": step, "curve": [{}, {}]}}))
    return folder


def test_no_run_is_kept_at_first(tmp_path: Path) -> None:
    assert [found.found for found in inspect_runs(tmp_path / ".resume", sections_of())] == ["none kept"]


def test_a_run_of_these_parameters_tells_how_far_it_is(tmp_path: Path) -> None:
    sections = sections_of()
    write_run(tmp_path, sections, step=250)
    (found,) = inspect_runs(tmp_path, sections, tiny_prepared().manifest)
    assert found.status == "ok" and found.found.startswith("step 250, 2 epoch(s), ")
    assert "this experiment" in found.found


def test_a_run_of_other_parameters_tells_what_differs_and_the_newest_comes_first(tmp_path: Path) -> None:
    sections = sections_of()
    write_run(tmp_path, sections, step=250)
    write_run(tmp_path, sections_of(train={"seed": 99}), step=300)
    first, second = inspect_runs(tmp_path, sections, "another state of the data")
    assert first.found.endswith(f"another experiment: train.seed: 99 -> {sections['train'].seed}, prepared")
    assert second.found.endswith("another experiment: prepared")


def test_a_run_in_training_names_its_owner(tmp_path: Path) -> None:
    folder = write_run(tmp_path, sections_of(), step=250)
    hold = (
        "import fcntl, sys; file = open(sys.argv[1], 'a+'); fcntl.lockf(file, fcntl.LOCK_EX); "
        "print('held', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", hold, str(folder / "lock")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as owner:
        assert owner.stdout is not None and owner.stdout.readline() == b"held\n"
        (found,) = inspect_runs(tmp_path, sections_of(), tiny_prepared().manifest)
        owner.communicate()
    assert found.status == "note" and found.found.endswith("in training by pid 1 on host, since yesterday")
    with (folder / "lock").open("a") as file:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # looking at it did not take it


def test_a_run_folder_that_cannot_be_read_is_a_note(tmp_path: Path) -> None:
    folder = write_run(tmp_path, sections_of(), step=250)
    (folder / "identity.json").write_text("{")
    (found,) = inspect_runs(tmp_path, sections_of())
    assert found.status == "note" and found.help.startswith("rm -r ")
