"""Memory that runs out in mid-run: smaller pieces of the same group, then recomputation, told in the record."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from interrupt import Killed, kill_before_step, run_folder
from safetensors.torch import load_file
from torch import Tensor

from headway.data.prepared import Prepared
from headway.errors import Stopped
from headway.models.st_mamba import Block
from headway.training import experiment, piece
from headway.training.runtime import RuntimeParams
from headway.types import Batch
from tiny_run import RUNTIME, SECTIONS, TRAIN, results, train_tiny

STEPS = TRAIN.epochs * TRAIN.epoch_steps

WITHOUT_DROPOUT = {
    **SECTIONS,
    "st_mamba": replace(SECTIONS["st_mamba"], dropout=0.0),
    "ha_gat": replace(SECTIONS["ha_gat"], attention_dropout=0.0),
}


def allow(windows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """An allocator that has room for so many windows."""
    original = piece.backward_piece

    def limited(model: Any, batch: Batch, *others: Any) -> Tensor:
        summed = original(model, batch, *others)  # gradients of the piece that breaks must not stay
        if len(batch.origin) > windows:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return summed

    monkeypatch.setattr("headway.training.loop.backward_piece", limited)


def rows(project: Path) -> list[dict[str, Any]]:
    lines = (run_folder(project) / "record.jsonl").read_text().splitlines()
    return [row for line in lines if "out_of_memory" in (row := json.loads(line))]


def weights(project: Path) -> dict[str, Tensor]:
    return load_file(project / "models/train/model.safetensors")


def test_fault_08_a_run_that_ran_out_of_memory_ends_in_the_weights_of_one_that_had_room(
    prepared: Prepared, project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    train_tiny(project, prepared, sections=WITHOUT_DROPOUT)
    roomy = weights(project)
    (tmp_path / "tight").mkdir()
    monkeypatch.chdir(tmp_path / "tight")
    monkeypatch.setenv("DVC_ROOT", str(tmp_path / "tight"))
    allow(3, monkeypatch)
    with caplog.at_level(logging.WARNING):
        trained = train_tiny(tmp_path / "tight", prepared, sections=WITHOUT_DROPOUT)
    assert "out of memory in step 0; going on with runtime.micro_batch: 4 -> 2" in caplog.text
    assert [row["out_of_memory"] for row in rows(tmp_path / "tight")] == [
        "runtime.micro_batch: 8 -> 4",
        "runtime.micro_batch: 4 -> 2",
    ]
    assert any("memory ran out" in note for note in trained.progress.notes)
    for name, tensor in weights(tmp_path / "tight").items():
        torch.testing.assert_close(tensor, roomy[name], rtol=1e-3, atol=1e-4)


def test_one_window_that_does_not_fit_is_computed_again_instead_of_kept(
    prepared: Prepared, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, whole = piece.backward_piece, []

    def limited(model: Any, *others: Any) -> Tensor:
        if not model.recomputes():
            raise MemoryError
        whole.append(1)
        return original(model, *others)

    monkeypatch.setattr("headway.training.loop.backward_piece", limited)
    train_tiny(project, prepared, micro_batch=1)
    assert whole and [row["out_of_memory"] for row in rows(project)] == ["activations computed again"]


def test_fault_08_one_window_computed_again_that_does_not_fit_goes_in_slices_to_the_same_weights(
    prepared: Prepared, project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train_tiny(project, prepared, sections=WITHOUT_DROPOUT, micro_batch=1)
    roomy, original = weights(project), piece.backward_piece
    (tmp_path / "tight").mkdir()
    monkeypatch.chdir(tmp_path / "tight")
    monkeypatch.setenv("DVC_ROOT", str(tmp_path / "tight"))

    def limited(model: Any, *others: Any) -> Tensor:
        if model.slices() < 4:
            raise MemoryError
        return original(model, *others)

    monkeypatch.setattr("headway.training.loop.backward_piece", limited)
    train_tiny(tmp_path / "tight", prepared, sections=WITHOUT_DROPOUT, micro_batch=1)
    assert [row["out_of_memory"] for row in rows(tmp_path / "tight")] == [
        "activations computed again",
        "sensors read in 2 slices of the history",
        "sensors read in 4 slices of the history",
    ]
    for name, tensor in weights(tmp_path / "tight").items():
        torch.testing.assert_close(tensor, roomy[name], rtol=1e-3, atol=1e-4)


def test_a_run_that_went_on_in_slices_is_continued_in_slices_to_the_same_bits(
    prepared: Prepared, project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Memory runs out in the first step alone, so nothing but the checkpoint knows of the slices."""
    original, layers = piece.backward_piece, replace(SECTIONS["st_mamba"], layers=2)
    sections = {**SECTIONS, "st_mamba": layers}

    def tight_at_first() -> None:
        left = [MemoryError(), MemoryError()]

        def limited(*given: Any) -> Tensor:
            if left:
                raise left.pop()
            return original(*given)

        monkeypatch.setattr("headway.training.loop.backward_piece", limited)

    tight_at_first()
    train_tiny(project, prepared, sections=sections, micro_batch=1)
    assert [row["out_of_memory"] for row in rows(project)][-1] == "sensors read in 2 slices of the history"
    (tmp_path / "killed").mkdir()
    monkeypatch.chdir(tmp_path / "killed")
    monkeypatch.setenv("DVC_ROOT", str(tmp_path / "killed"))
    tight_at_first()
    with monkeypatch.context() as context:
        kill_before_step(6, context)
        with pytest.raises(Killed):
            train_tiny(tmp_path / "killed", prepared, sections=sections, micro_batch=1)
    train_tiny(tmp_path / "killed", prepared, sections=sections, micro_batch=1)
    assert results(tmp_path / "killed") == results(project)


def test_where_no_slice_fits_training_stops_and_says_what_helps(
    prepared: Prepared, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def limited(*_: Any) -> Tensor:
        raise MemoryError

    monkeypatch.setattr("headway.training.loop.backward_piece", limited)
    with pytest.raises(Stopped, match=r"out of memory: .* docs/training\.md lists what else helps"):
        train_tiny(project, prepared, micro_batch=1)
    assert [row["out_of_memory"] for row in rows(project)][-1] == "sensors read in 8 slices of the history"


def test_recomputing_changes_no_bit_and_draws_the_same_dropout(
    prepared: Prepared, project: Path, whole: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    original, calls = Block.newest, []

    def counted(*given: Any) -> Tensor:
        calls.append(torch.is_grad_enabled())
        return original(*given)

    def recompute(model: Any, *others: Any) -> RuntimeParams:
        model.set_recompute(True)
        return next(other for other in others if isinstance(other, RuntimeParams))

    monkeypatch.setattr(Block, "newest", counted)
    monkeypatch.setattr(experiment, "plan_memory", recompute)
    train_tiny(project, prepared)
    assert results(project) == whole
    assert sum(calls) > 3 * STEPS, "two pieces a step, but for the smallest group, and each forward twice"


def test_micro_batch_0_is_planned_and_told_in_one_line(
    prepared: Prepared, project: Path, caplog: Any
) -> None:
    with caplog.at_level(logging.INFO):
        train_tiny(project, prepared, micro_batch=0, memory_budget="4GB")
    assert "micro-batch 16: 0.59 GiB of a budget of 3.73" in caplog.text


def test_a_budget_that_is_no_amount_of_memory_is_refused() -> None:
    with pytest.raises(ValueError, match="'4 cores' is no amount of memory: write 4GB"):
        replace(RUNTIME, memory_budget="4 cores")
