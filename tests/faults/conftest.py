"""A project folder to be interrupted in, what an uninterrupted run leaves, and signal handlers put back."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from run_stages import DATASET, STAGES, run_stage, write_params

from headway.data.prepared import Prepared, open_prepared
from tiny_run import results, tiny_data, train_tiny
from worlds import write_raw_world


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the tiny data, `raw` and `prepared`."""
    folder = tmp_path_factory.mktemp("data")
    tiny_data(folder)
    return folder


@pytest.fixture(scope="session")
def prepared(data: Path) -> Prepared:
    return open_prepared(data / "prepared")


@pytest.fixture(scope="session")
def whole(prepared: Prepared, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What a run that nobody interrupts leaves."""
    folder = tmp_path_factory.mktemp("whole")
    with put_back_signals(), pytest.MonkeyPatch.context() as context:
        context.chdir(folder)
        context.setenv("DVC_ROOT", os.fspath(folder))
        train_tiny(folder, prepared)
    return results(folder)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The current folder, and what DVC would call its root."""
    folder = tmp_path / "project"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setenv("DVC_ROOT", os.fspath(folder))
    with put_back_signals():
        yield folder


@contextmanager
def put_back_signals() -> Iterator[None]:
    """A training watches signals until its process ends."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    yield
    for number, handler in handlers.items():
        signal.signal(number, handler)


@pytest.fixture(scope="session")
def finished_stages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the stages have run on a tiny data set. To be copied."""
    folder = tmp_path_factory.mktemp("stages")
    with put_back_signals(), pytest.MonkeyPatch.context() as context:
        context.chdir(folder)
        context.setenv("DVC_ROOT", os.fspath(folder))
        write_params()
        write_raw_world(folder / "data/raw" / DATASET, steps=400, facts={"unit": "km/h"})
        for stage in STAGES:
            assert run_stage(stage) == "", stage
    return folder


@pytest.fixture
def stages(finished_stages: Path, project: Path) -> Path:
    """A copy of the finished stages, to change; it is the current folder."""
    return Path(shutil.copytree(finished_stages, project, dirs_exist_ok=True))
