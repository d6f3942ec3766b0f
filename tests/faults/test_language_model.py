"""A frozen language model in ST-SepNet: five architectures through one way of loading, offline and hashed."""

from __future__ import annotations

import json
import shutil
import socket
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from headway.errors import InputError
from headway.models.backbone import Backbone, open_backbone
from headway.models.st_sepnet import make_language_branch
from headway.models.standardized import Standardized
from headway.nn.prompt import Prompt, strongest_lags
from headway.nn.reprogramming import LanguageBranch
from headway.objectives.forecast_loss import absolute_error
from headway.training.optimizer import make_optimizer
from headway.training.precision import Precision
from headway.training.trace import trace_step
from tiny_backbones import KINDS, write_backbone
from tiny_model import SLOTS_PER_DAY, stirred, tiny_batch, tiny_meta
from tiny_sepnet import PARAMS, made, network

HISTORY = 16
WHAT = "google-bert/bert-base-uncased@1dbc166cf8765166998eff31ade2eb64c8a40076"


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


def speaking(folder: Path, **changes: Any) -> Standardized:
    facts = {"history": changes.pop("history", HISTORY)}
    return made(temporal="llm", backbone=str(folder), facts=facts, **changes)


def branch_of(model: Standardized) -> LanguageBranch:
    trend = network(model).trend
    assert trend is not None and isinstance(trend.branch, LanguageBranch)
    return trend.branch


# --- five architectures -------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_trained_is_saved_and_changes_and_the_rest_stands_still(
    kind: str, folders: dict[str, Path]
) -> None:
    model = speaking(folders[kind]).train()
    batch = tiny_batch(history=HISTORY, missing=0.0)
    z, saved = model.standardize(batch), set(model.state_dict())
    reader = branch_of(model).reader
    assert isinstance(reader, Backbone) and not reader.model.training, "no dropout in a frozen model"
    assert {p.dtype for p in reader.parameters() if not p.requires_grad} == {torch.bfloat16}
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    with torch.no_grad():
        for parameter in trained:
            parameter += 0.2 * torch.randn_like(parameter)  # what starts at zero takes part
    start = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    optimizer = torch.optim.Adam(trained, lr=0.01)
    for _ in range(3):
        optimizer.zero_grad()
        absolute_error(model.forecast_standard(z), z).backward()
        optimizer.step()
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert name in saved and not torch.equal(parameter, start[name]), name
        else:
            assert name not in saved and torch.equal(parameter, before[name]), name
    low_rank = {name for name in saved if "lora_" in name}
    assert low_rank and all(f".{matrix}." in "".join(low_rank) for matrix in ("lora_A", "lora_B"))


@pytest.mark.parametrize("kind", KINDS)
def test_two_forwards_are_identical_and_a_state_goes_into_a_fresh_model(
    kind: str, folders: dict[str, Path]
) -> None:
    model, batch = speaking(folders[kind]), tiny_batch(history=HISTORY)
    stir_trained(model)
    other = speaking(folders[kind])
    assert not torch.equal(other(batch).point, model(batch).point)
    other.load_state_dict(model.state_dict())
    assert torch.equal(other(batch).point, model(batch).point)
    assert torch.equal(model(batch).point, model(batch).point)


def stir_trained(model: Standardized) -> None:
    frozen = {n: p.detach().clone() for n, p in model.named_parameters() if not p.requires_grad}
    stirred(model)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name in frozen:
                parameter.copy_(frozen[name])


@pytest.mark.parametrize("kind", ["bert", "llama"])
def test_the_plan_counts_what_is_frozen_once_and_gives_it_no_moments(
    kind: str, folders: dict[str, Path]
) -> None:
    model = speaking(folders[kind], gate="temporal_only")
    frozen = sum(p.nbytes for p in model.parameters() if not p.requires_grad)
    trained = sum(p.nbytes for p in model.parameters() if p.requires_grad)
    fp32 = Precision(name="fp32", device_type="cpu")
    memory = trace_step(model, tiny_meta(history=HISTORY), 1, fp32, accumulate=True)
    assert frozen + trained <= memory.parameters <= frozen + trained + 2**20
    assert memory.gradients == trained
    optimizer = make_optimizer(model, 0.001, 0.0)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter) if parameter.requires_grad else None
    optimizer.step()
    kept = sum(moment.nbytes for moments in optimizer.state.values() for moment in moments.values())
    assert memory.optimizer == kept and trained < kept < 2 * trained
    assert not any(type(p).__name__ == "FakeTensor" for p in model.parameters())


def test_computed_again_the_gradients_are_the_same_to_the_bit(folders: dict[str, Path]) -> None:
    batch, found = tiny_batch(history=HISTORY), []
    for again in (False, True):
        model = speaking(folders["bert"]).train()
        stir_trained(model)
        model.set_recompute(again)
        absolute_error(model.forecast_standard(model.standardize(batch)), batch).backward()
        found.append([p.grad for p in model.parameters() if p.grad is not None])
    assert len(found[0]) == len(found[1]) > 10
    assert all(torch.equal(kept, again) for kept, again in zip(*found, strict=True))


OTHER: dict[str, Any] = {
    "backbone_layers": 1,
    "prototypes": 7,
    "features": 5,
    "lora_rank": 0,
    "statistics": False,
}


@pytest.mark.parametrize("key", ["backbone", *OTHER])
def test_every_key_of_the_language_model_acts(key: str, folders: dict[str, Path], tmp_path: Path) -> None:
    def forecast(folder: Path, **changes: Any) -> torch.Tensor:
        model = speaking(folder, **changes)
        stir_trained(model)
        return model(tiny_batch(history=HISTORY)).point

    if key == "backbone":
        other = forecast(write_backbone(tmp_path / "other", "bert", seed=1))
    else:
        other = forecast(folders["bert"], **{key: OTHER[key]})
    assert not torch.allclose(other, forecast(folders["bert"]), atol=1e-3)


# --- the prompt ---------------------------------------------------------------------------------------------


def prompt_said(day: int, *, knows_weeks: bool) -> str:
    """Of a window that begins at seven o'clock."""
    words = torch.arange(128.0).unsqueeze(1)  # the embedding of a character is its code
    prompt = Prompt(
        "speeds.",
        lambda text: list(text.encode()),
        words,
        history=16,
        horizon=8,
        slots_per_day=24,
        knows_weeks=knows_weeks,
        statistics=True,
    )
    series = torch.sin(torch.arange(16.0) * 2 * torch.pi / 4).unsqueeze(0) + torch.linspace(0, 1, 16)
    calendar = torch.tensor([[[(7 + step) % 24, day] for step in range(16)]])
    return "".join(chr(int(code)) for code in prompt(series, calendar)[0, :, 0])


def test_a_prompt_says_the_statistics_of_its_window() -> None:
    said = prompt_said(0, knows_weeks=True)
    begin = "Dataset description: speeds. Task description: forecast the next 8 steps given the previous 16 steps."
    assert said.startswith(begin)
    assert said.removeprefix(begin).startswith(
        "Input statistics: min value -1.0, max value 2.0., median value 0.5., the trend of input is downward, "
        "top 5 lags are 4. 8. "
    )
    assert "from Monday 7 o'clock" in said and "to Monday 22 o'clock" in said


def test_a_prompt_names_no_day_where_training_saw_each_day_but_once() -> None:
    said = prompt_said(6, knows_weeks=False)
    assert "from 7 o'clock" in said and "to 22 o'clock" in said
    assert said == prompt_said(0, knows_weeks=False) and "day" not in said


@pytest.mark.parametrize("days", [13, 14])
def test_a_language_model_is_told_the_day_where_training_spans_two_weeks(
    days: int, folders: dict[str, Path]
) -> None:
    meta = replace(tiny_meta(history=HISTORY), training_rows=days * SLOTS_PER_DAY)
    branch = make_language_branch(replace(PARAMS, backbone=str(folders["bert"])), meta)
    monday, tuesday = (torch.tensor([[[3, day]] * HISTORY]) for day in (0, 1))
    said = [branch.prompt(torch.zeros(1, HISTORY), calendar) for calendar in (monday, tuesday)]
    assert torch.equal(*said) == (days < 14)


def test_lags_are_those_of_the_largest_autocorrelation() -> None:
    series = torch.sin(torch.arange(48.0) * 2 * torch.pi / 12).unsqueeze(0)
    assert set(strongest_lags(series)[0, :2].tolist()) == {12, 24}
    centered = torch.randn(1, 20, generator=torch.Generator().manual_seed(0))
    centered = centered - centered.mean()
    circular = [(centered * centered.roll(lag, 1)).sum().item() for lag in range(1, 11)]
    assert strongest_lags(centered)[0].tolist() == (1 + np.argsort(circular)[::-1][:5]).tolist()


# --- the folder ---------------------------------------------------------------------------------------------


def without(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


def as_pickle(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def cut(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def of_another_revision(folder: Path) -> None:
    receipts = folder / ".cache/huggingface/download"
    receipts.mkdir(parents=True)
    (receipts / "model.safetensors.metadata").write_text(f"{40 * 'a'}\netag\n0\n")


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (shutil.rmtree, "no such folder"),
        (without("config.json"), "config.json is missing"),
        (without("model.safetensors"), "weights must be safetensors"),
        (as_pickle, "pytorch_model.bin may hold code and is not read"),
        (without("tokenizer.json"), "no tokenizer"),
        (cut, "cannot be loaded"),
        (of_another_revision, f"it is of revision {40 * 'a'}, st_sepnet.backbone_source asks for 1dbc166"),
    ],
)
def test_fault_54_a_language_model_that_is_not_there_stops_with_what_is_expected_and_where_to_get_it(
    spoil: Callable[[Path], Any], words: str, tmp_path: Path
) -> None:
    folder = write_backbone(tmp_path / "bert", "bert")
    spoil(folder)
    with pytest.raises(InputError) as stopped:
        speaking(folder, backbone_source=WHAT)
    said = str(stopped.value)
    assert words in said and "Expected: config.json, *.safetensors and a tokenizer" in said
    assert "hf download google-bert/bert-base-uncased --revision 1dbc166cf87651" in said


def test_code_in_the_folder_is_not_run(tmp_path: Path) -> None:
    folder = write_backbone(tmp_path / "bert", "bert")
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "ours", "auto_map": {"AutoConfig": "own.Config", "AutoModel": "own.Model"}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "own.py").write_text("raise SystemExit('run')\n")
    with pytest.raises(InputError, match="cannot be loaded"):
        open_backbone(folder, WHAT, 0, 4)


def test_a_history_shorter_than_a_patch_and_a_prompt_too_long_are_refused(tmp_path: Path) -> None:
    folder = write_backbone(tmp_path / "bert", "bert")
    with pytest.raises(InputError, match=r"patches of 16 steps; set windows\.history"):
        speaking(folder, history=6)
    config = json.loads((folder / "config.json").read_text()) | {"max_position_embeddings": 512}
    reader, _ = open_backbone(folder, "", 0, 0)
    assert reader.limit == config["max_position_embeddings"]
    with pytest.raises(InputError, match=r"features: 20, but .* has 16"):
        speaking(folder, features=20)
