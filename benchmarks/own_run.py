"""Our pipeline on one data set: prepared once for all models, then trained and evaluated in a copy for each seed.

Enters: a raw folder, or None for the simulated world, and changes of params.yaml. Leaves, in the work folder:

    <data set>/prepared-<hash>/        a copy of the project that has preprocessed
    <data set>/headway-<hash>-<seed>/  a copy that trains on a link to it; `.resume/` in it continues a training

Each is one process's at a time. Both keep the code they were made of; the hash names it, the data and params.yaml.
"""

from __future__ import annotations

import csv
import hashlib
import json
import os
import shutil
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

from child import run_child
from project_copy import ROOT, change_params, copy_code, copy_raw, count_steps, possible_windows, write_params
from results_log import code_digest
from ruamel.yaml import YAML

from headway.training.identity import digest
from headway.training.lock import RunLocked, acquire

SIMULATED, SIMULATED_BY = "simulated", "simulate"
TRAINING = ("pretrain", "train", "evaluate")
LOCK_SECONDS = 2.0
WHOLE = 0.95  # share of an epoch's windows; a pass over the data may end in a smaller batch
COST, LOG = "cost.jsonl", "{stage}.log"


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """A data set under params.yaml with changes.

    Attributes:
        folder: of this data set in the work folder. source: raw folder; None for the simulated world.
        steps: of every training. changes: of params.yaml. params: its content with them.
        prepared_hash: names the prepared folder. own_hash: names all that decides our results but the seed.
    """

    folder: Path
    source: Path | None
    steps: int
    changes: dict[str, Any]
    params: dict[str, Any]
    prepared_hash: str
    own_hash: str

    @property
    def name(self) -> str:
        return self.params["dataset"]

    @property
    def project(self) -> Path:
        """The copy that has preprocessed."""
        return self.folder / f"prepared-{self.prepared_hash[:10]}"

    @property
    def prepared(self) -> Path:
        return self.project / "data/prepared"

    def own_project(self, seed: int) -> Path:
        """The copy in which our model trains with this seed."""
        return self.folder / f"headway-{self.own_hash[:10]}-{seed}"


def make_setting(work: Path, source: Path | None, steps: int, wished: Mapping[str, Any]) -> Setting:
    """params.yaml with what the data set makes impossible taken out, so many steps, and what is wished for."""
    name = source.resolve().name if source else SIMULATED
    changes = {"dataset": name, "preprocess.unusable_sensors": "drop", "evaluate.prediction_stride": 0}
    if source:
        changes |= possible_windows(source / "series.parquet")
    changes |= count_steps(steps) | dict(wished)
    params = YAML(typ="safe").load((ROOT / "params.yaml").read_text())
    change_params(params, changes)
    preparing = ("preprocess",) if source else (SIMULATED_BY, "preprocess")
    raw = {path.name: _sha256(path) for path in sorted(source.iterdir()) if path.is_file()} if source else {}
    prepared_hash = digest([raw, *(decisive(ROOT, stage, params) for stage in preparing)])
    return Setting(
        folder=work / name,
        source=source,
        steps=steps,
        changes=changes,
        params=params,
        prepared_hash=prepared_hash,
        own_hash=digest([prepared_hash, *(decisive(ROOT, stage, params) for stage in TRAINING)]),
    )


def decisive(project: Path, stage: str, params: Mapping[str, Any]) -> list[Any]:
    """What a stage's results depend on by dvc.yaml: a hash of its parsed sources, its parameters but the seed."""
    text = (ROOT / "dvc.yaml").read_text()
    for key in ("dataset", "model.name", "model.spatial", "model.head", "st_sepnet.backbone"):
        text = text.replace(f"${{{key}}}", str(_value(params, key)))
    described = YAML(typ="safe").load(text)["stages"][stage]
    sources = code_digest(project / path for path in described["deps"] if path.endswith(".py"))
    sections = {key: _value(params, key) for key in described["params"] if isinstance(key, str)}
    if stage == "train":
        sections["train"] = {key: value for key, value in sections["train"].items() if key != "seed"}
    return [sources, sections]


def _value(params: Mapping[str, Any], key: str) -> Any:
    found: Any = params
    for part in key.split("."):
        found = found[part]
    return found


def prepare(setting: Setting) -> None:
    """Preprocess, unless it is done; where another process is at it, wait for it."""
    with _held(setting.folder / f".{setting.project.name}"):
        if (setting.prepared / "meta.json").exists():
            return
        project = setting.project
        shutil.rmtree(project, ignore_errors=True)
        project.mkdir(parents=True)
        copy_code(project)
        if setting.source:
            copy_raw(setting.source, project / "data/raw" / setting.name, 0)
        write_params(project, setting.changes)
        for stage in ("preprocess",) if setting.source else (SIMULATED_BY, "preprocess"):
            _run_stage(project, stage)


def run_own(setting: Setting, seed: int) -> dict[str, Any]:
    """Train and evaluate, going on where an earlier call was interrupted. The caller holds the folder's lock.

    Returns: as `peer.run`, and what evaluate says of the distribution, where there is one.
    """
    project = setting.own_project(seed)
    if not (project / "params.yaml").exists():
        for part in ("src", "stages"):
            shutil.rmtree(project / part, ignore_errors=True)
        copy_code(project)
    copied = [decisive(project, stage, setting.params) for stage in TRAINING]
    if digest([setting.prepared_hash, *copied]) != setting.own_hash:
        sys.exit("the code has changed since this comparison was started; start it again")
    link = project / "data/prepared"
    if not link.is_symlink():
        link.parent.mkdir(exist_ok=True)
        link.symlink_to(os.path.relpath(setting.prepared.resolve(), link.parent.resolve()))
    write_params(project, setting.changes | {"train.seed": seed})
    for stage in ("pretrain", "train", "evaluate"):
        _run_stage(project, stage)
    return read_own(project)


def read_own(project: Path) -> dict[str, Any]:
    """What a finished copy says of itself."""
    evaluated, trained = project / "metrics/evaluate", project / "metrics/train"
    scores = json.loads((evaluated / "forecasts.json").read_text())
    rows = _record(project)
    batch = YAML(typ="safe").load((project / "params.yaml").read_text())["train"]["batch_size"]
    seconds = [round(value, 1) for value in accumulate(_epoch_seconds(rows, batch))]
    with (trained / "plots/metrics/val/mae.tsv").open() as file:
        looks = [float(row["mae"]) for row in csv.DictReader(file, delimiter="\t")]
    costs = [json.loads(line) for line in (project / COST).read_text().splitlines()]
    own = [row["cpu_seconds"] for row in costs if row["log"] == LOG.format(stage="train")]
    return {
        "scores": scores.pop("headway"),
        "naive": scores,
        "distribution": json.loads((evaluated / "distribution.json").read_text()),
        "parameters": json.loads((trained / "metrics.json").read_text())["weights"],
        "steps": rows[-1]["step"],
        "seconds": seconds[-1],
        "cpu_seconds": round(sum(own), 2),
        "peak_mib": max(row.get("allocated_peak", row["resident_peak"]) for row in rows),
        "curve": list(zip(seconds, looks, strict=True)),
        "sittings": len(own),
    }


def _record(project: Path) -> list[dict[str, Any]]:
    """Rows of the newest training's record, the last one of each step: an interrupted epoch may be closed twice."""
    newest = max(project.glob(".resume/train/*/record.jsonl"), key=lambda path: path.stat().st_mtime)
    told = map(json.loads, newest.read_text().splitlines())
    rows = {row["step"]: row for row in told if "seconds" in row}  # others tell of memory that ran out
    return [rows[step] for step in sorted(rows)]


def _epoch_seconds(rows: list[dict[str, Any]], batch: int) -> Iterator[float]:
    """Of each epoch; one that was interrupted knows its last sitting alone, whose speed then stands for all of it."""
    before = 0
    for row in rows:
        share = row["samples_per_second"] * row["seconds"] / (batch * (row["step"] - before))
        yield row["seconds"] / (share if 0 < share < WHOLE else 1.0)
        before = row["step"]


def _run_stage(project: Path, stage: str) -> None:
    command = [sys.executable, f"stages/{stage}.py"]
    run_child(command, project, project / LOG.format(stage=stage), project / COST)


@contextmanager
def _held(folder: Path) -> Iterator[None]:
    """The lock of a folder, waited for."""
    while True:
        try:
            lock = acquire(folder)
            break
        except RunLocked:
            time.sleep(LOCK_SECONDS)
    with lock:
        yield


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
