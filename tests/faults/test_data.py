"""Data that are damaged, foreign, too short or merely messy, as the stages meet them (faults 37, 40-42, 45-52).

The rules for each kind of mess have tests of their own in tests/unit; test_rows.py says where.
"""

from __future__ import annotations

import json
import math
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from interrupt import run_folder
from run_stages import DATASET, STAGES, outputs, run_stage, set_params, write_params

from headway.data.prepared import open_prepared
from tiny_run import tiny_data, train_params, train_tiny
from worlds import daily_readings, write_raw_world

RAW = Path("data/raw") / DATASET


def test_fault_40_a_damaged_file_is_named_and_the_outputs_stay(stages: Path, finished_stages: Path) -> None:
    before, path = outputs(*STAGES), RAW / "series.parquet"
    content = bytearray(path.read_bytes())
    content[len(content) // 4] ^= 1
    path.write_bytes(content)
    said = run_stage("preprocess")
    assert said.startswith(f"error: {path} is damaged in row group 0") and len(said.splitlines()) == 1
    for name in ("series.parquet", "sensors.parquet"):
        path = RAW / name
        os.truncate(path, path.stat().st_size - 20)
        assert run_stage("preprocess").startswith(
            f"error: {path} is no readable Parquet file, perhaps truncated"
        )
        shutil.copy(finished_stages / path, path)
    assert outputs(*STAGES) == before


def test_fault_40_damaged_prepared_data_are_named_with_the_command_that_mends_them(stages: Path) -> None:
    path = Path("data/prepared/values.npy")
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    before = outputs("train", "evaluate")
    for stage in ("train", "evaluate"):
        said = run_stage(stage)
        assert (
            "run `dvc repro -f preprocess`" in said and "values.npy has changed since it was written" in said
        )
    assert outputs("train", "evaluate") == before


def test_faults_41_42_45_46_48_49_a_messy_world_is_mended_counted_and_forecast(project: Path) -> None:
    """Rows doubled, shuffled and missing; a stuck, a silent, a negative and a lonely sensor; a wild graph."""
    readings = daily_readings(400, 6, 60)
    readings[:, 1] = 50.0  # stuck
    readings[:300, 2] = np.nan  # silent while it could be learned from
    readings[10:20, 3] = -7.0
    times = pd.date_range("2024-03-01", periods=400, freq="h")
    rows = np.delete(np.arange(400), np.arange(100, 140))  # nearly two days without a row
    rows = np.concatenate([rows, [5, 6, 7]])  # said twice, the second time another reading
    readings = np.vstack([readings, readings[[5, 6, 7]] + 1])[np.r_[:100, 140:400, 400:403]]
    order = np.random.default_rng(0).permutation(len(rows))
    edges = pd.DataFrame(
        [("a", "b", 500.0), ("b", "a", 500.0), ("a", "b", 400.0), ("c", "c", 1.0), ("d", "e", 0.0)],
        columns=["source", "target", "distance_m"],
    )
    world = {"timestamps": times[rows[order]], "readings": readings[order], "edges": edges}
    write_raw_world(RAW, sensors=6, facts={"minimum": 0}, **world)
    write_params(preprocess={"unusable_sensors": "keep", "duplicates": "last"})
    for stage in STAGES:
        assert run_stage(stage) == "", stage
    quality = json.loads(Path("metrics/preprocess/quality.json").read_text())
    assert quality["done"] == [
        "rows out of order, sorted: 182",
        "rows that share a time with another, merged: 3",
        "conflicts settled by preprocess.duplicates: 15",
        "steps without a row in 1 gap(s), made unobserved: 40",
        "readings outside the plausible range, made unobserved: 10",
        "self-loops dropped from the edges: 1",
        "edges listed again, the shortest kept: 1",
        "unusable sensors kept with global statistics: c",
        "sensors without a neighbor: c, f",
    ]
    assert quality["series"]["stuck_sensors"] == 1
    prepared = open_prepared("data/prepared")
    assert prepared.meta.steps == 400 and not prepared.observed[100:140].any()
    scores = json.loads(Path("metrics/evaluate/metrics.json").read_text())
    assert math.isfinite(scores["mae"]) and scores["count"] > 0


def test_fault_47_readings_beyond_what_the_source_declares_are_refused_by_sensor(stages: Path) -> None:
    facts = RAW / "dataset.yaml"
    facts.write_text("unit: km/h\nmaximum: 20\n")  # the readings are near 60
    said = run_stage("preprocess")
    assert "unusable sensors" in said and "a, b, c, d" in said


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ("unit", "unit: the model has km/h, the data mph"),
        ("sensor", "the sensors are not those the model was trained on"),
    ],
)
def test_faults_47_and_52_a_model_refuses_another_unit_and_new_sensors(
    change: str, problem: str, stages: Path
) -> None:
    shutil.rmtree(RAW)
    changes: dict[str, Any] = {"unit": {"facts": {"unit": "mph"}}, "sensor": {"ids": ["a", "b", "c", "z"]}}
    write_raw_world(RAW, **{"steps": 400, "facts": {"unit": "km/h"}, **changes[change]})
    assert run_stage("preprocess") == ""
    before = outputs("evaluate")
    said = run_stage("evaluate")
    assert (
        said.startswith("error: this model cannot forecast this data; run `dvc repro`:") and problem in said
    )
    assert outputs("evaluate") == before


@pytest.mark.parametrize("steps", [3, 30])
def test_fault_51_a_series_too_short_is_refused_with_the_arithmetic(steps: int, project: Path) -> None:
    write_raw_world(RAW, steps=steps)
    write_params(windows={"history": 4, "horizon": 3, "context": []} if steps == 3 else {"history": 20})
    said = run_stage("preprocess")
    assert said.startswith("error: ") and str(steps) in said and "windows.h" in said
    assert not Path("data/prepared").exists()


def test_fault_51_a_validation_split_without_a_reading_is_refused(project: Path, tmp_path: Path) -> None:
    prepared = tiny_data(tmp_path)
    first, last = prepared.meta.splits["validation"]
    hidden = prepared.observed.copy()
    hidden[first : last + prepared.meta.horizon] = False
    with pytest.raises(ValueError, match=r"no target is observed in the \d+ windows of validation"):
        train_tiny(project, replace(prepared, observed=hidden))
    assert not list(run_folder(project).glob("step-*"))


def test_fault_51_a_training_split_without_a_target_leaves_no_model(project: Path, tmp_path: Path) -> None:
    prepared = tiny_data(tmp_path)
    first, last = prepared.meta.splits["train"]
    hidden = prepared.observed.copy()
    hidden[first : last + prepared.meta.horizon] = False
    with pytest.raises(
        ValueError, match="no target of the training split is observed, so nothing could be learned"
    ):
        train_tiny(project, replace(prepared, observed=hidden))
    assert not (project / "models").exists()


def test_fault_37_a_group_without_an_observed_target_is_passed_over_and_is_not_perfect(
    project: Path, tmp_path: Path
) -> None:
    readings = daily_readings(200, 4, 60)
    readings[20:100] = np.nan
    train = train_params(batch_size=2, epoch_steps=20, epochs=1)
    progress = train_tiny(project, tiny_data(tmp_path, readings=readings), train=train).progress
    assert progress.step == 20 > progress.updates > 5
    assert progress.curve[0]["train/loss"] > 0.01 and math.isfinite(progress.best_error)


def test_fault_50_zero_is_a_reading_unless_the_data_set_says_otherwise(stages: Path) -> None:
    series = pd.read_parquet(RAW / "series.parquet")
    series.loc[10:20, "a"] = 0.0
    series.to_parquet(RAW / "series.parquet", index=False)
    assert run_stage("preprocess") == ""
    assert open_prepared("data/prepared").observed[10:21, 0, 0].all()
    (RAW / "dataset.yaml").write_text("unit: km/h\nnull_value: 0\n")
    set_params(preprocess={"scaling": "per_sensor"})
    assert run_stage("preprocess") == ""
    assert not open_prepared("data/prepared").observed[10:21, 0, 0].any()
