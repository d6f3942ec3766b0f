"""Memory planned before it is spent: what is traced is what is allocated, and the choice fits."""

from __future__ import annotations

import gc
import re
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from headway.__main__ import main
from headway.commands.plan import by_part, plan_text
from headway.commands.pretrain_plan import pretrain_text
from headway.commands.sizes import model_of_size
from headway.data.prepared import PreparedMeta
from headway.errors import InputError
from headway.models import ModelParams
from headway.models.standardized import Standardized
from headway.training.allowance import PROCESS
from headway.training.memory import MIB, parse_size
from headway.training.piece import backward_piece
from headway.training.precision import Precision
from headway.training.storages import StepMemory, _copied
from headway.training.trace import trace_modules, trace_step, windows_of_size
from headway.training.window_plan import WindowPlanner
from project_params import ROOT, sections_of

FP32 = Precision(name="fp32", device_type="cpu")
HINTS = get_type_hints(ModelParams)
MODELS = [
    {"name": name, "spatial": spatial, "head": head}
    for name in get_args(HINTS["name"])
    for spatial in get_args(HINTS["spatial"])
    for head in get_args(HINTS["head"])
    if head == "mixture" or spatial == "none"  # a head costs the same whatever the operator
]
each_model = pytest.mark.parametrize("choice", MODELS, ids=lambda choice: "-".join(choice.values()))


def sized(sensors: int = 12, **changes: dict[str, Any]) -> tuple[Standardized, PreparedMeta]:
    """One narrow block, five neighbors."""
    narrow: dict[str, dict[str, Any]] = {
        **{name: {"layers": 1} for name in get_args(HINTS["name"])},
        **{name: {"hidden_dim": 32} for name in get_args(HINTS["spatial"])},
        "preprocess": {"max_neighbors": 5},
    }
    return model_of_size(sections_of("simulated", **narrow | changes), sensors, 300)


def measured(model: Standardized, meta: PreparedMeta, windows: int, there: int) -> int:
    """Most bytes of a step by the allocator's account, and what was there before it."""
    model.train()
    batch, scaler = windows_of_size(meta, windows), torch.amp.GradScaler("cpu", enabled=False)

    def step() -> None:
        backward_piece(model, batch, 1, FP32, scaler)

    step()
    # before the profiler looks: it would count some of these frees, and not others
    model.zero_grad(set_to_none=True)
    gc.collect()  # what it would free during the step below is not the step's
    gc.disable()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        step()
    gc.enable()
    found: Any = recorded.profiler
    events = [event for event in found.kineto_results.events() if event.name() == "[memory]"]
    live = most = 0
    for event in sorted(events, key=lambda event: event.start_ns()):  # threads report in any order
        live += event.nbytes()
        most = max(most, live)
    return most + there


@each_model
@pytest.mark.parametrize("recompute", [False, True])
def test_the_traced_peak_is_the_allocators(choice: dict[str, str], recompute: bool) -> None:
    model, meta = sized(model=choice)
    model.set_recompute(recompute)
    traced = trace_step(model, meta, 3, FP32, accumulate=False)
    there = traced.parameters + traced.data + traced.tables
    found = measured(model, meta, 3, there)
    tolerance = 16 * 1024  # a kernel's own few numbers
    assert traced.peak - traced.optimizer - traced.best == pytest.approx(found, abs=tolerance)


@each_model
def test_the_activations_by_module_are_all_of_the_activations(choice: dict[str, str]) -> None:
    model, meta = sized(model=choice)
    by_module = trace_modules(model, meta, 3, FP32, accumulate=False)
    assert sum(by_module.values()) == trace_step(model, meta, 3, FP32, accumulate=False).activations
    assert set(by_module) <= {name for name, _ in model.named_modules()}
    assert list(by_module.values()) == sorted(by_module.values(), reverse=True)


def test_the_module_that_keeps_more_is_the_one_that_grew() -> None:
    kept = []
    for state_dim in (16, 64):
        model, meta = sized(st_mamba={"layers": 1, "state_dim": state_dim})
        kept.append(trace_modules(model, meta, 3, FP32, accumulate=False))
    few, many = kept
    assert few.pop("model.blocks.0.temporal") < many.pop("model.blocks.0.temporal")
    assert few == many


def test_beyond_two_probes_modules_are_in_the_proportions_of_the_larger_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("headway.training.window_plan.PROBE_STEPS", 300)
    model, meta = sized()
    planner = WindowPlanner(model, meta, 16, FP32)
    kept, again = (planner.trace(8, recompute).activations for recompute in (False, True))
    assert sum(planner.activations(8, False).values()) == pytest.approx(kept, abs=20)
    assert sum(planner.activations(8, True).values()) == pytest.approx(again, abs=20)
    assert again < kept
    assert not model.recomputes()


def test_modules_are_added_up_by_part_of_the_model() -> None:
    sizes = {
        "": 1,
        "model": 2,
        "model.embedding.readings": 4,
        "model.space.layers.0.spatial.orders.1.conv": 8,
        "model.space.layers.0.spatial": 16,
        "model.space.layers.1": 32,
        **{f"model.blocks.{number}.temporal": 64 for number in range(9)},
    }
    assert by_part(sizes) == [*((f"blocks.{number}.temporal", 64) for number in range(8)), ("others", 127)]
    few = {name: size for name, size in sizes.items() if size < 64}
    assert by_part(few) == [
        ("space.layers.1", 32),
        ("space.layers.0.spatial", 24),
        ("embedding.readings", 4),
        ("the whole", 3),
    ]


@each_model
def test_memory_is_linear_in_the_sensors_whatever_the_model(choice: dict[str, str]) -> None:
    traced = []
    for sensors in (400, 1600):
        model, meta = sized(sensors, model=choice, windows={"history": 3, "horizon": 2})
        traced.append(trace_step(model, meta, 1, FP32, accumulate=False).peak)
    assert traced[1] < 4.2 * traced[0], "a sensors x sensors tensor would make it 16 times"


def test_tracing_leaves_the_model_and_the_random_numbers_alone() -> None:
    model, meta = sized()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    state = torch.get_rng_state()
    trace_step(model, meta, 2, FP32, accumulate=True)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_model_that_has_run_is_traced_like_a_fresh_one() -> None:
    model, meta = sized()
    fresh = trace_step(model, meta, 2, FP32, accumulate=False)
    backward_piece(
        model.train(), windows_of_size(meta, 2), 1, FP32, torch.amp.GradScaler("cpu", enabled=False)
    )
    model.zero_grad(set_to_none=True)
    assert trace_step(model, meta, 2, FP32, accumulate=False) == fresh


def test_gradients_that_are_there_already_count_when_a_group_has_several_pieces() -> None:
    model, meta = sized()
    alone = trace_step(model, meta, 1, FP32, accumulate=False)
    among = trace_step(model, meta, 1, FP32, accumulate=True)
    assert among.gradients == sum(parameter.nbytes for parameter in model.parameters()) > alone.gradients


def test_a_copy_to_be_traced_shares_the_numbers_of_frozen_weights_and_moves_none_of_them() -> None:
    layer = torch.nn.Linear(2, 2)
    layer.weight.requires_grad_(False)
    twin = _copied(layer)
    assert twin.weight.data_ptr() == layer.weight.data_ptr()
    assert twin.bias.data_ptr() != layer.bias.data_ptr()
    twin.double()  # as to another device: a module changes its weights in place
    assert layer.weight.dtype == torch.float32


class Sizes(WindowPlanner):
    """A planner for which a window takes 100 MiB, 40 with activations computed again."""

    def __init__(self, batch_size: int) -> None:
        model, meta = sized()
        super().__init__(model, meta, batch_size, FP32)

    def trace(self, windows: int, recompute: bool) -> StepMemory:
        each = (40 if recompute else 100) * MIB
        nothing = dict.fromkeys(StepMemory.__slots__, 0)
        return StepMemory(**nothing | {"parameters": 10 * MIB, "activations": each * windows})


@pytest.mark.parametrize(
    ("mib", "windows", "recompute", "fits"),
    [
        (3000, 12, False, True),
        (1209, 8, False, True),
        (500, 4, False, True),
        (110, 1, False, True),
        (109, 2, True, True),
        (49, 1, True, False),
    ],
)
def test_the_largest_micro_batch_that_fits_and_recomputation_only_where_one_window_does_not(
    mib: int, windows: int, recompute: bool, fits: bool
) -> None:
    plan = Sizes(batch_size=12).plan(PROCESS + mib * MIB)
    assert (plan.micro_batch, plan.recompute, plan.fits) == (windows, recompute, fits)
    assert plan.fits == (plan.needed <= plan.budget)


def test_beyond_two_probes_memory_is_the_line_through_them(monkeypatch: pytest.MonkeyPatch) -> None:
    model, meta = sized()
    exact = WindowPlanner(model, meta, 16, FP32).trace(8, False)
    monkeypatch.setattr("headway.training.window_plan.PROBE_STEPS", 300)
    assert WindowPlanner(model, meta, 16, FP32).trace(8, False).peak == pytest.approx(exact.peak, rel=0.02)


def test_the_plan_command_prints_components_the_choice_and_gpus() -> None:
    text = plan_text(ROOT, "4GB", 20, 6)
    assert "20 sensors, 6 -> 12 steps" in text
    assert all(f"\n{name} " in text for name in (*StepMemory.__slots__, "traced", "allowance", "24GB"))
    assert re.search(r"\n  of these +\d+\.\d MiB  by blocks.0.temporal\n", text)
    assert "runtime: micro-batch 32: " in text and "of a budget of 3.73" in text


def test_the_plan_of_pretraining_stands_beside_the_published_figures_and_is_silent_without_a_method() -> None:
    assert pretrain_text(sections_of(), 30, torch.device("cpu")) == []
    for encoder in ("sgmp", "ha_gat"):
        told = {"method": "gt_ssl", "encoder": encoder, "batch_size": 16}
        lines = pretrain_text(sections_of(pretrain=told), 30, torch.device("cpu"))
        rows = {line.split()[0]: line for line in lines if line.strip()}
        assert {"graphs", "paths", "messages", "predictor", "gradients", "total", "8GB", "24GB"} <= set(rows)
        assert "4000" in rows["total"] and rows["12GB"].endswith("4, 64, 3")
        by_count, measured = (float(part.split()[-1]) for part in rows["total"].split("|")[-3:-1])
        assert by_count == pytest.approx(measured, rel=0.3)


def test_one_sensor_alone_is_planned_too() -> None:
    assert "1 sensors, 12 -> 12 steps" in plan_text(ROOT, "4GB", 1, None)


@pytest.mark.parametrize("option", ["--sensors", "--history"])
def test_the_plan_command_refuses_a_size_below_one(option: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["plan", option, "0"])
    assert f"argument {option}: 0 is less than 1" in capsys.readouterr().err


def test_the_plan_command_asks_for_a_number_of_sensors_where_data_are_missing(tmp_path: Path) -> None:
    page = (ROOT / "params.yaml").read_text().replace("dataset: simulated", "dataset: nowhere")
    (tmp_path / "params.yaml").write_text(page)
    with pytest.raises(InputError, match="so name a number: python -m headway plan --sensors 207"):
        plan_text(tmp_path, None, None, None)


@pytest.mark.parametrize(
    ("text", "size"), [("4GB", 4 * 10**9), ("3.5 GiB", int(3.5 * 2**30)), ("800MB", 8 * 10**8)]
)
def test_sizes_are_read_as_people_write_them(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["4", "GB", "0GB", "four GB", "-1GB"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="is no amount of memory"):
        parse_size(text)


def test_a_plan_does_not_depend_on_a_model_in_evaluation_mode_or_on_its_graph() -> None:
    model, meta = sized()
    memory = trace_step(model.eval(), meta, 2, FP32, accumulate=False)
    assert memory == trace_step(model, replace(meta, dataset="another"), 2, FP32, accumulate=False)


def test_a_plan_for_a_gpu_is_of_what_a_gpu_does() -> None:
    planner = WindowPlanner(*sized(), 16, FP32)
    here, there = planner.trace(8, False), planner.on_cuda().trace(8, False)
    assert (there.parameters, there.data) == (here.parameters, here.data)
    assert there.workspace > here.workspace, "all sequences of the scan at once, not one or a few"
    assert planner.trace(8, False) == here
