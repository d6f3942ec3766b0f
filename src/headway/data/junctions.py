"""Planted junctions: three approaches that jointly decide a fourth sensor, for tests of what reads sets of sensors.

Enters: true speeds and the edges of the roads. Leaves: both changed, and the truth.

Each approach is busy or not, by a random signal of its own that traffic knows nothing of; while it is busy its speed
is APPROACH of what it was. When all three were busy DELAY minutes ago, the fourth sensor's speed is FOURTH of what it
was; when one was not, nothing happens to it. The fourth sensor is a neighbor of its approaches and of no other
sensor; an approach has nearer neighbors on its own road.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from jaxtyping import Bool, Float32, Int

from headway.data.road_plan import Stream, generator
from headway.errors import InputError

APPROACH, FOURTH = 0.6, 0.55
DELAY = 30  # minutes
BUSY, DWELL = 0.75, 60.0  # share of the time; minutes until the signal is drawn again, on average
METERS = (2000.0, 2200.0, 2400.0)  # from the fourth sensor to its approaches

Edges = list[tuple[int, int, float]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Junctions:
    """Which sensors, and when an approach is busy."""

    fourth: Int[np.ndarray, " junction"]
    approaches: Int[np.ndarray, "junction 3"]
    busy: Bool[np.ndarray, "junction 3 step"]

    def table(self, names: list[str]) -> pa.Table:
        """truth_junctions.parquet."""
        columns = {f"approach_{place + 1}": self.approaches[:, place] for place in range(3)}
        places = {"sensor_id": self.fourth, **columns}
        return pa.table({name: [names[at] for at in sensors] for name, sensors in places.items()})


def draw_junctions(count: int, sensors: int, steps: int, step_minutes: int, seed: int) -> Junctions:
    """Four sensors each, none in two junctions.

    Raises: InputError where there are too few.
    """
    if 4 * count > sensors:
        raise InputError(
            f"simulate.junctions: {count} need {4 * count} sensors, simulate.sensors is {sensors}"
        )
    rng = generator(seed, Stream.JUNCTIONS)
    chosen = rng.permutation(sensors)[: 4 * count].reshape(count, 4)
    drawn = rng.random((count, 3, steps)) < BUSY
    again = rng.random((count, 3, steps)) < step_minutes / DWELL
    again[..., 0] = True
    last = np.maximum.accumulate(np.where(again, np.arange(steps), 0), axis=-1)
    busy = np.take_along_axis(drawn, last, axis=-1)
    return Junctions(fourth=chosen[:, 0], approaches=chosen[:, 1:], busy=busy)


def plant(speed: Float32[np.ndarray, "step sensor"], junctions: Junctions, step_minutes: int) -> None:
    """Change the speeds in place."""
    delay = max(1, DELAY // step_minutes)
    for fourth, approaches, busy in zip(junctions.fourth, junctions.approaches, junctions.busy, strict=True):
        for sensor, signal in zip(approaches, busy, strict=True):
            speed[signal, sensor] *= APPROACH
        jointly = np.roll(busy.all(axis=0), delay)
        jointly[:delay] = False
        speed[jointly, fourth] *= FOURTH


def rewire(edges: Edges, junctions: Junctions) -> Edges:
    """The edges, but for those of a fourth sensor, and the approaches of each."""
    apart = set(junctions.fourth.tolist())
    kept = [edge for edge in edges if not {edge[0], edge[1]} & apart]
    planted = [
        (int(approach), int(fourth), meters)
        for fourth, approaches in zip(junctions.fourth, junctions.approaches, strict=True)
        for approach, meters in zip(approaches, METERS, strict=True)
    ]
    return [*kept, *planted]
