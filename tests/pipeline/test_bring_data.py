"""The way of docs/data.md and docs/serving.md from outside: a CSV, three commands, and the model in another place."""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path

import pandas as pd
import pytest

from dvc_project import ROOT, Project, new_project
from worlds import daily_readings

SENSORS = ["M1-north", "M1-south", "ring 3"]


def commands(page: str, title: str) -> list[str]:
    """Lines of the first shell block under a title of docs/."""
    text = (ROOT / "docs" / page).read_text(encoding="utf-8").partition(f"\n{title}\n")[2]
    block = re.search(r"```\n(.*?)```", text, re.DOTALL)
    assert block is not None
    return block[1].strip().splitlines()


def run(project: Project, line: str) -> str:
    """A command as it is written, `python` and `dvc` being those of this environment."""
    program, *arguments = shlex.split(line, comments=True)
    own = {"python": [sys.executable], "dvc": [sys.executable, "-m", "dvc"]}
    return project.run(*own.get(program, [program]), *arguments)


@pytest.fixture(scope="module")
def city(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project after the three commands."""
    project = new_project(tmp_path_factory.mktemp("city") / "a")
    times = pd.date_range("2024-05-01", periods=24 * 14, freq="h").strftime("%Y-%m-%d %H:%M")
    speeds, flows = (daily_readings(len(times), len(SENSORS), 60, seed=seed) for seed in (0, 1))
    rows = pd.MultiIndex.from_product([times, SENSORS], names=["time", "sensor"])
    table = pd.DataFrame({"speed": speeds.ravel(), "flow": flows.ravel()}, index=rows)
    table.to_csv(project.folder / "readings.csv")
    lines = commands("data.md", "### From a CSV of four columns to a forecast")
    assert len(lines) == 3
    for line in lines:
        run(project, line)
    project.commit("a city")
    project.run("git", "tag", "-a", "forecaster@v1.0.0", "-m", "the first model")
    return project


def test_three_commands_lead_from_a_csv_of_four_columns_to_a_forecast(city: Project) -> None:
    forecast = pd.read_csv(city.folder / "forecast.csv")
    assert forecast["sensor_id"].unique().tolist() == SENSORS
    assert len(forecast) == 3 * 3 and forecast["forecast"].between(0, 150).all()
    assert forecast["target_time_local"].iloc[0] == "2024-05-15 00:00:00+01:00"
    assert sorted(path.name for path in (city.folder / "data/raw/my-city").iterdir()) == [
        "dataset.yaml",
        "sensors.parquet",
        "series.parquet",
        "series_flow.parquet",
    ]


@pytest.mark.parametrize("way", ["get", "artifacts get"])
def test_a_model_that_dvc_fetched_into_an_empty_folder_forecasts_the_same(
    city: Project, way: str, tmp_path: Path
) -> None:
    what = "models/train" if way == "get" else "forecaster"
    empty = Project(tmp_path)
    empty.dvc(*way.split(), str(city.folder), what, "-o", "roads")
    recent = city.folder / "data/raw/my-city/series.parquet"
    empty.run(sys.executable, "-m", "headway", "predict", "roads", str(recent), "--out", "forecast.csv")
    assert (tmp_path / "forecast.csv").read_bytes() == (city.folder / "forecast.csv").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["forecast.csv", "roads"]
