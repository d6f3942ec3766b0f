"""A project under Git and DVC of its own, for scripts that queue experiments in it and read what they gave.

Enters: a folder of the raw contract, or None for the simulated world, and changes of params.yaml. Leaves: a folder
whose preprocess has run and whose start is committed, ready for `dvc exp run --queue`.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from project_copy import ROOT, copy_code, copy_raw, keep_days, write_params

FILES = ("dvc.yaml", ".dvcignore", ".gitignore", ".dvc/config", ".dvc/.gitignore")


def start_project(
    project: Path, source: Path | None, changes: dict[str, Any], *, sensors: int, days: int, preset: str = ""
) -> None:
    """Code, parameters and data of a new project, committed, and its data prepared.

    Args:
        sensors: of the source, the first so many by id; 0: all. days: the last so many; 0: all.
        preset: to begin from instead of params.yaml.
    """
    project.mkdir(parents=True)
    copy_code(project)
    for part in (".dvc/plots", "presets", "data/backbones"):
        shutil.copytree(ROOT / part, project / part)
    for file in FILES:
        shutil.copy(ROOT / file, project / file)
    if source:
        raw = project / "data/raw" / source.resolve().name
        copy_raw(source, raw, sensors)
        keep_days(raw, days)
    if preset:
        run(project, sys.executable, "-m", "headway", "preset", preset)
    write_params(project, {**changes, "runtime.keep_runs": 1000}, project / "params.yaml")
    run(project, "git", "init", "-q", "-b", "main")
    if source:
        dvc(project, "add", "--quiet", f"data/raw/{source.resolve().name}")
    dvc(project, "repro", "preprocess")
    run(project, "git", "add", "-A")
    run(project, "git", "commit", "-q", "-m", "start")


def dvc(project: Path, *arguments: str) -> str:
    return run(project, sys.executable, "-m", "dvc", *arguments)


def run(project: Path, *command: str) -> str:
    """What the command prints; it must succeed."""
    identity = {
        f"GIT_{who}_{what}": "x@example.org" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")
    }
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    environment = {**os.environ, **identity, "PATH": path, "DVC_NO_ANALYTICS": "1"}
    done = subprocess.run(
        command,
        cwd=project,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        sys.exit(f"{' '.join(command)} failed with exit code {done.returncode}:\n{done.stdout}{done.stderr}")
    return done.stdout
