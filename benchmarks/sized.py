"""A training step of any size on random readings, and how its memory is measured; what the other scripts share."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "src"))

from headway.commands.sections import read_sections
from headway.commands.sizes import model_of_size
from headway.data.prepared import PreparedMeta
from headway.models.standardized import Standardized
from headway.training.optimizer import make_optimizer
from headway.training.piece import backward_piece
from headway.training.precision import Precision
from headway.training.trace import windows_of_size
from headway.training.window_plan import WindowPlanner
from headway.types import Batch

MIB = 2**20
STEP_SECONDS = 300
FP32 = Precision(name="fp32", device_type="cpu")


def sections_of(**changes: dict[str, Any]) -> dict[str, Any]:
    """Sections of params.yaml with 15 neighbors and what else is changed: `ha_gat={"hidden_dim": 96}`."""
    sections = read_sections(ROOT / "params.yaml")
    changes = {"preprocess": {"max_neighbors": 15}} | changes
    return sections | {name: replace(sections[name], **keys) for name, keys in changes.items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class Training:
    """A model in training on the same windows, over and over.

    Attributes:
        step: one update, optimizer included. group: forward and backward of all windows, without the update.
        piece: of those that are in memory at once, added to the gradients there are.
    """

    model: Standardized
    meta: PreparedMeta
    batch: Batch
    step: Callable[[], None]
    group: Callable[[], None]
    piece: Callable[[], None]


def training(sections: dict[str, Any], sensors: int, windows: int, budget: int = 0) -> Training:
    """A model of these sections for so many sensors, with random graph and readings.

    Args: budget: bytes of a step; the planner then says how many windows are held at once. 0: all are.
    """
    torch.manual_seed(0)
    model, meta = model_of_size(sections, sensors, STEP_SECONDS)
    model.train()
    batch = _random(windows_of_size(meta, windows))
    optimizer = make_optimizer(model, sections["train"].lr, sections["train"].weight_decay)
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    observed = int(batch.target_observed.sum())
    pieces = _split(batch, windows if not budget else plan_within(model, meta, windows, budget))

    def piece(some: Batch = pieces[0]) -> None:
        backward_piece(model, some, observed, FP32, scaler)

    def group() -> None:
        optimizer.zero_grad(set_to_none=True)
        for some in pieces:
            piece(some)

    def step() -> None:
        group()
        torch.nn.utils.clip_grad_norm_(model.parameters(), sections["train"].clip_norm)
        optimizer.step()

    return Training(model=model, meta=meta, batch=batch, step=step, group=group, piece=piece)


def plan_within(model: Standardized, meta: PreparedMeta, windows: int, budget: int) -> int:
    """How many windows training would hold at once in so many bytes, the interpreter's own aside."""
    planner = WindowPlanner(model, meta, windows, FP32)
    plan = planner.plan(budget + planner.beside.beside(budget))
    if not plan.fits:
        sys.exit(f"{budget / MIB:.0f} MiB are too few: {plan.describe()}")
    model.set_recompute(plan.recompute)
    return plan.micro_batch


def _split(batch: Batch, windows: int) -> list[Batch]:
    parts = {part.name: getattr(batch, part.name).split(windows) for part in fields(batch)}
    return [Batch(**dict(zip(parts, rows, strict=True))) for rows in zip(*parts.values(), strict=True)]


def _random(batch: Batch) -> Batch:
    """Readings near 50, all observed; calendars as they are."""
    readings = ("history", "past", "anchors", "target", "fallback")
    return replace(batch, **{name: 50 + 8 * torch.randn_like(getattr(batch, name)) for name in readings})


def peak_bytes(call: Callable[[], object]) -> int:
    """Most bytes of tensors alive at once that were made inside, by the allocator's own account.

    `call` must not free what was there before: some of that would be counted.
    """
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        call()
    live = most = 0
    events: Any = recorded.profiler
    for event in events.kineto_results.events():
        if event.name() == "[memory]":
            live += event.nbytes()
            most = max(most, live)
    return most


def kept_bytes(forward: Callable[[], object], own: list[Tensor]) -> int:
    """Bytes of the storages that a forward pass keeps for the backward pass, `own` (weights) aside."""
    skipped = {tensor.untyped_storage().data_ptr() for tensor in own}
    storages: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in skipped:
            storages[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        forward()
    return sum(storages.values())


def matrix_peak(size: int = 1024) -> float:
    """GFLOP/s of a float32 matrix product, the best of ten."""
    a, b, times = torch.randn(size, size), torch.randn(size, size), []
    for _ in range(10):
        started = time.perf_counter()
        torch.mm(a, b)
        times.append(time.perf_counter() - started)
    return 2 * size**3 / min(times) / 1e9
