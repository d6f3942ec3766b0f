"""DVC around the training: killed alone, linked caches, branches, experiments and queues (faults 4, 21, 24, 62)."""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
from ruamel.yaml import YAML
from run_stages import STAGES, run_stage

from dvc_project import Project

LEARNING_RATE = "0.004"


@pytest.fixture
def copied(finished: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    """The finished project without its runs, to change. In ASCII: DVC's own `--temp` and `--queue` need that."""
    project = finished.copy(tmp_path / "work space" / "project")
    shutil.rmtree(project.folder / ".resume")
    monkeypatch.chdir(project.folder)
    monkeypatch.setenv("DVC_ROOT", os.fspath(project.folder))
    return project


@pytest.fixture(scope="module")
def branched(finished: Project, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A copy on a branch with another learning rate, trained and committed."""
    project = finished.copy(tmp_path_factory.mktemp("branched") / "project")
    project.run("git", "checkout", "-q", "-b", "other")
    project.set_params(train={"lr": float(LEARNING_RATE)})
    project.dvc("repro", "train")
    project.commit("another learning rate")
    return project


def trained_model(project: Project, revision: str) -> str:
    """DVC's hash of models/train in a commit."""
    lock = YAML(typ="safe").load(project.run("git", "show", f"{revision}:dvc.lock"))
    return next(out["md5"] for out in lock["stages"]["train"]["outs"] if out["path"] == "models/train")


def wait(condition: Callable[[], object], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)


def owners(project: Project) -> dict[str, psutil.Process]:
    """Processes of the runs that have a checkpoint, by the run."""
    locks = [path / "lock" for path in project.folder.glob(".resume/train/*") if list(path.glob("step-*"))]
    pids = {lock.parent.name: int(lock.read_text().split()[1]) for lock in locks}
    return {name: psutil.Process(pid) for name, pid in pids.items() if psutil.pid_exists(pid)}


def checkpoints(project: Project) -> list[Path]:
    return list(project.folder.glob(".resume/train/*/step-*"))


@contextmanager
def stopped(project: Project, count: int) -> Iterator[list[psutil.Process]]:
    """So many trainings, held still as soon as each has a checkpoint; killed at the end of the block."""
    held: dict[str, psutil.Process] = {}

    def hold() -> bool:
        for name, process in owners(project).items():
            if name not in held:
                process.suspend()
                held[name] = process
        return len(held) == count

    wait(hold)
    try:
        yield list(held.values())
    finally:
        for process in held.values():
            if process.is_running():
                process.kill()


def test_fault_04_a_training_that_outlived_dvc_is_named_and_the_next_one_after_it_continues(
    copied: Project, finished: Project
) -> None:
    command = ("repro", "--force", "--single-item", "train")
    dvc = copied.start(*command)
    with stopped(copied, 1) as (orphan,):
        dvc.send_signal(signal.SIGKILL)
        dvc.wait()
        said = copied.dvc(*command, code=255)
        assert f"error: pid {orphan.pid} on " in said and "is training this experiment; wait for it" in said
        assert orphan.is_running()
    wait(lambda: not orphan.is_running() or orphan.status() == psutil.STATUS_ZOMBIE)
    assert "resuming at step" in copied.dvc(*command)
    assert copied.outputs() == finished.outputs()


@pytest.mark.parametrize("kind", ["symlink", "hardlink"])
def test_fault_21_outputs_that_are_links_into_the_cache_are_replaced_and_never_written_through(
    kind: str, copied: Project
) -> None:
    def outputs() -> dict[str, str]:  # without the card, which names the code that this process has loaded
        return {path: content for path, content in copied.outputs().items() if not path.endswith("README.md")}

    before = outputs()
    copied.dvc("config", "--local", "cache.type", kind)
    copied.dvc("checkout", "--relink")
    model = copied.folder / "models/train/model.safetensors"
    assert model.is_symlink() if kind == "symlink" else model.stat().st_nlink == 2
    for stage in STAGES:  # not through DVC, which would remove the links first
        assert run_stage(stage) == "", stage
    assert outputs() == before and not model.is_symlink() and model.stat().st_nlink == 1
    files = [path for path in (copied.folder / ".dvc/cache/files/md5").rglob("*") if path.is_file()]
    assert len(files) > 15
    for path in files:
        name = path.parent.name + path.name.removesuffix(".dir")
        assert hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest() == name


def test_fault_24_a_long_path_with_spaces_and_umlauts_is_a_path(finished: Project) -> None:
    path = os.fspath(finished.folder)
    assert " " in path and not path.isascii() and len(path) > 150
    assert {"models/train/model.safetensors", "data/predictions/test.parquet"} <= set(finished.outputs())
    assert finished.stages_to_run() == []


def test_fault_62_what_is_committed_holds_no_path_of_the_project(finished: Project) -> None:
    for name in finished.run("git", "ls-files", "-z").split("\0")[:-1]:
        assert os.fspath(finished.folder.parent).encode() not in (finished.folder / name).read_bytes(), name


def test_a_branch_and_back_trains_nothing(branched: Project, finished: Project) -> None:
    branched.run("git", "checkout", "-q", "main")
    said = branched.dvc("repro")
    assert "Stage 'train' is cached - skipping run" in said and "Running stage" not in said
    assert branched.outputs() == finished.outputs()
    branched.run("git", "checkout", "-q", "other")
    branched.dvc("checkout")
    assert branched.stages_to_run() == ["evaluate"], "it was trained there, and never evaluated"


def test_fault_01_an_experiment_in_a_copy_that_was_killed_continues_in_the_next_copy(
    copied: Project, branched: Project
) -> None:
    command = ("exp", "run", "--temp", "--name", "again", "-S", f"train.lr={LEARNING_RATE}", "train")
    process = copied.start(*command)
    wait(lambda: checkpoints(copied) or process.poll() is not None)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert copied.run("git", "status", "--porcelain") == "", "the workspace knows nothing of it"
    assert "resuming at step" in copied.dvc(*command)
    assert trained_model(copied, references(copied, "again")[0]) == trained_model(branched, "other")


def test_fault_02_a_killed_task_of_a_queue_with_two_workers_continues_when_it_is_queued_again(
    copied: Project, branched: Project
) -> None:
    copied.dvc("exp", "run", "--queue", "--name", "first", "-S", f"train.lr={LEARNING_RATE}", "train")
    copied.dvc("exp", "run", "--queue", "--name", "second", "-S", "train.lr=0.005", "train")
    starting = copied.start("queue", "start", "-j", "2")
    try:
        with stopped(copied, 2) as trainings:
            copied.dvc("queue", "kill", "first")
            for training in trainings:
                training.resume()
            psutil.wait_procs(trainings, timeout=120)
        wait(lambda: not executors(copied))
        wait_for_tasks(copied, {"first": "Failed", "second": "Success"})
        assert "saved; `dvc repro` continues there" in copied.dvc("queue", "logs", "first")
        copied.dvc("queue", "remove", "first")
        copied.dvc("exp", "run", "--queue", "--name", "first", "-S", f"train.lr={LEARNING_RATE}", "train")
        starting.wait()
        wait(lambda: started_and_done(copied, "first"))
        wait_for_tasks(copied, {"first": "Success", "second": "Success"})
        assert "resuming at step" in copied.dvc("queue", "logs", "first")
        assert trained_model(copied, references(copied, "first")[0]) == trained_model(branched, "other")
    finally:
        end_workers(copied)


def references(project: Project, experiment: str) -> list[str]:
    """Of an experiment that was finished."""
    return project.run("git", "for-each-ref", "--format=%(refname)", f"refs/exps/**/{experiment}").split()


def started_and_done(project: Project, experiment: str) -> bool:
    """A worker that is about to leave counts as one, and DVC starts no other: hence again and again."""
    project.dvc("queue", "start", "-j", "1")
    return bool(references(project, experiment))


def executors(project: Project) -> list[psutil.Process]:
    """Processes that run the tasks of a queue. To look for them is cheaper than to ask DVC."""
    place = os.fspath(project.folder / ".dvc/tmp/exps/run")
    processes = psutil.process_iter(["cmdline"])
    return [process for process in processes if any(place in word for word in process.info["cmdline"] or [])]


def wait_for_tasks(project: Project, wanted: dict[str, str]) -> None:
    def arrived() -> bool:
        time.sleep(1.0)  # asking takes as much of the processor as a task does
        rows = [line.split() for line in project.dvc("queue", "status").splitlines()]
        return {row[1]: row[-1] for row in rows if len(row) > 3 and row[1] in wanted} == wanted

    wait(arrived)


def end_workers(project: Project) -> None:
    """Of a queue: they are daemons, and wait for further tasks."""
    for process in psutil.process_iter(["cmdline"]):
        if any(os.fspath(project.folder) in word for word in process.info["cmdline"] or []):
            process.kill()
