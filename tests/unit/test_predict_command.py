"""`python -m headway predict`: a model folder and a file of readings, in an otherwise empty folder."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import headway
from headway.__main__ import main
from tiny_serving import IDS, ZONE, Served, serve

FURTHER = ["--input", "flow=flow.csv", "--covariates", "rain.csv"]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Served:
    return serve(tmp_path_factory.mktemp("project"))


@pytest.fixture
def desk(served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder: the model as somebody fetched it, and the readings; no project."""
    shutil.copytree(served.model, tmp_path / "fetched")
    served.readings.to_csv(tmp_path / "recent.csv", index=False)
    served.readings.to_parquet(tmp_path / "recent.parquet", index=False)
    served.flow.to_csv(tmp_path / "flow.csv", index=False)
    served.rain.to_csv(tmp_path / "rain.csv", index=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def expected(served: Served) -> pd.DataFrame:
    forecaster = headway.load(served.model)
    return forecaster.predict(served.readings, inputs={"flow": served.flow}, covariates=served.rain)


@pytest.mark.parametrize("recent", ["recent.csv", "recent.parquet"])
def test_forecasts_from_a_file_are_those_from_the_frame(desk: Path, served: Served, recent: str) -> None:
    assert main(["predict", "fetched", recent, *FURTHER, "--out", "out/forecasts.parquet"]) == 0
    found = pd.read_parquet(desk / "out/forecasts.parquet", page_checksum_verification=True)
    pd.testing.assert_frame_equal(found, expected(served), check_exact=True, check_dtype=False)
    assert found["forecast"].dtype == np.float32
    assert found.attrs["unit"] == "km/h"
    assert [path.name for path in (desk / "out").iterdir()] == ["forecasts.parquet"]


def test_a_csv_of_forecasts_reads_back_as_the_same_numbers_and_moments(desk: Path, served: Served) -> None:
    assert main(["predict", "fetched", "recent.csv", *FURTHER, "--out", "forecasts.csv"]) == 0
    found = pd.read_csv(desk / "forecasts.csv", dtype={"sensor_id": str}, float_precision="round_trip")
    wanted = expected(served)
    assert found.columns.tolist() == ["sensor_id", "target_time", "target_time_local", "horizon", "forecast"]
    assert np.array_equal(found["forecast"].astype(np.float32), wanted["forecast"])
    assert pd.to_datetime(found["target_time_local"], utc=True).tolist() == wanted["target_time"].tolist()
    assert found["target_time_local"].str.endswith("+01:00").all()  # summer by then


def test_without_out_the_first_rows_are_shown_and_all_are_counted(
    desk: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(path.name for path in desk.iterdir())
    assert main(["predict", "fetched", "recent.csv", *FURTHER]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"speed (km/h) of 4 sensors, 3 steps of 1 h from 2024-04-01 11:00 {ZONE}"
    assert len(lines) == 15
    assert lines[2].split() == ["sensor_id", "target_time_local", "horizon", "forecast"]
    assert lines[3].split()[0] == IDS[0]
    assert lines[-1] == "10 of 12 rows; --out FILE.parquet or FILE.csv writes all of them"
    assert sorted(path.name for path in desk.iterdir()) == before


def test_times_of_a_csv_may_say_their_zone(desk: Path, served: Served) -> None:
    for times in (served.utc, served.utc.tz_convert(ZONE)):  # the second changes its offset on the way
        served.readings.assign(timestamp=times).to_csv(desk / "recent.csv", index=False)
        assert main(["predict", "fetched", "recent.csv", *FURTHER, "--out", "found.parquet"]) == 0
        found = pd.read_parquet(desk / "found.parquet")
        assert np.array_equal(found["forecast"], expected(served)["forecast"])


@pytest.mark.parametrize(
    ("name", "separator"), [("time", ";"), ("Date_Time", "\t"), ("", ",")], ids=["semicolon", "tab", "index"]
)
def test_a_csv_that_can_be_imported_can_be_forecast_from(
    desk: Path, served: Served, name: str, separator: str
) -> None:
    named = served.readings.rename(columns={"timestamp": name})
    named.to_csv(desk / "recent.csv", index=False, sep=separator)
    assert main(["predict", "fetched", "recent.csv", *FURTHER, "--out", "found.parquet"]) == 0
    found = pd.read_parquet(desk / "found.parquet")
    assert np.array_equal(found["forecast"], expected(served)["forecast"])


@pytest.mark.parametrize("name", ["time", "timestamp"])
def test_times_of_a_parquet_file_may_be_text_or_be_called_time(desk: Path, served: Served, name: str) -> None:
    table = served.readings.rename(columns={"timestamp": name})
    table.assign(**{name: table[name].astype(str)}).to_parquet(desk / "recent.parquet", index=False)
    assert main(["predict", "fetched", "recent.parquet", *FURTHER, "--out", "found.parquet"]) == 0
    found = pd.read_parquet(desk / "found.parquet")
    assert np.array_equal(found["forecast"], expected(served)["forecast"])


def test_columns_of_further_tables_that_no_model_asked_for_may_hold_text(desk: Path, served: Served) -> None:
    served.rain.assign(station="Heathrow").to_csv(desk / "rain.csv", index=False)
    assert main(["predict", "fetched", "recent.csv", *FURTHER, "--out", "found.parquet"]) == 0
    found = pd.read_parquet(desk / "found.parquet")
    assert np.array_equal(found["forecast"], expected(served)["forecast"])


def zoned_in_part(text: str) -> str:
    return text.replace("2024-03-12 05:00:00", "2024-03-12 05:00:00+00:00")


def write_faulty_tables(desk: Path, readings: str) -> None:
    table, lines = pd.read_csv(desk / "recent.csv"), readings.splitlines()
    table.assign(**{"9": "much"}).to_csv(desk / "text.csv", index=False)
    table.assign(**{"9": "much"}).to_parquet(desk / "text.parquet")
    table.assign(mood="good").to_csv(desk / "extra.csv", index=False)
    table.rename(columns={"timestamp": "moment"}).to_csv(desk / "timeless.csv", index=False)
    (desk / "short.csv").write_text("\n".join(lines[:3]))
    (desk / "ragged.csv").write_text("\n".join([*lines[:2], lines[2] + ",7", *lines[3:]]))
    (desk / "gap.csv").write_text("\n".join([*lines[:3], lines[3][lines[3].index(",") :], *lines[4:]]))


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["fetched", "absent.csv"], "error: absent.csv not found"),
        (["fetched", "recent.xlsx"], "error: recent.xlsx: the name must end in .parquet or .csv"),
        (["fetched", "broken.parquet"], "error: broken.parquet is no readable parquet file: "),
        (["fetched", "empty.csv"], "error: empty.csv is empty"),
        (["absent", "recent.csv"], "error: absent is not a whole model folder"),
        (["fetched", "recent.csv"], "error: the model needs the input flow, needs the covariates rain"),
        (
            ["fetched", "mixed.csv", *FURTHER],
            "mixed.csv: column timestamp: a zone in other lines, and none in line 2 ('2024-03-12 00:00:00'), line 3",
        ),
        (
            ["fetched", "words.csv", *FURTHER],
            "words.csv: column timestamp: no time such as 2024-05-01 08:05 or 2024-05-01T06:05Z in line 7 ('tea time",
        ),
        (
            ["fetched", "text.csv", *FURTHER],
            "text.csv holds text where numbers should be:\n  - column 9, line 2: 'much' is no number",
        ),
        (
            ["fetched", "text.parquet", *FURTHER],
            "text.parquet: the readings cannot be used:\n  - column 9 is of type",
        ),
        (["fetched", "ragged.csv", *FURTHER], "ragged.csv is no readable CSV:\n  - line 3"),
        (["fetched", "gap.csv", *FURTHER], "gap.csv: column timestamp: no time in line 4"),
        (
            ["fetched", "timeless.csv", *FURTHER],
            "timeless.csv: name a column with one of the names timestamp, time, datetime, date_time, date; its",
        ),
        (
            ["fetched", "short.csv", *FURTHER],
            "error: short.csv: the readings span 2 steps of 1 h, the model reads 4",
        ),
        (
            ["fetched", "extra.csv", *FURTHER],
            "extra.csv: the readings cannot be used:\n  - the model does not know",
        ),
        (
            ["fetched", "recent.csv", "--input", "flow=short.csv", "--covariates", "rain.csv"],
            "error: short.csv: the input flow: nothing was read in the",
        ),
        (
            ["fetched", "recent.csv", "--input", "flow=flow.csv", "--covariates", "recent.csv"],
            "error: recent.csv: the covariates cannot be used:\n  - columns are missing: rain",
        ),
        (["fetched", "recent.csv", *FURTHER, "--recalibrate"], "error: the model says single numbers"),
        (
            ["fetched", "recent.csv", "--input", "flow"],
            "error: --input flow: write NAME=FILE, each name once",
        ),
        (
            ["fetched", "recent.csv", *FURTHER, *FURTHER],
            "--input flow=flow.csv: write NAME=FILE, each name once",
        ),
        (
            ["fetched", "recent.csv", *FURTHER, "--out", "a.txt"],
            "error: a.txt: the name must end in .parquet or",
        ),
        (["fetched", "recent.csv", *FURTHER, "--out", "folder.csv"], "error: folder.csv cannot be written: "),
    ],
)
def test_what_cannot_be_used_is_refused_with_a_sentence_and_nothing_is_written(
    desk: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], sentence: str
) -> None:
    readings = (desk / "recent.csv").read_text()
    (desk / "broken.parquet").write_bytes((desk / "recent.parquet").read_bytes()[:-9])
    (desk / "empty.csv").write_text("")
    (desk / "mixed.csv").write_text(zoned_in_part(readings))
    (desk / "words.csv").write_text(readings.replace("2024-03-12 05:00:00", "tea time"))
    write_faulty_tables(desk, readings)
    (desk / "folder.csv").mkdir()
    before = sorted(path.name for path in desk.iterdir())
    assert main(["predict", *arguments]) == 1
    assert sentence in capsys.readouterr().err
    assert sorted(path.name for path in desk.iterdir()) == before


def test_an_earlier_file_stays_when_the_forecast_fails(desk: Path) -> None:
    (desk / "out.csv").write_text("earlier")
    assert main(["predict", "fetched", "recent.csv", "--out", "out.csv"]) == 1
    assert (desk / "out.csv").read_text() == "earlier"
