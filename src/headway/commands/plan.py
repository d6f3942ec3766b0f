"""`python -m headway plan`: what training will hold in memory, by component, before it holds anything.

Enters: the project's root, and where wanted another budget, number of sensors or history. Leaves: a text with the
predicted peak, the micro-batch that `runtime` names or the planner's choice for this machine, and its choices for
GPUs of usual sizes. Where several processes train, all of it is for one of them.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import torch

from headway.commands.data_checks import inspect_data
from headway.commands.pretrain_plan import pretrain_text
from headway.commands.processes import planned_processes
from headway.commands.sections import read_sections
from headway.commands.sizes import model_of_size
from headway.errors import InputError
from headway.training.memory import GIB, MIB, parse_size
from headway.training.plan import Plan, Planner, resolve_budget
from headway.training.precision import resolve_device, resolve_precision
from headway.training.runtime import RuntimeParams
from headway.training.window_plan import WindowPlanner, series_bytes

GPU_SIZES = ("4GB", "6GB", "8GB", "12GB", "16GB", "24GB")
PART = re.compile(r"\w*(\.[a-z_]+)*?(\.\d+(\.\w+)?|$)")  # up to what a numbered block has, or all of it
LARGEST_PARTS, NO_NAME = 8, "  of these"
MEANING = {
    "parameters": "weights and buffers",
    "optimizer": "one moment of a linear map, two of all else",
    "best": "the best weights so far",
    "gradients": "at the moment of the peak",
    "data": "the windows at once",
    "tables": "who reads whom",
    "activations": "kept for the backward pass",
    "workspace": "of the backward pass",
}


def asked_plan(sections: Mapping[str, Any], sensors: int, step_seconds: int, steps: int) -> Plan:
    """What section `runtime` asks for on this machine, of each process that trains."""
    device = resolve_device(sections["runtime"].device)
    planner = planner_of(sections, sensors, step_seconds, steps, device)[0]
    return plan_of_runtime(planner, sections["runtime"], device)


def plan_of_runtime(planner: Planner, runtime: RuntimeParams, device: torch.device) -> Plan:
    """The micro-batch that is named, or the planner's choice, in the budget of one process on this machine.

    Args: planner: of the windows that one process takes of an update; it holds no more of them at once.
    """
    budget = resolve_budget(runtime.memory_budget, device, planned_processes(runtime).on_host)
    if runtime.micro_batch:
        return planner.judge(min(runtime.micro_batch, planner.batch_size), False, budget)
    return planner.plan(budget)


def planner_of(
    sections: Mapping[str, Any], sensors: int, step_seconds: int, steps: int, device: torch.device
) -> tuple[WindowPlanner, Planner]:
    """Planners for the chosen model at this size and one process of the training: on this device, and on a GPU.

    The series counts whole, although with `train.order: partitioned` and several processes each copies a part of it.
    """
    runtime = sections["runtime"]
    model, meta = model_of_size(sections, sensors, step_seconds)
    precision = resolve_precision(runtime.precision, device)
    series = [series_bytes(meta, steps, runtime.data, kind) for kind in (device.type, "cuda")]
    share = planned_processes(runtime).share(sections["train"].batch_size)
    planner = WindowPlanner(model, meta, share, precision, series[0])
    return planner, planner if device.type == "cuda" else planner.on_cuda(series[1])


def plan_text(root: Path, budget: str | None, sensors: int | None, history: int | None) -> str:
    """The whole answer of the command; `None` takes what params.yaml and the data say.

    Args: budget: as `runtime.memory_budget`; where it is given, the planner chooses what fits it.
    Raises: InputError where params.yaml cannot be read, or no number of sensors is known.
    """
    sections, sensors, step_seconds, steps = asked_sizes(root, sensors, history)
    told = asked = sections["runtime"]
    if budget is not None:
        told = replace(told, memory_budget=budget)
        asked = replace(told, micro_batch=0)
    device = resolve_device(asked.device)
    planner, on_gpu = planner_of(sections, sensors, step_seconds, steps, device)
    chosen = plan_of_runtime(planner, asked, device)
    exact = planner.judge(chosen.micro_batch, chosen.recompute, chosen.budget)
    modules = by_part(planner.activations(exact.micro_batch, exact.recompute))
    lines = [_title(sections, sensors), "", *_components(exact, modules, planner.beside.source)]
    lines += ["", f"runtime: {exact.describe()}"]
    if told.micro_batch:
        named = plan_of_runtime(planner, told, device).describe()
        what = "0 leaves the choice to the planner" if budget is None else f"training takes {named}"
        lines.append(f"  params.yaml has runtime.micro_batch: {told.micro_batch}; {what}")
    lines += [*_processes(told, sections["train"].batch_size), "", *_gpus(on_gpu)]
    lines += pretrain_text(sections, sensors, device)
    return "\n".join(lines) + "\n"


def asked_sizes(root: Path, sensors: int | None, history: int | None) -> tuple[dict[str, Any], int, int, int]:
    """Sections of params.yaml with this history, and sensors, seconds of a step, steps; `None` as in `plan_text`.

    Raises: InputError as `plan_text`.
    """
    sections = read_sections(root / "params.yaml")
    if history is not None:
        sections = sections | {"windows": replace(sections["windows"], history=history)}
    return sections, *_sizes(sections, root, sensors)


def _sizes(sections: Mapping[str, Any], root: Path, sensors: int | None) -> tuple[int, int, int]:
    """Sensors, seconds of a step, steps."""
    known = inspect_data(sections, root)[1]
    if known is not None:
        return sensors or known.sensors, known.step_seconds, known.steps
    if sensors is None:
        raise InputError(
            f"the data set {sections['dataset']!r} cannot be read, so name a number: "
            "python -m headway plan --sensors 207"
        )
    world = sections["simulate"]
    return sensors, world.step_minutes * 60, world.days * 1440 // world.step_minutes


def _processes(runtime: RuntimeParams, batch_size: int) -> list[str]:
    """Whom the plan is for; nothing where one process trains alone."""
    processes = planned_processes(runtime)
    if processes.world == 1:
        return [f"  {processes.what}"] if processes.what else []
    return [f"  {processes.what}: {processes.share(batch_size)} of the {batch_size} windows of an update"]


def _title(sections: Mapping[str, Any], sensors: int) -> str:
    windows, choice = sections["windows"], sections["model"]
    steps = f"{windows.history} -> {windows.horizon} steps"
    width = sections[choice.spatial].hidden_dim
    return (
        f"{choice.name} with {choice.spatial}: {sensors:,} sensors, {steps}, width {width}, "
        f"effective batch {sections['train'].batch_size}"
    )


def by_part(activations: Mapping[str, int]) -> list[tuple[str, int]]:
    """Bytes of activations by part of the model, the largest first: `blocks.0.spatial` with all that is in it.

    Args: activations: by the name of a module. What no part made - z-units, loss - is `the whole`.
    """
    parts: Counter[str] = Counter()
    for name, size in activations.items():
        part = PART.match(name.removeprefix("model").removeprefix("."))
        parts[part[0] if part and part[0] else "the whole"] += size
    largest = parts.most_common(LARGEST_PARTS)
    others = parts.total() - sum(size for _, size in largest)
    return [*largest, ("others", others)] if others else largest


def _components(plan: Plan, modules: list[tuple[str, int]], beside: str) -> list[str]:
    memory = plan.memory
    rows = [(field.name, getattr(memory, field.name), MEANING[field.name]) for field in fields(memory)]
    after = 1 + [name for name, _, _ in rows].index("activations")
    rows[after:after] = [(NO_NAME, size, f"by {name}") for name, size in modules]
    rows.append(("traced", memory.peak, "all of these"))
    rows.append(("allowance", plan.allowance, beside))
    if plan.series:
        rows.append(("series", plan.series, "readings, as runtime.data asks"))
    return [f"{name:<12} {size / MIB:>10,.1f} MiB  {meaning}" for name, size, meaning in rows]


def _gpus(planner: Planner) -> list[str]:
    """A row a size of GPU: the same step, with the allowance of CUDA."""
    lines = [f"{'GPU':<6} {'micro-batch':>11}  {'activations':<16} {'needs':>9}"]
    for size in GPU_SIZES:
        plan = planner.plan(parse_size(size))
        if not plan.fits:
            lines.append(f"{size:<6} {'-':>11}  {'does not fit':<16} {plan.needed / GIB:>5.2f} GiB")
            continue
        kept = "computed again" if plan.recompute else "kept"
        lines.append(f"{size:<6} {plan.micro_batch:>11}  {kept:<16} {plan.needed / GIB:>5.2f} GiB")
    return lines
