"""What a GPU takes beside a plan, measured by something that stands in for one, and what later plans make of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from headway.__main__ import main
from headway.commands.calibrate import calibrate, calibration, measured_steps, take_updates
from headway.commands.sizes import model_of_size
from headway.errors import InputError
from headway.training import allowance
from headway.training.allowance import (
    STATED,
    MeasuredStep,
    fit_allowance,
    known_allowance,
    read_allowance,
    write_allowance,
)
from headway.training.memory import GIB, MIB
from headway.training.precision import Precision
from headway.training.window_plan import WindowPlanner
from project_params import sections_of

FP32 = Precision(name="fp32", device_type="cpu")
GPU = "NVIDIA Something"
SMALL = {"st_mamba": {"layers": 1}, "ha_gat": {"hidden_dim": 32}, "preprocess": {"max_neighbors": 5}}
HIDDEN, LOST = 700 * MIB, 0.25  # of the GPU that stands in


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    return tmp_path / ".resume/cuda.json"


@pytest.fixture
def planner() -> WindowPlanner:
    model, meta = model_of_size(sections_of("simulated", **SMALL), 6, 300)
    return WindowPlanner(model, meta, 16, FP32)


def stand_in(planner: WindowPlanner, room: int = 16):
    """A GPU that loses a quarter of what is traced, has 700 MiB of its own, and room for so many windows."""
    asked: list[int] = []

    def measure(windows: int) -> tuple[int, int, int]:
        asked.append(windows)
        if windows > room:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        traced = planner.trace(windows, False).peak
        reserved = int((1 + LOST) * traced)
        return traced, reserved, reserved + HIDDEN

    return measure, asked


def test_plans_take_what_was_measured_from_then_on(
    planner: WindowPlanner, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measure, asked = stand_in(planner)
    text = calibration(planner, 4 * GIB, GPU, measure)
    assert asked == [1, 8], "one window, and half of the sixteen that fit"
    assert "allowance: 700 MiB and 25.0% of the trace; stated so far: 500 MiB and 12.0%" in text
    assert text.endswith(f"{place}: plans for {GPU} take these from now on")
    stated = planner.on_cuda().judge(2, False, GIB)
    assert stated.allowance == STATED.beside(stated.memory.peak)
    monkeypatch.setattr(allowance, "gpu_name", lambda: GPU)
    on_gpu = planner.on_cuda()
    plan = on_gpu.judge(2, False, GIB)
    assert plan.allowance == pytest.approx(HIDDEN + LOST * plan.memory.peak, abs=1000)
    assert on_gpu.beside.source == f"context, rounding; measured on {GPU}"
    monkeypatch.setattr(allowance, "gpu_name", lambda: "another")
    assert known_allowance("cuda") == STATED


def test_a_step_that_runs_out_of_memory_is_measured_with_fewer_windows(planner: WindowPlanner) -> None:
    measure, asked = stand_in(planner, room=2)
    steps = measured_steps(planner, 8, measure)
    assert asked == [1, 8, 4, 2] and [step.windows for step in steps] == [1, 2]
    none, _ = stand_in(planner, room=0)
    with pytest.raises(InputError, match="one window does not fit this GPU"):
        measured_steps(planner, 8, none)


def test_what_is_no_lack_of_memory_is_not_taken_for_it(planner: WindowPlanner) -> None:
    def broken(_: int) -> tuple[int, int, int]:
        raise RuntimeError("an illegal memory access was encountered")

    with pytest.raises(RuntimeError, match="illegal"):
        measured_steps(planner, 8, broken)


def test_the_allowance_covers_every_step_it_was_measured_by() -> None:
    def step(traced: int, reserved: int, used: int) -> MeasuredStep:
        return MeasuredStep(windows=1, traced=traced, allocated=traced, reserved=reserved, used=used)

    steps = [step(10, 40, 640), step(1000, 1100, 1650)]  # blocks of a small step are mostly air
    found = fit_allowance(steps, GPU)
    assert (found.share, found.fixed) == (pytest.approx(0.1), 629)
    assert all(step.traced + found.beside(step.traced) >= step.used for step in steps)
    assert fit_allowance([step(1000, 900, 1500)], GPU).share == 0, "less than planned is no share"


def test_entries_of_other_gpus_stay_and_those_of_another_torch_are_not_used(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = MeasuredStep(windows=1, traced=10, allocated=10, reserved=12, used=20)
    for gpu in ("first", "second"):
        write_allowance(fit_allowance([step], gpu), [step], gpu)
    assert set(json.loads(place.read_text())) == {"first", "second"}
    found = read_allowance("first")
    assert found is not None and (found.fixed, found.share) == (8, pytest.approx(0.2))
    monkeypatch.setattr(torch, "__version__", "3.0.0")
    assert read_allowance("first") is None


@pytest.mark.parametrize(
    "content", ["", "[1]", '{"first": 3}', '{"first": {"torch": "%s", "share": "much"}}']
)
def test_a_file_that_is_not_of_the_command_is_named(place: Path, content: str) -> None:
    place.parent.mkdir()
    place.write_text(content.replace("%s", torch.__version__))
    with pytest.raises(InputError, match=r"cuda.json is not what .* writes; remove it"):
        read_allowance("first")


def test_the_updates_that_are_measured_leave_the_model_as_it_was() -> None:
    model, meta = model_of_size(sections_of("simulated", **SMALL), 6, 300)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    take_updates(model, meta, 2, 4, FP32, torch.device("cpu"))
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_without_a_gpu_the_command_says_so(
    capsys: pytest.CaptureFixture[str], place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(InputError, match="measures steps on a CUDA GPU, and torch finds none here"):
        calibrate(Path(), None, None)
    assert main(["plan", "--calibrate", "--sensors", "6"]) == 1
    assert "`python -m headway plan` needs no GPU" in capsys.readouterr().err and not place.exists()
