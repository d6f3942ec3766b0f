"""`python -m headway import`: a folder appears whole or not at all, and what comes next is said."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from foreign_files import bring, readings, refusal, table
from headway.__main__ import main
from headway.data.facts import read_facts
from headway.data.importers import write
from headway.data.importers.formats import FORMATS
from headway.data.importers.known import compare_bytes, digest, recognize
from headway.data.prepare import prepare
from headway.data.prepared import open_prepared
from headway.errors import InputError
from worlds import daily_readings, preprocess_params, windows_params, write_raw_world

ROOT = Path(__file__).resolve().parents[2]
RUNS = Path(ROOT).parent / "shared/data/hcmc-runs-2025"
LONG = [
    f"2024-01-{1 + hour // 24:02} {hour % 24:02}:00,{sensor},{50 + hour % 24 + place},{hour}"
    for hour in range(240)
    for place, sensor in enumerate("abc")
]
RUN_TABLE = """run_id,node_a_id,node_b_id,speed_kmh,distance_km,lat_a,lon_a,lat_b,lon_b,temperature_c
run_20251030_032440,x,y,20,1,10,106,12,106,25
run_20251030_032440,y,z,21,2,12,106,12,108,27
run_20251030_052440,x,y,22,1,10,106,12,106,26
run_20251030_052440,y,x,23,1,12,106,10,106,26
"""


@pytest.fixture
def city(tmp_path: Path) -> Path:
    path = tmp_path / "city.csv"
    path.write_text("\n".join(["time,sensor,speed,flow", *LONG]) + "\n")
    return path


def test_a_csv_of_four_columns_becomes_a_folder_that_preprocess_takes(
    city: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "data/raw"
    arguments = ["import", "long", str(city), "--name", "city", "--out", str(out), "--also", "flow"]
    assert main([*arguments, "--unit", "km/h", "--time-zone", "Etc/GMT-1"]) == 0
    said = capsys.readouterr().out
    assert "read " in said and "240 rows, 3 sensors: a, b, c" in said and "0.0% missing" in said
    for line in (f"dvc add {out}/city", "dataset: city", "dvc repro"):
        assert line in said
    preprocess = preprocess_params(graph="none")
    prepare(out / "city", tmp_path / "prepared", preprocess, windows_params(inputs=("flow",)))
    meta = open_prepared(tmp_path / "prepared").meta
    assert (meta.steps, meta.sensors, meta.channels, meta.unit) == (240, 3, ("speed", "flow"), "km/h")


def test_a_folder_that_is_there_is_kept_unless_it_is_to_be_replaced(city: Path, tmp_path: Path) -> None:
    arguments = ["import", "long", str(city), "--name", "city", "--out", str(tmp_path / "raw")]
    assert main(arguments) == 0
    (tmp_path / "raw/city/mine").touch()
    assert main(arguments) == 1
    assert (tmp_path / "raw/city/mine").exists()
    assert main([*arguments, "--replace"]) == 0
    assert not (tmp_path / "raw/city/mine").exists()


def test_a_failure_while_writing_leaves_what_was_there(
    city: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = bring("long", city)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}

    def fail(*_: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(write, "write_facts", fail)
    with pytest.raises(InputError, match="was not imported: no space left"):
        bring("long", city)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert [path.name for path in folder.parent.iterdir()] == ["city"]


@pytest.mark.parametrize("name", ["../city", "/tmp/city", "", ".hidden", "a/b", "simulated", "-x"])
def test_a_name_that_is_no_folder_of_data_is_refused(city: Path, tmp_path: Path, name: str) -> None:
    assert main(["import", "long", str(city), f"--name={name}", "--out", str(tmp_path / "raw")]) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["city.csv"]


def test_a_source_inside_the_folder_to_be_replaced_is_kept(city: Path, tmp_path: Path) -> None:
    folder = tmp_path / "raw/city"
    folder.mkdir(parents=True)
    source = city.rename(folder / "city.csv")
    assert (
        main(["import", "long", str(source), "--name=city", "--replace", "--out", str(tmp_path / "raw")]) == 1
    )
    assert source.is_file()


@pytest.mark.parametrize("form", FORMATS)
def test_every_format_has_a_reader_that_refuses_a_source_of_another_kind(form: str, tmp_path: Path) -> None:
    (tmp_path / "x.png").write_bytes(b"\x89PNG")
    (tmp_path / "x").mkdir()
    for source in (tmp_path / "x.png", tmp_path / "x"):
        refusal(form, source)


def test_all_faults_of_a_command_are_told_at_once(city: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--name", ".", "--start", "2020-01-01", "--time-zone", "x", "--null", "inf"]
    assert main(["import", "long", str(city.with_name("none.csv")), *arguments]) == 1
    said = capsys.readouterr().err
    assert all(
        word in said for word in ("--name '.'", "--start", "--time-zone x", "--null", "none.csv not found")
    )


def test_help_lists_the_formats(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["import", "--help"])
    said = capsys.readouterr().out
    assert [name for name in FORMATS if f"  {name} " not in said] == []


def test_small_row_groups_hold_the_same_readings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    values = daily_readings(50, 3, 5)
    frame = pd.DataFrame(values, columns=list("abc"))
    frame.insert(0, "time", pd.date_range("2024-01-01", periods=50, freq="5min"))
    frame.to_parquet(tmp_path / "x.parquet", index=False)
    monkeypatch.setattr(write, "GROUP_CELLS", 21)
    np.testing.assert_array_equal(readings(bring("wide", tmp_path / "x.parquet")), values)


def test_a_raw_folder_is_copied_with_its_facts_and_without_strangers(tmp_path: Path) -> None:
    extra = {"flow": daily_readings(50, 4, 60)}
    facts = {"unit": "mph", "null_value": 0, "source": "somewhere", "description": "a city"}
    source = write_raw_world(tmp_path / "theirs", steps=50, variables=extra, facts=facts)
    (source / "run.sh").write_text("touch canary")
    folder = bring("raw", source, time_zone="Europe/London")
    assert sorted(path.name for path in folder.iterdir()) == [
        "dataset.yaml", "sensors.parquet", "series.parquet", "series_flow.parquet",
    ]  # fmt: skip
    stated = read_facts(folder / "dataset.yaml")
    assert (stated.unit, stated.null_value, stated.source) == ("mph", 0.0, "somewhere")
    assert stated.description == "a city"
    assert stated.time_zone == "Europe/London"


def test_a_folder_without_a_series_is_no_data_set(tmp_path: Path) -> None:
    (tmp_path / "graphs").mkdir()
    assert "has no series.parquet" in refusal("raw", tmp_path / "graphs")


def test_a_run_table_becomes_segments_weather_and_a_line_graph(tmp_path: Path) -> None:
    path = tmp_path / "runs.csv"
    path.write_text(RUN_TABLE)
    folder = bring("runs", path, step_minutes=120.0)
    series = table(folder, "series")
    assert list(series.columns) == ["timestamp", "x>y", "y>x", "y>z"]
    np.testing.assert_array_equal(readings(folder), [[20, np.nan, 21], [22, 23, np.nan]])
    assert str(series["timestamp"][1]) == "2025-10-30 05:24:40"
    np.testing.assert_array_equal(table(folder, "covariates")["temperature_c"], [26, 26])
    assert table(folder, "edges").to_numpy().tolist() == [["x>y", "y>z", 1500.0]]
    assert list(table(folder, "sensors")["latitude"]) == [11, 11, 12]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (RUN_TABLE.replace("run_20251030_032440", "monday"), "not of the form run_%Y%m%d_%H%M%S"),
        (RUN_TABLE.replace("node_b_id", "to"), "needs node_a_id and node_b_id, or edge"),
        (RUN_TABLE.replace("speed_kmh", "v"), "--value-column"),
        (RUN_TABLE.replace(",x,y,20", ",,y,20"), "column node_a_id: no segment in line 2"),
    ],
)
def test_a_fault_of_a_run_table_is_told(tmp_path: Path, text: str, expected: str) -> None:
    path = tmp_path / "runs.csv"
    path.write_text(text)
    assert expected in refusal("runs", path)


@pytest.mark.skipif(
    not RUNS.is_dir(), reason=f"the real run table is not at shared/data/{RUNS.name} beside the project"
)
def test_the_run_table_of_ho_chi_minh_city_equals_its_published_pivot(tmp_path: Path) -> None:
    shutil.copy(RUNS / "runs.parquet", tmp_path)
    folder = bring("runs", tmp_path / "runs.parquet", time_zone="Asia/Ho_Chi_Minh")
    ours, theirs = table(folder, "series"), pd.read_parquet(RUNS / "series.parquet")
    civil = ours["timestamp"].dt.tz_convert("Asia/Ho_Chi_Minh").dt.tz_localize(None)
    assert list(civil) == list(theirs["timestamp"])
    segments = [name.replace("node-", "") for name in ours.columns[1:]]
    np.testing.assert_array_equal(ours.to_numpy()[:, 1:], theirs[segments].to_numpy())
    weather = pd.read_parquet(RUNS / "weather.parquet")
    np.testing.assert_allclose(
        table(folder, "covariates")["temperature_c"], weather["temperature_c"], rtol=1e-6
    )
    pairs = {(source.replace("node-", ""), target.replace("node-", "")): distance
             for source, target, distance in table(folder, "edges").to_numpy()}  # fmt: skip
    published = pd.read_parquet(RUNS / "edges.parquet")
    assert set(pairs) >= set(zip(published["source"], published["target"], strict=True)) and len(pairs) == 254


def test_a_file_is_compared_with_public_copies_by_either_checksum(tmp_path: Path) -> None:
    path = tmp_path / "PEMS04.csv"
    path.write_bytes(b"hello\n")
    assert digest(path).git == "ce013625030ba8dba906f756967f9e9ca394464a"  # `git hash-object`
    assert "not the bytes of a known public copy, SHA-256 5891b5b522d5df08" in compare_bytes(path)
    assert compare_bytes(tmp_path / "mine.csv") == ""


def test_a_data_set_is_recognized_by_its_name_and_else_by_its_shape() -> None:
    known, sentence = recognize(Path("PEMS-BAY.h5"), (52105, 325))
    assert known is not None and "published are 52116 x 325" in sentence
    known, sentence = recognize(Path("data.npz"), (16992, 307))
    assert known is not None and sentence == "taken for PEMS04 by its shape 16992 x 307"
    assert recognize(Path("data.npz"), (5, 5)) == (None, "")
