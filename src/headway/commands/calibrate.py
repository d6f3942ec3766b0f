"""`python -m headway plan --calibrate`: real steps on a GPU beside their plan, for the plans to come.

Enters: the project's root, and where wanted another number of sensors or history. Leaves: a table, and an entry in
`.resume/cuda.json` (`headway.training.allowance`). The steps are those of training, on windows without readings.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path

import torch

from headway.commands.plan import asked_sizes
from headway.commands.sizes import model_of_size
from headway.data.prepared import PreparedMeta
from headway.errors import InputError
from headway.models.standardized import Standardized
from headway.training.allowance import (
    STATED,
    Allowance,
    MeasuredStep,
    fit_allowance,
    gpu_name,
    write_allowance,
)
from headway.training.memory import MIB, choose_allocator, is_out_of_memory
from headway.training.optimizer import make_optimizer
from headway.training.piece import backward_piece
from headway.training.plan import resolve_budget
from headway.training.precision import Precision, resolve_precision
from headway.training.trace import windows_of_size
from headway.training.window_plan import WindowPlanner
from headway.types import Batch

UPDATES = 3

Measure = Callable[[int], tuple[int, int, int]]  # windows -> allocated, reserved, used


def calibrate(root: Path, sensors: int | None, history: int | None) -> str:
    """The table, and where it was written; `None` takes what params.yaml and the data say.

    Raises: InputError without a CUDA GPU, and where not even one window fits.
    """
    if not torch.cuda.is_available():
        raise InputError(
            "plan --calibrate measures steps on a CUDA GPU, and torch finds none here; run it where "
            "training will run. `python -m headway plan` needs no GPU"
        )
    sections, sensors, step_seconds, _ = asked_sizes(root, sensors, history)
    choose_allocator(sections["runtime"].allocator)
    device = torch.device("cuda")
    model, meta = model_of_size(sections, sensors, step_seconds)
    precision = resolve_precision(sections["runtime"].precision, device)
    planner = WindowPlanner(model, meta, sections["train"].batch_size, precision)

    def measure(windows: int) -> tuple[int, int, int]:
        return measure_steps(model, meta, windows, planner.batch_size, precision, device)

    return calibration(planner, resolve_budget("auto", device), gpu_name(), measure)


def calibration(planner: WindowPlanner, budget: int, gpu: str, measure: Measure) -> str:
    """Measure one window and half of what would fit as stated, and keep what they take beside a trace."""
    planner.beside = STATED
    steps = measured_steps(planner, planner.plan(budget).micro_batch // 2, measure)
    found = fit_allowance(steps, gpu)
    path = write_allowance(found, steps, gpu)
    return "\n".join([*_table(steps, found), "", f"{path}: plans for {gpu} take these from now on"])


def measured_steps(planner: WindowPlanner, windows: int, measure: Measure) -> list[MeasuredStep]:
    """Steps with one window and with so many, or fewer where the GPU says so.

    Raises: InputError where one window does not fit.
    """
    steps = []
    for count in sorted({1, max(1, windows)}):
        while (found := _unless_out_of_memory(measure, count)) is None and count > 1:
            count //= 2
        if found is None:
            raise InputError("one window does not fit this GPU; measure a smaller model, or fewer --sensors")
        traced = planner.trace(count, False).peak
        allocated, reserved, used = found
        steps.append(
            MeasuredStep(windows=count, traced=traced, allocated=allocated, reserved=reserved, used=used)
        )
    return steps


def measure_steps(
    model: Standardized,
    meta: PreparedMeta,
    windows: int,
    batch_size: int,
    precision: Precision,
    device: torch.device,
) -> tuple[int, int, int]:
    """Most bytes allocated and reserved in a few updates, and bytes of the GPU in use after them."""
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(device)
    take_updates(model, meta, windows, batch_size, precision, device)
    free, total = torch.cuda.mem_get_info(device)
    return torch.cuda.max_memory_allocated(device), torch.cuda.max_memory_reserved(device), total - free


def take_updates(
    model: Standardized,
    meta: PreparedMeta,
    windows: int,
    batch_size: int,
    precision: Precision,
    device: torch.device,
) -> None:
    """Updates of a copy of the model: of two pieces where a group has several, as the planner traces them."""
    twin = copy.deepcopy(model).to(device).train()
    optimizer, scaler = make_optimizer(twin, 1e-3, 0.0), precision.gradient_scaler()
    batch = windows_of_size(meta, windows)
    batch = Batch(**{field.name: getattr(batch, field.name).to(device) for field in fields(batch)})
    for _ in range(UPDATES):
        optimizer.zero_grad(set_to_none=True)
        for _ in range(1 + (windows < batch_size)):
            backward_piece(twin, batch, 1, precision, scaler)
        scaler.step(optimizer)
        scaler.update()


def _unless_out_of_memory(measure: Measure, windows: int) -> tuple[int, int, int] | None:
    try:
        return measure(windows)
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        return None


def _table(steps: Sequence[MeasuredStep], found: Allowance) -> list[str]:
    lines = [f"{'windows':>7}  {'traced':>10}  {'allocated':>10}  {'reserved':>10}  {'GPU in use':>10}  MiB"]
    for step in steps:
        sizes = (step.traced, step.allocated, step.reserved, step.used)
        lines.append(f"{step.windows:>7}  " + "  ".join(f"{size / MIB:>10,.1f}" for size in sizes))
    stated = f"stated so far: {STATED.fixed / MIB:,.0f} MiB and {STATED.share:.1%}"
    return [
        *lines,
        "",
        f"allowance: {found.fixed / MIB:,.0f} MiB and {found.share:.1%} of the trace; {stated}",
    ]
