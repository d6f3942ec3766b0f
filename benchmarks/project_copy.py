"""A copy of the project in which its own stages run on another data set, for scripts that compare whole pipelines.

Enters: a folder of the raw contract (docs/data.md) and changes of params.yaml. Leaves: a folder with code, raw data
and params.yaml, in which `stages/*.py` run one after the other.

Glossary: changes = {"section.key": value}; a look is a validation in the course of training.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from ruamel.yaml import YAML

ROOT = Path(__file__).resolve().parent.parent
PASSES = 30  # over the training windows, at most
LOOKS = 8  # at the validation windows
VALIDATION_WINDOWS = 256
TRIAL_STEPS = 24
DAY_MINUTES = 1440


def copy_code(project: Path) -> None:
    """All that the stages need."""
    for part in ("src", "stages"):
        shutil.copytree(ROOT / part, project / part, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "params.yaml", project)


def copy_raw(source: Path, target: Path, sensors: int) -> None:
    """The raw folder, or its first `sensors` sensors by id."""
    target.mkdir(parents=True)
    if not sensors:
        for path in source.iterdir():
            shutil.copy(path, target)
        return
    table = pd.read_parquet(source / "sensors.parquet")
    kept = sorted(table["sensor_id"].astype(str))[:sensors]
    table[table["sensor_id"].astype(str).isin(kept)].to_parquet(target / "sensors.parquet", index=False)
    for path in source.iterdir():
        if path.name.startswith("series") and path.suffix == ".parquet":
            pd.read_parquet(path, columns=["timestamp", *kept]).to_parquet(target / path.name, index=False)
        elif path.name == "edges.parquet":
            edges = pd.read_parquet(path)
            inside = edges["source"].astype(str).isin(kept) & edges["target"].astype(str).isin(kept)
            edges[inside].to_parquet(target / path.name, index=False)
        elif path.name in ("dataset.yaml", "covariates.parquet"):
            shutil.copy(path, target)


def keep_days(folder: Path, days: int, until: str = "") -> None:
    """Cut every table with timestamps to its last days, or the last before a date; 0 days: all."""
    for path in folder.glob("*.parquet") if days or until else ():
        table: Any = pd.read_parquet(path)
        if "timestamp" in table:
            newest = table["timestamp"].max()
            end = pd.Timestamp(until, tz=newest.tz) if until else newest + pd.Timedelta(nanoseconds=1)
            table = table[table["timestamp"] < end]
            if days:
                table = table[table["timestamp"] >= end - pd.Timedelta(days=days)]
            table.to_parquet(path, index=False)


def choose_params(project: Path, name: str) -> dict[str, Any]:
    """What must differ from params.yaml on this data set."""
    fixed = {"dataset": name, "preprocess.unusable_sensors": "drop"}
    return fixed | possible_windows(project / "data/raw" / name / "series.parquet")


def possible_windows(series: Path) -> dict[str, Any]:
    """Keys of `windows` that a series without a day in whole steps must have; a file that is not there needs none."""
    if not series.exists():
        return {}
    timestamps = np.sort(pd.read_parquet(series, columns=["timestamp"])["timestamp"].to_numpy())
    step = np.median(np.diff(timestamps)) / np.timedelta64(1, "m")
    days = step < DAY_MINUTES and DAY_MINUTES % step == 0
    return {} if days else {"windows.context": [], "windows.trailing_weeks": 0}


def write_params(project: Path, changes: dict[str, Any], base: Path = ROOT / "params.yaml") -> None:
    """Write params.yaml of the project: that of `base`, changed."""
    yaml = YAML()
    document = yaml.load(base.read_text())
    change_params(document, changes)
    with (project / "params.yaml").open("w") as file:
        yaml.dump(document, file)


def change_params(document: dict[str, Any], changes: dict[str, Any]) -> None:
    """Put the changes into the content of a params.yaml."""
    for key, value in changes.items():
        *sections, last = key.split(".")
        place = document
        for section in sections:
            place = place[section]
        place[last] = value


def run_stage(project: Path, stage: str) -> float:
    """Seconds the stage took; its messages go to the terminal only when it fails."""
    started = time.monotonic()
    command = [sys.executable, f"stages/{stage}.py"]
    done = subprocess.run(command, cwd=project, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{stage} failed with exit code {done.returncode}:\n{done.stdout}{done.stderr}")
    return time.monotonic() - started


def plan_steps(
    project: Path, meta: dict[str, Any], changes: dict[str, Any], minutes: float
) -> dict[str, Any]:
    """`train` keys that fill, and do not exceed, the minutes."""
    batch = YAML(typ="safe").load((ROOT / "params.yaml").read_text())["train"]["batch_size"]
    trial = {
        "train.max_steps": TRIAL_STEPS,
        "train.epoch_steps": TRIAL_STEPS,
        "train.validation_windows": batch,
    }
    write_params(project, {**changes, **trial})
    wall = run_stage(project, "train")
    record = json.loads(next(project.glob(".resume/train/*/record.jsonl")).read_text().splitlines()[-1])
    step = record["seconds"] / TRIAL_STEPS
    shutil.rmtree(project / ".resume")
    first, last = meta["splits"]["train"]
    looked_at = min(VALIDATION_WINDOWS, meta["splits"]["validation"][1] - meta["splits"]["validation"][0])
    budget = 60 * minutes * 0.9 - (wall - record["seconds"]) - LOOKS * looked_at / batch * step / 2
    return count_steps(int(min(max(TRIAL_STEPS, budget / step), PASSES * -(-(last - first) // batch))))


def count_steps(steps: int) -> dict[str, Any]:
    """`train` keys of so many steps, with LOOKS looks at validation."""
    epoch_steps = -(-steps // LOOKS)
    return {
        "train.max_steps": steps,
        "train.epoch_steps": epoch_steps,
        "train.epochs": -(-steps // epoch_steps),
        "train.validation_windows": VALIDATION_WINDOWS,
        "train.patience": 0,
        "train.warmup_steps": min(50, steps // 10),
    }


def log(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()
