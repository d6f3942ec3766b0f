"""Rules that a low-memory, days-long run should keep; each is one line of `python -m headway check`.

Enters: the records of params.yaml, the sizes of the data, the memory of the device. Leaves: findings.

The rules: no dense attention, no more windows in memory than fit, no float32 on a GPU, no more processes than there
are parts of the series to train on, no run without checkpoints, no learning rate beyond its batch, statistics of
training rows only, no window that leaks. What a record already refuses (`ha_gat.heads` above 2,
`preprocess.max_neighbors` above 15) never gets this far; float32 on a GPU is told in the line on precision.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from headway.commands.findings import Finding, note, ok, problem
from headway.commands.processes import Processes, planned_processes
from headway.data.prepared import PreparedMeta
from headway.data.windows import anchor_lags
from headway.training.course import TrainParams
from headway.training.memory import GIB
from headway.training.plan import Plan
from headway.training.runtime import RuntimeParams
from headway.training.seat import parse_cluster

# Rule of thumb for Adam at batch 32; it grows with the root of the batch (Malladi et al. 2022, arXiv
# 2205.10287, "On the SDEs and scaling rules for adaptive gradient algorithms").
HIGH_LR, TOO_HIGH_LR, LR_BATCH = 0.003, 0.01, 32
LONGEST_GAP = 60.0  # minutes of work that a kill may cost
MOST_STEPS = 1000  # between two checkpoints, where no clock asks for one sooner
FULL = 0.9  # share of the free memory
SMALL_GPU = 8 * GIB
SMALL_LIMITS = {"sensors": 500, "windows.history": 96, "hidden_dim": 96}  # of a GPU of 4 GB, at ease


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """The memory training would use: `total` bytes, of which `free` are free; `gpu` or the computer's own.

    `processes` of the training share it.
    """

    gpu: bool
    total: int
    free: int
    processes: int


def inspect_rules(
    sections: Mapping[str, Any], sensors: int, asked: Plan, device: Device, meta: PreparedMeta | None
) -> list[Finding]:
    """All rules in the order of the module's list; without `meta`, those about prepared data are left out.

    Args: asked: what `runtime` asks for, planned or told, of each process.
    """
    runtime, train = sections["runtime"], sections["train"]
    processes = planned_processes(runtime)
    findings = [
        _neighbors(sections),
        _memory(asked, device, processes),
        *_small_gpu(sections, sensors, device),
        *_partitions(runtime, train, processes.world),
        _checkpoints(runtime),
        _learning_rate(train),
        *_schedule(train),
    ]
    if meta is None:
        return findings
    return [*findings, _statistics(meta), _leakage(meta)]


def _neighbors(sections: Mapping[str, Any]) -> Finding:
    if sections["model"].spatial == "none":
        return ok("neighbors", "no sensor reads another (model.spatial: none)")
    return ok("neighbors", f"{sections['preprocess'].max_neighbors} a sensor; nothing is sensors x sensors")


def _memory(asked: Plan, device: Device, processes: Processes) -> Finding:
    """Whether the windows in memory fit: those of runtime.micro_batch, or the planner's."""
    text = f"{asked.describe()}, {device.free / GIB:.1f} free"
    if processes.what:
        text = f"{text}; {processes.what}"
    if asked.fits and device.processes * asked.needed <= FULL * device.free:
        return ok("micro-batch", text)
    if asked.micro_batch > 1:
        free = "what is free" if device.processes == 1 else f"{device.free / device.processes / GIB:.1f}GiB"
        help = f"set runtime.micro_batch: 0 and runtime.memory_budget to {free}; the effective batch stays"
        return (note if asked.fits else problem)("micro-batch", text, help)
    fewer = "" if device.processes == 1 else "let fewer processes train, "
    return problem("micro-batch", text, f"{fewer}shorten windows.history, or narrow the model")


def _small_gpu(sections: Mapping[str, Any], sensors: int, device: Device) -> list[Finding]:
    """Sizes beyond which a larger GPU is the calmer choice."""
    if not device.gpu or device.total > SMALL_GPU:
        return []
    operator = sections["model"].spatial
    sizes = {
        "sensors": ("sensors", sensors),
        "windows.history": ("windows.history", sections["windows"].history),
        "hidden_dim": (f"{operator}.hidden_dim", sections[operator].hidden_dim),
    }
    return [
        note(
            name,
            f"{size}, above {SMALL_LIMITS[key]} on a GPU of {device.total / GIB:.0f} GiB",
            "expect a slow run",
        )
        for key, (name, size) in sizes.items()
        if size > SMALL_LIMITS[key]
    ]


def _partitions(runtime: RuntimeParams, train: TrainParams, ranks: int) -> list[Finding]:
    """What training would refuse: more ranks than parts of the series."""
    most = train.partitions
    if train.order == "shuffled" or ranks <= most:
        return []
    local = f"runtime.cluster: {f'local:{most}' if most > 1 else 'none'}"
    fewer = local if parse_cluster(runtime.cluster).kind == "local" else f"runtime.workers: {most}"
    text = f"train.partitions is {most}, and {ranks} processes would train (train.order: {train.order})"
    return [problem("partitions", f"{text}: at most one for each", f"set {fewer}, or train.order: shuffled")]


def _checkpoints(runtime: RuntimeParams) -> Finding:
    minutes, steps = runtime.checkpoint_minutes, runtime.checkpoint_steps
    text = f"every {steps} steps" + (f" or {minutes:g} minutes" if minutes else "")
    if not 0 < minutes <= LONGEST_GAP and steps > MOST_STEPS:
        return problem(
            "checkpoints", f"{text}: a kill may cost hours", "set runtime.checkpoint_minutes: 10.0"
        )
    if runtime.resume == "never":
        return note("checkpoints", f"{text}, but no start uses them", "set runtime.resume: auto")
    return ok("checkpoints", text)


def _learning_rate(train: TrainParams) -> Finding:
    scale = math.sqrt(train.batch_size / LR_BATCH)
    text = f"train.lr {train.lr:g} at an effective batch of {train.batch_size}"
    if train.lr > TOO_HIGH_LR * scale:
        return problem(
            "learning rate", f"{text}: likely to diverge", f"set train.lr: {_round(HIGH_LR * scale)} or less"
        )
    if train.lr > HIGH_LR * scale:
        return note("learning rate", f"{text} is high", f"{_round(HIGH_LR * scale)} is the usual limit")
    return ok("learning rate", text)


def _round(rate: float) -> str:
    return f"{rate:.1g}"


def _schedule(train: TrainParams) -> list[Finding]:
    """Settings that are read and change nothing."""
    if train.schedule == "multistep":
        late = [epoch for epoch in train.milestones if epoch >= train.epochs]
        if not train.milestones:
            return [
                note(
                    "schedule",
                    "multistep without train.milestones is constant",
                    "name epochs, or say constant",
                )
            ]
        if late:
            listed = ", ".join(map(str, late))
            return [note("schedule", f"train.milestones {listed} are not reached in {train.epochs} epochs")]
    elif train.milestones:
        return [
            note(
                "schedule",
                f"{train.schedule}: train.milestones are not used",
                "say multistep, or set them to []",
            )
        ]
    return []


def _statistics(meta: PreparedMeta) -> Finding:
    last = meta.splits["train"][1] - 1
    if meta.training_rows > last:
        text = (
            f"taken from {meta.training_rows} rows, of which {meta.training_rows - last} are not for training"
        )
        return problem("statistics", text, "dvc repro -f preprocess")
    return ok(
        "statistics", f"of the first {meta.training_rows} of {meta.steps} rows, which training windows read"
    )


def _leakage(meta: PreparedMeta) -> Finding:
    """No window in two splits, no input after its origin."""
    train, validation, test = (meta.splits[name] for name in ("train", "validation", "test"))
    lags = anchor_lags(meta)
    if not (train[1] <= validation[0] and validation[1] <= test[0]) or any(
        lag < meta.horizon for lag in lags
    ):
        return problem(
            "leakage", "windows of two splits overlap, or a lag reads the future", "dvc repro -f preprocess"
        )
    shared = meta.history + meta.horizon - 1 - min(validation[0] - train[1], test[0] - validation[1])
    if shared <= 0:
        return ok("leakage", "no window is in two splits; no two splits share a step")
    return ok(
        "leakage",
        f"no window is in two splits; neighboring splits share up to {shared} steps, as published ones do",
    )
