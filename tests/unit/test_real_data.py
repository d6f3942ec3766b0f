"""Every data set at hand, imported, preprocessed and trained on for a few steps; a part of it each, for speed.

The folders lie beside the repository and do not travel with it: without them these tests are skipped, and say so.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch

from headway.__main__ import main
from headway.data.parquet import TIME
from headway.data.prepare import prepare
from headway.data.prepared import Prepared, open_prepared
from headway.data.windows import Windows
from headway.evaluation.report import EvaluateParams, evaluate
from headway.models.folder import read_model_folder
from tiny_run import train_params, train_tiny
from worlds import daily_readings, preprocess_params, windows_params, write_series

SHARED = Path(__file__).resolve().parents[3] / "shared/data"
SERIES = sorted(path.parent.name for path in SHARED.glob("*/series.parquet"))
GRAPHS = sorted(path.parent.name for path in SHARED.glob("graphs/*/edges.parquet"))
SENSORS, STEPS = 12, 1500
EVEN = [name for name in SERIES if name != "hcmc-runs-2025"]  # that one is a run table, below
# weekly cases have no day of steps; the others' clocks are taken as written, see docs/data.md
RULES: dict[str, Any] = {"unusable_sensors": "drop", "max_neighbors": 8}

pytestmark = pytest.mark.skipif(
    not SERIES, reason="the real data sets are not at shared/data beside the project"
)


def part_of(source: Path, folder: Path) -> Path:
    """Some sensors and steps of a data set, the busiest ones, in the shape of a data set."""
    folder.mkdir(parents=True)
    tables = {path.name: pd.read_parquet(path) for path in sorted(source.glob("series*.parquet"))}
    spread: Any = tables["series.parquet"].drop(columns=TIME).tail(STEPS).var()
    busiest = [str(sensor) for sensor in spread.nlargest(SENSORS).index]
    for name, table in tables.items():
        if set(busiest) <= set(table.columns) and len(table) == len(tables["series.parquet"]):
            kept = {sensor: table[sensor].tail(STEPS) for sensor in busiest}
            write_series(folder / name, table[TIME].tail(STEPS), kept)
    sensors, edges = (pd.read_parquet(source / f"{name}.parquet") for name in ("sensors", "edges"))
    sensors[sensors["sensor_id"].isin(busiest)].to_parquet(folder / "sensors.parquet", index=False)
    inside = edges["source"].isin(busiest) & edges["target"].isin(busiest)
    edges[inside].to_parquet(folder / "edges.parquet", index=False)
    return folder


def trained(folder: Path, name: str, monkeypatch: pytest.MonkeyPatch, **windows: Any) -> Prepared:
    """Preprocess data/raw/<name> of `folder` and take three steps."""
    keys = {"history": 6, "horizon": 3} | windows
    prepare(
        folder / "data/raw" / name,
        folder / "prepared",
        preprocess_params(off_grid="round", **RULES),
        windows_params(**keys),
    )
    prepared = open_prepared(folder / "prepared")
    monkeypatch.chdir(folder)
    train = train_params(epochs=1, epoch_steps=3, max_steps=3, validation_windows=16)
    done = train_tiny(folder, prepared, train=train)
    assert done.progress.best_step == 3 and np.isfinite(done.progress.best_error)
    assert (folder / "models/train/model.safetensors").is_file()
    return prepared


@pytest.mark.parametrize("name", EVEN)
def test_a_series_is_imported_prepared_and_trained_on(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    source = part_of(SHARED / name, tmp_path / "source")
    out = tmp_path / "data/raw"
    assert main(["import", "raw", str(source), "--name", name, "--out", str(out)]) == 0
    assert f"{SENSORS} sensors" in capsys.readouterr().out
    prepared = trained(tmp_path, name, monkeypatch)
    raw = pd.read_parquet(out / name / "series.parquet")
    ids = prepared.sensors["sensor_id"].tolist()
    readings = raw[ids].to_numpy(np.float32)
    np.testing.assert_array_equal(prepared.values[..., 0], np.nan_to_num(readings))
    np.testing.assert_array_equal(prepared.observed[..., 0], ~np.isnan(readings))


def test_further_variables_of_a_series_are_targets_and_inputs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = part_of(SHARED / "pems04-sample", tmp_path / "source")
    assert main(["import", "raw", str(source), "--name", "pems", "--out", str(tmp_path / "data/raw")]) == 0
    prepared = trained(tmp_path, "pems", monkeypatch, target="speed", inputs=("target", "occupancy"))
    assert prepared.meta.channels == ("speed", "target", "occupancy")


def test_the_run_table_is_trained_on_with_its_weather_and_evaluated_as_the_little_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    runs, out = SHARED / "hcmc-runs-2025/runs.parquet", tmp_path / "data/raw"
    options = ["--step-minutes", "15", "--time-zone", "Asia/Ho_Chi_Minh"]
    assert main(["import", "runs", str(runs), "--name", "runs", "--out", str(out), *options]) == 0
    prepared = trained(tmp_path, "runs", monkeypatch, covariates=("temperature_c", "precipitation_mm"))
    assert prepared.meta.sensors == 144 and prepared.valid.any() and prepared.covariates.any()
    found = read_model_folder(tmp_path / "models/train", torch.device("cpu"))
    params = EvaluateParams(minutes=(15,), mape_floor=0.001, prediction_stride=1)
    evaluate(
        prepared,
        Windows(prepared).gather,
        found.model,
        params,
        16,
        metrics=tmp_path / "metrics",
        predictions=tmp_path / "test.parquet",
    )
    assert re.search(
        r"little evidence: the test split has readings at \d\d moments within 0\.\d days", caplog.text
    )


@pytest.mark.parametrize("name", GRAPHS)
def test_a_published_graph_carries_a_series_made_up_for_it(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = SHARED / "graphs" / name
    ids = pd.read_parquet(source / "sensors.parquet")["sensor_id"].astype(str).tolist()
    readings = daily_readings(60, len(ids), 60)
    times = pd.date_range("2024-01-01", periods=60, freq="h")
    write_series(tmp_path / "speeds.parquet", times, dict(zip(ids, readings.T, strict=True)))
    files = ["--edges", str(source / "edges.parquet")]
    if {"latitude", "longitude"} <= set(pq.read_schema(source / "sensors.parquet").names):
        files += ["--sensors", str(source / "sensors.parquet")]
    arguments = ["import", "wide", str(tmp_path / "speeds.parquet"), "--name", name, *files]
    assert main([*arguments, "--out", str(tmp_path / "data/raw")]) == 0
    prepared = trained(tmp_path, name, monkeypatch, history=4)
    assert prepared.meta.sensors == len(ids) and prepared.valid.sum() > len(ids)
