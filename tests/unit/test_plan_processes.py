"""`python -m headway plan` of what params.yaml asks for: a named micro-batch, several processes on one machine."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from ruamel.yaml import YAML

from headway.commands import checks
from headway.commands.checks import inspect_project
from headway.commands.guard_rails import Device
from headway.commands.plan import asked_plan, plan_text
from headway.commands.processes import planned_processes
from headway.params import load_document
from headway.training.memory import GIB, MIB
from headway.training.storages import StepMemory
from headway.training.window_plan import WindowPlanner
from project_params import ROOT, sections_of


@pytest.fixture(autouse=True)
def a_machine_of_16_gib_without_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("headway.training.plan.host_memory", lambda: 16 * GIB)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


@pytest.fixture(autouse=True)
def a_window_takes_20_mib(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a step takes is looked at elsewhere, and tracing it is most of a plan's time."""

    def trace(_: WindowPlanner, windows: int, recompute: bool) -> StepMemory:
        return StepMemory(**dict.fromkeys(StepMemory.__slots__, 0) | {"activations": 20 * MIB * windows})

    monkeypatch.setattr(WindowPlanner, "trace", trace)
    monkeypatch.setattr(WindowPlanner, "activations", lambda *_: {})


def project(folder: Path, **changes: dict[str, Any]) -> Path:
    """A root with this repository's params.yaml, some keys changed."""
    document = load_document(ROOT / "params.yaml")
    for section, keys in changes.items():
        document[section] |= keys
    with (folder / "params.yaml").open("w") as file:
        YAML(typ="safe", pure=True).dump(document, file)
    return folder


def about_runtime(text: str) -> list[str]:
    """The line of the choice, and those below it that say whose it is."""
    block = text[text.index("\nruntime: ") :].strip()
    return block.partition("\n\n")[0].splitlines()


def test_without_a_budget_the_plan_is_of_the_micro_batch_that_params_name(tmp_path: Path) -> None:
    root = project(tmp_path, runtime={"micro_batch": 2})
    said, told = about_runtime(plan_text(root, None, 20, None))
    assert said == "runtime: micro-batch 2: 0.62 GiB of a budget of 8.00"
    assert told == "  params.yaml has runtime.micro_batch: 2; 0 leaves the choice to the planner"


def test_with_a_budget_the_plan_is_the_planners_and_says_what_the_named_micro_batch_needs(
    tmp_path: Path,
) -> None:
    root = project(tmp_path, runtime={"micro_batch": 1})
    said, told = about_runtime(plan_text(root, "4GB", 20, None))
    assert said.startswith("runtime: micro-batch 32: ")
    params, needs = told.split("; ")
    assert params == "  params.yaml has runtime.micro_batch: 1"
    assert needs == "training takes micro-batch 1: 0.61 GiB of a budget of 3.73"


def test_processes_of_one_machine_share_the_batch_and_the_memory(tmp_path: Path) -> None:
    root = project(tmp_path, runtime={"cluster": "local:4"}, train={"batch_size": 30})
    said, whose = about_runtime(plan_text(root, None, 20, None))
    assert said.startswith("runtime: micro-batch 8: ") and said.endswith("of a budget of 2.00")
    assert (
        whose == "  for each of the 4 processes of runtime.cluster: local:4: 8 of the 30 windows of an update"
    )


def test_a_budget_is_of_each_process_and_the_gpus_hold_what_one_of_them_takes(tmp_path: Path) -> None:
    text = plan_text(project(tmp_path, runtime={"cluster": "local:4"}), "4GB", 20, None)
    assert about_runtime(text)[0].endswith("of a budget of 3.73")
    assert re.search(r"\n24GB +8  kept", text)


def test_the_named_micro_batch_is_planned_for_each_process(tmp_path: Path) -> None:
    root = project(tmp_path, runtime={"micro_batch": 1, "cluster": "local:4"})
    said, told, whose = about_runtime(plan_text(root, None, 20, None))
    assert said.startswith("runtime: micro-batch 1: ") and said.endswith("of a budget of 2.00")
    assert "runtime.micro_batch: 1;" in told and "each of the 4 processes" in whose


def test_a_process_holds_no_more_windows_than_its_share_of_an_update() -> None:
    sections = sections_of(runtime={"micro_batch": 64, "cluster": "local:4"})
    plan = asked_plan(sections, 20, 300, 6048)
    assert plan.micro_batch == 8 and plan.budget == 2 * GIB


@pytest.mark.parametrize("cluster", ["scheduler.json", "tcp://10.0.0.1:8786"])
def test_workers_that_nobody_has_counted_are_planned_as_one_process_and_counted_ones_by_their_number(
    cluster: str, tmp_path: Path
) -> None:
    said, whose = about_runtime(plan_text(project(tmp_path, runtime={"cluster": cluster}), None, 20, None))
    assert said.startswith("runtime: micro-batch 32: ")
    unknown = f"how many workers {cluster} has is not known before they are there"
    assert whose == f"  for one process: {unknown}; runtime.workers says it"
    named = project(tmp_path, runtime={"cluster": cluster, "workers": 4})
    said, whose = about_runtime(plan_text(named, None, 20, None))
    assert said.startswith("runtime: micro-batch 8: ") and said.endswith("of a budget of 8.00")
    assert whose.endswith("as if each had a machine or a GPU of its own: 8 of the 32 windows of an update")


def test_one_process_that_trains_alone_needs_no_word(tmp_path: Path) -> None:
    for cluster in ("none", "local:1"):
        assert planned_processes(sections_of(runtime={"cluster": cluster})["runtime"]).what == ""
    assert len(about_runtime(plan_text(project(tmp_path), None, 20, None))) == 1


def test_check_tells_before_a_run_that_there_are_more_processes_than_parts(tmp_path: Path) -> None:
    root = project(tmp_path, runtime={"cluster": "local:4"}, train={"order": "partitioned", "partitions": 2})
    found = {finding.name: finding for finding in inspect_project(root)["guard rails"]}
    assert found["partitions"].status == "problem"
    assert "each of the 4 processes" in found["micro-batch"].found


@pytest.mark.parametrize(("gpus", "sharing"), [(4, 1), (2, 2), (1, 4)])
def test_check_counts_the_processes_that_share_a_gpu(
    gpus: int, sharing: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Device] = []
    monkeypatch.setattr(checks, "gpu_bytes", lambda: (3 * GIB, 4 * GIB))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setattr(checks, "inspect_rules", lambda *given: seen.append(given[3]) or [])
    inspect_project(project(tmp_path, runtime={"cluster": "local:4"}))
    assert [device.processes for device in seen] == [sharing]
