"""Stages that are killed, or given what they cannot use (faults 6, 25, 32, 33)."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from run_stages import DATASET, STAGES, die_in_stage, outputs, run_stage, set_params

from dvc_project import ROOT

RENAMES = ((os, "rename"), (os, "replace"))  # before one of them nothing, or all of a draft, is written


@pytest.mark.parametrize("stage", ["preprocess", "evaluate"])
def test_fault_06_a_stage_killed_at_any_instant_leaves_its_outputs_whole_or_absent(
    stage: str, stages: Path
) -> None:
    whole = outputs(stage)
    prepared = {path for path in whole if path.startswith("data/prepared/")}
    for path in whole:
        Path(path).unlink()
    call = 0
    while die_in_stage(stage, call, RENAMES):
        there = {path: content for path, content in outputs(stage).items() if "/." not in path}
        assert prepared & set(there) in (set(), prepared), "a folder is whole or absent"
        assert there == {path: whole[path] for path in there}
        call += 1
    assert call > {"preprocess": 1, "evaluate": 6}[stage]
    assert outputs(stage) == whole, "nothing of the killed ones is left"


@pytest.mark.parametrize("stage", STAGES)
def test_fault_25_all_problems_of_params_are_told_at_once_before_any_work(stage: str, stages: Path) -> None:
    bad = {
        "preprocess": {"scaling": "loud"},
        "pretrain": {"lr": -1.0},
        "train": {"lr": -1.0},
        "evaluate": {"mape_floor": -1},
    }
    set_params(**bad, windows={"history": 0}, runtime={"micro_batch": "many", "colour": "red"})
    before = outputs(*STAGES)
    said = run_stage(stage)
    key, value = next(iter(bad[stage].items()))
    assert (
        said.startswith("error: params.yaml has ")
        and f"  - {stage}.{key}: " in said
        and f"found {value!r}" in said
    )
    more = "windows.history" if stage == "preprocess" else "runtime.colour: unknown key"
    assert more in said and len(said.splitlines()) > 2
    assert outputs(*STAGES) == before


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("lr: .nan", "train.lr: nan is not a finite number"),
        ("lr: .inf", "train.lr: inf is not a finite number"),
        ("lr: -.inf", "train.lr: -inf is not a finite number"),
        ("lr: '1e-4'", "train.lr: input should be a valid number, found '1e-4'"),
        ("lr: nan", "train.lr: input should be a valid number, found 'nan'"),  # YAML 1.2: a word
        ("lr: no", "train.lr: input should be a valid number, found 'no'"),
    ],
)
def test_fault_33_what_is_no_number_is_refused_as_yaml_1_2_reads_it(
    text: str, problem: str, stages: Path
) -> None:
    params = Path("params.yaml")
    params.write_text(params.read_text().replace("lr: 0.002", text))
    assert f"  - {problem}" in run_stage("train")


def test_fault_33_a_number_without_a_point_is_the_number_that_dvc_reads(stages: Path) -> None:
    params = Path("params.yaml")
    params.write_text(params.read_text().replace("lr: 0.002", "lr: 1e-4").replace("epochs: 3", "epochs: 1"))
    assert run_stage("train") == ""
    assert "lr: 0.0001" in Path("models/train/README.md").read_text()


@pytest.mark.parametrize("stage", ["simulate", *STAGES])
def test_fault_32_a_stage_imports_the_src_beside_it_and_no_installed_package(
    stage: str, tmp_path: Path
) -> None:
    """As in the copy that `dvc exp run --temp` makes, with an editable install of the workspace."""
    installed = tmp_path / "installed/headway"
    installed.mkdir(parents=True)
    (installed / "__init__.py").write_text("raise RuntimeError('the installed package was imported')\n")
    copy = tmp_path / "copy"
    shutil.copytree(ROOT / "src", copy / "src", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / "stages", copy / "stages", ignore=shutil.ignore_patterns("__pycache__"))
    # what all import first
    (copy / "src/headway/errors.py").write_text("raise SystemExit('the copy was imported')\n")
    done = subprocess.run(
        [sys.executable, f"stages/{stage}.py"],
        cwd=copy,
        env={**os.environ, "PYTHONPATH": str(installed.parent)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stderr.strip() == "the copy was imported"


@pytest.mark.parametrize("threads", [0, 3])
def test_evaluation_takes_the_threads_that_runtime_names(
    threads: int, stages: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_params(runtime={"threads": threads})
    asked: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", asked.append)
    assert run_stage("evaluate") == ""
    assert asked == [threads][: bool(threads)]


def test_fault_15_a_disk_that_is_full_while_outputs_are_written_is_one_sentence(
    stages: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    before = outputs(*STAGES)
    monkeypatch.setattr(os, "replace", full)
    assert run_stage("preprocess") == run_stage("evaluate") == "error: [Errno 28] No space left on device"
    assert outputs(*STAGES) == before and DATASET in before["data/prepared/meta.json"].decode()
