"""What `dvc repro`, `dvc exp run`, `dvc push` do with the pipeline, seen from outside."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from dvc_project import Project, new_project


def test_a_finished_pipeline_leaves_the_promised_files_and_runs_nothing_again(finished: Project) -> None:
    names = {path.name for path in (finished.folder / "models/train").iterdir()}
    tables = {"scaler.json", "calibration.json", "climatology.npy", "sensors.parquet"}
    assert names == {"model.safetensors", "config.json", *tables, "README.md"}
    assert "Data and pipelines are up to date" in finished.dvc("repro")
    metrics = json.loads((finished.folder / "metrics/evaluate/metrics.json").read_text())
    assert metrics["mae"] > 0 and set(metrics["skill"]) == {
        "persistence", "historical_average", "same_time_last_week",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("section", "change", "stages"),
    [
        ("evaluate", {"mape_floor": 1.0}, ["evaluate"]),
        ("none", {"hidden_dim": 32}, []),
        ("runtime", {"micro_batch": 7}, []),
        ("ha_gat", {"hidden_dim": 12}, ["pretrain", "train"]),
        ("pretrain", {"lr": 0.001}, ["pretrain"]),
        ("train", {"lr": 0.005}, ["train"]),
        ("preprocess", {"max_neighbors": 2}, ["preprocess"]),
        ("simulate", {"seed": 8}, ["simulate"]),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_changed_key_outdates_the_stage_that_reads_it(
    section: str, change: dict[str, object], stages: list[str], project: Project
) -> None:
    project.set_params(**{section: change})
    assert project.stages_to_run() == stages


@pytest.mark.parametrize(
    ("file", "stages"),
    [
        ("src/headway/nn/none.py", []),
        ("src/headway/nn/ha_gat.py", ["pretrain", "train", "evaluate"]),
        ("src/headway/training/loop.py", ["train"]),
        ("src/headway/training/run.py", ["pretrain", "train"]),
        ("src/headway/training/pretraining.py", ["pretrain"]),
        ("src/headway/evaluation/report.py", ["evaluate"]),
        ("src/headway/graph/neighbors.py", ["preprocess", "pretrain"]),
    ],
)
def test_a_comment_in_a_file_outdates_the_stages_that_import_it(
    file: str, stages: list[str], project: Project
) -> None:
    with (project.folder / file).open("a") as source:
        source.write("# a remark\n")
    assert project.stages_to_run() == stages


def test_another_graph_runs_everything_after_the_raw_data(project: Project) -> None:
    project.set_params(preprocess={"max_neighbors": 2}, train={"epochs": 1, "epoch_steps": 2})
    output = project.dvc("repro")
    assert "Stage 'simulate' didn't change" in output
    assert all(
        f"Running stage '{stage}'" in output for stage in ("preprocess", "pretrain", "train", "evaluate")
    )


def test_a_comment_in_the_code_of_the_model_retrains_nothing_that_was_trained(project: Project) -> None:
    before = project.outputs()
    with (project.folder / "src/headway/nn/ha_gat.py").open("a") as source:
        source.write("# a remark\n")
    output = project.dvc("repro")
    assert "Running stage 'train'" in output and "resuming at step 24 of 24" in output
    assert project.outputs() == before


def test_an_experiment_trains_and_evaluates_only_and_can_be_told_apart(project: Project) -> None:
    before = json.loads((project.folder / "metrics/evaluate/metrics.json").read_text())["mae"]
    output = project.dvc("exp", "run", "-S", "ha_gat.hidden_dim=16")
    assert "Stage 'simulate' didn't change" in output and "Stage 'preprocess' didn't change" in output
    assert "Running stage 'train'" in output and "Running stage 'evaluate'" in output
    after = json.loads((project.folder / "metrics/evaluate/metrics.json").read_text())["mae"]
    assert after != before
    assert "hidden_dim" in project.dvc("params", "diff", "HEAD")
    assert "mae" in project.dvc("metrics", "diff", "HEAD")
    shown = project.dvc("exp", "show", "--csv")
    assert "ha_gat.hidden_dim" in shown and str(after)[:6] in shown
    project.dvc("plots", "diff", "HEAD", "--out", "plots")
    assert (project.folder / "plots/index.html").stat().st_size > 10_000


def test_a_clone_beside_the_remote_pulls_the_model_and_runs_nothing(finished: Project) -> None:
    folder = finished.folder.parent / "clone"
    finished.run("git", "clone", "-q", str(finished.folder), str(folder))
    clone = Project(folder)
    clone.dvc("pull")
    assert clone.outputs() == finished.outputs()
    assert clone.stages_to_run() == []
    assert "up to date" in clone.dvc("repro")
    assert clone.run("git", "status", "--porcelain") == ""


def test_a_run_killed_with_dvc_and_repeated_leaves_the_same_bytes(finished: Project, tmp_path: Path) -> None:
    project = new_project(tmp_path / "work" / "project")
    for _ in range(2):
        process = project.start("repro")
        wait_for_checkpoint(project, process)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    assert "resuming at step" in project.dvc("repro")
    assert project.outputs() == finished.outputs()


def wait_for_checkpoint(project: Project, process: subprocess.Popen[bytes]) -> None:
    """Until the training has written one more checkpoint than there were, or is done."""

    def steps() -> set[str]:
        return {path.name for path in project.folder.glob(".resume/train/*/step-*")}

    known, deadline = steps(), time.monotonic() + 120
    while not steps() - known and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)


def test_bad_parameters_stop_a_stage_with_one_message(project: Project) -> None:
    project.set_params(train={"lr": -1.0, "epochs": "many"})
    output = project.dvc("repro", code=255)
    assert "train.lr" in output and "train.epochs" in output and "Traceback" not in output
    assert not (project.folder / "models/.train.tmp").exists()
