"""One peer on one prepared data set: fitted, then judged as the evaluate stage judges ours, in a process of its own.

    python benchmarks/peer.py JOB.json RESULT.json

Enters: JOB, {"prepared", "model", "seed", "steps", "mape_floor", "device"}; steps is for what has an optimizer.
Leaves: RESULT, {"scores": {horizon: {"mae", "rmse", "mape", ...}}, "parameters", "steps", "seconds", "cpu_seconds",
"peak_mib", "curve"}. Seconds and peak are those of fitting, looks at validation included.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import peer_linear
import peer_naive
import peer_stid
import peer_trees
import torch
from fitted import Fitted

from headway.atomic import write_text
from headway.data.prepared import Prepared, open_prepared
from headway.evaluation.metrics import Errors, measure
from headway.evaluation.predict import forecast_split
from headway.evaluation.report import hour_of_day
from headway.evaluation.tables import forecast_scores
from headway.training.memory import keep_heap, peak_mib
from headway.training.precision import resolve_device

FAMILIES = (peer_naive, peer_linear, peer_trees, peer_stid)
PEERS = tuple(model for family in FAMILIES for model in family.MODELS)
SEEDED = (*peer_trees.MODELS, *peer_stid.MODELS)
AT_ONCE = 64  # windows judged together; no result depends on it on a CPU


def main() -> None:
    job_path, result_path = (Path(argument) for argument in sys.argv[1:])
    job = json.loads(job_path.read_text())
    keep_heap()
    torch.set_flush_denormal(True)
    write_text(result_path, json.dumps(run(job)) + "\n")


def family_of(model: str) -> ModuleType:
    """The module that fits a model."""
    return next(family for family in FAMILIES if model in family.MODELS)


def run(job: Mapping[str, Any]) -> dict[str, Any]:
    """Fit and judge."""
    prepared, device = open_prepared(job["prepared"]), resolve_device(job["device"])
    started, cpu = time.monotonic(), time.process_time()
    fitted = fit(job["model"], prepared, device, job["seed"], job["steps"])
    cost = {
        "seconds": round(time.monotonic() - started, 2),
        "cpu_seconds": round(time.process_time() - cpu, 2),
        "peak_mib": peak_mib(device),
    }
    scores = judge(fitted, prepared, job["mape_floor"])
    learned = {"parameters": fitted.parameters, "steps": fitted.steps, "curve": fitted.curve}
    return {"scores": scores, **learned, **cost}


def fit(model: str, prepared: Prepared, device: torch.device, seed: int, steps: int) -> Fitted:
    """A peer that is not absent."""
    if model in peer_stid.MODELS:
        return peer_stid.fit(model, prepared, device, seed, steps)
    if model in peer_trees.MODELS:
        return peer_trees.fit(model, prepared, device, seed)
    return family_of(model).fit(model, prepared, device)


def judge(fitted: Fitted, prepared: Prepared, mape_floor: float) -> dict[str, Any]:
    """Scores of the test windows by horizon, and over all steps."""
    total: Errors | None = None
    center = float(np.mean(prepared.climatology, dtype=np.float64))
    meta, forecasters = prepared.meta, {"peer": fitted.forecaster}
    for said in forecast_split(forecasters, fitted.windows.gather, meta.splits["test"], AT_ONCE):
        batch = said.batch
        hour = hour_of_day(batch.target_calendar, meta.step_seconds)
        added = measure(
            said.points["peer"],
            batch.target,
            batch.target_observed,
            hour,
            mape_floor=mape_floor,
            center=center,
        )
        total = total + added if total else added
    assert total is not None, "the test split has windows"
    return forecast_scores({"peer": total}, meta.step_seconds)["peer"]


if __name__ == "__main__":
    main()
