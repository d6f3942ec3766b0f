"""Ranks that die, hang, disagree or are asked to stop (faults 11, 12, 13, 63)."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from interrupt import checkpoints, kill_before_step
from safetensors.torch import load_file

from headway.data.prepared import Prepared
from headway.training import loop
from headway.training.distributed import _code, _reason
from headway.training.resume import KIND
from headway.training.seat import Seat
from in_ranks import DEADLINE, in_ranks
from tiny_run import SECTIONS, results, train_params, train_tiny

STEPS = 12
WITHOUT_DROPOUT: dict[str, Any] = {
    **SECTIONS,
    "st_mamba": replace(SECTIONS["st_mamba"], dropout=0.0),
    "ha_gat": replace(SECTIONS["ha_gat"], attention_dropout=0.0),
}


def train_in_ranks(
    world: int,
    project: Path,
    prepared: Prepared,
    before: Callable[[Seat], object] = lambda seat: None,
    timeout: float = 20.0,
    **options: Any,
) -> list[str]:
    def work(seat: Seat) -> None:
        before(seat)
        train_tiny(project, prepared, seat=seat, **options)

    return in_ranks(world, project, work, timeout)


def at_step(step: int, rank: int, do: Callable[[], object]) -> Callable[[Seat], None]:
    """A rank does something when so many steps are done."""

    def before(seat: Seat) -> None:
        original = loop.take_step

        def take_step(state: Any, *rest: Any) -> float:
            if state.progress.step == step and seat.rank == rank:
                do()
            return original(state, *rest)

        loop.take_step = take_step

    return before


def newest(project: Path) -> int:
    return int(checkpoints(project)[0].name.removeprefix(f"{KIND}-"))


def send_to_myself(number: signal.Signals) -> Callable[[], None]:
    return lambda: os.kill(os.getpid(), number)


def test_fault_11_when_a_rank_is_killed_the_others_save_the_step_and_leave(
    prepared: Prepared, project: Path, caplog: Any
) -> None:
    die = at_step(5, 1, send_to_myself(signal.SIGKILL))
    ends = train_in_ranks(2, project, prepared, die, timeout=10 * DEADLINE)  # noticed at once, not after it
    assert ends[1] == "ended with -9" and ends[0].startswith("RanksLost: the other ranks cannot be reached: ")
    assert newest(project) == 5, "the step that was begun is lost, no other"
    assert len(checkpoints(project)) <= 2 and not (project / "models").exists()
    with caplog.at_level("INFO"):
        trained = train_tiny(project, prepared)
    assert "resuming at step 5 of 12" in caplog.text
    assert any("At step 5 training went on with ranks: 2 -> 1" in note for note in trained.progress.notes)


def test_a_rank_that_hangs_is_taken_for_dead_after_the_timeout(prepared: Prepared, project: Path) -> None:
    ends = train_in_ranks(2, project, prepared, at_step(3, 1, lambda: time.sleep(6)), timeout=1.5)
    assert all(end.startswith("RanksLost") for end in ends)
    assert newest(project) == 3


def test_fault_12_only_rank_0_decides_where_to_resume(
    prepared: Prepared, project: Path, tmp_path: Path
) -> None:
    """Another machine may have an older checkpoint, or none: it is given the state, and never looks."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()

    def on_another_machine(seat: Seat) -> None:
        if seat.rank == 1:
            os.environ["DVC_ROOT"] = os.fspath(elsewhere)

    whole = train_in_ranks(2, project, prepared, on_another_machine)
    assert whole == ["", ""] and not list(elsewhere.iterdir())
    expected = results(project)
    for name in ("models", "metrics", ".resume"):
        (project / name).rename(tmp_path / f"whole{name}")

    def die(seat: Seat) -> None:
        on_another_machine(seat)
        kill_before_step(7, pytest.MonkeyPatch())

    assert train_in_ranks(2, project, prepared, die) == ["Killed: ", "Killed: "]
    assert train_in_ranks(2, project, prepared, on_another_machine) == ["", ""]
    assert results(project) == expected, "with as many ranks a resumed run has the bits of a whole one"


def test_fault_12_ranks_that_would_train_something_else_are_refused_by_name(
    prepared: Prepared, project: Path
) -> None:
    def work(seat: Seat) -> None:
        train_tiny(project, prepared, seat=seat, train=train_params(lr=0.01 + 0.01 * seat.rank))

    first, second = in_ranks(2, project, work)
    assert first.startswith("Stopped: the other ranks cannot be reached: [1] would train another")
    assert second.startswith(
        "InputError: rank 1 would train another experiment than rank 0, it differs in train.lr"
    )


def test_fault_13_with_other_numbers_of_ranks_a_run_goes_on_and_ends_where_it_would_have(
    prepared: Prepared, project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = tmp_path / "alone"
    alone.mkdir()
    with monkeypatch.context() as context:
        context.chdir(alone)
        context.setenv("DVC_ROOT", os.fspath(alone))
        train_tiny(alone, prepared, sections=WITHOUT_DROPOUT)

    def dies_at(step: int) -> Callable[[Seat], None]:
        return lambda seat: kill_before_step(step, pytest.MonkeyPatch())

    for world, step in ((2, 4), (1, 7), (4, STEPS)):
        ends = train_in_ranks(world, project, prepared, dies_at(step), sections=WITHOUT_DROPOUT)
        assert set(ends) == {"Killed: " if step < STEPS else ""}
    card = (project / "models/train/README.md").read_text()
    assert "ranks: 2 -> 1" in card and "ranks: 1 -> 4" in card
    expected = load_file(alone / "models/train/model.safetensors")
    for name, tensor in load_file(project / "models/train/model.safetensors").items():
        torch.testing.assert_close(tensor, expected[name], rtol=1e-2, atol=1e-3, msg=name)
    rows = [json.loads((folder / "metrics/train/metrics.json").read_text()) for folder in (alone, project)]
    assert rows[1]["best"]["mae"] == pytest.approx(rows[0]["best"]["mae"], rel=1e-4)


@pytest.mark.parametrize("rank", [0, 1])
def test_a_signal_to_any_rank_stops_all_at_the_same_step_and_saves(
    rank: int, prepared: Prepared, project: Path
) -> None:
    ends = train_in_ranks(2, project, prepared, at_step(3, rank, send_to_myself(signal.SIGTERM)))
    assert ends == ["ended with 143"] * 2
    assert newest(project) == 4, "the step was finished"


def test_the_budget_of_one_rank_stops_all(prepared: Prepared, project: Path) -> None:
    ends = train_in_ranks(2, project, prepared, max_hours=1e-9)
    assert ends == ["ended with 75"] * 2 and newest(project) == 1


def test_a_loss_that_is_not_finite_on_one_rank_stops_all_before_the_update_with_one_report(
    prepared: Prepared, project: Path
) -> None:
    def spoil(seat: Seat) -> None:
        original = loop.backward_piece

        def spoiled(model: Any, *rest: Any) -> Any:
            loss = original(model, *rest)
            return loss * float("nan") if seat.rank == 1 else loss

        loop.backward_piece = spoiled

    ends = train_in_ranks(2, project, prepared, spoil)
    assert all(end.startswith("NonFinite: the loss of step 0 is not finite") for end in ends)
    (folder,) = (project / ".resume/train").iterdir()
    assert len(json.loads((folder / "nonfinite.json").read_text())["origins"]) == 16, "of the whole group"


def test_fault_63_ranks_listen_on_the_interface_they_are_told_and_on_no_other(
    prepared: Prepared, project: Path
) -> None:
    def look(seat: Seat) -> None:
        def listening() -> None:
            found = [c.laddr.ip for c in psutil.Process().net_connections() if c.status == psutil.CONN_LISTEN]
            assert found and set(found) == {"127.0.0.1"}, found

        at_step(2, seat.rank, listening)(seat)

    assert train_in_ranks(2, project, prepared, look) == ["", ""]


def test_more_ranks_than_partitions_are_refused(prepared: Prepared, project: Path) -> None:
    ends = train_in_ranks(3, project, prepared, train=train_params(order="partitioned", partitions=2))
    assert all("InputError: train.partitions is 2, and 3 ranks would train" in end for end in ends)


def test_what_the_client_says_is_why_a_rank_failed_and_not_that_another_missed_it() -> None:
    missed = {"rank": 0, "code": 1, "said": "epoch 1\nerror: the other ranks cannot be reached: reset\n"}
    killed = {"rank": 1, "code": -9, "said": "epoch 1\n"}
    refused = {"rank": 1, "code": 1, "said": "error: first\n  - second\n"}
    assert _reason(missed) == ""
    assert _reason(killed) == "rank 1 was ended by SIGKILL; `dvc repro` continues from the last checkpoint"
    assert _reason(refused) == "first\n  - second"
    assert _code({"code": -2}) == 130 and _code({"code": -9}) == -9 and _code({"code": 75}) == 75
