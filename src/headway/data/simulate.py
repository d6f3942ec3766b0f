"""The embedded road world: a raw data set (see data/raw.py) with its ground truth.

Enters: `SimulateParams`. Leaves, in one folder that appears whole or not at all:

    series.parquet, series_flow.parquet    readings: speed in km/h, flow in vehicles an hour
    sensors.parquet, edges.parquet         where the sensors lie; traffic flows source -> target
    covariates.parquet                     rain (mm/h), temperature (deg C)
    dataset.yaml                           units, time zone, split, source, licence
    truth_edges.parquet                    which edges join a jam to free traffic (heterophilous)
    truth_incidents.parquet                when and where lanes were closed
    truth_junctions.parquet                with `junctions`: which approaches jointly decide which sensor

The same parameters give the same bytes. Timestamps mark the begin of the step they average over.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from annotated_types import Ge, Interval
from jaxtyping import Float, Float32
from ruamel.yaml import YAML

from headway.atomic import replacing_folder
from headway.data.detectors import draw_outages, read_flow, read_speed
from headway.data.junctions import Junctions, draw_junctions, plant, rewire
from headway.data.road_conditions import (
    Incidents,
    Weather,
    daily_capacity,
    daily_demand,
    draw_incidents,
    draw_weather,
)
from headway.data.road_network import RoadNetwork, build_network
from headway.data.road_plan import CELL_KM, STEP_SECONDS
from headway.data.traffic_flow import Conditions, Traffic
from headway.errors import InputError

START = np.datetime64("2024-01-01T00:00:00", "us")  # a Monday
_EMPTY = 1e-9  # vehicle-steps below which a cell is empty and its speed the free one
# An edge is heterophilous when, in most of its source's jams, its target is faster by _CONTRAST or more.
_JAM, _CONTRAST = 0.6, 0.25  # shares of the free speed; traffic at capacity moves at 0.77 of it
_DATASET = {
    "unit": "km/h",
    "variable": "speed",
    "time_zone": "UTC",
    "split": "7-1-2",
    "minimum": 0.0,
    "maximum": 160.0,
    "source": "simulated by headway",
    "licence": "CC0-1.0",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulateParams:
    """Section `simulate` of params.yaml.

    Attributes:
        seed: another seed is another city.
        sensors: about 1.3 km of freeway each.
        days: the first is a Monday.
        step_minutes: a divisor of 60.
        incidents_per_day: over the whole network.
        missing_share: of the readings, most of them in bursts.
        speed_noise: standard deviation of a speed reading, km/h.
        junctions: places where three approaches jointly decide a fourth sensor (junctions.py).
    """

    seed: Annotated[int, Ge(0)]
    sensors: Annotated[int, Ge(8)]
    days: Annotated[int, Ge(2)]
    step_minutes: Annotated[int, Interval(ge=1, le=60)]
    incidents_per_day: Annotated[float, Ge(0.0)]
    missing_share: Annotated[float, Interval(ge=0.0, le=0.5)]
    speed_noise: Annotated[float, Interval(ge=0.0, le=20.0)]
    junctions: Annotated[int, Ge(0)]

    def __post_init__(self) -> None:
        if self.step_minutes < 1 or 60 % self.step_minutes:
            raise InputError(
                f"simulate.step_minutes must divide 60, found {self.step_minutes}; take 5, 10 or 15"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """Everything that is true, before any detector looks.

    Attributes:
        speed: space-mean speed at each sensor, km/h.
        flow: vehicles an hour.
        junctions: planted ones, already in the speed.
    """

    network: RoadNetwork
    weather: Weather
    incidents: Incidents
    speed: Float32[np.ndarray, "step sensor"]
    flow: Float32[np.ndarray, "step sensor"]
    junctions: Junctions


def simulate(params: SimulateParams, folder: Path) -> None:
    """Replace `folder` by the world of `params`; an interrupted run leaves the old one alone."""
    world = drive_world(params)
    with replacing_folder(folder) as draft:
        for name, table in _tables(params, world).items():
            pq.write_table(table, draft / f"{name}.parquet", compression="zstd", write_page_checksum=True)
        with (draft / "dataset.yaml").open("w", encoding="utf-8") as file:
            YAML(typ="safe", pure=True).dump({**_DATASET, "step_minutes": params.step_minutes}, file)


def control_minutes(step_minutes: int) -> int:
    """How long conditions hold: the longest divisor of a step that is at most five minutes."""
    return max(minutes for minutes in range(1, 6) if step_minutes % minutes == 0)


def drive_world(params: SimulateParams) -> World:
    """Run the traffic; memory holds one day of conditions and the readings."""
    minutes = control_minutes(params.step_minutes)
    network = build_network(params.sensors, params.seed)
    weather = draw_weather(params.seed, params.days, minutes)
    incidents = draw_incidents(network, params.seed, params.days, minutes, params.incidents_per_day)
    steps = params.days * 1440 // params.step_minutes
    speed = np.empty((steps, params.sensors), dtype=np.float32)
    flow = np.empty((steps, params.sensors), dtype=np.float32)
    traffic = Traffic(network.road, _night(network))
    per_step = params.step_minutes // minutes
    for interval, conditions in enumerate(_conditions(params, network, weather, incidents)):
        traffic.drive(conditions)
        for _ in range(minutes * 60 // STEP_SECONDS):
            traffic.advance()
        if (interval + 1) % per_step == 0:
            row = interval // per_step
            speed[row], flow[row] = _measure(network, traffic, params.step_minutes)
    junctions = draw_junctions(params.junctions, params.sensors, steps, params.step_minutes, params.seed)
    plant(speed, junctions, params.step_minutes)
    return World(
        network=network, weather=weather, incidents=incidents, speed=speed, flow=flow, junctions=junctions
    )


def _conditions(
    params: SimulateParams, network: RoadNetwork, weather: Weather, incidents: Incidents
) -> Iterator[Conditions]:
    """One per control interval."""
    minutes = control_minutes(params.step_minutes)
    road = network.road
    skill = daily_capacity(network, params.seed, params.days, minutes)
    demand = daily_demand(network, params.seed, params.days, minutes)
    wet_capacity, wet_speed = weather.capacity_factor(), weather.speed_factor()
    interval = 0
    for used, arriving in zip(skill, demand, strict=True):
        arriving *= STEP_SECONDS / (60.0 * minutes)
        for row in range(len(used)):
            capacity = road.capacity * (used[row] * wet_capacity[interval])
            incidents.reduce(capacity, interval)
            arrivals = np.zeros(len(road.sink) - 1)
            arrivals[network.ramp] = arriving[row]
            yield Conditions(
                free_share=road.free_share * wet_speed[interval],
                capacity=capacity,
                arrivals=arrivals,
                exit_share=network.exit_share,
            )
            interval += 1


def _night(network: RoadNetwork) -> Float[np.ndarray, " cell"]:
    """Vehicles at midnight: a tenth of the rush hour's flow at free speed."""
    speed = np.where(network.road.sink, 1.0, network.free_speed)
    return 0.1 * network.nominal_flow / speed * CELL_KM


def _measure(
    network: RoadNetwork, traffic: Traffic, step_minutes: int
) -> tuple[Float[np.ndarray, " sensor"], Float[np.ndarray, " sensor"]]:
    moved, seen = (reading[network.sensor] for reading in traffic.read())
    share = np.where(seen > _EMPTY, moved / np.maximum(seen, _EMPTY), network.road.free_share[network.sensor])
    return share * (CELL_KM * 3600 / STEP_SECONDS), moved * (60 / step_minutes)


def _tables(params: SimulateParams, world: World) -> dict[str, pa.Table]:
    speed = read_speed(world.speed, params.seed, params.speed_noise)
    flow = read_flow(world.flow, params.seed, params.step_minutes)
    lost = draw_outages(len(speed), params.sensors, params.seed, params.missing_share, params.step_minutes)
    speed[lost], flow[lost] = np.nan, np.nan
    times = START + np.arange(len(speed)) * np.timedelta64(params.step_minutes, "m")
    names = sensor_names(params.sensors)
    return {
        "series": pa.table({"timestamp": times, **dict(zip(names, speed.T, strict=True))}),
        "series_flow": pa.table({"timestamp": times, **dict(zip(names, flow.T, strict=True))}),
        "covariates": pa.table({"timestamp": times, **_weather_columns(params, world.weather)}),
        "sensors": pa.table(_sensor_columns(world.network, names)),
        **_edge_tables(world, names),
        "truth_incidents": pa.table(_incident_columns(params, world, names)),
        **({"truth_junctions": world.junctions.table(names)} if params.junctions else {}),
    }


def sensor_names(sensors: int) -> list[str]:
    """S0001 and so on, wide enough to sort by name."""
    width = max(4, len(str(sensors)))
    return [f"S{number:0{width}d}" for number in range(1, sensors + 1)]


def _weather_columns(params: SimulateParams, weather: Weather) -> dict[str, np.ndarray]:
    rows = (params.days * 1440 // params.step_minutes, -1)
    return {
        "rain": np.round(weather.rain.reshape(rows).mean(axis=1), 2),
        "temperature": np.round(weather.temperature.reshape(rows).mean(axis=1), 1),
    }


def _sensor_columns(network: RoadNetwork, names: list[str]) -> Mapping[str, Any]:
    latitude, longitude = network.coordinates()
    first = np.array([run.first for run in network.corridors])
    corridor = network.corridor[network.sensor]
    return {
        "sensor_id": names,
        "latitude": latitude,
        "longitude": longitude,
        "corridor": corridor,
        "kilometer": np.round((network.sensor - first[corridor] + 0.5) * CELL_KM, 2),
        "free_speed": np.round(network.free_speed[network.sensor], 1),
    }


def _edge_tables(world: World, names: list[str]) -> dict[str, pa.Table]:
    edges = rewire(world.network.edges(), world.junctions)
    source, target, meters = (np.array(column) for column in zip(*edges, strict=True))
    ids = {"source": [names[at] for at in source], "target": [names[at] for at in target]}
    relative = world.speed / world.network.free_speed[world.network.sensor].astype(np.float32)
    jams, contrasts = np.zeros(len(source), dtype=np.int64), np.zeros(len(source), dtype=np.int64)
    for edge, (before, behind) in enumerate(zip(source, target, strict=True)):
        jam = relative[:, before] < _JAM
        jams[edge] = jam.sum()
        contrasts[edge] = (jam & (relative[:, behind] - relative[:, before] > _CONTRAST)).sum()
    weight = np.round(np.exp(-((meters / 2000.0) ** 2)), 6)
    return {
        "edges": pa.table({**ids, "distance_m": np.round(meters, 1), "weight": weight}),
        "truth_edges": pa.table({**ids, "heterophilous": (2 * contrasts > jams)}),
    }


def _incident_columns(params: SimulateParams, world: World, names: list[str]) -> Mapping[str, Any]:
    network, incidents = world.network, world.incidents
    interval = np.timedelta64(control_minutes(params.step_minutes), "m")
    corridor = network.corridor[incidents.cell]
    # the sensor at or before the cell feels it first; the first one of the corridor when there is none
    sensor = np.searchsorted(network.sensor, incidents.cell, side="right") - 1
    lowest = np.searchsorted(network.sensor, [run.first for run in network.corridors])
    first = np.array([run.first for run in network.corridors])
    return {
        "start": START + incidents.start * interval,
        "end": START + incidents.stop * interval,
        "sensor_id": pa.array([names[at] for at in np.maximum(sensor, lowest[corridor])], pa.string()),
        "corridor": corridor,
        "kilometer": np.round((incidents.cell - first[corridor] + 0.5) * CELL_KM, 2),
        "capacity_share": incidents.share,
    }
