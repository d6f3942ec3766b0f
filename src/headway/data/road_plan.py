"""Where the simulated freeways, their ramps and their bottlenecks lie.

Enters: how many sensors and a seed. Leaves: the corridors, and per boundary or cell the ramps,
exits, rush-hour flows and capacities that road_network.py makes a world of.

Freeways run west-east and south-north in a square grid, each as two one-way corridors (one for a
small world); where two cross, connectors join every pair of directions. Engineers size each cell
for its rush hour, except at bottlenecks, which is where congestion begins.

Glossary: cell, CELL_KM of road; boundary g lies between cell g and cell g + 1; a corridor is a run
of cells closed by a sink; ramp, where vehicles enter the world; connector, from one corridor to
another. `generator(seed, stream, corridor)` gives each topic and corridor random numbers of its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from jaxtyping import Bool, Float

CELL_KM = 0.64
STEP_SECONDS = 20  # a car at MAX_SPEED crosses at most one cell a step
MAX_SPEED = 115.0  # km/h
WAVE_SPEED = 18.0  # km/h, upstream, in dense traffic
CONNECTOR_KM = 0.6
CONNECTOR_STORAGE = 120.0  # vehicles
PATIENCE_HOURS = 0.1  # of rush-hour demand: how long a queue drivers join at a ramp
_STEPS_PER_HOUR = 3600 / STEP_SECONDS
_USUAL = (0.84, 0.96)  # rush-hour flow over capacity of most cells ...
_NARROW = (1.02, 1.16)  # ... and of bottlenecks, ...
_NARROW_SHARE = 0.5  # ... which are so many of the cells behind a ramp


class Stream(IntEnum):
    """Topics of randomness; each has its own generator, so that no topic disturbs another."""

    NETWORK = 0
    CITY = 1
    DEMAND = 2
    CAPACITY = 3
    WEATHER = 4
    INCIDENTS = 5
    NOISE = 6
    OUTAGES = 7
    JUNCTIONS = 8


def generator(seed: int, stream: Stream, branch: int = 0) -> np.random.Generator:
    """Random numbers that depend on (seed, stream, branch) and on nothing else."""
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(int(stream), branch)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Corridor:
    """One direction of one freeway.

    Attributes:
        west_east: whether it runs along x, else along y.
        line: which of the parallel freeways, from the south or west.
        reverse: whether traffic runs towards smaller coordinates.
        first: its first cell among all cells; cell first - 1 is a sink.
        sensor_cells: cells with a sensor, counted from `first`, in driving order.
        cells: its length without sinks.
    """

    west_east: bool
    line: int
    reverse: bool
    first: int
    sensor_cells: tuple[int, ...]
    cells: int

    def boundary(self, local: int) -> int:
        """The boundary before the corridor's cell number `local`, among all boundaries."""
        return self.first + local - 1


def lay_out(sensors: int, seed: int) -> tuple[tuple[Corridor, ...], int]:
    """(corridors with two cells a sensor, parallel freeways per axis)."""
    lines = max(1, round((sensors / 48) ** 0.5))
    ways = (False, True) if sensors >= 32 else (False,)
    plan = [(axis, line, way) for line in range(lines) for axis in (True, False) for way in ways]
    corridors, first = [], 1
    for number, (west_east, line, reverse) in enumerate(plan):
        count = sensors // len(plan) + (number < sensors % len(plan))
        gaps = generator(seed, Stream.NETWORK, 10**6 + number).permuted(np.resize([2, 1, 2, 3], count))
        places = tuple(int(place) for place in np.cumsum(gaps) - 1)
        run = Corridor(
            west_east=west_east,
            line=line,
            reverse=reverse,
            first=first,
            sensor_cells=places,
            cells=places[-1] + 2,
        )
        corridors.append(run)
        first += run.cells + 1
    return tuple(corridors), lines


class Plan:
    """Ramps, exits and connectors while they are being placed; arrays are per boundary."""

    def __init__(self, cells: int, corridors: tuple[Corridor, ...], lines: int) -> None:
        self.exit_share = np.zeros(cells - 1)
        self.peak = np.zeros(cells - 1)
        self.place = np.zeros(cells - 1)
        self.connector_from: list[int] = []
        self.connector_to: list[int] = []
        for run in corridors:
            others = [other for other in corridors if other.west_east != run.west_east]
            for other in others:
                self._connect(run, other, lines)

    def _connect(self, run: Corridor, other: Corridor, lines: int) -> None:
        """Exits one and two boundaries before the crossing, ramps one and two behind it."""
        leave = _crossing(run, other.line, lines) - int(other.reverse)
        enter = _crossing(other, run.line, lines) + 1 + int(run.reverse)
        self.connector_from.append(run.boundary(leave))
        self.connector_to.append(other.boundary(enter))
        self.exit_share[run.boundary(leave)] = 0.07

    def add_ramps(self, run: Corridor, rng: np.random.Generator) -> None:
        """The entry of the corridor, then exits and ramps by turns wherever no connector is."""
        self.peak[run.boundary(0)] = rng.uniform(4200.0, 6600.0)
        taken = {*self.connector_from, *self.connector_to}
        local, exit_next = 2, True
        while local < run.cells - 1:
            here = run.boundary(local)
            if here not in taken and exit_next:
                self.exit_share[here] = rng.uniform(0.06, 0.15)
            elif here not in taken:
                self.peak[here] = rng.uniform(350.0, 950.0)
                self.place[here] = local / run.cells
            if here not in taken:
                local += int(rng.integers(1, 3)) if exit_next else int(rng.integers(2, 4))
                exit_next = not exit_next
            else:
                local += 1

    def rush_hour(
        self, sink: Bool[np.ndarray, " cell"]
    ) -> tuple[Float[np.ndarray, " cell"], Float[np.ndarray, " boundary"]]:
        """Steady flow of each cell and each ramp, vehicles an hour, were every road wide enough."""
        flow, ramp = np.zeros(len(sink)), self.peak.copy()
        for _ in range(20):  # connectors form loops; each round trip shrinks to a few hundredths
            for boundary in range(len(sink) - 1):
                stays = 0.0 if sink[boundary] else flow[boundary] * (1.0 - self.exit_share[boundary])
                flow[boundary + 1] = stays + ramp[boundary]
            ramp[self.connector_to] = (flow[:-1] * self.exit_share)[self.connector_from]
        return np.where(sink, 0.0, flow), ramp


def _crossing(run: Corridor, line: int, lines: int) -> int:
    share = (line + 0.5) / lines
    return int((1.0 - share if run.reverse else share) * run.cells)


def size_roads(
    plan: Plan, corridors: tuple[Corridor, ...], flow: np.ndarray, ramp_flow: np.ndarray, seed: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(free speed km/h, capacity vehicles an hour, bottleneck cells); a stretch ends at each ramp."""
    speed, capacity = np.zeros(len(flow)), np.full(len(flow), np.inf)
    bottleneck = []
    for number, run in enumerate(corridors):
        rng = generator(seed, Stream.NETWORK, 2 * 10**6 + number)
        usual, saturation = rng.uniform(100.0, 111.0), 0.8
        for local in range(run.cells):
            cell, before = run.first + local, run.boundary(local)
            merge = local > 0 and ramp_flow[before] > 0.0
            if local == 0 or merge or plan.exit_share[before] > 0.0:
                limit, saturation = usual * rng.uniform(0.96, 1.03), rng.uniform(*_USUAL)
            narrow = merge and rng.random() < _NARROW_SHARE
            if narrow:
                bottleneck.append(cell)
            speed[cell] = min(limit, MAX_SPEED)
            capacity[cell] = flow[cell] / (rng.uniform(*_NARROW) if narrow else saturation)
    return speed, capacity, np.array(bottleneck, dtype=np.int64)
