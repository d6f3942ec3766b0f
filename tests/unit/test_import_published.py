"""The published formats, each in a small file of its layout: readings, times, graph and facts arrive."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from foreign_files import (
    IDS,
    bring,
    readings,
    refusal,
    station_line,
    table,
    write_adjacency,
    write_basicts,
    write_hdf,
    write_json,
    write_station_day,
)
from headway.data.facts import read_facts
from headway.data.importers.known import DATA_SETS, Known
from worlds import daily_readings

VALUES = daily_readings(6, 3, 5)
GRAPH = np.array([[1, 0.5, 0], [0, 1, 0.25], [0, 0, 1]], dtype=np.float32)
CHICKENPOX = {"FX": [[1.5, 2.5], [3.5, None]], "node_ids": {"BACS": 1, "ZALA": 0}, "edges": [[0, 0], [0, 1]]}


def test_metr_la_arrives_with_its_null_rule_and_clock(tmp_path: Path) -> None:
    path = write_hdf(tmp_path / "metr-la.h5", VALUES.astype(np.float64))
    folder = bring("metr-la", path, edges=write_adjacency(tmp_path / "adj_mx.pkl", GRAPH))
    np.testing.assert_array_equal(readings(folder), VALUES)
    assert list(table(folder, "series").columns) == ["timestamp", *IDS]
    assert str(table(folder, "series")["timestamp"][1]) == "2012-03-01 00:05:00"
    assert table(folder, "edges").to_numpy().tolist() == [[IDS[0], IDS[1], 0.5], [IDS[1], IDS[2], 0.25]]
    facts = read_facts(folder / "dataset.yaml")
    assert (facts.unit, facts.null_value, facts.split, facts.time_zone) == ("mph", 0.0, "7-1-2", "UTC")


def test_pems_bay_has_integer_columns_and_distances_without_a_header(tmp_path: Path) -> None:
    path = write_hdf(tmp_path / "pems-bay.h5", VALUES, ids=[400001, 400017, 400030])
    distances = tmp_path / "distances_bay_2017.csv"
    distances.write_text("400001,400001,0.0\n400001,400017,812.5\n400017,999999,1.0\n")
    folder = bring("metr-la", path, edges=distances)
    assert table(folder, "edges").to_numpy().tolist() == [["400001", "400017", 812.5]]
    assert read_facts(folder / "dataset.yaml").time_zone == "America/Los_Angeles"


def test_a_frame_of_two_types_and_microseconds_keeps_the_order_of_its_columns(tmp_path: Path) -> None:
    def split(group: Any) -> None:
        del group["block0_items"], group["block0_values"]
        group.attrs["nblocks"] = 2
        for block, columns in enumerate(([0, 2], [1])):
            group[f"block{block}_items"] = np.array(IDS).astype("S")[columns]
            group[f"block{block}_values"] = VALUES[:, columns].astype(["f8", "f4"][block])
            group[f"block{block}_values"].attrs["transposed"] = 1

    index = pd.date_range("2012-03-01", periods=6, freq="5min", unit="us").asi8
    path = write_hdf(tmp_path / "x.h5", VALUES, kind="datetime64[us]", index=index, change=split)
    folder = bring("metr-la", path)
    np.testing.assert_array_equal(readings(folder), VALUES)
    assert str(table(folder, "series")["timestamp"][5]) == "2012-03-01 00:25:00"


@pytest.mark.parametrize(("name", "unit", "factor"), [("PEMS03", "flow", 1000), ("PEMS08", "flow", 1)])
def test_pems_archives_bring_their_start_and_the_unit_of_their_distances(
    tmp_path: Path, name: str, unit: str, factor: float
) -> None:
    array = np.stack([VALUES, VALUES / 1000, VALUES + 1], axis=2)
    np.savez_compressed(tmp_path / f"{name}.npz", data=array)
    distances = tmp_path / f"{name}.csv"
    distances.write_text("from,to,cost\n0,2,0.5\n")
    folder = bring("pems-npz", tmp_path / f"{name}.npz", edges=distances)
    np.testing.assert_array_equal(readings(folder), VALUES)
    np.testing.assert_array_equal(readings(folder, "series_speed"), VALUES + 1)
    np.testing.assert_allclose(readings(folder, "series_occupancy"), VALUES / 1000)
    assert table(folder, "edges").to_numpy().tolist() == [["0", "2", 0.5 * factor]]
    assert read_facts(folder / "dataset.yaml").split == "6-2-2"


def test_pems03_takes_its_ids_from_their_list(tmp_path: Path) -> None:
    np.savez(tmp_path / "PEMS03.npz", data=VALUES[:, :, None])
    (tmp_path / "PEMS03.txt").write_text("313344\n313349\n313438\n")
    (tmp_path / "PEMS03.csv").write_text("from,to,distance\n313344,313438,0.872\n")
    sensors, edges = tmp_path / "PEMS03.txt", tmp_path / "PEMS03.csv"
    folder = bring("pems-npz", tmp_path / "PEMS03.npz", sensors=sensors, edges=edges)
    assert list(table(folder, "sensors")["sensor_id"]) == ["313344", "313349", "313438"]
    assert table(folder, "edges").to_numpy().tolist() == [["313344", "313438", 872.0]]
    assert str(table(folder, "series")["timestamp"][0]) == "2018-09-01 00:00:00+00:00"


def test_an_unknown_archive_needs_a_start(tmp_path: Path) -> None:
    np.savez(tmp_path / "mine.npz", data=VALUES[:, :, None])
    assert "--start" in refusal("pems-npz", tmp_path / "mine.npz")
    folder = bring("pems-npz", tmp_path / "mine.npz", start="2020-07-01T06:00", time_zone="Europe/London")
    assert str(table(folder, "series")["timestamp"][0]) == "2020-07-01 05:00:00+00:00"


def test_pemsd7_has_weekdays_only_and_a_matrix_of_distances(tmp_path: Path) -> None:
    values = daily_readings(4 * 288, 4, 5)
    np.savetxt(tmp_path / "PeMSD7_V_228.csv", values, delimiter=",")
    distances = np.arange(16).reshape(4, 4)
    np.savetxt(tmp_path / "W.csv", distances, delimiter=",")
    folder = bring("pemsd7", tmp_path / "PeMSD7_V_228.csv", edges=tmp_path / "W.csv", start="2012-05-03")
    np.testing.assert_allclose(readings(folder), values, rtol=1e-6)
    days = table(folder, "series")["timestamp"].dt.date.astype(str).unique()
    assert list(days) == ["2012-05-03", "2012-05-04", "2012-05-07", "2012-05-08"]
    edges = table(folder, "edges")
    assert sorted(edges["distance_m"].tolist())[-1] == 14 and len(edges) == 12


def test_largest_reads_years_metadata_and_adjacency_of_a_folder(tmp_path: Path) -> None:
    source = tmp_path / "ca"
    source.mkdir()
    for year in (2018, 2019):
        index = pd.date_range(f"{year}-01-01", periods=6, freq="15min", unit="ns").asi8
        write_hdf(source / f"ca_his_{year}.h5", VALUES + year, index=index)
    meta = pd.DataFrame({"ID": IDS[::-1], "Lat": [34, 35, 36], "Lng": [-118, -119, -120], "ID2": [0, 1, 2]})
    meta.to_csv(source / "ca_meta.csv", index=False)
    np.save(source / "ca_rn_adj.npy", GRAPH)
    folder = bring("largest", source)
    np.testing.assert_array_equal(readings(folder), np.concatenate([VALUES + 2018, VALUES + 2019]))
    assert list(table(folder, "sensors")["latitude"]) == [36, 35, 34]
    assert table(folder, "edges").to_numpy().tolist() == [[IDS[2], IDS[1], 0.5], [IDS[1], IDS[0], 0.25]]
    assert read_facts(folder / "dataset.yaml").licence == "CC BY-NC 4.0"


def test_a_zip_of_metr_la_has_speeds_and_a_graph(tmp_path: Path) -> None:
    path = tmp_path / "METR-LA.zip"
    np.savez(path.with_suffix(".npz"), node_values=np.stack([VALUES, VALUES * 0], axis=2), adj_mat=GRAPH)
    path.with_suffix(".npz").rename(path)
    folder = bring("pgt-zip", path)
    np.testing.assert_array_equal(readings(folder), VALUES)
    assert str(table(folder, "series")["timestamp"][1]) == "2012-03-01 00:05:00+00:00"
    assert table(folder, "edges").to_numpy().tolist() == [["0", "1", 0.5], ["1", "2", 0.25]]


def test_the_speed_of_a_pems_archive_can_be_the_target(tmp_path: Path) -> None:
    np.savez(tmp_path / "PEMS08.npz", data=np.stack([VALUES, VALUES / 1000, VALUES + 1], axis=2))
    folder = bring("pems-npz", tmp_path / "PEMS08.npz", variable="speed")
    np.testing.assert_array_equal(readings(folder), VALUES + 1)
    np.testing.assert_array_equal(readings(folder, "series_flow"), VALUES)
    assert read_facts(folder / "dataset.yaml").unit == "mph"
    assert "the archive has flow" in refusal_of_variable(tmp_path)


def refusal_of_variable(tmp_path: Path) -> str:
    (tmp_path / "one").mkdir()
    np.savez(tmp_path / "one/PEMS03.npz", data=VALUES[:, :, None])
    return refusal("pems-npz", tmp_path / "one/PEMS03.npz", variable="speed")


def test_chickenpox_has_names_weeks_and_edges(tmp_path: Path) -> None:
    folder = bring("pgt-json", write_json(tmp_path / "chickenpox.json", CHICKENPOX))
    assert list(table(folder, "sensors")["sensor_id"]) == ["ZALA", "BACS"]
    np.testing.assert_array_equal(readings(folder), [[1.5, 2.5], [3.5, np.nan]])
    assert str(table(folder, "series")["timestamp"][1]) == "2005-01-10 00:00:00+00:00"
    assert table(folder, "edges").to_numpy().tolist() == [["ZALA", "BACS", 1.0]]


def test_windmill_needs_a_start(tmp_path: Path) -> None:
    document = {"block": [[1, 2], [3, 4]], "edges": [[0, 1], [1, 1]], "weights": [0.7, 1]}
    path = write_json(tmp_path / "windmill_output.json", document)
    assert "--start" in refusal("pgt-json", path)
    folder = bring("pgt-json", path, start="2020-01-01")
    assert table(folder, "edges").to_numpy().tolist() == [["0", "1", 0.7]]
    assert read_facts(folder / "dataset.yaml").step_minutes == 60


def test_montevideo_has_stops_lines_and_distances(tmp_path: Path) -> None:
    nodes = [{"bus_stop": stop, "lon": 589196, "lat": 6151987, "y": [stop, 0]} for stop in (5289, 5290)]
    links = [{"source": 5289, "target": 5290, "weight": 172.2}]
    folder = bring("pgt-json", write_json(tmp_path / "montevideo_bus.json", {"nodes": nodes, "links": links}))
    np.testing.assert_array_equal(readings(folder), [[5289, 5290], [0, 0]])
    assert table(folder, "edges").to_numpy().tolist() == [["5289", "5290", 172.2]]


def test_a_basicts_folder_leaves_its_clock_features_out(tmp_path: Path) -> None:
    folder = bring("basicts", write_basicts(tmp_path / "Town", 6), start="2020-01-01")
    np.testing.assert_array_equal(readings(folder), VALUES)
    assert sorted(path.name for path in folder.glob("series*")) == ["series.parquet"]
    facts = read_facts(folder / "dataset.yaml")
    assert (facts.null_value, facts.split, facts.step_minutes) == (0.0, "6-2-2", 5.0)
    assert list(table(folder, "sensors")["sensor_id"]) == IDS


def test_a_basicts_folder_of_version_1_is_joined_in_time(tmp_path: Path) -> None:
    source = tmp_path / "METR-LA"
    source.mkdir()
    write_json(source / "meta.json", {"name": "METR-LA", "domain": "traffic speed", "frequency (minutes)": 5})
    for name, rows in (("train", slice(0, 4)), ("val", slice(4, 5)), ("test", slice(5, 6))):
        np.save(source / f"{name}_data.npy", VALUES[rows])
    folder = bring("basicts", source)
    np.testing.assert_array_equal(readings(folder), VALUES)
    assert str(table(folder, "series")["timestamp"][0]) == "2012-03-01 00:00:00+00:00"


def test_an_st_sepnet_folder_has_two_flows_and_a_matrix(tmp_path: Path) -> None:
    source = tmp_path / "Bike"
    source.mkdir()
    for name, values in (("inflow", VALUES), ("outflow", VALUES + 1)):
        index = pd.date_range("2023-01-01", periods=6, freq="h").rename("date")
        pd.DataFrame(values, columns=["0", "1", "2"], index=index).to_csv(source / f"{name}.csv")
    (source / "adj.csv").write_text("0,1,2\n753.0,2.0,0\n0,0,0\n0,1,0\n")
    folder = bring("st-sepnet", source, variable="outflow")
    np.testing.assert_allclose(readings(folder), VALUES + 1, rtol=1e-6)
    np.testing.assert_allclose(readings(folder, "series_inflow"), VALUES, rtol=1e-6)
    assert table(folder, "edges").to_numpy().tolist() == [["0", "1", 2.0], ["2", "1", 1.0]]


def test_pems_station_days_leave_imputed_readings_out(tmp_path: Path) -> None:
    source = tmp_path / "d04"
    source.mkdir()
    for day in (1, 2):
        moment = f"01/0{day}/2023 00:00:00"
        lines = [
            station_line(moment, 400001, observed=100, flow="55", speed="61.5"),
            station_line(moment, 400017, observed=0, flow="44", speed="60", lanes=5),
        ]
        suffix = ".txt.gz" if day == 1 else ".txt"
        write_station_day(source / f"d04_text_station_5min_2023_01_0{day}{suffix}", lines)
    folder = bring("pems-station", source)
    np.testing.assert_array_equal(readings(folder), [[61.5, np.nan], [61.5, np.nan]])
    np.testing.assert_array_equal(readings(folder, "series_flow")[:, 0], [55, 55])
    assert str(table(folder, "series")["timestamp"][1]) == "2023-01-02 08:00:00+00:00"


@pytest.mark.parametrize("known", DATA_SETS, ids=lambda known: known.name)
def test_start_and_length_of_a_known_data_set_end_on_a_whole_day_or_hour(known: Known) -> None:
    """The dates of data.md and the steps fit each other: 119 days of METR-LA, 91 of PEMS03, ..."""
    minutes = known.facts.step_minutes or 0
    steps = known.shape[0] + (12 if known.name == "PEMS-BAY" else 0)  # the hour its clocks skip
    assert steps * minutes % 60 == 0 and (minutes > 5 or steps % 288 == 0)
