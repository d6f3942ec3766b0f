"""CSV and Parquet with a column a sensor, or a row a reading, become the raw contract; faults are told by line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from foreign_files import bring, readings, refusal, table, times
from headway.data.facts import read_facts
from headway.data.importers.pivot import lay_out, spread
from worlds import daily_readings

WIDE = "time,a,b\n2024-01-01 00:00,1,2\n2024-01-01 00:05,,4\n2024-01-01 00:10,5,6\n"
LONG = "time,sensor,speed,flow\n2024-01-01 00:00,b,2,20\n2024-01-01 00:00,a,1,10\n2024-01-01 00:05,a,3,\n"


LONG_OF_NUMBERS = (
    "time,sensor_id,speed\n2024-01-01 00:00,101,50\n2024-01-01 00:00,102,51\n2024-01-01 00:05,101,52\n"
)


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_a_wide_csv_becomes_a_series_with_its_facts(tmp_path: Path) -> None:
    folder = bring("wide", write(tmp_path / "x.csv", WIDE), unit="km/h", variable="speed", null=0.0)
    np.testing.assert_array_equal(readings(folder), [[1, 2], [np.nan, 4], [5, 6]])
    assert list(table(folder, "series")["timestamp"]) == list(
        pd.to_datetime(["2024-01-01 00:00", "2024-01-01 00:05", "2024-01-01 00:10"])
    )
    assert list(table(folder, "sensors")["sensor_id"]) == ["a", "b"]
    facts = read_facts(folder / "dataset.yaml")
    assert (facts.unit, facts.variable, facts.null_value) == ("km/h", "speed", 0.0)
    assert facts.source.startswith("x.csv, SHA-256 ")


def test_an_index_written_by_pandas_a_semicolon_and_a_byte_order_mark_are_read(tmp_path: Path) -> None:
    text = "\ufeff;a\n2024-01-01;1\n2024-01-02;2\n"
    folder = bring("wide", write(tmp_path / "x.csv", text))
    np.testing.assert_array_equal(readings(folder), [[1], [2]])


def test_a_wide_parquet_with_its_index_is_read(tmp_path: Path) -> None:
    values = daily_readings(5, 2, 5)
    frame = pd.DataFrame(values, columns=["a", "b"], index=times(5).rename("when"))
    frame.to_parquet(tmp_path / "x.parquet")
    folder = bring("wide", tmp_path / "x.parquet", time_column="when")
    np.testing.assert_array_equal(readings(folder), values)


def test_times_with_offsets_become_utc(tmp_path: Path) -> None:
    text = "time,a\n2024-03-31T01:30+01:00,1\n2024-03-31T03:00+02:00,2\n"
    folder = bring("wide", write(tmp_path / "x.csv", text), time_zone="Europe/Berlin")
    assert [str(time) for time in table(folder, "series")["timestamp"]] == [
        "2024-03-31 00:30:00+00:00",
        "2024-03-31 01:00:00+00:00",
    ]


def test_a_format_of_times_can_be_named(tmp_path: Path) -> None:
    text = "time,a\n31.01.2024 23:55,1\n01.02.2024 00:00,2\n"
    folder = bring("wide", write(tmp_path / "x.csv", text), time_format="%d.%m.%Y %H:%M")
    assert str(table(folder, "series")["timestamp"][1]) == "2024-02-01 00:00:00"


def test_a_long_csv_of_four_columns_has_a_target_and_a_further_variable(tmp_path: Path) -> None:
    folder = bring("long", write(tmp_path / "x.csv", LONG), also=("flow",))
    np.testing.assert_array_equal(readings(folder), [[1, 2], [3, np.nan]])
    np.testing.assert_array_equal(readings(folder, "series_flow"), [[10, 20], [np.nan, np.nan]])
    assert read_facts(folder / "dataset.yaml").variable == "speed"


def test_a_long_parquet_with_integer_ids_is_read(tmp_path: Path) -> None:
    frame = pd.DataFrame({"time": times(2).repeat(2), "station": [7, 5, 7, 5], "value": [1.0, 2, 3, 4]})
    frame.to_parquet(tmp_path / "x.parquet")
    folder = bring("long", tmp_path / "x.parquet")
    np.testing.assert_array_equal(table(folder, "series")[["5", "7"]].to_numpy(), [[2, 1], [4, 3]])


def test_duplicate_readings_keep_rows_of_their_own_in_their_order() -> None:
    moments = pd.DatetimeIndex(
        ["2024-01-01 01:00", "2024-01-01 00:00", "2024-01-01 01:00", "2024-01-01 01:00"]
    )
    layout = lay_out(moments, np.array([0, 0, 1, 0]), 2)
    values = spread(layout, np.array([1.0, 2, 3, 4]))
    np.testing.assert_array_equal(values, [[2, np.nan], [1, 3], [4, np.nan]])
    assert layout.duplicates == 1 and list(layout.times.hour) == [0, 1, 1]


def test_positions_and_edges_are_of_the_sensors_of_the_series(tmp_path: Path) -> None:
    sensors = write(tmp_path / "s.csv", "id,lat,lon\nb,52,4\nz,50,4\n")
    edges = write(tmp_path / "e.csv", "from,to,cost\na,b,1.5\na,a,0\nz,a,2\n")
    folder = bring("wide", write(tmp_path / "x.csv", WIDE), sensors=sensors, edges=edges, distance_unit="km")
    np.testing.assert_array_equal(table(folder, "sensors")["latitude"], [np.nan, 52])
    assert table(folder, "edges").to_numpy().tolist() == [["a", "b", 1500.0]]


@pytest.mark.parametrize(
    ("form", "text", "options", "expected"),
    [
        ("wide", "a,b\n1,2\n", {}, ["--time-column", "a, b"]),
        ("wide", "time,a,a\n2024-01-01,1,2\n", {}, ["same name: a"]),
        ("wide", "time\n2024-01-01\n", {}, ["no column beside 'time'"]),
        ("wide", "", {}, ["is empty"]),
        ("wide", "time,sensor,speed\n2024-01-01,a,1\n", {}, ["'a' is no number", "the format is long"]),
        ("wide", 'time,a\r"b\n2024-01-01,1\n', {}, ["line 1"]),
        ("wide", "time,a\n", {}, ["no rows"]),
        ("wide", "time,a\n2024-01-01,1\n", {}, ["1 row(s)"]),
        ("wide", WIDE.replace("4", "4,4"), {}, ["line 2 has 4 fields, 3 are due", "line 3 has 5"]),
        ("wide", WIDE.replace("4\n", "four\n"), {}, ["column b, line 3: 'four' is no number"]),
        ("wide", WIDE.replace(",5,", ",inf,"), {}, ["infinite numbers in column a, line 4"]),
        ("wide", WIDE.replace("2024-01-01 00:05", "yesterday"), {}, ["column time", "line 3 ('yesterday')"]),
        ("wide", WIDE.replace("2024-01-01 00:05", ""), {}, ["column time: no time in line 3"]),
        ("wide", WIDE.replace("00:05", "00:05Z"), {}, ["mixes times with an offset and without"]),
        ("wide", WIDE.replace("2024-01-01 00:05", "0900-01-01"), {}, ["before 1900"]),
        ("wide", WIDE, {"time_format": "%d.%m.%Y"}, ["not of the form %d.%m.%Y"]),
        ("wide", WIDE, {"edges": Path("none.csv")}, ["none.csv not found"]),
        ("wide", WIDE, {"start": "2024-01-01"}, ["format wide has no use for --start"]),
        ("wide", WIDE, {"time_zone": "Mars/Base"}, ["no zone of the tz database"]),
        ("wide", WIDE, {"step_minutes": -5.0}, ["--step-minutes -5.0"]),
        ("wide", WIDE.replace("2024-01-01 00:0", "2024-03-31 02:0"), {"time_zone": "Europe/Berlin"}, ["skips"]),
        ("long", LONG.replace(",b,", ",,"), {}, ["column sensor: no sensor in line 2"]),
        ("long", LONG.replace(",2,", ",x,"), {}, ["column speed, line 2: 'x' is no number"]),
        ("long", LONG, {"value_column": "volume"}, ["no column 'volume' (--value-column)", "speed, flow"]),
        ("long", LONG, {"also": ("sensor",)}, ["column sensor is asked for twice"]),
        ("long", LONG.replace("sensor", "who"), {}, ["--sensor-column"]),
        ("long", LONG.replace(",b,2,20", ",b,inf,20"), {}, ["infinite numbers in column speed, line 2"]),
        ("long", LONG.replace(",2,", ",1e39,"), {}, ["infinite numbers in column speed, line 2"]),
        ("long", LONG.replace("\n", "\n\n").replace(",3,", ",x,"), {}, ["column speed, line 7: 'x'"]),
        ("wide", LONG_OF_NUMBERS, {}, ["times repeat", "'sensor_id'", "format is long"]),
    ],
)  # fmt: skip
def test_a_fault_of_a_table_is_told(
    tmp_path: Path, form: str, text: str, options: dict[str, object], expected: list[str]
) -> None:
    message = refusal(form, write(tmp_path / "x.csv", text), **options)
    assert [part for part in expected if part not in message] == [], message


@pytest.mark.parametrize(
    ("edges", "expected"),
    [
        ("from,to,cost\na,b,1\n", "the unit of cost is not stated"),
        ("from,to,weight\nx,y,1\n", "joins none of the sensors"),
        ("from,to,distance_m\na,b,-1\n", "distance_m must be 0 or more, found line 2 (-1.0)"),
        ("from,to,distance_m\na,,1\n", "column to: no sensor in line 2"),
        ("from,to\na,b\n", "needs a column distance_m, cost or weight"),
        ("a,b,1\nb,a,far\n", "line 2: 'far' is no number"),
        ("a,b,1\n,a,2\n", "column from: no sensor in line 2"),
        ("a,b,1\nb,a,2,3\n", "line 2 has 4 fields, 3 are due"),
        ("a,b,1\nb,a,-2\n", "cost must be 0 or more, found line 2 (-2.0)"),
    ],
)
def test_a_fault_of_a_list_of_edges_is_told(tmp_path: Path, edges: str, expected: str) -> None:
    message = refusal("wide", write(tmp_path / "x.csv", WIDE), edges=write(tmp_path / "e.csv", edges))
    assert expected in message


def test_a_list_of_edges_without_a_header_is_read(tmp_path: Path) -> None:
    edges = write(tmp_path / "e.csv", "a,b,10\nb,a,20\n")
    folder = bring("wide", write(tmp_path / "x.csv", WIDE), edges=edges, distance_unit="m")
    assert list(table(folder, "edges")["distance_m"]) == [10, 20]


@pytest.mark.parametrize("option", ["edges", "sensors"])
def test_a_list_without_a_header_in_another_encoding_is_refused_by_its_line(
    tmp_path: Path, option: str
) -> None:
    path = tmp_path / "side.csv"
    path.write_bytes("a,51,0\nZ\u00fcrich,52,1\n".encode("latin-1"))
    message = refusal("wide", write(tmp_path / "x.csv", WIDE), **{option: path, "distance_unit": "m"})
    assert "side.csv" in message and "line 2 is no UTF-8" in message


@pytest.mark.parametrize(
    "cell", ["", " ", "na", "NA", "Na", "n/a", "N/A", "nan", "NaN", "null", "Null", "NULL"]
)
def test_a_cell_that_says_there_is_no_reading_is_missing(tmp_path: Path, cell: str) -> None:
    folder = bring("wide", write(tmp_path / "x.csv", WIDE.replace(",,", f",{cell},")))
    np.testing.assert_array_equal(readings(folder), [[1, 2], [np.nan, 4], [5, 6]])


def test_names_that_look_like_formulas_and_markup_stay_as_they_are(tmp_path: Path) -> None:
    text = "time,=cmd|' /C calc'!A0,<script>\n2024-01-01,1,2\n2024-01-02,3,4\n"
    folder = bring("wide", write(tmp_path / "x.csv", text))
    assert list(table(folder, "sensors")["sensor_id"]) == ["=cmd|' /C calc'!A0", "<script>"]
