"""The comparison of accuracy: one protocol for ours and the peers, nothing done twice, an honest verdict."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import sys
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from headway.data.prepared import Prepared, open_prepared
from headway.data.windows import Windows
from headway.evaluation.report import EvaluateParams, evaluate
from headway.models.baselines import historical_average
from project_params import ROOT
from tiny_run import TRAIN, tiny_data, train_tiny
from worlds import write_raw_world

sys.path.insert(0, str(ROOT / "benchmarks"))

import accuracy
import accuracy_tables
import child
import own_run
import peer
import peer_linear
import peer_stid
import peer_trees
import project_copy
import results_log

HERE = torch.device("cpu")
FLOOR = 0.001
STID = """
import torch
from torch import nn


class Layer(nn.Module):
    def __init__(self, width, hidden):
        super().__init__()
        self.map = nn.Conv2d(width, hidden, (1, 1))

    def forward(self, hidden):
        return hidden + torch.relu(self.map(hidden))


class STID(nn.Module):
    def __init__(self, **sizes):
        super().__init__()
        self.sizes, self.hidden_dim = sizes, 32
        self.embedding = nn.Conv2d(3 * sizes["input_len"], 32, (1, 1))
        self.encoder = nn.Sequential(Layer(32, 32))
        self.regression_layer = nn.Conv2d(32, sizes["output_len"], (1, 1))

    def forward(self, history_data, future_data, batch_seen, epoch, train):
        assert (history_data[..., 1] * self.sizes["time_of_day_size"]).long().max() < 24
        flat = history_data.transpose(2, 3).flatten(1, 2).unsqueeze(-1)
        return self.regression_layer(self.encoder(self.embedding(flat)))
"""


def repeated_days(steps: int, sensors: int) -> np.ndarray:
    """Days that look like each other in every reading, and in which nothing tells what comes next."""
    day = np.random.default_rng(1).normal(50, 10, (24, sensors))
    return np.tile(day, (-(-steps // 24), 1))[:steps].astype(np.float32)


def judged(model: str, prepared: Prepared, steps: int = 0) -> float:
    """Test MAE over all steps."""
    fitted = peer.fit(model, prepared, HERE, seed=0, steps=steps)
    return peer.judge(fitted, prepared, FLOOR)["all"]["mae"]


def test_naive_forecasts_have_the_errors_that_the_evaluate_stage_finds(tmp_path: Path) -> None:
    readings = np.random.default_rng(0).normal(50, 9, (400, 3)).astype(np.float32)
    readings[np.random.default_rng(1).random(readings.shape) < 0.1] = np.nan
    prepared = tiny_data(tmp_path, readings=readings, ids=("a", "b", "c"))
    params = EvaluateParams(minutes=(), mape_floor=FLOOR, prediction_stride=0)
    places: Any = {"metrics": tmp_path / "metrics", "predictions": tmp_path / "test.parquet"}
    evaluate(prepared, Windows(prepared).gather, historical_average, params, 5, **places)
    written = json.loads((tmp_path / "metrics/forecasts.json").read_text())
    for model in ("persistence", "historical_average", "same_time_last_week"):
        assert peer.judge(peer.fit(model, prepared, HERE, 0, 0), prepared, FLOOR) == written[model]


def test_a_linear_law_is_found(tmp_path: Path) -> None:
    time = np.arange(400)[:, None]
    waves = 50 + np.array([5, 9, 13]) * np.sin(0.9 * time + np.arange(3))  # x(t) = a x(t-1) - x(t-2) + b
    prepared = tiny_data(tmp_path, readings=waves.astype(np.float32), ids=("a", "b", "c"))
    assert judged("linear_lags", prepared) < 0.05 < 3 < judged("persistence", prepared)


def test_what_only_the_day_before_tells_is_found_with_context_alone(tmp_path: Path) -> None:
    prepared = tiny_data(tmp_path, ("1d",), readings=repeated_days(600, 3), ids=("a", "b", "c"))
    assert judged("linear_context", prepared) < 0.5
    assert judged("linear_context_per_sensor", prepared) < 0.5
    assert judged("linear_lags", prepared) > 4


def test_a_missing_target_is_not_learned_from(tmp_path: Path) -> None:
    readings = repeated_days(400, 3)
    readings[100:200, 0] = np.nan
    prepared = tiny_data(tmp_path, readings=readings, ids=("a", "b", "c"))
    prepared.values[100:200, 0] = 1e6  # what stands where nothing was observed must not count
    said = []
    for data in (prepared, open_prepared(tmp_path / "prepared")):
        fitted = peer_linear.fit("linear_lags", data, HERE)
        said.append(fitted.forecaster(fitted.windows.gather(np.array([300]))).point)
    assert torch.equal(*said)


def test_stid_trains_and_learns_more_with_context(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tmp_path / "checkout/stid/arch"
    source.mkdir(parents=True)
    (source / "stid_arch.py").write_text(STID)
    (source / "__init__.py").write_text("from .stid_arch import STID\n")
    monkeypatch.setenv("STID", str(tmp_path / "checkout"))
    monkeypatch.setattr(peer_stid, "PACKAGE", "stand_in_for_stid")  # imported modules stay in the process
    prepared = tiny_data(tmp_path, ("1d",), readings=repeated_days(600, 3), ids=("a", "b", "c"))
    assert judged("stid_context", prepared, steps=80) < 0.7 * judged("stid", prepared, steps=80)
    fitted = peer.fit("stid", prepared, HERE, seed=0, steps=10)
    assert len(fitted.curve) == 5  # 2 steps between the looks that 8 would have
    assert fitted.curve[-1][1] == min(mae for _, mae in fitted.curve)


@pytest.mark.skipif(
    not os.environ.get("STID"),
    reason="the environment variable STID names no checkout of https://github.com/GestaltCogTeam/STID",
)
def test_the_official_stid_has_as_many_weights_as_published(tmp_path: Path) -> None:
    prepared = tiny_data(tmp_path)
    counts = [peer.fit(model, prepared, HERE, 0, 2).parameters for model in peer_stid.MODELS]
    plain = (3 * 4 + 1) * 32 + (4 + 24 + 7) * 32 + 3 * 2 * (128 * 128 + 128) + (128 + 1) * 3
    wider = (
        (8 + 1) * 32 + 3 * 2 * (160 * 160 + 160) + (160 + 1) * 3 - 3 * 2 * (128 * 128 + 128) - (128 + 1) * 3
    )
    assert counts == [plain, plain + wider]


@pytest.mark.skipif(
    importlib.util.find_spec("lightgbm") is None,
    reason="lightgbm, a peer, is not installed: pip install lightgbm==4.7.0",
)
def test_trees_learn_what_only_the_day_before_tells(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peer_trees, "ROWS", 20_000)
    prepared = tiny_data(tmp_path, ("1d",), readings=repeated_days(600, 3), ids=("a", "b", "c"))
    assert judged("lightgbm", prepared) < 3


def test_no_feature_of_the_trees_lies_at_or_after_the_origin(tmp_path: Path) -> None:
    prepared, origin = tiny_data(tmp_path), 150  # after training, whose readings set the scale
    prepared = replace(
        prepared, meta=replace(prepared.meta, context=(3,))
    )  # around a step 3 ago lie later ones
    before = peer_trees._Table(prepared).grid(np.array([origin]))
    prepared.values[origin:] = -999
    assert np.array_equal(before, peer_trees._Table(prepared).grid(np.array([origin])), equal_nan=True)


def test_a_peer_that_is_not_there_is_left_out_and_told_how_to_get(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepared = tiny_data(tmp_path)
    monkeypatch.delenv("STID", raising=False)
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    assert "https://github.com/GestaltCogTeam/STID" in peer_stid.absent("stid", prepared)
    assert "pip install lightgbm==" in peer_trees.absent("lightgbm", prepared)
    told = {"stid": peer_stid.absent("stid", prepared)}
    facts = {"name": "x", "sensors": 1, "steps": 9, "step_seconds": 300, "test_windows": 2, "context": ()}
    text = accuracy_tables.tables(
        {"facts": {**facts, "optimizer_steps": 1, "unit": ""}, "runs": {}, "missing": [], "left_out": told}
    )
    assert "Left out: stid: set STID to a checkout" in text


def test_a_second_call_does_nothing_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    raw = write_raw_world(tmp_path / "hours", steps=300)
    command = ["accuracy.py", "--data", str(raw), "--work", str(tmp_path / "work"), "--models", "persistence"]
    command += [
        "--set",
        "windows.history=4",
        "--set",
        "windows.horizon=3",
        "--set",
        "preprocess.max_neighbors=3",
    ]
    monkeypatch.setattr(sys, "argv", command)
    accuracy.main()
    first = capsys.readouterr().out
    assert "hours, persistence: MAE" in first
    assert "| persistence | 1 |" in first
    monkeypatch.setattr(accuracy, "run_peer", lambda *_: pytest.fail("done twice"))
    accuracy.main()
    again = capsys.readouterr().out
    assert "persistence: MAE" not in again
    assert "| persistence | 1 |" in again
    assert len((tmp_path / "work/results.jsonl").read_text().splitlines()) == 1
    monkeypatch.setattr(sys, "argv", [*command, "--set", "evaluate.mape_floor=0.5"])
    with pytest.raises(pytest.fail.Exception, match="done twice"):
        accuracy.main()


def test_what_our_run_cost_is_read_from_its_own_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    prepared = tiny_data(tmp_path)
    trained = train_tiny(tmp_path, prepared)
    params = EvaluateParams(minutes=(), mape_floor=FLOOR, prediction_stride=0)
    places: Any = {"metrics": tmp_path / "metrics/evaluate", "predictions": tmp_path / "test.parquet"}
    evaluate(prepared, Windows(prepared).gather, trained.model.eval(), params, 5, **places)
    project_copy.write_params(tmp_path, {"train.batch_size": TRAIN.batch_size})
    rows = [{"log": "train.log", "cpu_seconds": 1.5}, {"log": "evaluate.log", "cpu_seconds": 9.0}]
    (tmp_path / "cost.jsonl").write_text("".join(json.dumps(row) + "\n" for row in [*rows, rows[0]]))
    found = own_run.read_own(tmp_path)
    assert found["parameters"] == trained.model.parameter_count()
    assert (found["steps"], found["cpu_seconds"], found["sittings"]) == (12, 3.0, 2)
    assert [mae for _, mae in found["curve"]] == pytest.approx(
        [row["val/mae"] for row in trained.progress.curve]
    )
    assert found["seconds"] == found["curve"][-1][0]
    assert found["scores"]["all"]["mae"] > 0
    assert found["naive"]["persistence"] == peer.judge(
        peer.fit("persistence", prepared, HERE, 0, 0), prepared, FLOOR
    )


def test_an_epoch_that_was_interrupted_counts_for_all_of_it() -> None:
    rows = [
        {"step": 10, "seconds": 5.0, "samples_per_second": 32.0},
        {"step": 20, "seconds": 1.0, "samples_per_second": 32.0},  # 2 of its 10 steps of 16 windows
    ]
    assert list(own_run._epoch_seconds(rows, 16)) == pytest.approx([5.0, 5.0])


def test_results_of_two_writers_and_a_torn_line_are_read(tmp_path: Path) -> None:
    one, other = (results_log.ResultsLog(tmp_path / "results.jsonl") for _ in range(2))
    one.append(("a", "x", 0, "s"), {"n": 1})
    with one.path.open("a") as file:
        file.write('{"set": "a", "mod')
    other.append(("a", "x", 1, "s"), {"n": 2})
    found = [one.find(("a", "x", seed, "s")) for seed in (0, 1)]
    assert [row and row["n"] for row in found] == [1, 2]
    assert one.find(("a", "x", 0, "other settings")) is None


def test_a_child_is_told_to_stop_and_waited_for(tmp_path: Path) -> None:
    script = (
        "import pathlib, signal, sys, time\n"
        "def save(*_):\n"
        "    pathlib.Path('saved').touch(); sys.exit(143)\n"
        "signal.signal(signal.SIGTERM, save)\n"
        "pathlib.Path('ready').touch()\n"
        "time.sleep(20)\n"
    )

    def stop() -> None:
        while not (tmp_path / "ready").exists():
            threading.Event().wait(0.02)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=stop).start()
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as left:
        child.run_child([sys.executable, "-c", script], tmp_path, tmp_path / "log", tmp_path / "cost")
    assert left.value.code == 128 + signal.SIGTERM
    assert (tmp_path / "saved").exists()
    assert signal.getsignal(signal.SIGTERM) is before
    with pytest.raises(child.ChildFailed, match="no such thing"):
        child.run_child(
            [sys.executable, "-c", "raise OSError('no such thing')"],
            tmp_path,
            tmp_path / "log",
            tmp_path / "cost",
        )
    assert len((tmp_path / "cost").read_text().splitlines()) == 2


def runs_of(**maes: list[float]) -> dict[str, list[dict[str, Any]]]:
    """Results whose error is that at each of 3 steps, but for the first, where it is `first`."""

    def result(mae: float) -> dict[str, Any]:
        entry = {"mae": mae, "rmse": mae, "mape": None}
        labels = dict.fromkeys(("5min", "10min", "15min", "all"), entry)
        cost = {"parameters": 1, "seconds": 2.0, "peak_mib": 3.0, "curve": [[1.0, mae]]}
        return {"scores": labels, "distribution": {}, "naive": {}, **cost}

    return {model: [result(mae) for mae in values] for model, values in maes.items()}


def test_the_verdict_names_the_best_peer_and_minds_the_spread() -> None:
    clear = accuracy_tables.verdict(runs_of(headway=[2.0, 2.1], stid=[3.0, 3.1], persistence=[4.0]))
    assert "lower than the best peer (stid) by 32.8 %" in clear[0]
    assert "more than the spread" in clear[0]
    assert clear[1].endswith("2.050 against 3.050 of stid: not worse.")
    close = accuracy_tables.verdict(runs_of(headway=[2.0, 2.4], stid=[2.2, 2.3]))
    assert "within the spread" in close[0]
    lost = accuracy_tables.verdict(runs_of(headway=[3.0, 3.1], stid=[2.0, 2.1]))
    assert "higher than the best peer (stid)" in lost[0]
    assert lost[1].endswith("WORSE.")
    assert "nothing is shown" in accuracy_tables.verdict(runs_of(headway=[2.0], stid=[3.0]))[0]


def test_another_protocol_in_the_evaluate_stage_is_seen() -> None:
    runs = runs_of(headway=[2.0], persistence=[4.0])
    runs["headway"][0]["naive"] = {"persistence": {"all": {"mae": 4.0}}}
    assert accuracy_tables.naive_differences(runs) == []
    runs["headway"][0]["naive"] = {"persistence": {"all": {"mae": 4.01}}}
    assert "NOT THE SAME PROTOCOL: persistence" in accuracy_tables.naive_differences(runs)[0]


def test_a_record_that_tells_of_memory_running_out_still_has_its_epochs(tmp_path: Path) -> None:
    run = tmp_path / ".resume/train/0"
    run.mkdir(parents=True)
    rows = [{"step": 5, "seconds": 2.0}, {"step": 5, "out_of_memory": "less"}, {"step": 9, "seconds": 1.0}]
    (run / "record.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert own_run._record(tmp_path) == [rows[0], rows[2]]
