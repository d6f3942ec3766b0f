"""`python -m headway check`: what a run would meet, before it meets it.

Enters: the project's root. Leaves: findings in groups: machine, params.yaml, data, runs, guard rails.
Nothing is written. Of the large files timestamps and footers are read, and the columns of sensors that look silent.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil
import torch

from headway.commands.data_checks import Sizes, inspect_data, inspect_prepared
from headway.commands.findings import Finding, ok, problem
from headway.commands.guard_rails import Device, inspect_rules
from headway.commands.hardware import gpu_bytes, inspect_hardware, resume_store
from headway.commands.plan import asked_plan
from headway.commands.processes import planned_processes
from headway.commands.runs import inspect_runs
from headway.commands.sections import heading_and_problems, read_sections
from headway.data.prepared import PreparedMeta
from headway.errors import InputError


def inspect_project(root: Path) -> dict[str, list[Finding]]:
    """All groups but the installed packages (environment.py)."""
    try:
        sections = read_sections(root / "params.yaml")
    except InputError as error:
        return {"machine": inspect_hardware(None, root), "params.yaml": _params_problems(error)}
    data, sizes = inspect_data(sections, root)
    findings, prepared = inspect_prepared(sections, root)
    groups = {
        "machine": inspect_hardware(sections["runtime"], root),
        "params.yaml": [ok("sections", f"{len(sections)}, complete and in range")],
        "data": [*data, *findings],
        "runs": inspect_runs(resume_store(root), sections, prepared.manifest if prepared else ""),
    }
    if sizes is not None:
        groups["guard rails"] = _guard_rails(sections, sizes, prepared.meta if prepared else None)
    return groups


def _params_problems(error: InputError) -> list[Finding]:
    heading, problems = heading_and_problems(error)
    parts = [text.partition(": ") for text in problems]
    return [problem(key, what) for key, _, what in parts] or [problem("params.yaml", heading)]


def _guard_rails(sections: Mapping[str, Any], sizes: Sizes, meta: PreparedMeta | None) -> list[Finding]:
    gpu = gpu_bytes() if sections["runtime"].device != "cpu" else None
    together = planned_processes(sections["runtime"]).on_host
    if gpu is None:
        memory = psutil.virtual_memory()
        device = Device(gpu=False, total=memory.total, free=memory.available, processes=together)
    else:
        on_one = -(-together // torch.cuda.device_count())
        device = Device(gpu=True, total=gpu[1], free=gpu[0], processes=on_one)
    try:
        asked = asked_plan(sections, sizes.sensors, sizes.step_seconds, sizes.steps)
    except InputError as error:  # a language model that is not there
        heading, problems = heading_and_problems(error)
        return [problem("model", "; ".join([heading, *problems]))]
    return inspect_rules(sections, sizes.sensors, asked, device, meta)
