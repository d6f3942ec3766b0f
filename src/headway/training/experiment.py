"""One experiment: from parameters and prepared data to a trained model, in a run that can be interrupted."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from headway.data.prepared import Prepared
from headway.data.windows import Windows
from headway.models import build
from headway.models.standardized import Standardized
from headway.training.loop import train
from headway.training.memory import keep_heap
from headway.training.precision import Precision, resolve_device, resolve_precision
from headway.training.run import Run, RuntimeParams, code_digest
from headway.training.state import Progress
from headway.types import Graph

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """A trained model and how it came to be.

    Attributes:
        model: with its best weights.
        identity: what decided the result; see `Run`.
    """

    model: Standardized
    progress: Progress
    precision: Precision
    identity: Mapping[str, Any]


def run_experiment(
    prepared: Prepared, params: Mapping[str, Any], runtime: RuntimeParams, script: Path, curves: Path
) -> Trained:
    """Train, or continue what an earlier call with the same identity began.

    Args:
        params: records of the sections `model`, `train` and those `section_records` names.
        script: the stage, whose code is part of the identity. curves: folder that dvclive writes.
    Raises: as `headway.training.loop.train`.
    """
    device = resolve_device(runtime.device)
    precision = resolve_precision(runtime.precision, device)
    if runtime.threads:
        torch.set_num_threads(runtime.threads)
    keep_heap()
    torch.exp(torch.zeros(1))  # the first large exp after a matrix product was seen to be inexact without it
    torch.manual_seed(params["train"].seed)
    scale = [torch.from_numpy(prepared.scaler[name]) for name in ("mean", "std")]
    model = build(params["model"], params, prepared.meta, _graph(prepared), *scale).to(device)
    windows, splits = Windows(prepared, device), prepared.meta.splits
    log.info("%s weights, %s on %s", f"{model.parameter_count():,}", precision.name, device.type)
    with Run("train", identity(prepared, params, script), runtime) as run:
        progress = train(model, windows, splits, params["train"], run, precision, curves)
    return Trained(model=model, progress=progress, precision=precision, identity=run.identity)


def identity(prepared: Prepared, params: Mapping[str, Any], script: Path) -> dict[str, Any]:
    """What decides the result, as JSON: parameters, data, code and the major version of torch.

    Call it when the model is built: the code is what is loaded by then.
    """
    hashes = {name: entry["sha256"] for name, entry in prepared.meta.files.items()}
    decisive = {**params, "train": params["train"].without_length()}
    return {
        "params": {section: asdict(record) for section, record in decisive.items()},
        "prepared": {"meta.json": prepared.manifest, **hashes},
        "code": code_digest("headway", script),
        "torch": torch.__version__.split(".")[0],
    }


def _graph(prepared: Prepared) -> Graph:
    names = ("neighbors", "valid", "features")
    return Graph(**{name: torch.from_numpy(getattr(prepared, name)) for name in names})
