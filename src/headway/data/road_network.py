"""A fictitious freeway network: roads ready for the traffic model, and where the sensors lie.

Enters: how many sensors and a seed. Leaves: `RoadNetwork`, the static half of the simulated world.
Glossary: road_plan.py.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from headway.data.road_plan import (
    CELL_KM,
    CONNECTOR_KM,
    CONNECTOR_STORAGE,
    PATIENCE_HOURS,
    STEP_SECONDS,
    WAVE_SPEED,
    Corridor,
    Plan,
    Stream,
    generator,
    lay_out,
    size_roads,
)
from headway.data.traffic_flow import Road

_KM_PER_DEGREE = 111.195
_CITY = (47.0, 8.0)  # latitude, longitude; no real city


@dataclass(frozen=True, slots=True, kw_only=True)
class RoadNetwork:
    """The static world.

    Attributes:
        road: what the traffic model needs.
        corridors: the runs of cells.
        lines: parallel freeways per axis.
        corridor: corridor of each cell (-1 on sinks).
        free_speed: km/h (0 on sinks).
        nominal_flow: vehicles an hour in the rush hour the roads were sized for.
        exit_share: share of the vehicles leaving at each boundary.
        ramp: boundaries with a ramp fed from outside.
        ramp_peak: vehicles an hour at each of them in the rush hour.
        ramp_place: 0 at the start of its corridor, 1 at the end.
        bottleneck: cells that carry less than the rush hour asks for, or hardly more.
        sensor: cell of each sensor, in the order of sensor numbers.
    """

    road: Road
    corridors: tuple[Corridor, ...]
    lines: int
    corridor: Int[np.ndarray, " cell"]
    free_speed: Float[np.ndarray, " cell"]
    nominal_flow: Float[np.ndarray, " cell"]
    exit_share: Float[np.ndarray, " boundary"]
    ramp: Int[np.ndarray, " ramp"]
    ramp_peak: Float[np.ndarray, " ramp"]
    ramp_place: Float[np.ndarray, " ramp"]
    bottleneck: Int[np.ndarray, " bottleneck"]
    sensor: Int[np.ndarray, " sensor"]

    def edges(self) -> list[tuple[int, int, float]]:
        """(source sensor, target sensor, meters along the road), traffic flowing to the target."""
        found = []
        for number in range(len(self.sensor) - 1):
            source, target = self.sensor[number], self.sensor[number + 1]
            if self.corridor[source] == self.corridor[target]:
                found.append((number, number + 1, 1000.0 * CELL_KM * float(target - source)))
        for leave, enter in zip(self.road.connector_from, self.road.connector_to, strict=True):
            before = int(np.searchsorted(self.sensor, leave, side="right")) - 1
            after = int(np.searchsorted(self.sensor, enter + 1))
            if before < 0 or after == len(self.sensor):
                continue
            source, target = self.sensor[before], self.sensor[after]
            same = self.corridor[source] == self.corridor[leave]
            if same and self.corridor[target] == self.corridor[enter + 1]:
                kilometers = CELL_KM * float(leave - source + target - enter) + CONNECTOR_KM
                found.append((before, after, 1000.0 * kilometers))
        return sorted(found)

    def coordinates(self) -> tuple[Float[np.ndarray, " sensor"], Float[np.ndarray, " sensor"]]:
        """Latitude and longitude of every sensor; gently winding roads around a fictitious city."""
        side = CELL_KM * float(np.mean([corridor.cells for corridor in self.corridors]))
        x, y = np.empty(len(self.sensor)), np.empty(len(self.sensor))
        number = 0
        for corridor in self.corridors:
            along = (np.array(corridor.sensor_cells) + 0.5) / corridor.cells - 0.5
            heading = -1.0 if corridor.reverse else 1.0
            lane = 0.03 * heading * (-1.0 if corridor.west_east else 1.0)  # right-hand traffic, km
            across = ((corridor.line + 0.5) / self.lines - 0.5) * side + lane
            here = slice(number, number + len(along))
            along = heading * along * side
            x[here], y[here] = (along, across) if corridor.west_east else (across, along)
            number += len(along)
        east = x + 0.9 * np.sin(y / 4.0)
        north = y + 0.9 * np.sin(x / 5.0)
        latitude = _CITY[0] + north / _KM_PER_DEGREE
        longitude = _CITY[1] + east / (_KM_PER_DEGREE * np.cos(np.radians(_CITY[0])))
        return np.round(latitude, 6), np.round(longitude, 6)


def build_network(sensors: int, seed: int) -> RoadNetwork:
    """The world with so many sensors (at least 8), about two cells each."""
    corridors, lines = lay_out(sensors, seed)
    cells = corridors[-1].first + corridors[-1].cells + 1
    corridor = np.full(cells, -1)
    for number, run in enumerate(corridors):
        corridor[run.first : run.first + run.cells] = number
    plan = Plan(cells, corridors, lines)
    for number, run in enumerate(corridors):
        plan.add_ramps(run, generator(seed, Stream.NETWORK, number))
    flow, ramp_flow = plan.rush_hour(corridor < 0)
    speed, capacity, bottleneck = size_roads(plan, corridors, flow, ramp_flow, seed)
    ramp = np.flatnonzero(plan.peak)
    return RoadNetwork(
        road=_road(plan, corridors, flow, ramp_flow, speed, capacity),
        corridors=corridors,
        lines=lines,
        corridor=corridor,
        free_speed=speed,
        nominal_flow=flow,
        exit_share=plan.exit_share,
        ramp=ramp,
        ramp_peak=plan.peak[ramp],
        ramp_place=plan.place[ramp],
        bottleneck=bottleneck,
        sensor=np.concatenate([run.first + np.array(run.sensor_cells) for run in corridors]),
    )


def _road(
    plan: Plan,
    corridors: tuple[Corridor, ...],
    flow: np.ndarray,
    ramp_flow: np.ndarray,
    speed: np.ndarray,
    capacity: np.ndarray,
) -> Road:
    """Hours become steps, kilometers cells."""
    hours = STEP_SECONDS / 3600
    fed = np.minimum(1.6 * plan.peak + 500.0, 2400.0)
    fed[[run.boundary(0) for run in corridors]] = np.inf  # the freeway goes on beyond the world
    fed[plan.connector_to] = 2600.0
    patience = plan.peak * PATIENCE_HOURS
    patience[plan.connector_to] = CONNECTOR_STORAGE
    return Road(
        sink=np.isinf(capacity),
        capacity=capacity * hours,
        free_share=speed * hours / CELL_KM,
        wave_share=WAVE_SPEED * hours / CELL_KM,
        # proportional to what each would bring in the rush hour
        priority=np.clip(flow[:-1] / np.maximum(flow[:-1] + ramp_flow, 1.0), 0.6, 0.9),
        ramp_capacity=fed * hours,
        connector_from=np.array(plan.connector_from, dtype=np.int64),
        connector_to=np.array(plan.connector_to, dtype=np.int64),
        storage=np.full(len(plan.connector_from), CONNECTOR_STORAGE),
        patience=patience,
    )
