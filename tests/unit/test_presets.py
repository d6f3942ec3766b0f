"""A preset changes the values it names and nothing else of params.yaml, or it changes nothing."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from headway.__main__ import main
from headway.commands.presets import apply_preset, list_presets
from headway.commands.sections import read_sections
from headway.errors import InputError
from headway.params import load_document
from project_params import ROOT

PRESETS = ROOT / "presets"


@pytest.fixture
def params(tmp_path: Path) -> Path:
    return Path(shutil.copy(ROOT / "params.yaml", tmp_path / "params.yaml"))


def overlay(tmp_path: Path, text: str, name: str = "own") -> Path:
    """A folder of presets that holds this one."""
    folder = tmp_path / "presets"
    folder.mkdir(exist_ok=True)
    (folder / f"{name}.yaml").write_text(text)
    return folder


def comments(path: Path) -> list[str]:
    return [line[line.index("#") :] for line in path.read_text().splitlines() if "#" in line]


@pytest.mark.parametrize("name", list_presets(PRESETS))
def test_every_preset_leads_to_a_file_whose_every_section_is_valid(params: Path, name: str) -> None:
    assert apply_preset(params, PRESETS, name)
    assert read_sections(params)["dataset"] == "simulated"


@pytest.mark.parametrize("name", list_presets(PRESETS))
def test_every_comment_and_the_order_of_params_survive_a_preset(params: Path, name: str) -> None:
    before, keys = comments(params), list(load_document(params))
    apply_preset(params, PRESETS, name)
    assert comments(params) == before
    assert list(load_document(params)) == keys


@pytest.mark.parametrize("name", list_presets(PRESETS))
def test_a_preset_applied_twice_changes_nothing_the_second_time(params: Path, name: str) -> None:
    apply_preset(params, PRESETS, name)
    text = params.read_text()
    assert apply_preset(params, PRESETS, name) == []
    assert params.read_text() == text


def test_the_low_vram_preset_holds_the_numbers_of_its_source(params: Path) -> None:
    apply_preset(params, PRESETS, "low-vram")
    sections = read_sections(params)
    assert (sections["windows"].history, sections["windows"].horizon) == (48, 12)
    assert (sections["runtime"].micro_batch, sections["train"].batch_size) == (1, 32)
    assert (sections["train"].lr, sections["train"].weight_decay) == (1e-4, 1e-4)
    assert sections["train"].clip_norm == 1.0
    assert sections["preprocess"].max_neighbors == 15
    ha_gat = sections["ha_gat"]
    assert (ha_gat.hidden_dim, ha_gat.heads, ha_gat.attention_dropout) == (64, 2, 0.2)
    assert sections["runtime"].checkpoint_steps == 1000


def test_the_stmgt_preset_holds_the_numbers_of_its_source(params: Path) -> None:
    apply_preset(params, PRESETS, "stmgt")
    sections = read_sections(params)
    model, train, gatv2 = sections["model"], sections["train"], sections["gatv2"]
    assert (model.name, model.spatial, model.head) == ("stmgt", "gatv2", "mixture")
    assert (gatv2.hidden_dim, gatv2.heads, gatv2.edge_dropout) == (96, 4, 0.1)
    assert (sections["mixture"].components, sections["mixture"].mean_square) == (5, 0.4)
    assert (train.batch_size, train.lr, train.weight_decay, train.clip_norm) == (64, 1e-3, 1e-4, 1.0)
    assert (train.schedule, train.epochs, train.patience) == ("cosine", 100, 15)


def test_the_st_sepnet_preset_holds_the_numbers_of_its_source(params: Path) -> None:
    apply_preset(params, PRESETS, "st-sepnet")
    sections = read_sections(params)
    model, train, own = sections["model"], sections["train"], sections["st_sepnet"]
    assert (model.name, model.spatial) == ("st_sepnet", "hypergraph")
    assert (sections["windows"].history, sections["windows"].horizon) == (48, 48)
    assert (own.layers, own.skip_dim, own.features, own.lora_rank) == (3, 64, 32, 4)
    assert (sections["hypergraph"].hidden_dim, sections["point"].hidden_dim) == (32, 128)
    assert (train.batch_size, train.epochs, train.patience) == (16, 50, 10)
    assert (train.schedule, train.milestones, train.decay) == ("multistep", (5, 20, 40), 0.3)


def test_the_benchmark_preset_reads_the_last_twelve_steps_only(params: Path) -> None:
    apply_preset(params, PRESETS, "benchmark-12-12")
    windows = read_sections(params)["windows"]
    assert (windows.history, windows.horizon, windows.context, windows.trailing_weeks) == (12, 12, (), 0)


def test_a_change_tells_the_value_before_and_after(params: Path, tmp_path: Path) -> None:
    train = load_document(params)["train"]
    text = f"train:\n  lr: 0.00042\n  seed: {train['seed']}\n"
    (change,) = apply_preset(params, overlay(tmp_path, text), "own")
    assert (change.key, change.old, change.new) == ("train.lr", train["lr"], 0.00042)


def test_a_list_that_becomes_empty_leaves_the_sections_behind_it_alone(params: Path, tmp_path: Path) -> None:
    before = load_document(params)
    apply_preset(params, overlay(tmp_path, "windows:\n  context: []\n"), "own")
    after = load_document(params)
    assert after["windows"].pop("context") == []
    del before["windows"]["context"]
    assert after == before


def test_keys_that_params_lacks_are_all_named_and_nothing_is_written(params: Path, tmp_path: Path) -> None:
    folder = overlay(
        tmp_path, "train:\n  lr: 0.001\n  momentum: 0.9\nmoon: 1\nruntime: fast\ndataset:\n  name: x\n"
    )
    text = params.read_text()
    with pytest.raises(InputError) as caught:
        apply_preset(params, folder, "own")
    for part in (
        "nothing was written",
        "train.momentum: no such key",
        "moon: no such key",
        "runtime: ",
        "dataset: ",
    ):
        assert part in str(caught.value)
    assert params.read_text() == text


def test_values_that_are_refused_are_all_named_and_nothing_is_written(params: Path, tmp_path: Path) -> None:
    folder = overlay(tmp_path, "train:\n  lr: -1.0\nha_gat:\n  heads: 3\nwindows:\n  history: twelve\n")
    text = params.read_text()
    with pytest.raises(InputError) as caught:
        apply_preset(params, folder, "own")
    for part in ("nothing was written", "train.lr", "ha_gat.heads", "windows.history"):
        assert part in str(caught.value)
    assert params.read_text() == text
    assert [path.name for path in tmp_path.glob(".*")] == []


def test_values_that_are_fine_alone_and_contradict_each_other_are_refused(
    params: Path, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=r"st_mamba.head_dim: 4096 must divide"):
        apply_preset(params, overlay(tmp_path, "st_mamba:\n  head_dim: 4096\n"), "own")


def test_the_gt_ssl_preset_holds_the_numbers_of_its_source(params: Path) -> None:
    apply_preset(params, PRESETS, "gt-ssl")
    sections = read_sections(params)
    own, messages = sections["pretrain"], sections["sgmp"]
    assert (own.method, own.batch_size, own.interactions, own.epochs) == ("gt_ssl", 4, 3, 100)
    assert (messages.hidden_dim, messages.distance_centers) == (64, 20)
    assert (own.lr, own.weight_decay, own.clip_norm) == (0.001, 0.0005, 1.0)


def test_an_unknown_preset_lists_those_there_are(params: Path) -> None:
    with pytest.raises(InputError, match="there are: benchmark-12-12, gt-ssl, low-vram"):
        apply_preset(params, PRESETS, "moon")


def test_a_preset_is_listed_with_its_first_line_of_comment(tmp_path: Path) -> None:
    folder = overlay(tmp_path, "# For a test.\n# More.\ntrain:\n  lr: 0.1  # why\n")
    assert list_presets(folder) == {"own": "For a test."}


def test_the_command_shows_what_changed_and_what_to_run_next(
    params: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(PRESETS, params.parent / "presets")
    monkeypatch.chdir(params.parent)
    assert main(["preset", "low-vram"]) == 0
    shown = capsys.readouterr().out
    assert "windows.history" in shown and "12 -> 48" in shown and "dvc repro" in shown
    assert main(["preset", "low-vram"]) == 0
    assert "already holds every value" in capsys.readouterr().out


def test_the_command_without_a_name_lists_the_presets(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    for arguments in (["preset"], ["preset", "--list"]):
        assert main(arguments) == 0
        assert "low-vram" in capsys.readouterr().out


def test_a_preset_that_cannot_be_applied_leaves_with_one_and_says_why(
    params: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(PRESETS, params.parent / "presets")
    monkeypatch.chdir(params.parent)
    assert main(["preset", "moon"]) == 1
    assert "no preset 'moon'" in capsys.readouterr().err
