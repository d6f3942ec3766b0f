"""Times of a table, whatever its order: offsets count, and the hour that autumn repeats stays two hours."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from foreign_files import bring, readings, refusal, station_line, table, write_station_day
from headway.commands.predict import read_file
from headway.data.importers.pivot import lay_out
from headway.errors import InputError

ZONE = "Europe/London"
# quarters 8 to 11 are the first pass of the hour from 01:00, 12 to 15 the second
AUTUMN = pd.date_range("2024-10-26 22:00", "2024-10-27 03:00", freq="15min", tz="UTC")
SPRING = "time,sensor,speed\n2024-03-31 00:45,a,1\n2024-03-31 01:15,a,2\n2024-03-31 02:00,a,3\n"


def autumn() -> pd.DataFrame:
    """A row a reading in civil time; the reading says its quarter of an hour and its sensor."""
    rows = [
        {"time": time.tz_convert(ZONE).tz_localize(None), "sensor": sensor, "speed": 10 * quarter + place}
        for quarter, time in enumerate(AUTUMN)
        for place, sensor in enumerate("ab")
    ]
    return pd.DataFrame(rows)


def bring_long(frame: pd.DataFrame, tmp_path: Path) -> Path:
    frame.to_csv(tmp_path / "x.csv", index=False)
    return bring("long", tmp_path / "x.csv", time_zone=ZONE)


def found(folder: Path) -> dict[tuple[str, str], float]:
    series = table(folder, "series").set_index("timestamp")
    cells = {
        (str(time), str(name)): series.loc[time, name] for time in series.index for name in series.columns
    }
    return {key: float(value) for key, value in cells.items() if not np.isnan(value)}


def truth(frame: pd.DataFrame) -> dict[tuple[str, str], float]:
    return {
        (str(AUTUMN[speed // 10]), str(sensor)): float(speed)
        for sensor, speed in zip(frame["sensor"], frame["speed"], strict=True)
    }


@pytest.mark.parametrize("form", ["wide", "long"])
@pytest.mark.parametrize("offset", ["+01", "+0100", "+01:00", " +01:00"])
def test_an_offset_counts_with_or_without_minutes(tmp_path: Path, form: str, offset: str) -> None:
    head = "time,a" if form == "wide" else "time,sensor,speed"
    row = ",1" if form == "wide" else ",a,1"
    rows = [f"2024-01-10 08:{minute}:00{offset}{row}" for minute in ("00", "05")]
    (tmp_path / "x.csv").write_text("\n".join([head, *rows]) + "\n")
    times = table(bring(form, tmp_path / "x.csv", time_zone="Europe/Berlin"), "series")["timestamp"]
    assert [str(time) for time in times] == ["2024-01-10 07:00:00+00:00", "2024-01-10 07:05:00+00:00"]


@pytest.mark.parametrize("form", ["wide", "long"])
def test_a_clock_change_between_offsets_without_minutes_is_no_gap(tmp_path: Path, form: str) -> None:
    head, row = ("time,a", ",1") if form == "wide" else ("time,sensor,speed", ",a,1")
    (tmp_path / "x.csv").write_text(f"{head}\n2024-03-31 01:55+01{row}\n2024-03-31 03:00+02{row}\n")
    times = table(bring(form, tmp_path / "x.csv"), "series")["timestamp"]
    assert [str(time) for time in times] == ["2024-03-31 00:55:00+00:00", "2024-03-31 01:00:00+00:00"]


@pytest.mark.parametrize("offset", ["+0100", "+01:00", "+01"])
def test_an_offset_in_a_named_format_counts(tmp_path: Path, offset: str) -> None:
    rows = "".join(f"10.01.2024 08:0{minute} {offset},a,1\n" for minute in (0, 5))
    (tmp_path / "x.csv").write_text("time,sensor,speed\n" + rows)
    folder = bring("long", tmp_path / "x.csv", time_format="%d.%m.%Y %H:%M %z")
    assert str(table(folder, "series")["timestamp"][0]) == "2024-01-10 07:00:00+00:00"


def test_dates_alone_have_no_offset(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("time,a\n2024-01-10,1\n2024-01-11,2\n")
    assert table(bring("wide", tmp_path / "x.csv"), "series")["timestamp"].dt.tz is None


def test_an_offset_without_minutes_beside_none_is_told_in_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("time,a\n2024-01-01 00:00+00,1\n2024-01-01 00:05,1\n")
    assert "mixes times with an offset and without" in refusal("wide", tmp_path / "x.csv")


def test_rows_of_another_zone_are_laid_out_by_utc() -> None:
    moments = pd.DatetimeIndex(["2024-01-10 08:00"], tz="Europe/Berlin")
    assert str(lay_out(moments, np.zeros(1, dtype=np.int64), 1).times[0]) == "2024-01-10 07:00:00+00:00"


def test_predict_reads_an_offset_without_minutes(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text("timestamp,a\n2024-03-31 01:55+01,1\n2024-03-31 03:00+02,2\n")
    assert [str(time) for time in read_file(path, ["a"])["timestamp"]] == [
        "2024-03-31 00:55:00+00:00",
        "2024-03-31 01:00:00+00:00",
    ]
    path.write_text("timestamp,a\n2024-03-31 01:55+01,1\n2024-03-31 03:00,2\n")
    with pytest.raises(InputError, match="none in"):
        read_file(path, ["a"])


@pytest.mark.parametrize("newest_first", [False, True])
@pytest.mark.parametrize("grouped", [False, True])
def test_both_passes_of_the_repeated_hour_are_kept_in_any_order_of_rows(
    tmp_path: Path, newest_first: bool, grouped: bool
) -> None:
    frame = autumn()
    ordered = frame.iloc[::-1] if newest_first else frame
    ordered = ordered.sort_values("sensor", kind="stable") if grouped else ordered
    assert found(bring_long(ordered, tmp_path)) == truth(frame)


@pytest.mark.parametrize("newest_first", [False, True])
@pytest.mark.parametrize(
    "absent",
    [[140, 141], [100, 101], [81, 91, 101, 111], [90, 141]],
    ids=[
        "a time of the second pass",
        "a time of the first pass",
        "a pass of one sensor",
        "a time of each sensor",
    ],
)
def test_a_gap_in_the_repeated_hour_does_not_join_its_passes(
    tmp_path: Path, absent: list[int], newest_first: bool
) -> None:
    frame = autumn()
    kept: Any = frame[~frame["speed"].isin(absent)]
    assert found(bring_long(kept.iloc[::-1] if newest_first else kept, tmp_path)) == truth(kept)


def test_a_table_by_sensor_that_ends_in_the_first_pass_has_no_second(tmp_path: Path) -> None:
    frame = autumn()
    first: Any = frame[frame["speed"] < 120]
    kept = first.sort_values("sensor", kind="stable")
    assert found(bring_long(kept, tmp_path)) == truth(kept)


def test_hourly_readings_of_many_sensors_keep_both_passes(tmp_path: Path) -> None:
    frame = autumn()
    kept: Any = frame[frame["time"].dt.minute == 0]
    assert found(bring_long(kept, tmp_path)) == truth(kept)


def test_one_pass_of_hourly_readings_is_the_first_whatever_the_sensors(tmp_path: Path) -> None:
    frame = autumn()
    kept: Any = frame[(frame["time"].dt.minute == 0) & ~frame["speed"].isin([120, 121])]
    assert found(bring_long(kept, tmp_path)) == truth(kept)


def test_a_time_that_spring_skips_is_told_by_its_line(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text(SPRING)
    message = refusal("long", tmp_path / "x.csv", time_zone=ZONE)
    assert "column time: Europe/London skips this time" in message
    assert "line 3 ('2024-03-31 01:15:00')" in message and "--time-zone UTC" in message


def test_a_station_file_keeps_both_passes_newest_first(tmp_path: Path) -> None:
    zone = "America/Los_Angeles"
    times = pd.date_range("2023-11-05 07:30", "2023-11-05 11:00", freq="5min", tz="UTC")
    lines = [
        station_line(f"{time.tz_convert(zone):%m/%d/%Y %H:%M:%S}", 1, observed=100, flow="1", speed=str(row))
        for row, time in enumerate(times)
    ]
    folder = bring("pems-station", write_station_day(tmp_path / "d.txt", lines[::-1]))
    assert list(table(folder, "series")["timestamp"]) == list(times)
    np.testing.assert_array_equal(readings(folder)[:, 0], np.arange(len(times)))


def test_runs_keep_both_passes_of_the_repeated_hour(tmp_path: Path) -> None:
    frame = autumn().rename(columns={"sensor": "edge"})
    frame.insert(0, "run_id", frame["time"].dt.strftime("run_%Y%m%d_%H%M%S"))
    frame.drop(columns="time").iloc[::-1].to_csv(tmp_path / "x.csv", index=False)
    assert found(bring("runs", tmp_path / "x.csv", time_zone=ZONE)) == truth(autumn())
