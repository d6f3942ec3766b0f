"""A short form of benchmarks/kill_storm.py: a few kills at random instants of a real `dvc repro` (faults 1, 6)."""

from __future__ import annotations

import importlib
from pathlib import Path

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


def test_faults_01_and_06_kills_at_random_instants_of_a_run_change_no_byte_it_leaves(
    finished: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    kill_storm = importlib.import_module("kill_storm")
    storm = kill_storm.Storm(steps=24, alone=ALONE)
    start = new_project(tmp_path / "storm" / "start")
    list(kill_storm.kill_until_spent(start, finished.outputs(), storm, KILLS, seed=0))
    assert storm.kills.total() == KILLS and storm.finished >= 1 and storm.corrupt == 0
