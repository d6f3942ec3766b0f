"""The embedded road world: what it writes, that it repeats itself, that it looks like traffic."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from headway.data.detectors import draw_outages, read_flow, read_speed
from headway.data.junctions import DELAY, FOURTH
from headway.data.raw import read_raw
from headway.data.road_conditions import daily_demand, draw_incidents, draw_weather
from headway.data.road_network import build_network
from headway.data.simulate import SimulateParams, control_minutes, drive_world, simulate
from headway.errors import InputError

PARAMS = SimulateParams(
    seed=1,
    sensors=12,
    days=2,
    step_minutes=15,
    incidents_per_day=6.0,
    missing_share=0.06,
    speed_noise=1.5,
    junctions=0,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("raw") / "simulated"
    simulate(PARAMS, path)
    return path


def test_the_folder_is_a_raw_data_set_that_the_reader_accepts(folder: Path) -> None:
    raw = read_raw(folder, inputs=["flow"], covariates=["rain", "temperature"], drop=False)
    assert len(raw.sensors) == 12 and raw.edges is not None and raw.zone == "UTC"
    for name in ("series", "series_flow"):
        frame = pd.read_parquet(folder / f"{name}.parquet")
        assert list(frame.columns) == ["timestamp", *raw.sensors["sensor_id"]]
        assert frame.shape == (192, 13) and set(frame.dtypes.iloc[1:]) == {np.dtype(np.float32)}
        times = frame["timestamp"].to_numpy()
        assert times[0] == np.datetime64("2024-01-01") and pd.Timestamp(times[0]).day_name() == "Monday"
        assert (np.diff(times) == np.timedelta64(15, "m")).all()


def test_the_same_parameters_give_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    simulate(PARAMS, tmp_path / "again")
    names = sorted(path.name for path in folder.iterdir())
    assert names == sorted(path.name for path in (tmp_path / "again").iterdir())
    for name in names:
        assert (folder / name).read_bytes() == (tmp_path / "again" / name).read_bytes(), name


def test_another_seed_is_another_city() -> None:
    assert not np.array_equal(build_network(12, 1).sensor, build_network(12, 2).sensor)


def test_a_step_that_does_not_divide_the_hour_is_refused() -> None:
    with pytest.raises(InputError, match=r"simulate.step_minutes must divide 60, found 7"):
        replace(PARAMS, step_minutes=7)


def test_conditions_hold_for_whole_parts_of_a_step() -> None:
    steps = [minutes for minutes in range(1, 61) if 60 % minutes == 0]
    assert all(step % control_minutes(step) == 0 and control_minutes(step) <= 5 for step in steps)


def test_an_old_folder_is_replaced_whole_and_leftovers_vanish(folder: Path, tmp_path: Path) -> None:
    old = tmp_path / "simulated"
    old.mkdir()
    (old / "series_occupancy.parquet").write_text("of an earlier version")
    (tmp_path / ".simulated.tmp").mkdir()
    simulate(PARAMS, old)
    assert [path.name for path in tmp_path.iterdir()] == ["simulated"]
    assert {path.name for path in old.iterdir()} == {path.name for path in folder.iterdir()}


def test_a_failure_while_writing_leaves_the_old_folder_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = tmp_path / "simulated"
    old.mkdir()
    (old / "series.parquet").write_text("old")

    def full(*_: object, **__: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(pq, "write_table", full)
    with pytest.raises(OSError, match="no space left"):
        simulate(PARAMS, old)
    assert (old / "series.parquet").read_text() == "old"


def test_rush_hours_are_slower_and_fuller_than_the_night() -> None:
    world = drive_world(replace(PARAMS, sensors=32, incidents_per_day=0.0))
    hour = np.arange(len(world.speed)) % 96 / 4
    rush, night = (hour >= 7) & (hour < 9), (hour >= 1) & (hour < 4)
    assert world.speed[rush].mean() < world.speed[night].mean() - 10.0
    assert world.flow[rush].mean() > 4.0 * world.flow[night].mean()
    limit = world.network.free_speed[world.network.sensor]
    assert (world.speed > 0.0).all() and (world.speed <= limit * 1.0001).all()


def test_until_the_first_incident_the_world_is_the_one_without_incidents() -> None:
    calm, hit = drive_world(replace(PARAMS, incidents_per_day=0.0)), drive_world(PARAMS)
    first = int(hit.incidents.start.min()) * 5 // 15
    assert np.array_equal(calm.speed[:first], hit.speed[:first])
    assert len(calm.incidents.cell) == 0 and (calm.speed - hit.speed).max() > 20.0


def test_one_more_sensor_elsewhere_does_not_change_the_demand_of_a_corridor() -> None:
    small, large = build_network(33, 5), build_network(34, 5)  # corridor 1 grows
    assert small.corridors[0] == large.corridors[0] and small.corridors[1] != large.corridors[1]
    demand = []
    for network in (small, large):
        here = network.corridor[network.ramp + 1] == 0
        demand.append(np.concatenate([day[:, here] for day in daily_demand(network, 5, 3, 5)]))
    assert np.array_equal(*demand)


def test_weekends_are_quieter_than_working_days() -> None:
    network = build_network(32, 4)
    totals = [day.sum() for day in daily_demand(network, 4, 7, 5)]
    assert max(totals[5:]) < 0.85 * min(totals[:5]) and totals[6] < totals[5]


def test_edges_follow_the_traffic_and_join_corridors_at_interchanges() -> None:
    network = build_network(64, 7)
    corridor = network.corridor[network.sensor]
    across = 0
    for source, target, meters in network.edges():
        across += corridor[source] != corridor[target]
        assert meters > 0.0
        assert corridor[source] != corridor[target] or network.sensor[target] > network.sensor[source]
    assert across == 8, "two freeways of two directions each meet once"
    assert len({(source, target) for source, target, _ in network.edges()}) == len(network.edges())


def test_neighbors_along_the_road_are_about_as_far_apart_on_the_map() -> None:
    network = build_network(64, 7)
    latitude, longitude = network.coordinates()
    scale = 111.195 * np.array([1.0, np.cos(np.radians(47.0))])
    place = np.stack([latitude, longitude], axis=1) * scale
    corridor = network.corridor[network.sensor]
    for source, target, meters in network.edges():
        if corridor[source] == corridor[target]:
            assert 0.6 < np.linalg.norm(place[source] - place[target]) * 1000 / meters < 1.5


def test_every_size_of_world_can_be_built() -> None:
    for sensors in (*range(8, 60), 107, 108, 300):
        network = build_network(sensors, 0)
        assert len(network.sensor) == sensors == len(set(network.sensor.tolist()))
        assert not network.road.sink[network.sensor].any()
        assert (network.exit_share[network.road.connector_from] > 0.0).all()
        assert len(set(network.road.connector_to)) == len(network.road.connector_to)


def test_some_edges_join_a_jam_to_free_traffic_and_most_do_not(tmp_path: Path) -> None:
    simulate(replace(PARAMS, sensors=32), tmp_path / "simulated")
    truth = pd.read_parquet(tmp_path / "simulated" / "truth_edges.parquet")
    edges = pd.read_parquet(tmp_path / "simulated" / "edges.parquet")
    assert truth[["source", "target"]].equals(edges[["source", "target"]])
    assert 0.0 < truth["heterophilous"].to_numpy().mean() < 0.6


def test_incidents_lie_inside_the_series_on_the_road(folder: Path) -> None:
    truth = pd.read_parquet(folder / "truth_incidents.parquet")
    sensors = pd.read_parquet(folder / "sensors.parquet").set_index("sensor_id")
    minutes = (truth["end"] - truth["start"]).dt.total_seconds() / 60
    assert len(truth) > 3 and minutes.between(0, 90).all()
    assert (truth["end"].to_numpy() <= np.datetime64("2024-01-03")).all()
    assert truth["capacity_share"].between(0.3, 0.75).all()
    assert (sensors.loc[truth["sensor_id"], "corridor"].to_numpy() == truth["corridor"]).all()


def test_as_many_incidents_as_asked_for_on_average() -> None:
    network = build_network(8, 0)
    assert len(draw_incidents(network, 0, 500, 5, 4.0).cell) == pytest.approx(2000, rel=0.1)


def test_rain_lowers_capacity_and_speed_and_comes_in_spells() -> None:
    weather = draw_weather(3, 120, 5)
    wet = weather.rain > 0.0
    assert 0.04 < wet.mean() < 0.2
    assert (np.diff(wet.astype(int)) != 0).sum() < 0.02 * len(wet)
    assert (weather.capacity_factor()[wet] < 1.0).all() and (weather.speed_factor()[wet] < 1.0).all()
    assert (weather.capacity_factor()[~wet] == 1.0).all()


def test_outages_take_the_asked_share_mostly_in_bursts() -> None:
    lost = draw_outages(6048, 200, 0, 0.06, 5)
    assert lost.mean() == pytest.approx(0.06, rel=0.15)
    alone = lost[1:-1] & ~lost[:-2] & ~lost[2:]
    assert 0.03 < alone.sum() / lost.sum() < 0.2
    share = lost.mean(axis=0)
    assert share.max() > 3 * np.median(share), "a handful of sensors is worse than the others"
    assert not draw_outages(100, 5, 0, 0.0, 5).any()


def test_readings_are_as_noisy_as_asked_and_flows_count_whole_vehicles() -> None:
    true = np.full((4000, 40), 80.0, dtype=np.float32)
    spread = read_speed(true, 0, 1.5).std(axis=0)
    assert np.median(spread) == pytest.approx(1.5, rel=0.05) and spread.max() > 3.0
    flow = read_flow(np.full((100, 3), 1234.0, dtype=np.float32), 0, 5)
    assert (flow % 12 == 0).all() and flow.mean() == pytest.approx(1234, rel=0.05)


# --- planted junctions --------------------------------------------------------------------------------------


def test_planting_changes_the_sensors_of_the_junctions_and_no_other() -> None:
    plain, planted = drive_world(PARAMS), drive_world(replace(PARAMS, junctions=2))
    junctions = planted.junctions
    chosen = {*junctions.fourth.tolist(), *junctions.approaches.flatten().tolist()}
    changed = np.flatnonzero((plain.speed != planted.speed).any(axis=0))
    assert set(changed.tolist()) == chosen and len(chosen) == 8
    assert np.array_equal(plain.flow, planted.flow)


def test_the_fourth_sensor_slows_down_when_all_three_approaches_were_busy() -> None:
    plain, planted = drive_world(PARAMS), drive_world(replace(PARAMS, junctions=2))
    delay = DELAY // PARAMS.step_minutes
    for fourth, busy in zip(planted.junctions.fourth, planted.junctions.busy, strict=True):
        share = planted.speed[:, fourth] / plain.speed[:, fourth]
        jointly = np.concatenate([np.zeros(delay, dtype=bool), busy.all(axis=0)[:-delay]])
        assert np.allclose(share, np.where(jointly, FOURTH, 1.0), atol=1e-6)
        assert 0.1 < jointly.mean() < 0.8


def test_the_fourth_sensor_is_a_neighbor_of_its_approaches_alone(tmp_path: Path) -> None:
    simulate(replace(PARAMS, junctions=2), tmp_path / "planted")
    truth = pd.read_parquet(tmp_path / "planted/truth_junctions.parquet")
    edges = pd.read_parquet(tmp_path / "planted/edges.parquet")
    for _, row in truth.iterrows():
        touching = edges[(edges["source"] == row["sensor_id"]) | (edges["target"] == row["sensor_id"])]
        assert list(touching["source"]) == [row[f"approach_{place}"] for place in (1, 2, 3)]
        assert set(touching["target"].tolist()) == {str(row["sensor_id"])}


def test_more_junctions_than_sensors_are_refused() -> None:
    with pytest.raises(InputError, match=r"simulate\.junctions: 4 need 16 sensors, simulate\.sensors is 12"):
        drive_world(replace(PARAMS, junctions=4))
