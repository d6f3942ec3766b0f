"""First-order kinematic-wave traffic on a network of cells, one small step at a time.

Enters: the roads (`Road`), and every few minutes what drives them (arrivals, speeds, capacities,
exit shares). Leaves: vehicles per cell, queues per ramp, and the flow and density a detector reads.

Source: the cell transmission model, C. F. Daganzo, "The cell transmission model: a dynamic
representation of highway traffic consistent with the hydrodynamic theory", Transportation Research
B 28 (1994) 269-287, and "... part II: network traffic", B 29 (1995) 79-93.

Glossary: cell i holds n_i vehicles; boundary i lies between cell i and cell i + 1, and carries at
most one exit and one ramp; Q capacity, a = v dt / dx share of a cell that leaves it in one step at
free speed v, w the same for the speed of waves in dense traffic, b exit share, p priority of the
road over the ramp. All flows are vehicles a step.

    sending    S_i = min(a n_i, KNEE_SLOPE a n_i + (1 - KNEE_SLOPE) KNEE Q0_i, Q_i)
    receiving  R_i = min(Q_i, w (jam_i - n_i))
    merge      q = min((1 - b) S_i, max(R_{i+1} - D, p R_{i+1})),   r = min(D, R_{i+1} - q)
    diverge    out_i = q / (1 - b), first in first out: a blocked road blocks the exit and vice versa
    balance    n_{i+1} += q + r,   n_i -= out_i

The sending curve has a knee (Daganzo's scheme takes any concave curve): up to KNEE of the capacity
traffic moves at free speed, above it speed falls to 77 % of it. The merge rule is the median of
the 1995 paper, written without branches. An exit either leaves the world or feeds the ramp of another
road through a connector of finite storage, so that queues spill back through interchanges.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

KNEE = 0.7
KNEE_SLOPE = 0.5
CRITICAL = KNEE + (1.0 - KNEE) / KNEE_SLOPE  # density at capacity, in multiples of Q / v


@dataclass(frozen=True, slots=True, kw_only=True)
class Road:
    """Corridors laid end to end; a sink closes each of them, and one more sink is cell 0.

    Attributes:
        sink: cells that swallow whatever reaches them and send nothing.
        capacity: Q0, vehicles a step in dry weather; infinite on sinks.
        free_share: a in dry weather; at most 1 (Courant-Friedrichs-Lewy), 0 on sinks.
        wave_share: w.
        priority: p, above 0.
        ramp_capacity: most vehicles a step that a ramp can send.
        connector_from: boundaries whose exit feeds a ramp ...
        connector_to: ... and the boundaries of those ramps.
        storage: vehicles that fit on each connector.
        patience: vehicles a ramp's queue holds before later ones look for another way.
    """

    sink: Bool[np.ndarray, " cell"]
    capacity: Float[np.ndarray, " cell"]
    free_share: Float[np.ndarray, " cell"]
    wave_share: float
    priority: Float[np.ndarray, " boundary"]
    ramp_capacity: Float[np.ndarray, " boundary"]
    connector_from: Int[np.ndarray, " connector"]
    connector_to: Int[np.ndarray, " connector"]
    storage: Float[np.ndarray, " connector"]
    patience: Float[np.ndarray, " boundary"]

    def jam(self) -> Float[np.ndarray, " cell"]:
        """Vehicles in a cell at a standstill; infinite on sinks."""
        jam = np.full(len(self.sink), np.inf)
        road = ~self.sink
        jam[road] = self.capacity[road] * (CRITICAL / self.free_share[road] + 1.0 / self.wave_share)
        return jam


@dataclass(frozen=True, slots=True, kw_only=True)
class Conditions:
    """What drives the roads for a while.

    Attributes:
        free_share: a, at most that of the dry road.
        capacity: Q.
        arrivals: vehicles a step that come to each ramp.
        exit_share: b, below 1, and above 0 where a connector begins.
    """

    free_share: Float[np.ndarray, " cell"]
    capacity: Float[np.ndarray, " cell"]
    arrivals: Float[np.ndarray, " boundary"]
    exit_share: Float[np.ndarray, " boundary"]


class Traffic:
    """The vehicles on a `Road`. Arrays are allocated once; `advance` is called thousands of times.

    Attributes:
        vehicles: n per cell; a sink counts those that reached it.
        queue: vehicles waiting on the ramp of each boundary.
        exited: vehicles that left the world at each boundary, by its exit or for a queue too long.
    """

    def __init__(self, road: Road, vehicles: Float[np.ndarray, " cell"]) -> None:
        cells = len(road.sink)
        assert (road.free_share <= 1.0).all() and road.wave_share <= 1.0, "Courant-Friedrichs-Lewy"
        assert road.sink[0] and road.sink[-1] and (road.priority > 0.0).all()
        self.road = road
        self.vehicles = vehicles.copy()
        self.queue = np.zeros(cells - 1)
        self.exited = np.zeros(cells - 1)
        self._jam = road.jam()
        self._knee = (1.0 - KNEE_SLOPE) * KNEE * road.capacity
        self._share, self._capacity = road.free_share, road.capacity
        self._arrivals = np.zeros(cells - 1)
        self._stay, self._stay_inverse = np.ones(cells - 1), np.ones(cells - 1)
        self._connector_share = np.ones(len(road.connector_from))
        self._sending, self._receiving, self._bend = np.empty(cells), np.empty(cells), np.empty(cells)
        self._through, self._merged = np.empty(cells - 1), np.empty(cells - 1)
        self._ramp, self._free = np.empty(cells - 1), np.empty(cells - 1)
        self._out = np.empty(cells - 1)
        self._seen, self._moved = np.zeros(cells), np.zeros(cells)

    def drive(self, conditions: Conditions) -> None:
        """Set what holds from now on.

        Vehicles beyond the patience of their queue give up now; connectors are never that full.
        """
        lost = np.maximum(self.queue - self.road.patience, 0.0)
        self.queue -= lost
        self.exited += lost
        self._share, self._capacity = conditions.free_share, conditions.capacity
        self._arrivals = conditions.arrivals
        self._stay = 1.0 - conditions.exit_share
        self._stay_inverse = 1.0 / self._stay
        self._connector_share = conditions.exit_share[self.road.connector_from]

    def advance(self) -> None:
        """One step of the equations above; vehicles are conserved to rounding."""
        road, n, queue = self.road, self.vehicles, self.queue
        sending = self._send()
        receiving = self._receive()[1:]
        through = np.multiply(sending, self._stay, out=self._through)
        queue += self._arrivals
        demand = np.minimum(queue, road.ramp_capacity, out=self._ramp)

        room = np.subtract(receiving, demand, out=self._free)
        merged = np.multiply(receiving, road.priority, out=self._merged)
        np.maximum(room, merged, out=merged)
        np.minimum(merged, through, out=merged)  # q
        np.subtract(receiving, merged, out=room)
        np.minimum(demand, room, out=demand)  # r
        out = np.multiply(merged, self._stay_inverse, out=self._out)
        np.minimum(out, sending, out=out)  # rounding must not send more than there is

        self._seen += n
        self._moved[:-1] += out
        queue -= demand
        demand += merged
        n[1:] += demand
        n[:-1] -= out
        out -= merged  # what took the exit
        queue[road.connector_to] += out[road.connector_from]
        out[road.connector_from] = 0.0
        self.exited += out

    def read(self) -> tuple[Float[np.ndarray, " cell"], Float[np.ndarray, " cell"]]:
        """(vehicles that left each cell, vehicle-steps spent in it) since the last reading.

        Their ratio is the space-mean speed of Edie (1963), in cells a step.
        """
        moved, seen = self._moved, self._seen
        self._moved, self._seen = np.zeros_like(moved), np.zeros_like(seen)
        return moved, seen

    def total(self) -> float:
        """Vehicles on roads, in queues, and gone: what arrivals alone may change."""
        return float(self.vehicles.sum() + self.queue.sum() + self.exited.sum())

    def _send(self) -> Float[np.ndarray, " boundary"]:
        sending = np.multiply(self.vehicles, self._share, out=self._sending)
        bend = np.multiply(sending, KNEE_SLOPE, out=self._bend)
        bend += self._knee
        np.minimum(sending, bend, out=sending)
        np.minimum(sending, self._capacity, out=sending)
        source = self.road.connector_from
        room = self.road.storage - self.queue[self.road.connector_to]
        np.maximum(room, 0.0, out=room)
        room /= self._connector_share
        sending[source] = np.minimum(sending[source], room)
        return sending[:-1]

    def _receive(self) -> Float[np.ndarray, " cell"]:
        receiving = np.subtract(self._jam, self.vehicles, out=self._receiving)
        receiving *= self.road.wave_share
        return np.minimum(receiving, self._capacity, out=receiving)
