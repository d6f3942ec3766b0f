"""Ways to interrupt a training in this process, and what to look at afterwards."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from headway.data.prepared import Prepared
from headway.training import loop
from headway.training.checkpoint import list_checkpoints
from headway.training.resume import KIND
from tiny_run import train_tiny


class Killed(BaseException):
    """Stands for SIGKILL: nothing catches it, nothing is saved."""


def kill_before_step(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Die when `step` steps are done and the next is about to begin."""
    original = loop.take_step

    def take_step(state: Any, *rest: Any) -> float:
        if state.progress.step == step:
            raise Killed
        return original(state, *rest)

    monkeypatch.setattr(loop, "take_step", take_step)


def train_until(step: int, project: Path, prepared: Prepared, **options: Any) -> None:
    """Train, and die when `step` steps are done; the checkpoint of every second step is left."""
    with pytest.MonkeyPatch.context() as context:
        kill_before_step(step, context)
        with pytest.raises(Killed):
            train_tiny(project, prepared, **options)


def run_folder(project: Path) -> Path:
    (folder,) = (project / ".resume/train").iterdir()
    return folder


def checkpoints(project: Path) -> list[Path]:
    """Of the only run, the newest first."""
    return list_checkpoints(run_folder(project), KIND)
