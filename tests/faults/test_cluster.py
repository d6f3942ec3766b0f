"""A Dask cluster that falls apart, is not there, or is not one (faults 11 and 12)."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
from run_stages import run_stage, set_params
from test_processes import environment

from dvc_project import ROOT
from headway.errors import InputError
from headway.training.cluster import open_client
from headway.training.seat import parse_cluster
from tiny_run import RUNTIME


@pytest.mark.parametrize("text", ["local:0", "local", "two", "10.0.0.1:8786", "udp://a:1", ""])
def test_a_cluster_that_is_none_of_the_four_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="write none, local:2, the path of a Dask scheduler file"):
        parse_cluster(text)
    with pytest.raises(InputError):
        replace(RUNTIME, cluster=text)


def test_dask_writes_no_traceback_of_its_own_about_a_connection_that_is_lost() -> None:
    with open_client(replace(RUNTIME, cluster="local:1")):
        for name in ("client", "core", "worker", "scheduler", "comm.tcp"):
            assert not logging.getLogger(f"distributed.{name}").isEnabledFor(logging.ERROR), name


def dask(*arguments: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", *arguments, "--host", "127.0.0.1"]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


@contextmanager
def cluster(file: Path, workers: int) -> Iterator[list[subprocess.Popen[bytes]]]:
    """A scheduler and its workers, as processes; killed at the end of the block."""
    own = ("--scheduler-file", os.fspath(file), "--no-dashboard")
    scratch = ("--nthreads", "1", "--no-nanny", "--local-directory", os.fspath(file.parent))
    processes = [dask("distributed.cli.dask_scheduler", *own, "--port", "0")]
    processes += [dask("distributed.cli.dask_worker", *own, *scratch) for _ in range(workers)]
    try:
        yield processes
    finally:
        for process in processes:
            process.kill()
            process.wait()


def wait(condition: Callable[[], object], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)


def ranks_at_work(project: Path) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter(["cwd", "cmdline", "environ"]):
        command = process.info["cmdline"] or []
        if process.info["cwd"] == os.fspath(project) and os.fspath(ROOT / "stages/train.py") in command:
            found += [process] if "HEADWAY_SEAT" in (process.info["environ"] or {}) else []
    return found


def saved(project: Path) -> int:
    return max((int(path.name[-10:]) for path in project.glob(".resume/train/*/step-*")), default=0)


@contextmanager
def training_that_goes_on(project: Path) -> Iterator[subprocess.Popen[str]]:
    """The stage as a client, which has resumed where the one before it stopped and saved a further checkpoint."""
    before = saved(project)
    command = [sys.executable, os.fspath(ROOT / "stages/train.py")]
    with subprocess.Popen(command, env=environment(), stderr=subprocess.PIPE, text=True) as client:
        assert client.stderr is not None
        while before and f"resuming at step {before} of " not in (line := client.stderr.readline()):
            assert line, "it ended"
        wait(lambda: saved(project) >= before + 5)
        yield client
        client.kill()
    wait(lambda: not ranks_at_work(project))


def last_word(client: subprocess.Popen[str]) -> str:
    _, said = client.communicate(timeout=60)
    assert "Traceback" not in said
    return f"{client.returncode}: {said[said.find('error: ') :]}"


def test_fault_11_a_cluster_that_loses_its_client_a_worker_or_the_scheduler_saves_and_the_next_run_goes_on(
    stages: Path, tmp_path: Path
) -> None:
    (stages / ".resume").rename(stages / ".resume-before")
    file = tmp_path / "scheduler.json"
    runtime = {"cluster": os.fspath(file), "workers": 2, "rank_timeout": 4.0, "checkpoint_steps": 5}
    set_params(train={"epochs": 5000, "schedule": "constant", "patience": 0}, runtime=runtime)
    with cluster(file, 2) as (scheduler, worker, _):
        wait(file.exists)
        with training_that_goes_on(stages) as client:
            client.kill()
        with training_that_goes_on(stages) as client:
            worker.kill()
            assert "1: error: the Dask worker of rank " in last_word(client)
        set_params(runtime={"workers": 1})
        with training_that_goes_on(stages) as client:
            scheduler.kill()
            assert "1: error: the Dask scheduler is gone" in last_word(client)
    set_params(runtime={"cluster": "none"})
    with training_that_goes_on(stages):
        pass


def test_two_workers_of_this_process_train_the_stage_to_its_end(stages: Path, capfd: Any) -> None:
    before = json.loads(Path("metrics/train/metrics.json").read_text())
    (stages / ".resume").rename(stages / ".resume-before")
    set_params(runtime={"cluster": "local:2"})
    done = subprocess.run(
        [sys.executable, os.fspath(ROOT / "stages/train.py")],
        env=environment(),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "2 ranks on 127.0.0.1" in done.stderr and "epoch 3" in done.stderr
    after = json.loads(Path("metrics/train/metrics.json").read_text())
    assert after["best"]["mae"] == pytest.approx(before["best"]["mae"], rel=0.05), "but for dropout"


def test_a_scheduler_that_is_not_there_is_told_with_what_helps(stages: Path, tmp_path: Path) -> None:
    set_params(runtime={"cluster": os.fspath(tmp_path / "none.json")})
    assert "no scheduler file" in run_stage("train")
    set_params(runtime={"cluster": "tcp://127.0.0.1:9", "rank_timeout": 0.5})
    assert "no Dask scheduler answers at tcp://127.0.0.1:9" in run_stage("train")
