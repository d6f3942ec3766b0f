"""Memory that runs out where no update can be begun again: one sentence that says what helps (fault 8)."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, NoReturn

import pytest
import torch
from run_stages import outputs, run_stage, set_params

from headway.data.windows import Residence, Windows, held_bytes
from headway.errors import InputError
from headway.training.memory import GIB
from tiny_prepared import tiny_prepared

# what the allocators of the CPU and of CUDA raise, and Python's own
FAILURES = [
    RuntimeError(
        "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to "
        "allocate 4000000000000000 bytes. Error code 12 (Cannot allocate memory)"
    ),
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    MemoryError(),
]


def failing_with(failure: Exception) -> Any:
    def fail(*_: object, **__: object) -> NoReturn:
        raise failure

    return fail


@pytest.mark.parametrize("failure", FAILURES, ids=lambda failure: type(failure).__name__)
@pytest.mark.parametrize("data", ["memory", "device"])
def test_fault_08_a_series_that_has_no_room_is_refused_by_its_size_and_the_key_that_helps(
    data: Residence, failure: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepared = tiny_prepared(steps=200_000, sensors=16)
    monkeypatch.setattr(torch, "empty", failing_with(failure))
    size = held_bytes(prepared.meta, [(0, 200_000)], 16) / GIB
    said = rf"runtime.data: {data} copies the readings, {size:.2f} GiB.* set runtime.data: memmap"
    with pytest.raises(InputError, match=said) as refused:
        Windows(prepared, "cpu", data)
    assert size > 0.01 and str(failure) in str(refused.value)
    Windows(prepared, "cpu", "memmap")


@pytest.mark.parametrize("failure", FAILURES, ids=lambda failure: type(failure).__name__)
def test_fault_08_an_evaluation_without_room_names_fewer_windows_and_leaves_its_outputs(
    failure: Exception, stages: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_params(runtime={"micro_batch": 6})
    before = outputs("evaluate")
    with monkeypatch.context() as context:
        context.setattr(Windows, "gather", failing_with(failure))
        said = run_stage("evaluate")
    assert said.startswith(
        "error: out of memory with 6 window(s) forecast at once (runtime.micro_batch: 6); "
    )
    assert "set runtime.micro_batch: 3 in params.yaml" in said and "\n" not in said
    assert outputs("evaluate") == before


def test_fault_08_an_evaluation_without_room_for_one_window_names_no_smaller_number(
    stages: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_params(runtime={"micro_batch": 1})
    monkeypatch.setattr(Windows, "gather", failing_with(MemoryError()))
    said = run_stage("evaluate")
    assert "(runtime.micro_batch: 1); free some memory" in said and "micro_batch: 0" not in said


@pytest.mark.parametrize(
    ("stage", "place"),
    [
        ("train", "headway.training.experiment.fresh_model"),
        ("pretrain", "headway.training.pretrain_experiment.skip"),
    ],
)
@pytest.mark.parametrize("failure", FAILURES, ids=lambda failure: type(failure).__name__)
def test_fault_08_memory_that_runs_out_outside_the_steps_is_one_sentence(
    stage: str, place: str, failure: Exception, stages: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(place, failing_with(failure))
    said = run_stage(stage)
    assert re.fullmatch(r"error: out of memory outside the steps of (pre)?training, .* `dvc repro`", said)


@pytest.mark.parametrize("stage", ["evaluate", "train", "pretrain"])
def test_what_is_no_lack_of_memory_keeps_its_traceback(
    stage: str, stages: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for place in (
        "headway.data.windows.Windows.gather",
        "headway.training.experiment.fresh_model",
        "headway.training.pretrain_experiment.skip",
    ):
        monkeypatch.setattr(place, failing_with(RuntimeError("shapes do not match")))
    with pytest.raises(RuntimeError, match="shapes do not match"):
        run_stage(stage)
