"""One, two and four ranks train the same model: the same windows a step, the same gradient, the same validation."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from test_accumulation import FP32, PARAMS, fresh_model, prepared

from headway.data.prepared import Prepared
from headway.data.windows import Windows
from headway.training.course import Course
from headway.training.loop import take_step
from headway.training.optimizer import make_optimizer
from headway.training.ranks import Ranks, join
from headway.training.run import Run
from headway.training.seat import Seat
from headway.training.state import TrainingState
from in_ranks import in_ranks
from tiny_run import RUNTIME, SECTIONS, train_params, train_tiny

__all__ = ["prepared"]
ORDERS = ("shuffled", "partitioned", "batches")
WITHOUT_DROPOUT: dict[str, Any] = {
    **SECTIONS,
    "st_mamba": replace(SECTIONS["st_mamba"], dropout=0.0),
    "ha_gat": replace(SECTIONS["ha_gat"], attention_dropout=0.0),
}


def take_one_step(
    prepared: Prepared, folder: Path, order: Any, ranks: Ranks, break_at: Callable[[], None] | None = None
) -> None:
    """Leave gradients, weights and loss of a step in files of this rank."""
    params = replace(PARAMS, order=order, partitions=4)
    course, model = Course(params, prepared.meta.splits), fresh_model(prepared)
    optimizer = make_optimizer(model, params.lr, params.weight_decay)
    state = TrainingState(model, optimizer, FP32.gradient_scaler())
    windows = Windows(prepared, "cpu", "memory", course.parts(ranks.rank, ranks.world))
    if break_at is not None:
        break_at()
    with Run("train", {"code": ""}, replace(RUNTIME, micro_batch=5), ranks) as run:
        loss = take_step(state, windows, course.origins(3), course, FP32, run)
    gradients = {name: value.grad for name, value in model.named_parameters() if value.grad is not None}
    weights = {f"weight.{name}": value for name, value in model.state_dict().items()}
    facts = {"loss": loss, "micro_batch": run.runtime.micro_batch, "rows": len(windows.held[0])}
    save_file(gradients | weights, folder / f"{ranks.world}-{ranks.rank}.safetensors")
    (folder / f"{ranks.world}-{ranks.rank}.json").write_text(json.dumps(facts))


def left(folder: Path, world: int, rank: int) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    name = f"{world}-{rank}"
    return load_file(folder / f"{name}.safetensors"), json.loads((folder / f"{name}.json").read_text())


def assert_alike(found: dict[str, torch.Tensor], whole: dict[str, torch.Tensor]) -> None:
    """To rounding. AdamW's first step has one length whatever the gradient, so of one that is 0 but for rounding, as
    where as many forecasts are too high as too low, nothing is asked of the weight."""
    for name, tensor in found.items():
        gradient = whole.get(name.removeprefix("weight."), torch.ones(()))
        decided = (gradient.abs() > 1e-6) if name.startswith("weight.") else torch.ones_like(tensor).bool()
        expected = torch.where(decided, whole[name], tensor)
        torch.testing.assert_close(tensor, expected, rtol=1e-3, atol=1e-5, msg=name)


@pytest.mark.parametrize(
    ("order", "worlds"), [("shuffled", (2, 4)), ("partitioned", (4,)), ("batches", (2,))]
)
def test_two_and_four_ranks_add_up_to_the_gradient_of_one(
    order: str, worlds: tuple[int, ...], prepared: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A third of the targets is not observed, so each rank holds another count."""
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    take_one_step(prepared, tmp_path, order, Ranks())
    whole, alone = left(tmp_path, 1, 0)

    def work(seat: Seat) -> None:
        take_one_step(prepared, tmp_path, order, join(seat, torch.device("cpu")))

    for world in worlds:
        assert in_ranks(world, tmp_path, work) == [""] * world
        first, _ = left(tmp_path, world, 0)
        for rank in range(world):
            tensors, facts = left(tmp_path, world, rank)
            assert facts["loss"] == pytest.approx(alone["loss"], rel=1e-5)
            assert tensors.keys() == whole.keys() and len(whole) > 40
            for name, tensor in tensors.items():
                assert torch.equal(tensor, first[name]), f"rank {rank} has another {name}"
            assert_alike(tensors, whole)
            if order != "shuffled":
                assert facts["rows"] < alone["rows"], "a rank holds its part only"


def test_memory_that_runs_out_on_one_rank_makes_all_go_on_in_smaller_pieces(
    prepared: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    take_one_step(prepared, tmp_path, "shuffled", Ranks())
    whole, _ = left(tmp_path, 1, 0)

    def work(seat: Seat) -> None:
        def limit() -> None:
            gather = Windows.gather

            def limited(windows: Windows, origins: np.ndarray) -> Any:
                if len(origins) > 2:
                    raise MemoryError
                return gather(windows, origins)

            if seat.rank == 1:
                pytest.MonkeyPatch().setattr(Windows, "gather", limited)

        take_one_step(prepared, tmp_path, "shuffled", join(seat, torch.device("cpu")), limit)

    assert in_ranks(2, tmp_path, work) == ["", ""]
    for rank in (0, 1):
        tensors, facts = left(tmp_path, 2, rank)
        assert facts["micro_batch"] == 2
        assert_alike(tensors, whole)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("world", [1, 2, 3, 4])
def test_ranks_take_each_window_of_a_step_once_and_judge_each_validation_window_once(
    order: Any, world: int, prepared: Prepared
) -> None:
    course = Course(train_params(order=order, partitions=12, batch_size=24), prepared.meta.splits)
    for step in range(course.epoch_steps + 2):
        group = course.origins(step)
        shares = [course.share(group, rank, world) for rank in range(world)]
        assert sorted(np.concatenate(shares)) == sorted(group)
        for rank, share in enumerate(shares):
            first, last = course.parts(rank, world)[0]
            assert ((first <= share) & (share < last)).all()
            assert len(group) < 24 or len(share) == 24 // world, "an even load"
    judged = np.concatenate([course.validation_share(rank, world) for rank in range(world)])
    assert sorted(judged) == sorted(course.validation)


@pytest.mark.parametrize("order", ["shuffled", "partitioned"])
def test_a_training_of_two_or_four_ranks_ends_where_that_of_one_does(
    order: Any, prepared: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    errors, weights = {}, {}
    params = train_params(order=order, partitions=4, epochs=2)
    for world in (1, 2, 4) if order == "shuffled" else (1, 4):
        folder = tmp_path / str(world)
        folder.mkdir()
        monkeypatch.chdir(folder)
        monkeypatch.setenv("DVC_ROOT", str(folder))

        def work(seat: Seat) -> None:
            train_tiny(Path(), prepared, train=params, sections=WITHOUT_DROPOUT, seat=seat)

        if world == 1:
            train_tiny(folder, prepared, train=params, sections=WITHOUT_DROPOUT)
        else:
            assert in_ranks(world, tmp_path, work) == [""] * world
        errors[world] = json.loads((folder / "metrics/train/metrics.json").read_text())["best"]["mae"]
        weights[world] = load_file(folder / "models/train/model.safetensors")
    assert list(errors.values()) == pytest.approx([errors[1]] * len(errors), rel=1e-4)
    for name, tensor in weights[1].items():
        torch.testing.assert_close(weights[4][name], tensor, rtol=1e-2, atol=1e-3, msg=name)
