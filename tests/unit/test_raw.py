"""What is wrong with a raw folder is said at once, by file, column, sensor, row or key."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from headway.data.facts import DatasetFacts, read_facts
from headway.data.parquet import read_readings, read_times
from headway.data.raw import RawFolder, read_raw
from headway.errors import InputError
from worlds import write_raw_world, write_series


def read(
    folder: Path, inputs: tuple[str, ...] = (), covariates: tuple[str, ...] = (), drop: bool = False
) -> RawFolder:
    return read_raw(folder, inputs, covariates, drop=drop)


def edges(*rows: tuple[str, str, float], measure: str = "distance_m") -> pd.DataFrame:
    return pd.DataFrame(rows, columns=["source", "target", measure])


def complaint(folder: Path, **kwargs: object) -> str:
    with pytest.raises(InputError) as caught:
        read(folder, **kwargs)  # type: ignore[arg-type]
    return str(caught.value)


def test_sensors_are_sorted_by_id_whatever_the_order_of_the_files(tmp_path: Path) -> None:
    raw = read(write_raw_world(tmp_path / "x", ids=("c", "10", "9")))
    assert list(raw.sensors["sensor_id"]) == ["10", "9", "c"]
    assert raw.sensors["latitude"].to_list()[2] == 52.0  # the row moves with its id


def test_an_unknown_data_set_lists_those_that_exist(tmp_path: Path) -> None:
    write_raw_world(tmp_path / "here")
    (tmp_path / ".here.tmp").mkdir()
    message = complaint(tmp_path / "gone")
    assert "gone: no such data set" in message and "has here." in message


def test_a_truncated_file_is_named(tmp_path: Path) -> None:
    folder = write_raw_world(tmp_path / "x")
    whole = (folder / "series.parquet").read_bytes()
    (folder / "series.parquet").write_bytes(whole[: len(whole) // 2])
    assert "series.parquet is no readable Parquet file" in complaint(folder)


def test_a_flipped_bit_is_caught_by_the_page_checksum(tmp_path: Path) -> None:
    folder = write_raw_world(tmp_path / "x")
    damaged = bytearray((folder / "series.parquet").read_bytes())
    damaged[len(damaged) // 4] ^= 1
    (folder / "series.parquet").write_bytes(damaged)
    with pytest.raises(InputError, match=r"series\.parquet is damaged in row group 0"):
        read_times(folder / "series.parquet", "UTC")
        read_readings(folder / "series.parquet", ["a", "b", "c", "d"])


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    folder = write_raw_world(tmp_path / "x")
    (folder / "sensors.parquet").unlink()
    assert "sensors.parquet not found" in complaint(folder)


def test_all_problems_of_a_folder_come_in_one_message(tmp_path: Path) -> None:
    folder = write_raw_world(tmp_path / "x", edges=edges(("a", "nowhere", 5), ("b", "a", -3)))
    times = pd.date_range("2024-01-01", periods=3, freq="h")
    write_series(folder / "series.parquet", times, {"a": [1.0, 2, 3], "b": ["x", "y", "z"], "new": [1, 2, 3]})
    message = complaint(folder, inputs=("flow",), covariates=("rain",))
    for part in (
        "columns that are not numbers: b (",
        "sensors in series.parquet, not in sensors.parquet: new",
        "sensors in sensors.parquet, not in series.parquet: c, d",
        "sensors in edges.parquet, not in series.parquet: nowhere",
        "distance_m must be 0 or more, found row 1 (b -> a: -3.0)",
        "no variable 'flow'; there are: none",
        "rain asked for, but there is no covariates.parquet",
    ):
        assert part in message, part


def test_a_series_without_timestamps_lists_its_columns(tmp_path: Path) -> None:
    folder = write_raw_world(tmp_path / "x")
    pd.DataFrame({"time": [1], "a": [1.0]}).to_parquet(folder / "series.parquet", index=False)
    assert "series.parquet has no column timestamp; its columns are time, a" in complaint(folder)


def test_timestamps_as_text_are_refused(tmp_path: Path) -> None:
    folder = write_raw_world(tmp_path / "x", timestamps=["2024-01-01 00:00", "2024-01-01 01:00"])
    assert "column timestamp is of type" in complaint(folder)


def test_absent_inputs_and_covariates_list_those_that_exist(tmp_path: Path) -> None:
    more = np.ones((200, 4), np.float32)
    folder = write_raw_world(tmp_path / "x", variables={"flow": more}, covariates={"rain": more[:, 0]})
    message = complaint(folder, inputs=("speed",), covariates=("wind",))
    assert "no variable 'speed'; there are: flow" in message
    assert "no column 'wind' in covariates.parquet; there are: rain" in message


def test_an_input_that_lacks_a_sensor_is_refused(tmp_path: Path) -> None:
    folder = write_raw_world(tmp_path / "x")
    write_series(
        folder / "series_flow.parquet", pd.date_range("2024-01-01", periods=2), {"a": [1, 2], "b": [1, 2]}
    )
    assert "series_flow.parquet lacks sensors of series.parquet: c, d" in complaint(folder, inputs=("flow",))


def test_the_drop_rule_leaves_out_what_the_files_do_not_share(tmp_path: Path) -> None:
    folder = write_raw_world(tmp_path / "x", edges=edges(("a", "nowhere", 5)))
    times = pd.date_range("2024-01-01", periods=3, freq="h")
    write_series(folder / "series.parquet", times, {"new": [1.0, 2, 3], "b": [1.0, 2, 3], "a": [1.0, 2, 3]})
    raw = read(folder, drop=True)
    assert list(raw.sensors["sensor_id"]) == ["a", "b"]
    assert raw.left_out == {
        "in series.parquet, not in sensors.parquet": ["new"],
        "in sensors.parquet, not in series.parquet": ["c", "d"],
        "in edges.parquet, not in series.parquet": ["nowhere"],
    }


def test_coordinates_off_the_globe_are_refused(tmp_path: Path) -> None:
    folder = write_raw_world(tmp_path / "x")
    table = pd.read_parquet(folder / "sensors.parquet")
    table.loc[1, "latitude"], table.loc[2, "longitude"] = 91, -1000
    table.to_parquet(folder / "sensors.parquet")
    message = complaint(folder)
    assert "latitude outside -90..90 degrees: b (91.0)" in message
    assert "longitude outside -180..180 degrees: c (-1000.0)" in message


def test_sensor_ids_must_be_there_once(tmp_path: Path) -> None:
    folder = write_raw_world(tmp_path / "x")
    pd.DataFrame({"sensor_id": ["a", "b", "b", "c", "d"]}).to_parquet(folder / "sensors.parquet")
    assert "sensor_id more than once: b" in complaint(folder)
    pd.DataFrame({"id": ["a"]}).to_parquet(folder / "sensors.parquet")
    assert "has no column sensor_id; its columns are id" in complaint(folder)


def test_edges_need_a_distance_or_a_weight(tmp_path: Path) -> None:
    folder = write_raw_world(tmp_path / "x", edges=pd.DataFrame({"source": ["a"], "target": ["b"]}))
    assert "edges.parquet needs source, target and distance_m or weight" in complaint(folder)


def test_infinite_readings_are_named_by_column_and_row(tmp_path: Path) -> None:
    readings = np.ones((5, 2))
    readings[3, 1], readings[4, 0] = np.inf, 1e300  # the second overflows float32
    folder = write_raw_world(tmp_path / "x", ids=("a", "b"), readings=readings)
    with pytest.raises(InputError, match=r"infinite readings in column a, row 4, column b, row 3"):
        read_readings(folder / "series.parquet", ["a", "b"])


def test_columns_are_found_by_name_in_any_order(tmp_path: Path) -> None:
    folder = write_raw_world(tmp_path / "x", ids=("a", "b"), readings=np.array([[1.0, 2], [3, np.nan]]))
    np.testing.assert_array_equal(
        read_readings(folder / "series.parquet", ["b", "a"]), np.array([[2, 1], [np.nan, 3]], np.float32)
    )


def test_whole_numbers_and_empty_cells_are_readings(tmp_path: Path) -> None:
    folder = tmp_path / "x"
    folder.mkdir()
    table = {"a": pd.array([1, None, 3], dtype="Int64")}
    write_series(folder / "series.parquet", pd.date_range("2024-01-01", periods=3), table)
    np.testing.assert_array_equal(read_readings(folder / "series.parquet", ["a"])[:, 0], [1, np.nan, 3])


def test_an_empty_timestamp_is_named_by_row(tmp_path: Path) -> None:
    times = pd.DatetimeIndex(["2024-01-01 00:00", None, "2024-01-01 02:00"])
    folder = write_raw_world(tmp_path / "x", timestamps=times)
    with pytest.raises(InputError, match="timestamp is empty in rows 1;"):
        read_times(folder / "series.parquet", "UTC")


def test_aware_timestamps_bring_their_zone_and_are_not_shifted(tmp_path: Path) -> None:
    times = pd.date_range("2024-07-01", periods=48, freq="h", tz="Europe/London")
    raw = read(write_raw_world(tmp_path / "x", timestamps=times))
    assert raw.zone == "Europe/London"
    utc = read_times(raw.path / "series.parquet", raw.zone).utc
    assert utc[0] == np.datetime64("2024-06-30T23:00", "s").astype(np.int64)


def test_a_bare_offset_is_no_zone_until_declared(tmp_path: Path) -> None:
    times = pd.date_range("2024-07-01", periods=48, freq="h", tz="+01:00")
    assert "carry the offset +01:00; name their time_zone" in complaint(
        write_raw_world(tmp_path / "x", timestamps=times)
    )
    raw = read(write_raw_world(tmp_path / "y", timestamps=times, facts={"time_zone": "Europe/Berlin"}))
    assert raw.zone == "Europe/Berlin"


def test_dataset_yaml_is_optional(tmp_path: Path) -> None:
    assert read_facts(tmp_path / "dataset.yaml") == DatasetFacts()


@pytest.mark.parametrize("written", ["nan", ".nan", "NaN", "null"])
def test_nan_as_null_value_is_no_number(tmp_path: Path, written: str) -> None:
    (tmp_path / "dataset.yaml").write_text(f"null_value: {written}\n")
    assert read_facts(tmp_path / "dataset.yaml").null_value is None


def test_dataset_yaml_is_read_strictly_and_says_all_at_once(tmp_path: Path) -> None:
    (tmp_path / "dataset.yaml").write_text(
        "units: km/h\nsplit: 8-1-1\nnull_value: zero\nmaximum: .inf\n", encoding="utf-8"
    )
    with pytest.raises(InputError) as caught:
        read_facts(tmp_path / "dataset.yaml")
    message = str(caught.value)
    assert "units: unknown key; known are unit, variable, time_zone" in message
    assert "split: input should be '7-1-2' or '6-2-2', found '8-1-1'" in message
    assert "null_value: input should be a valid number" in message
    assert "maximum: inf is not a finite number" in message


@pytest.mark.parametrize(
    ("line", "part"),
    [
        ("time_zone: Mars/Olympus", "time_zone: 'Mars/Olympus' is not a zone"),
        ("time_zone: ../../etc/passwd", "is not a zone"),
        ("step_minutes: 0.001", "must be positive and whole seconds"),
        ("step_minutes: -5", "must be positive and whole seconds"),
        ("{minimum: 3, maximum: 2}", "minimum: 3.0 must be below maximum, 2.0"),
        ("- 1", "must be a mapping of keys, found list"),
        ("a: [", "is not readable YAML"),
        ("a: !!python/object:os.system {}", "is not readable YAML"),
    ],
)
def test_what_cannot_be_true_is_refused(tmp_path: Path, line: str, part: str) -> None:
    (tmp_path / "dataset.yaml").write_text(line + "\n")
    with pytest.raises(InputError, match=r"dataset\.yaml") as caught:
        read_facts(tmp_path / "dataset.yaml")
    assert part in str(caught.value)


def test_the_row_numbers_pandas_adds_are_no_sensor(tmp_path: Path) -> None:
    folder = write_raw_world(tmp_path / "x", ids=("a", "b"))
    shuffled = pd.read_parquet(folder / "series.parquet").sample(frac=1, random_state=0)
    shuffled.to_parquet(folder / "series.parquet")  # with its index, as to_parquet does when told nothing
    assert list(read(folder).sensors["sensor_id"]) == ["a", "b"]


def test_timestamps_as_the_index_of_a_pandas_table_are_found(tmp_path: Path) -> None:
    folder = write_raw_world(tmp_path / "x", ids=("a", "b"))
    pd.read_parquet(folder / "series.parquet").set_index("timestamp").to_parquet(folder / "series.parquet")
    assert list(read(folder).sensors["sensor_id"]) == ["a", "b"]
