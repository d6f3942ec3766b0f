"""A short form of benchmarks/kill_storm.py: a few kills at random instants of a real `dvc repro` (faults 1, 6)."""

from __future__ import annotations

import importlib
import shutil
from pathlib import Path
from types import ModuleType

import pytest

from dvc_project import ROOT, Project, new_project

KILLS = 3
ALONE = {
    "simulate": 1.5,
    "preprocess": 2.0,
    "pretrain": 3.0,
    "train": 5.0,
    "evaluate": 4.0,
}  # seconds, roughly


@pytest.fixture
def kill_storm(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return importlib.import_module("kill_storm")


def test_faults_01_and_06_kills_at_random_instants_of_a_run_change_no_byte_it_leaves(
    finished: Project, tmp_path: Path, kill_storm: ModuleType
) -> None:
    storm = kill_storm.Storm(steps=24, alone=ALONE)
    start = new_project(tmp_path / "storm" / "start")
    list(kill_storm.kill_until_spent(start, finished.outputs(), storm, KILLS, seed=0))
    assert storm.kills.total() == KILLS and storm.finished >= 1 and storm.corrupt == 0


def test_fault_01_a_half_written_entry_of_dvcs_run_cache_is_removed_by_the_command_the_page_names(
    finished: Project, tmp_path: Path, kill_storm: ModuleType
) -> None:
    project = finished.copy(tmp_path / "project")
    entries = project.folder.glob(".dvc/cache/runs/*/*/*")
    entry = next(path for path in entries if path.read_text().startswith("cmd: python stages/train.py\n"))
    half, _, _ = entry.read_text().partition("outs:\n")
    entry.rename(entry.with_name(".5B3AAGMu9pNu8vycvfcDGw.tmp")).write_text(half)
    (project.folder / "dvc.lock").unlink()
    shutil.rmtree(project.folder / "models/train")
    storm = kill_storm.Storm(steps=24, alone=ALONE)
    assert not kill_storm.attempt(project, storm, kill_storm.never), "DVC refuses to start"
    assert storm.cured == {kill_storm.FORGET_TORN_ENTRIES: 1}
    assert kill_storm.attempt(project, storm, kill_storm.never)
    assert project.outputs() == finished.outputs()


def test_every_cure_of_the_storm_is_on_the_page(kill_storm: ModuleType) -> None:
    page = (ROOT / "docs/training.md").read_text()
    assert [command for command in kill_storm.CURES.values() if f"`{command}`" not in page] == []
