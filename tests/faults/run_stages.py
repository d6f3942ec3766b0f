"""The stages as a user meets them: run in a project's folder, they leave outputs, or one message and an exit code."""

from __future__ import annotations

import os
import runpy
import sys
from pathlib import Path
from typing import Any

import pytest
from file_system import Calls, failing
from ruamel.yaml import YAML

from dvc_project import ROOT, SMALL

STAGES = ("preprocess", "pretrain", "train", "evaluate")
OUTPUTS = {
    "preprocess": ("data/prepared", "metrics/preprocess"),
    "pretrain": ("models/pretrain", "metrics/pretrain"),
    "train": ("models/train", "metrics/train"),
    "evaluate": ("metrics/evaluate", "data/predictions"),
}
DATASET = "tiny"


def run_stage(name: str) -> str:
    """Run a stage in the current folder. Returns: the message or code it leaves with, empty when all went well."""
    with pytest.MonkeyPatch.context() as context:
        context.setattr(sys, "path", list(sys.path))  # the stage puts its src first
        try:
            runpy.run_path(str(ROOT / "stages" / f"{name}.py"), run_name="__main__")
        except SystemExit as stopped:
            return str(stopped.code)
    return ""


def die_in_stage(name: str, call: int, watched: Any) -> bool:
    """Run a stage in a child that is gone before its `call`-th watched call. Returns: whether it got that far."""
    pid = os.fork()
    if pid == 0:
        with failing(Calls(lambda: os._exit(9), call), watched):
            said = run_stage(name)
        os._exit(1 if said else 0)
    _, status = os.waitpid(pid, 0)
    code = os.waitstatus_to_exitcode(status)
    assert code in (0, 9), f"{name} failed in the child"
    return code == 9


def set_params(**changes: Any) -> None:
    """Change params.yaml of the current folder: a section's keys, or a plain key."""
    yaml = YAML()
    document = yaml.load(Path("params.yaml").read_text())
    for section, value in changes.items():
        document[section] = {**document[section], **value} if isinstance(value, dict) else value
    with Path("params.yaml").open("w") as file:
        yaml.dump(document, file)


def write_params(**changes: Any) -> None:
    """This repository's params.yaml in the current folder, made small, of the tiny data set."""
    Path("params.yaml").write_text((ROOT / "params.yaml").read_text())
    set_params(dataset=DATASET, **SMALL)
    set_params(**changes)


def outputs(*stages: str) -> dict[str, bytes]:
    """Every file that these stages leave in the current folder, and drafts of them, by their paths."""
    folders = [folder for stage in stages for folder in OUTPUTS[stage]]
    parents = {Path(folder).parent for folder in folders}
    paths = [path for folder in folders for path in Path(folder).rglob("*")]
    paths += [path for parent in parents for path in parent.glob(".*") if path.name != ".gitignore"]
    return {path.as_posix(): path.read_bytes() if path.is_file() else b"" for path in paths}
