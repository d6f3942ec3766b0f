"""Signals, a closed terminal, and two trainings at once, with real processes (faults 2, 5, 20)."""

from __future__ import annotations

import errno
import fcntl
import os
import pty
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from interrupt import checkpoints, train_until

from dvc_project import ROOT
from headway.data.prepared import Prepared
from headway.errors import Stopped
from headway.training import experiment
from headway.training import run as run_module
from headway.training.identity import read_identity
from headway.training.lock import RunLocked, acquire, remove_unused
from headway.training.run import Run
from tiny_run import RUNTIME, STAGE, results, train_params, train_tiny


def command(data: Path, seconds: float) -> list[str]:
    """Of a process whose steps take at least so long."""
    script = str(Path(__file__).with_name("train_here.py"))
    digest = experiment.code_digest("headway", STAGE)
    return [sys.executable, script, str(data / "prepared"), digest, str(seconds)]


def environment() -> dict[str, str]:
    path = os.pathsep.join([str(ROOT / "src"), str(ROOT / "tests")])
    return {**os.environ, "PYTHONPATH": path}


@contextmanager
def training(project: Path, data: Path, seconds: float = 0.2) -> Iterator[subprocess.Popen[str]]:
    """The tiny experiment as a process that has begun a step; killed at the end of the block."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command(data, seconds), cwd=project, env=environment(), **pipes) as process:
        assert process.stdout is not None and process.stdout.readline() == "training\n"
        yield process
        process.kill()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
def test_fault_02_a_signal_ends_the_step_and_saves_and_the_rerun_continues_to_the_same_bits(
    number: signal.Signals, data: Path, prepared: Prepared, project: Path, whole: dict[str, str]
) -> None:
    with training(project, data) as process:
        time.sleep(0.5)
        process.send_signal(number)
        _, said = process.communicate(timeout=30)
        assert process.returncode == 128 + number, said
    assert f"{number.name}: finishing the step and saving" in said and "Traceback" not in said
    stopped_at = int(checkpoints(project)[0].name[-10:])
    assert f"stopped at step {stopped_at} of 12, saved" in said and 1 < stopped_at < 12
    assert not (project / "models").exists()
    train_tiny(project, prepared)
    assert results(project) == whole


def test_fault_02_a_second_signal_leaves_at_once(
    data: Path, prepared: Prepared, project: Path, whole: dict[str, str]
) -> None:
    train_until(3, project, prepared)
    with training(project, data, seconds=60.0) as process:
        process.send_signal(signal.SIGINT)
        assert process.stderr is not None
        while "once more to leave at once" not in process.stderr.readline():
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=10) == 130
    assert checkpoints(project)[0].name.endswith("02"), "the step that was begun is lost, no other"
    train_tiny(project, prepared)
    assert results(project) == whole


def test_fault_02_a_closed_terminal_saves_too(
    data: Path, prepared: Prepared, project: Path, whole: dict[str, str]
) -> None:
    pid, terminal = pty.fork()
    if pid == 0:
        try:
            signal.signal(signal.SIGHUP, signal.SIG_DFL)  # ignored where these tests run under nohup
            os.execve(sys.executable, command(data, 0.2), environment())
        finally:
            os._exit(1)
    shown = b""
    while b"training" not in shown:
        shown += os.read(terminal, 1024)
    time.sleep(0.5)
    os.close(terminal)
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 129, shown.decode()
    assert int(checkpoints(project)[0].name[-10:]) > 1
    train_tiny(project, prepared)
    assert results(project) == whole


def test_fault_05_a_second_run_of_an_experiment_is_refused_by_name_and_another_experiment_is_not(
    data: Path, prepared: Prepared, project: Path, whole: dict[str, str]
) -> None:
    with training(project, data, seconds=60.0) as process:
        owner = rf"pid {process.pid} on {socket.gethostname()}, since \d{{4}}-\d\d-\d\d .*"
        with pytest.raises(RunLocked, match=f"{owner}, is training this experiment"):
            train_tiny(project, prepared)
        train_tiny(project, prepared, train=train_params(lr=0.02), keep_runs=1)
        assert len(list((project / ".resume/train").iterdir())) == 2, "a run in use is never pruned"
    train_tiny(project, prepared)  # a lock ends with its process, however that ends
    assert results(project) == whole


def test_the_newest_runs_are_kept_by_use_and_not_by_date(project: Path) -> None:
    for seed in (1, 2, 3, 1, 4):
        with Run("train", {"code": "", "seed": seed}, RUNTIME) as run:
            (run.folder / "step-1").mkdir(exist_ok=True)
    with Run("train", {"code": "", "seed": 5}, replace(RUNTIME, keep_runs=3)):
        pass
    kept = {read_identity(folder)["seed"] for folder in run.store.iterdir()}
    assert kept == {1, 4, 5}


def test_fault_20_a_store_that_cannot_be_written_stops_at_the_start(
    project: Path, prepared: Prepared, monkeypatch: pytest.MonkeyPatch
) -> None:
    (project / ".resume").write_text("in the way")
    with pytest.raises(
        Stopped, match=r"\.resume/train/\w+ cannot be written, so no run could be resumed: .*Not a dir"
    ):
        train_tiny(project, prepared)
    (project / ".resume").unlink()
    monkeypatch.setattr(run_module, "write_text", refuse)
    with pytest.raises(Stopped, match=r"cannot be written, so no run could be resumed: .*Read-only"):
        train_tiny(project, prepared)
    assert not list(project.rglob("step-*")) and not (project / "metrics").exists()


def test_a_run_that_is_removed_is_gone_at_once(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that starts the same run meanwhile finds nothing, not the half that is still there."""
    folder = project / ".resume/train/old"
    acquire(folder).close()
    (folder / "step-1").mkdir()
    original, found = shutil.rmtree, []

    def look(path: Path, ignore_errors: bool) -> None:
        found.append(folder.exists())
        original(path, ignore_errors=ignore_errors)

    monkeypatch.setattr(shutil, "rmtree", look)
    assert remove_unused(folder)
    assert found == [False] and not list(folder.parent.iterdir())


def test_a_look_at_a_lock_turns_nobody_away(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original, looks = fcntl.lockf, [OSError(errno.EAGAIN, ""), OSError(errno.EACCES, "")]

    def held_for_an_instant(*given: int) -> None:
        if looks:
            raise looks.pop()
        original(*given)

    monkeypatch.setattr(fcntl, "lockf", held_for_an_instant)
    acquire(project / ".resume/train/run").close()
    assert not looks


def refuse(*_: object) -> None:
    raise OSError(errno.EROFS, os.strerror(errno.EROFS))


def test_fault_20_a_file_system_without_locks_stops_at_the_start(
    project: Path, prepared: Prepared, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_locks(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "lockf", no_locks)
    with pytest.raises(Stopped, match=r"on a file system without locks .* use a local disk"):
        train_tiny(project, prepared)
