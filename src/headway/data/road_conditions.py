"""What drives the simulated roads: demand, weather, incidents, and how well drivers use the road.

Enters: the network and a seed. Leaves: per control interval (a few minutes) the vehicles that
arrive at each ramp, the rain, the incidents, and a capacity factor per cell.

Glossary: interval, the time for which conditions hold; drift, a first-order autoregressive process
x' = rho x + sqrt(1 - rho^2) sd e, so that its standard deviation is sd at every time.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from scipy.signal import lfilter

from headway.data.road_network import RoadNetwork
from headway.data.road_plan import Stream, generator

_DAY_MINUTES = 1440
# How much of a working day's demand each weekday sees, Monday first: (morning, day, evening)
_WEEK = np.array(
    [[0.97, 0.95, 0.96], [1.02, 0.98, 1.0], [1.02, 1.0, 1.02], [1.0, 1.0, 1.04], [0.9, 1.05, 1.08]]
)
_WEEKEND = (0.74, 0.6)  # the one hump of Saturday and of Sunday


@dataclass(frozen=True, slots=True, kw_only=True)
class Weather:
    """One sky over the whole city.

    Attributes:
        rain: mm/h.
        temperature: degrees Celsius; it changes nothing on the road, as an honest decoy.
    """

    rain: Float[np.ndarray, " interval"]
    temperature: Float[np.ndarray, " interval"]

    def capacity_factor(self) -> Float[np.ndarray, " interval"]:
        """Up to 12 % lower; the Highway Capacity Manual has 2 % for light rain and 14 % for heavy rain."""
        return 1.0 - 0.12 * (1.0 - np.exp(-self.rain / 2.5))

    def speed_factor(self) -> Float[np.ndarray, " interval"]:
        """Free speed in rain: up to 9 % lower."""
        return 1.0 - 0.09 * (1.0 - np.exp(-self.rain / 2.5))


@dataclass(frozen=True, slots=True, kw_only=True)
class Incidents:
    """Lanes closed for a while. `start` and `stop` are intervals; `share` of the capacity is left."""

    cell: Int[np.ndarray, " incident"]
    start: Int[np.ndarray, " incident"]
    stop: Int[np.ndarray, " incident"]
    share: Float[np.ndarray, " incident"]

    def reduce(self, capacity: Float[np.ndarray, " cell"], interval: int) -> None:
        """Multiply the capacity of the cells hit by what is left of it, in place."""
        now = (self.start <= interval) & (interval < self.stop)
        np.multiply.at(capacity, self.cell[now], self.share[now])


def daily_demand(
    network: RoadNetwork, seed: int, days: int, minutes: int
) -> Iterator[Float[np.ndarray, "interval ramp"]]:
    """Day by day (the first is a Monday), the whole vehicles arriving at each ramp in an interval.

    A ramp's demand is its weekly profile, times how busy the city, the corridor and the ramp are on
    that day, times two drifts (corridor, ramp); arrivals are Poisson. A corridor's numbers depend on
    the seed, the corridor and the city only, so that a longer network does not change them.
    """
    corridor = network.corridor[network.ramp + 1]
    city = generator(seed, Stream.CITY)
    streams = [generator(seed, Stream.DEMAND, number) for number in range(len(network.corridors))]
    lean = [stream.normal(0.0, 0.06, 2) for stream in streams]
    groups = [np.flatnonzero(corridor == number) for number in range(len(streams))]
    drifts = [np.zeros(1 + len(group)) for group in groups]
    hour = (np.arange(_DAY_MINUTES // minutes) + 0.5) * minutes / 60.0
    for day in range(days):
        busy = np.exp(city.normal(0.0, 0.015, 3))
        arrivals = np.empty((len(hour), len(network.ramp)))
        for number, rng in enumerate(streams):
            here = groups[number]
            level = busy * np.exp(rng.normal(0.0, 0.02, 3))
            shift = rng.normal(0.0, 0.1, 2)
            place, homeward = network.ramp_place[here], network.corridors[number].reverse
            profile = _profile(hour, day % 7, level, shift, place, lean[number], homeward)
            drift = _drift(rng, drifts[number], len(hour), np.exp(-minutes / 60.0), 0.035)
            factor = np.exp(drift[:, :1] + drift[:, 1:] + rng.normal(0.0, 0.03, len(here)))
            peak = network.ramp_peak[here] * minutes / 60.0
            arrivals[:, here] = rng.poisson(peak * profile * factor)
        yield arrivals


def draw_weather(seed: int, days: int, minutes: int) -> Weather:
    """Dry spells of 40 h and wet ones of 4 h on average, rain that swells and ebbs, mild winter air."""
    rng = generator(seed, Stream.WEATHER)
    steps = days * _DAY_MINUTES // minutes
    wet = np.zeros(steps, dtype=bool)
    at, raining = 0, False
    while at < steps:
        length = max(1, int(rng.exponential(4.0 if raining else 40.0) * 60 / minutes))
        wet[at : at + length] = raining
        at, raining = at + length, not raining
    swell = _drift(rng, np.zeros(1), steps, np.exp(-minutes / 50.0), 0.8)[:, 0]
    rain = np.where(wet, np.exp(swell + 0.4), 0.0)
    hour = np.arange(steps) * minutes / 60.0
    air = _drift(rng, np.zeros(1), steps, np.exp(-minutes / 2880.0), 2.5)[:, 0]
    return Weather(rain=rain, temperature=8.0 + 4.0 * np.sin((hour - 9.0) * np.pi / 12.0) + air)


def draw_incidents(network: RoadNetwork, seed: int, days: int, minutes: int, per_day: float) -> Incidents:
    """Incidents of 20 to 90 minutes, anywhere on the network, more when there is more traffic."""
    rng = generator(seed, Stream.INCIDENTS)
    count = int(rng.poisson(per_day * days))
    steps = _DAY_MINUTES // minutes
    hour = (np.arange(steps) + 0.5) * minutes / 60.0
    chance = _profile(hour, 2, np.ones(3), np.zeros(2), np.full(1, 0.5), np.zeros(2), False)[:, 0]
    start = rng.integers(0, days, count) * steps + rng.choice(steps, count, p=chance / chance.sum())
    length = np.maximum(1, np.rint(rng.uniform(20.0, 90.0, count) / minutes).astype(np.int64))
    roads = np.flatnonzero(~network.road.sink)
    order = np.argsort(start, kind="stable")
    return Incidents(
        cell=roads[(rng.random(count) * len(roads)).astype(np.int64)],
        start=start[order],
        stop=np.minimum(start[order] + length, days * steps),
        share=np.round(rng.uniform(0.3, 0.75, count), 3),
    )


def daily_capacity(
    network: RoadNetwork, seed: int, days: int, minutes: int
) -> Iterator[Float[np.ndarray, "interval cell"]]:
    """Day by day, how well drivers use each cell: 1, less or more a few percent, drifting.

    The array is the same one every day; use it before asking for the next.
    """
    streams = [generator(seed, Stream.CAPACITY, number) for number in range(len(network.corridors))]
    states = [np.zeros(run.cells) for run in network.corridors]
    factor = np.ones((_DAY_MINUTES // minutes, len(network.corridor)))
    for _ in range(days):
        for run, rng, state in zip(network.corridors, streams, states, strict=True):
            drift = _drift(rng, state, len(factor), np.exp(-minutes / 15.0), 0.04)
            factor[:, run.first : run.first + run.cells] = np.exp(drift)
        yield factor


def _profile(
    hour: np.ndarray,
    weekday: int,
    level: np.ndarray,
    shift: np.ndarray,
    place: np.ndarray,
    lean: np.ndarray,
    homeward: bool,
) -> np.ndarray:
    """[interval, ramp] share of the rush hour's demand; about 1 at the peak of a working day.

    Ramps on the way into town (place < 0.5) lean to the morning, those behind it to the evening.
    """
    time = hour[:, None]
    if weekday > 4:
        hump = np.exp(-(((time - 14.5) / 5.0) ** 2))
        return level[1] * (0.07 + _WEEKEND[weekday - 5] * hump) * np.ones_like(place)
    toward = (0.06 if homeward else -0.06) + 0.12 * (place - 0.5)
    morning = (1.0 - toward + lean[0]) * level[0] * _WEEK[weekday, 0]
    evening = (1.0 + toward + lean[1]) * level[2] * _WEEK[weekday, 2]
    noon = level[1] * _WEEK[weekday, 1]
    early = 0.75 if weekday == 4 else 0.0  # Friday's evening begins early
    day = 1.0 / (1.0 + np.exp((6.0 - time) / 0.45)) - 1.0 / (1.0 + np.exp((20.3 - time) / 0.9))
    rush_am = np.exp(-0.5 * ((time - 7.9 - shift[0]) / 0.95) ** 2)
    rush_pm = np.exp(-0.5 * ((time - 17.3 + early - shift[1]) / (1.35 + early)) ** 2)
    return 0.06 + noon * 0.52 * day + 0.42 * (morning * rush_am + evening * rush_pm)


def _drift(rng: np.random.Generator, state: np.ndarray, steps: int, rho: float, sd: float) -> np.ndarray:
    """[step, process]; `state` is where the processes stand, moved on in place."""
    push = rng.standard_normal((steps, len(state))) * (sd * np.sqrt(1.0 - rho**2))
    path, _ = lfilter([1.0], [1.0, -rho], push, axis=0, zi=rho * state[None])
    state[:] = path[-1]
    return path
