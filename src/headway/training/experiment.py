"""One experiment: from parameters and prepared data to a trained model, in a run that can be interrupted."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from headway.data.prepared import Prepared, PreparedMeta
from headway.data.windows import Windows
from headway.errors import InputError, Stopped
from headway.evaluation.predict import forecast_windows
from headway.models import build, outside_files
from headway.models.calibration import Calibrator, Intervals, Misses, fit_calibrator
from headway.models.collapse import CollapseCount
from headway.models.standardized import Standardized
from headway.nn.triton_scan import kernel_name
from headway.training.course import Course
from headway.training.identity import code_digest, describe
from headway.training.ladder import memory_may_run_out
from headway.training.loop import train
from headway.training.memory import choose_allocator, keep_heap
from headway.training.network import geometry_of
from headway.training.plan import resolve_budget
from headway.training.precision import Precision, resolve_device, resolve_precision
from headway.training.ranks import ALONE, LOST, Ranks, join
from headway.training.run import Run
from headway.training.runtime import RuntimeParams
from headway.training.seat import Seat
from headway.training.state import Progress
from headway.training.transfer import SHARE, Transfer, apply_transfer
from headway.training.window_plan import WindowPlanner, series_bytes
from headway.types import Graph

NOTHING = Transfer()
CALIBRATION_TARGETS = 2**24  # whose scores are in memory at once: 256 MiB

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """A trained model and how it came to be.

    Attributes:
        model: with its best weights.
        identity: what decided the result; see `Run`.
        calibrator: of a model that says a distribution.
    """

    model: Standardized
    progress: Progress
    identity: Mapping[str, Any]
    calibrator: Calibrator | None


def run_experiment(
    prepared: Prepared,
    params: Mapping[str, Any],
    runtime: RuntimeParams,
    script: Path,
    curves: Path,
    pretrained: Transfer = NOTHING,
    seat: Seat | None = None,
) -> Trained:
    """Train, or continue what an earlier call with the same identity began; at a seat, with the other ranks.

    Args:
        params: records of the sections `model`, `train` and those `section_records` names.
        script: the stage, whose code is part of the identity. curves: folder that dvclive writes.
        pretrained: weights to begin with.
        seat: of this process among those that train together; None where it is alone.
    Raises: as `headway.training.loop.train`, and as `memory_may_run_out`.
    """
    choose_allocator(runtime.allocator)
    device = resolve_device(runtime.device)
    ranks = join(seat, device) if seat else ALONE
    device = own_device(device, runtime, ranks)
    precision = resolve_precision(runtime.precision, device)
    keep_heap()
    model = fresh_model(prepared, params, device)
    slow = apply_transfer(model, params["model"].spatial, pretrained)
    splits = prepared.meta.splits
    parts = Course(params["train"], splits).parts(ranks.rank, ranks.world)
    windows = Windows(prepared, device, runtime.data, parts)
    log.info("%s weights, %s on %s", f"{model.parameter_count():,}", precision.name, device.type)
    decisive = identity(prepared, params, script, pretrained.digest)
    require_one_experiment(ranks, {**decisive, "precision": precision.name, "torch": torch.__version__})
    share = -(-params["train"].batch_size // ranks.world)
    runtime = plan_memory(model, prepared.meta, share, runtime, precision, device, ranks, parts)
    runtime = replace(runtime, precision=precision.name)
    with Run("train", decisive, runtime, ranks) as run, memory_may_run_out(run, device):
        scans = any(name.endswith("A_log") for name, _ in model.named_parameters())  # its rates of decay
        run.scan = kernel_name(device.type, precision.name) if scans else "none"
        progress = train(model, windows, splits, params["train"], run, precision, curves, slow)
        ranks.leave()
        if pretrained.digest:
            progress.notes.append(_origin(pretrained))
        calibrator = None
        if params["model"].head == "mixture" and ranks.first:
            count = CollapseCount(params["mixture"].smallest * model.std[0])
            at_once = run.runtime.micro_batch
            calibrator = calibrate(model, windows.mapped(), splits["validation"], at_once, count)
            progress.notes += count.told()
    return Trained(model=model, progress=progress, identity=run.identity, calibrator=calibrator)


def fresh_model(prepared: Prepared, params: Mapping[str, Any], device: torch.device) -> Standardized:
    """The chosen model, its weights drawn from `train.seed`."""
    torch.exp(torch.zeros(1))  # the first large exp after a matrix product was seen to be inexact without it
    torch.manual_seed(params["train"].seed)
    scale = [torch.from_numpy(prepared.scaler[name]) for name in ("mean", "std")]
    return build(params["model"], params, prepared.meta, _graph(prepared, params), *scale).to(device)


def own_device(device: torch.device, runtime: RuntimeParams, ranks: Ranks) -> torch.device:
    """The GPU, or the share of the threads, of this rank."""
    if runtime.threads:
        torch.set_num_threads(runtime.threads)
    elif ranks.on_host > 1:
        torch.set_num_threads(max(1, torch.get_num_threads() // ranks.on_host))
    if device.type == "cpu" or ranks.world == 1:
        return device
    own = torch.device("cuda", ranks.device_number % torch.cuda.device_count())
    torch.cuda.set_device(own)
    return own


def require_one_experiment(ranks: Ranks, mine: Mapping[str, Any]) -> None:
    """Every rank must be about to train what rank 0 does.

    Raises: InputError on a rank that is not, Stopped on the others.
    """
    mine = json.loads(json.dumps(mine))
    theirs = json.loads(ranks.share(json.dumps(mine).encode()))
    differing = [rank for rank, (differs,) in enumerate(ranks.tell(theirs != mine)) if differs]
    if theirs != mine:
        raise InputError(
            f"rank {ranks.rank} would train another experiment than rank 0, it differs in {describe(theirs, mine)}: "
            "bring code, params.yaml, data/prepared and models/pretrain of every machine to the same state"
        )
    if differing:
        raise Stopped(f"{LOST}: {differing} would train another experiment")


def calibrate(
    model: Standardized, windows: Windows, validation: tuple[int, int], batch_size: int, count: CollapseCount
) -> Calibrator:
    """Fit intervals to evenly spread validation windows, as many as CALIBRATION_TARGETS allows, in float32.

    Args: count: of what has collapsed in them.
    """
    targets = windows.horizon * windows.sensors
    step = -(-(validation[1] - validation[0]) * targets // CALIBRATION_TARGETS)
    origins = torch.arange(*validation, max(1, step))
    forecasts = forecast_windows({"the model": model.eval()}, windows.gather, origins, batch_size)
    said = ((each.mixtures["the model"], each.batch.target, each.batch.target_observed) for each in forecasts)
    return fit_calibrator(
        Misses.of(Intervals.of(count.look(mixture, target, observed)), target, observed)
        for mixture, target, observed in said
    )


def plan_memory(
    model: Standardized,
    meta: PreparedMeta,
    batch_size: int,
    runtime: RuntimeParams,
    precision: Precision,
    device: torch.device,
    ranks: Ranks,
    parts: Sequence[tuple[int, int]],
) -> RuntimeParams:
    """With `micro_batch: 0`, let the planner choose it, and whether activations are computed again.

    Args: batch_size: a rank's share of it. parts: as of Windows. The smallest choice of any rank is that of all.
    """
    if runtime.micro_batch:
        return runtime
    budget = resolve_budget(runtime.memory_budget, device, ranks.on_host)
    series = series_bytes(meta, meta.steps, runtime.data, device.type, parts)
    plan = WindowPlanner(model, meta, batch_size, precision, series).plan(budget)
    log.info(plan.describe())
    told = ranks.tell(plan.micro_batch, plan.recompute)
    model.set_recompute(any(recompute for _, recompute in told))
    return replace(runtime, micro_batch=int(min(windows for windows, _ in told)))


def identity(
    prepared: Prepared, params: Mapping[str, Any], script: Path, pretrained: str = ""
) -> dict[str, Any]:
    """What decides the result, as JSON: parameters, data, code and the major version of torch.

    Call it when the model is built: the code is what is loaded by then. `pretrained`: digest of what it began with.
    """
    hashes = {name: entry["sha256"] for name, entry in prepared.meta.files.items()}
    decisive = {**params, "train": params["train"].without_length()}
    outside = outside_files(params["model"], params)
    return {
        **({"outside": outside["files"]} if outside else {}),
        "params": {section: asdict(record) for section, record in decisive.items()},
        "prepared": {"meta.json": prepared.manifest, **hashes},
        "pretrained": pretrained,
        "code": code_digest("headway", script),
        "torch": torch.__version__.split(".")[0],
    }


def _graph(prepared: Prepared, params: Mapping[str, Any]) -> Graph:
    """The graph that the chosen operator reads. Raises: as `geometry_of`."""
    names = ("neighbors", "valid", "features")
    graph = Graph(**{name: torch.from_numpy(getattr(prepared, name)) for name in names})
    if params["model"].spatial != "sgmp":
        return graph
    positions, paths = geometry_of(prepared, params["sgmp"].paths_per_sensor, "model.spatial: sgmp")
    return replace(graph, positions=positions, paths=paths)


def _origin(pretrained: Transfer) -> str:
    """A sentence for the model card."""
    rate = "kept as they were" if pretrained.mode == "freeze" else f"trained on at {SHARE:g} of the rate"
    return f"What geometry taught (GT-SSL, encoder {pretrained.encoder}) was taken over and {rate}."
