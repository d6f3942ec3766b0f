"""A pretraining that is interrupted, repeated or switched off (faults 1, 2, 5, 26 for this stage)."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from run_stages import outputs, run_stage, set_params

from headway.training import pretraining
from headway.training.transfer import read_transfer

SMALL: dict[str, Any] = {
    "method": "gt_ssl",
    "epochs": 2,
    "epoch_steps": 4,
    "validation_trees": 2,
    "batch_size": 2,
    "bins": 4,
    "interactions": 1,
}
TRANSFER = Path("models/pretrain/transfer.safetensors")


@pytest.fixture
def learning(stages: Path) -> Path:
    """The finished stages with a method chosen, nothing pretrained yet."""
    set_params(pretrain=SMALL, sgmp={"hidden_dim": 8}, runtime={"micro_batch": 1})
    return stages


def kill_after(monkeypatch: pytest.MonkeyPatch, steps: int) -> None:
    """Run the stage in a child that is gone before it takes another step."""
    pid = os.fork()
    if pid == 0:
        original, taken = pretraining.take_step, iter(range(steps))

        def take_step(*arguments: Any) -> float:
            if next(taken, None) is None:
                os._exit(9)
            return original(*arguments)

        monkeypatch.setattr(pretraining, "take_step", take_step)
        run_stage("pretrain")
        os._exit(0)
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 9


def test_fault_01_a_killed_pretraining_continues_to_the_same_bits(
    learning: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run_stage("pretrain") == ""
    whole = outputs("pretrain")
    set_params(pretrain=SMALL, runtime={"resume": "never", "checkpoint_steps": 1})
    kill_after(monkeypatch, 3)
    set_params(runtime={"resume": "auto"})
    kill_after(monkeypatch, 2)
    assert run_stage("pretrain") == ""
    assert outputs("pretrain") == whole
    rows = Path("metrics/pretrain/plots/metrics/val/growth.tsv").read_text().splitlines()
    assert len(rows) == 3


def test_fault_03_a_spent_budget_leaves_with_75_and_the_rest_follows(learning: Path) -> None:
    assert run_stage("pretrain") == ""
    whole = outputs("pretrain")
    set_params(runtime={"resume": "never", "max_hours": 1e-9})
    assert run_stage("pretrain") == "75"
    set_params(runtime={"resume": "auto", "max_hours": 0.0})
    assert run_stage("pretrain") == ""
    assert outputs("pretrain") == whole


def test_without_a_method_the_marker_is_the_same_whatever_else_is_set(stages: Path) -> None:
    marker = TRANSFER.read_bytes()
    set_params(pretrain={"lr": 0.1, "transfer": "freeze"}, sgmp={"hidden_dim": 8})
    assert run_stage("pretrain") == "" and TRANSFER.read_bytes() == marker
    assert read_transfer(TRANSFER).mode == "none" and not list(Path(".resume").glob("pretrain/*"))


def test_with_transfer_none_training_is_handed_the_marker_and_another_mode_retrains_no_encoder(
    learning: Path,
) -> None:
    marker = TRANSFER.read_bytes()
    set_params(pretrain={"transfer": "none"})
    assert run_stage("pretrain") == "" and TRANSFER.read_bytes() == marker
    before = Path("models/pretrain/encoder.safetensors").read_bytes()
    set_params(pretrain={"transfer": "freeze"})
    assert run_stage("pretrain") == ""
    assert Path("models/pretrain/encoder.safetensors").read_bytes() == before
    assert len(list(Path(".resume/pretrain").iterdir())) == 1, "the same run, found again"
    assert read_transfer(TRANSFER).mode == "freeze"


@pytest.mark.parametrize(("encoder", "spatial"), [("sgmp", "sgmp"), ("ha_gat", "ha_gat"), ("sgmp", "ha_gat")])
@pytest.mark.parametrize("mode", ["freeze", "finetune"])
def test_training_takes_over_what_was_pretrained_and_the_model_card_says_so(
    encoder: str, spatial: str, mode: str, learning: Path
) -> None:
    set_params(pretrain={"encoder": encoder, "transfer": mode}, model={"spatial": spatial})
    set_params(train={"epochs": 1, "epoch_steps": 2, "validation_windows": 8})
    for stage in ("pretrain", "train", "evaluate"):
        assert run_stage(stage) == "", stage
    assert f"GT-SSL, encoder {encoder}" in Path("models/train/README.md").read_text()
    identity = json.loads(next(Path(".resume/train").glob("*/identity.json")).read_text())
    assert {"pretrained"} <= set(identity)


def test_a_transfer_that_fits_nothing_is_refused(learning: Path) -> None:
    set_params(model={"spatial": "none"}, st_mamba={"node_embedding": False}, none={"hidden_dim": 8})
    assert run_stage("pretrain") == ""
    assert "takes nothing over from an encoder sgmp" in run_stage("train")


def test_a_transfer_file_that_is_damaged_is_refused(stages: Path) -> None:
    TRANSFER.write_bytes(b"no tensors")
    assert "run `dvc repro pretrain`" in run_stage("train")
