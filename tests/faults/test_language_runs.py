"""Runs of ST-SepNet with a frozen language model: killed, published, found again."""

from __future__ import annotations

import json
import shutil
import socket
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from interrupt import train_until

from headway.data.prepare import prepare
from headway.data.prepared import Prepared, open_prepared
from headway.errors import InputError
from headway.models.backbone import fingerprint
from headway.models.folder import read_model_folder
from headway.training.experiment import identity
from tiny_backbones import KINDS, write_backbone
from tiny_model import HYPERGRAPH, POINT, tiny_batch
from tiny_run import STAGE, results, train_params, train_tiny
from tiny_sepnet import CHOICE, PARAMS
from worlds import preprocess_params, windows_params, write_raw_world

HISTORY = 16


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A folder for each architecture."""
    root = tmp_path_factory.mktemp("backbones")
    return {kind: write_backbone(root / kind, kind) for kind in KINDS}


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise AssertionError("a network attempt")

    monkeypatch.setattr(socket.socket, "connect", refuse)


# --- a run --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def speaking_data(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    folder = tmp_path_factory.mktemp("data")
    write_raw_world(folder / "raw", facts={"description": "four sensors on a line."})
    windows = windows_params(history=HISTORY, horizon=8, context=("12h",))
    prepare(folder / "raw", folder / "prepared", preprocess_params(), windows)
    return open_prepared(folder / "prepared")


def sections_of(folder: Path) -> dict[str, Any]:
    return {
        "model": CHOICE,
        "st_sepnet": replace(PARAMS, temporal="llm", backbone=str(folder), dropout=0.2),
        "hypergraph": replace(HYPERGRAPH, rebuild_steps=5),
        "point": POINT,
    }


SHORT = train_params(epochs=2, epoch_steps=3, lr=0.05)


def test_the_description_of_the_data_set_reaches_the_prompt(
    speaking_data: Prepared, folders: dict[str, Path]
) -> None:
    assert speaking_data.meta.description == "four sensors on a line."


def test_fault_01_a_killed_run_ends_with_the_same_bits_and_its_model_is_small(
    speaking_data: Prepared, project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    heavy = write_backbone(tmp_path / "gpt2", "gpt2", width=128, layers=4)
    sections = sections_of(heavy)
    sections["st_sepnet"] = replace(sections["st_sepnet"], statistics=False)
    options = {"sections": sections, "train": SHORT}
    train_until(3, project, speaking_data, **options)
    train_tiny(project, speaking_data, **options)
    again = tmp_path / "again"
    again.mkdir()
    monkeypatch.chdir(again)
    monkeypatch.setenv("DVC_ROOT", str(again))
    train_tiny(again, speaking_data, **options)
    assert results(again) == results(project)
    frozen = sum(path.stat().st_size for path in heavy.iterdir())
    pushed = sum(path.stat().st_size for path in (again / "models/train").iterdir())
    assert pushed < frozen / 4
    saved = sum(path.stat().st_size for path in (again / ".resume").rglob("step-0000000006/*"))
    assert saved < frozen


def test_a_published_model_finds_its_language_model_or_says_what_is_missing(
    speaking_data: Prepared, project: Path, tmp_path: Path
) -> None:
    folder = write_backbone(tmp_path / "llama", "llama")
    trained = train_tiny(project, speaking_data, sections=sections_of(folder), train=SHORT)
    models = project / "models/train"
    batch = tiny_batch(history=HISTORY, horizon=8, nodes=4, lags=0)  # a lag, or what was usual: one of them
    expected = trained.model.eval()(batch).point
    assert torch.equal(read_model_folder(models).model(batch).point, expected)
    config = json.loads((models / "config.json").read_text())
    assert config["outside"]["files"] == fingerprint(folder)
    shutil.copytree(folder, models / "backbone")
    shutil.rmtree(folder)
    assert torch.equal(read_model_folder(models).model(batch).point, expected)
    (models / "backbone/config.json").write_text("{}")
    with pytest.raises(InputError, match=r"config\.json: changed, expected SHA-256 [0-9a-f]{64}"):
        read_model_folder(models)
    shutil.rmtree(models / "backbone")
    with pytest.raises(InputError, match=r"model\.safetensors: missing, expected SHA-256 [0-9a-f]{64}"):
        read_model_folder(models)


def test_other_weights_are_another_run(speaking_data: Prepared, tmp_path: Path) -> None:
    folder = write_backbone(tmp_path / "bert", "bert")
    params = {**sections_of(folder), "train": SHORT}
    before = identity(speaking_data, params, STAGE)
    assert identity(speaking_data, params, STAGE) == before
    write_backbone(folder, "bert", seed=1)
    after = identity(speaking_data, params, STAGE)
    assert {key for key in before if before[key] != after[key]} == {"outside"}
