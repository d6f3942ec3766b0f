"""The rules of a low-memory, days-long run: each is told when it is broken, and only then."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from headway.commands.findings import Finding
from headway.commands.guard_rails import GIB, Device, inspect_rules
from headway.training.plan import Plan
from headway.training.storages import StepMemory
from project_params import sections_of
from tiny_prepared import tiny_prepared

LAPTOP = Device(gpu=True, total=4 * GIB, free=3 * GIB, processes=1)


def asked(gib: float, micro_batch: int = 16) -> Plan:
    """A plan that needs so much of a budget of 4 GiB."""
    nothing = dict.fromkeys(StepMemory.__slots__, 0)
    memory = StepMemory(**nothing | {"activations": int(gib * GIB)})
    return Plan(
        micro_batch=micro_batch,
        recompute=False,
        memory=memory,
        allowance=0,
        series=0,
        budget=4 * GIB,
        fits=gib <= 4,
    )


def rules(
    sections: dict[str, Any], plan: Plan | None = None, device: Device = LAPTOP, **facts: Any
) -> dict[str, Finding]:
    sensors, meta = facts.get("sensors", 64), facts.get("meta")
    found = inspect_rules(sections, sensors, plan or asked(1), device, meta)
    return {finding.name: finding for finding in found}


def test_the_default_parameters_break_no_rule() -> None:
    assert {finding.status for finding in rules(sections_of()).values()} == {"ok"}


def test_more_windows_than_fit_are_a_problem_that_the_planner_solves() -> None:
    found = rules(sections_of(), asked(4.5))["micro-batch"]
    assert found.status == "problem" and found.help.startswith("set runtime.micro_batch: 0 ")
    assert "4.50 GiB of a budget of 4.00" in found.found


def test_less_memory_free_than_a_plan_needs_is_a_note() -> None:
    assert rules(sections_of(), asked(2.9))["micro-batch"].status == "note"


def test_processes_that_share_the_memory_must_fit_it_together() -> None:
    sections = sections_of(runtime={"cluster": "local:4"})
    alone = Device(gpu=False, total=16 * GIB, free=10 * GIB, processes=1)
    assert rules(sections, asked(2.9), alone)["micro-batch"].status == "ok"
    found = rules(sections, asked(2.9), replace(alone, processes=4))["micro-batch"]
    assert found.status == "note" and "runtime.memory_budget to 2.5GiB" in found.help
    one = rules(sections, asked(2.9, micro_batch=1), replace(alone, processes=4))["micro-batch"]
    assert one.status == "problem" and one.help.startswith("let fewer processes train")


def test_one_window_that_does_not_fit_is_a_problem_of_the_model() -> None:
    found = rules(sections_of(), asked(8, micro_batch=1))["micro-batch"]
    assert found.status == "problem" and "shorten windows.history" in found.help


@pytest.mark.parametrize(
    ("order", "runtime", "help"),
    [
        ("partitioned", {"cluster": "local:4"}, "set runtime.cluster: local:3"),
        ("batches", {"cluster": "tcp://10.0.0.1:8786", "workers": 4}, "set runtime.workers: 3"),
        ("partitioned", {"cluster": "local:3"}, ""),
        ("partitioned", {"cluster": "scheduler.json"}, ""),
        ("shuffled", {"cluster": "local:4"}, ""),
    ],
)
def test_more_processes_than_parts_of_the_series_are_a_problem(
    order: str, runtime: dict[str, Any], help: str
) -> None:
    found = rules(sections_of(train={"order": order, "partitions": 3}, runtime=runtime)).get("partitions")
    assert (found.help if found else "").startswith(help) and bool(found) == bool(help)


@pytest.mark.parametrize(
    ("lr", "batch_size", "status"),
    [(0.002, 32, "ok"), (0.004, 32, "note"), (0.004, 64, "ok"), (0.02, 32, "problem"), (0.002, 1, "problem")],
)
def test_a_learning_rate_is_judged_by_its_effective_batch(lr: float, batch_size: int, status: str) -> None:
    assert rules(sections_of(train={"lr": lr, "batch_size": batch_size}))["learning rate"].status == status


@pytest.mark.parametrize(
    ("minutes", "steps", "status"),
    [(10.0, 10**9, "ok"), (0.0, 500, "ok"), (0.0, 10**6, "problem"), (600.0, 5000, "problem")],
)
def test_a_run_that_a_kill_would_cost_hours_is_a_problem(minutes: float, steps: int, status: str) -> None:
    runtime = {"checkpoint_minutes": minutes, "checkpoint_steps": steps}
    assert rules(sections_of(runtime=runtime))["checkpoints"].status == status


def test_checkpoints_that_no_start_uses_are_a_note() -> None:
    assert rules(sections_of(runtime={"resume": "never"}))["checkpoints"].status == "note"


def test_sizes_beyond_a_small_gpu_are_notes_and_none_on_a_large_one() -> None:
    sections = sections_of(windows={"history": 120}, ha_gat={"hidden_dim": 128})
    notes = {"sensors", "windows.history", "ha_gat.hidden_dim"}
    assert notes <= set(rules(sections, sensors=883))
    large = Device(gpu=True, total=24 * GIB, free=20 * GIB, processes=1)
    assert not notes & set(rules(sections, device=large, sensors=883))


@pytest.mark.parametrize(
    ("schedule", "milestones", "found"),
    [
        ("multistep", (), "is constant"),
        ("multistep", (5, 20), "20 are not reached"),
        ("cosine", (5,), "are not used"),
    ],
)
def test_a_schedule_that_ignores_what_was_said_is_a_note(
    schedule: str, milestones: tuple[int, ...], found: str
) -> None:
    sections = sections_of(train={"schedule": schedule, "milestones": milestones, "epochs": 12})
    assert found in rules(sections)["schedule"].found


def test_statistics_of_rows_beyond_training_are_a_problem() -> None:
    meta = tiny_prepared().meta
    assert (
        rules(sections_of(), meta=replace(meta, training_rows=meta.splits["train"][1] - 1))[
            "statistics"
        ].status
        == "ok"
    )
    assert (
        rules(sections_of(), meta=replace(meta, training_rows=meta.steps))["statistics"].status == "problem"
    )


def test_windows_in_two_splits_and_lags_into_the_future_are_a_problem() -> None:
    meta = tiny_prepared().meta
    assert "share up to 6 steps" in rules(sections_of(), meta=meta)["leakage"].found
    overlapping = meta.splits | {"validation": (100, 300)}
    assert rules(sections_of(), meta=replace(meta, splits=overlapping))["leakage"].status == "problem"
    assert (
        rules(sections_of(), meta=replace(meta, context=(meta.horizon - 1,)))["leakage"].status == "problem"
    )
    apart = {"train": (4, 100), "validation": (106, 200), "test": (206, 300)}
    assert (
        "no two splits share a step"
        in rules(sections_of(), meta=replace(meta, splits=apart))["leakage"].found
    )
