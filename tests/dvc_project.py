"""A small project under Git and DVC: this repository's files with parameters that run in seconds."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

ROOT = Path(__file__).resolve().parents[1]
# what DVC leaves beside an output when it is killed while linking it
LINK_OF_DVC = re.compile(r"\.[\w-]{22}\.tmp")
LONGEST = 600  # seconds of a command; one that hangs is a failure, and not the end of all other tests
SMALL: dict[str, dict[str, Any]] = {
    "simulate": {"sensors": 8, "days": 9},
    "windows": {"history": 4, "horizon": 3, "trailing_weeks": 0, "context": ["12h"]},
    "preprocess": {"max_neighbors": 3},
    "st_mamba": {"layers": 1, "head_dim": 8, "state_dim": 2},
    "ha_gat": {"hidden_dim": 8},
    "mixture": {"hidden_dim": 8, "layers": 1},
    "train": {"epochs": 3, "epoch_steps": 8, "validation_windows": 32, "batch_size": 8, "warmup_steps": 2},
    "evaluate": {"prediction_stride": 50},
    "runtime": {"micro_batch": 128, "threads": 1, "checkpoint_steps": 3},
}


class Project:
    """Commands in one clone."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def run(self, *command: str, code: int = 0) -> str:
        """Output of a command, which must end with `code`."""
        done = subprocess.run(
            command,
            cwd=self.folder,
            env=environment(),
            capture_output=True,
            text=True,
            check=False,
            timeout=LONGEST,
        )
        output = done.stdout + done.stderr
        assert done.returncode == code, f"{' '.join(command)} ended with {done.returncode}:\n{output}"
        return output

    def dvc(self, *arguments: str, code: int = 0) -> str:
        return self.run(sys.executable, "-m", "dvc", *arguments, code=code)

    def stages_to_run(self) -> list[str]:
        """What `dvc repro` would run now."""
        lines = self.dvc("repro", "--dry").splitlines()
        return [line.split("'")[1] for line in lines if line.startswith("Running stage")]

    def set_params(self, **changes: dict[str, Any]) -> None:
        path = self.folder / "params.yaml"
        yaml = YAML()
        document = yaml.load(path.read_text())
        for section, keys in changes.items():
            document[section] |= keys
        with path.open("w") as file:
            yaml.dump(document, file)

    def copy(self, folder: Path) -> Project:
        """The project as it is, its cache included, in another place."""
        return Project(Path(shutil.copytree(self.folder, folder, symlinks=True)))

    def start(self, *arguments: str) -> subprocess.Popen[bytes]:
        """`dvc ...` in a session of its own, to be killed with its children."""
        return subprocess.Popen(
            [sys.executable, "-m", "dvc", *arguments],
            cwd=self.folder,
            env=environment(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def outputs(self) -> dict[str, str]:
        """SHA-256 of everything the pipeline leaves."""
        return {
            path.relative_to(self.folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
            for name in ("models/pretrain", "models/train", "metrics", "data/predictions", "data/prepared")
            for path in sorted((self.folder / name).rglob("*"))
            if path.is_file() and path.name != ".gitignore" and not LINK_OF_DVC.fullmatch(path.name)
        }

    def commit(self, message: str) -> None:
        self.run("git", "add", "-A")
        self.run("git", "commit", "-q", "-m", message)


def environment() -> dict[str, str]:
    """`python` is this interpreter; nothing of the caller's DVC or Git leaks in."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("DVC", "GIT_"))}
    identity = {
        f"GIT_{who}_{what}": "test@example.org"
        for who in ("AUTHOR", "COMMITTER")
        for what in ("NAME", "EMAIL")
    }
    path = os.pathsep.join([str(Path(sys.executable).parent), kept.get("PATH", "")])
    return {**kept, **identity, "PATH": path, "DVC_NO_ANALYTICS": "1", "PYTHONDONTWRITEBYTECODE": "1"}


def new_project(folder: Path) -> Project:
    """A committed project that has run nothing."""
    folder.mkdir(parents=True)
    for name in ("src", "stages", ".dvc/plots"):
        ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
        shutil.copytree(ROOT / name, folder / name, ignore=ignored)
    shutil.copytree(ROOT / "data/backbones", folder / "data/backbones")
    for name in ("dvc.yaml", "params.yaml", ".dvcignore", ".gitignore", ".dvc/config", ".dvc/.gitignore"):
        shutil.copy(ROOT / name, folder / name)
    project = Project(folder)
    project.set_params(**SMALL)
    project.run("git", "init", "-q", "-b", "main")
    project.commit("start")
    return project
