"""Which sensors foretell a sensor: those whose past lowers the error of a forecast that knows its own past.

Enters: training readings [step, node], what is usual, the table of the nearest. Leaves: a table in which they have
the places of the farthest.

The past of j helps to forecast i beyond the past of i (Granger 1969, Econometrica 37). With z_i(t) the deviation from
what is usual, 0 where nothing was observed,

    ahead_i(t) = mean of z_i over the horizon after t
    past_i(t)  = mean of z_i over the quarter of an hour up to t, as far as the history goes
    known      = past_i, the mean of z_i over the history, past_j of every neighbor j so far
    told       = the share of the squares of ahead_i that past_j takes off beside `known`, in the eighth of training
                 in which it takes off least; 0 where it runs with ahead_i in one eighth and against it in another
    next       = the j that tells most, and so on till no place is free or nobody tells anything

by orthogonal least squares (Chen, Billings and Luo 1989, Int. J. Control 50): what `known` says is taken from every
past_j and from ahead_i once, so a further neighbor costs one product. What is told in every eighth is no chance: in
five days of METR-LA, where the weather of one day would choose, few sensors pass. Training readings alone are looked
at.

Glossary: row = a training step t that is looked at; part = an eighth of them; squared lengths and products are sums
over the rows of a part.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float, Float32, Float64, Int, Int64

from headway.data.store import BLOCK, release
from headway.graph.neighbors import NeighborTable

PARTS = 8  # of training; in fewer more pass by chance, in more hardly any
ROWS = 2048  # evenly spread; more of them choose neighbors that foretell no better
PAST = 15 * 60  # s
NEW = 1e-3  # of the squared length of past_j: what must be left of it beside all that is known
# Of the share of ahead_i that is told: beyond them processors differ, and the first of equals is taken.
DIGITS = 9


@dataclass(frozen=True, slots=True, kw_only=True)
class Deviations:
    """Training readings as deviations from what is usual.

    Attributes:
        readings: NaN where not observed.
        usual: mean readings at each time of the week.
        times: of each step, its row in `usual`.
        history, horizon: steps.
    """

    readings: Float32[np.ndarray, "step node"]
    usual: Float[np.ndarray, "time_of_week node"]
    times: Int64[np.ndarray, " step"]
    step_seconds: int
    history: int
    horizon: int

    def rows(self) -> Int[np.ndarray, " row"]:
        """Steps with a whole history behind and a whole horizon ahead; few enough, as many in each part."""
        count = max(len(self.readings) - self.history - self.horizon + 1, 0)
        return self.history - 1 + np.linspace(0, count - 1, min(count, ROWS) // PARTS * PARTS).astype(int)

    def means(self, columns: slice) -> list[Float64[np.ndarray, "part node row"]]:
        """past, history, ahead of some sensors."""
        z = self.readings[:, columns] - self.usual[self.times, columns]
        total = np.cumsum(np.nan_to_num(z, nan=0.0), axis=0, dtype=np.float64)
        total = np.vstack([np.zeros((1, total.shape[1])), total])
        release(self.readings)
        rows = self.rows()
        past = min(max(1, round(PAST / self.step_seconds)), self.history)
        spans = [(1 - past, 1), (1 - self.history, 1), (1, 1 + self.horizon)]
        means = [(total[rows + end] - total[rows + start]) / (end - start) for start, end in spans]
        return [mean.reshape(PARTS, -1, mean.shape[1]).swapaxes(1, 2) for mean in means]


def seat_foretelling(nearest: NeighborTable, deviations: Deviations, count: int) -> NeighborTable:
    """The nearest, and in the last `count` places of a sensor and the free ones those that foretell it, most first.

    Where fewer do, the nearest keep their places. The features of who is not among them are 0: no distance and no
    weight is known. With `count` 0 the table stays as it is.
    """
    found = nearest.found | {"foretelling": 0}
    if not count or not len(deviations.rows()):
        return replace(nearest, found=found)
    nodes, places = nearest.neighbors.shape
    table = replace(nearest, neighbors=nearest.neighbors.copy(), valid=nearest.valid.copy())
    table.valid[:, max(0, places - count) :] = False
    kept = table.valid.sum()
    past = np.empty((PARTS, nodes, len(deviations.rows()) // PARTS))
    blocks = [slice(first, min(first + BLOCK, nodes)) for first in range(0, nodes, BLOCK)]
    for block in blocks:
        past[:, block] = deviations.means(block)[0]
    for block in blocks:
        _fill(table, block, past, deviations)
    found["foretelling"] = int(table.valid.sum() - kept)
    _give_back(table, nearest)
    return replace(table, features=_features(table, nearest), found=found)


def _give_back(table: NeighborTable, nearest: NeighborTable) -> None:
    """Free places to the nearest that have none, then to nobody."""
    for place in range(table.valid.shape[1]):
        candidate = nearest.neighbors[:, [place]]
        seated = (table.valid & (table.neighbors == candidate)).any(axis=1)
        rows = np.flatnonzero(nearest.valid[:, place] & ~seated & ~table.valid.all(axis=1))
        free = table.valid[rows].argmin(axis=1)
        table.neighbors[rows, free], table.valid[rows, free] = candidate[rows, 0], True
    table.neighbors[~table.valid] = np.nonzero(~table.valid)[0]


def _features(table: NeighborTable, nearest: NeighborTable) -> Float32[np.ndarray, "node neighbor 2"]:
    same = table.neighbors[:, :, None] == nearest.neighbors[:, None, :]
    same &= table.valid[:, :, None] & nearest.valid[:, None, :]
    return np.where(
        same.any(axis=2)[..., None],
        np.take_along_axis(nearest.features, same.argmax(axis=2)[..., None], axis=1),
        np.float32(0),
    )


def _fill(
    table: NeighborTable, block: slice, past: Float64[np.ndarray, "part node row"], deviations: Deviations
) -> None:
    """Forward selection for a block of readers at once, into their free places."""
    neighbors, valid = table.neighbors[block], table.valid[block]
    own, history, ahead = deviations.means(block)
    readers = np.arange(len(valid))
    barred = np.zeros((len(valid), past.shape[1]), dtype=bool)
    barred[readers, readers + block.start] = True
    knowledge = _Knowledge(past, ahead)
    knowledge.add(own)
    knowledge.add(history)
    for place in np.flatnonzero(valid.any(axis=0)):
        near, is_one = neighbors[:, place], valid[:, place]
        barred[readers[is_one], near[is_one]] = True
        knowledge.add(past[:, near] * is_one[:, None])
    for place in np.flatnonzero(~valid.all(axis=0)):
        told = np.where(barred | valid[:, [place]], 0, knowledge.told())
        best = told.argmax(axis=1)
        tells = told.max(axis=1) > 0
        neighbors[tells, place], valid[tells, place] = best[tells], True
        barred[tells, best[tells]] = True
        knowledge.add(past[:, best] * tells[:, None])


class _Knowledge:
    """What is known to each reader of a block, and what every sensor's past would add to it in each part."""

    def __init__(
        self, past: Float64[np.ndarray, "part node row"], ahead: Float64[np.ndarray, "part reader row"]
    ) -> None:
        self.parts = [_Part(*each) for each in zip(past, ahead, strict=True)]

    def add(self, column: Float64[np.ndarray, "part reader row"]) -> None:
        for part, each in zip(self.parts, column, strict=True):
            part.add(each)

    def told(self) -> Float64[np.ndarray, "reader node"]:
        """The least of the parts in which the reader deviates at all; 0 where their signs differ."""
        along = against = np.array(np.nan)
        for part in self.parts:
            share = part.told()
            along, against = np.fmin(along, share), np.fmax(against, share)
        return np.round(np.nan_to_num(np.maximum(np.maximum(along, -against), 0)), DIGITS)


class _Part:
    """An eighth of training. What belongs to a reader that does not deviate in it is NaN."""

    def __init__(
        self, past: Float64[np.ndarray, "node row"], ahead: Float64[np.ndarray, "reader row"]
    ) -> None:
        self.past = past
        size = np.sqrt(_dot(ahead, ahead))
        self.ahead = ahead / np.where(size > 0, size, np.nan)
        self.known: list[np.ndarray] = []  # orthonormal for each reader
        self.length = _dot(past, past).T
        # of past_j beyond what is known: its squared length, infinite where too little is left to be used,
        # and its product with ahead_i
        self.left = np.repeat(np.where(self.length > 0, self.length, np.inf), len(ahead), axis=0)
        self.product = self.ahead @ past.T

    def add(self, column: Float64[np.ndarray, "reader row"]) -> None:
        """Know this too; what is known already, or is 0, changes nothing."""
        rest = column.copy()
        for each in self.known:
            rest -= _dot(rest, each) * each
        size = _dot(rest, rest)
        is_new = size > NEW * _dot(column, column)
        rest = np.where(is_new, rest / np.sqrt(np.where(is_new, size, 1)), 0)
        along = rest @ self.past.T
        self.product -= _dot(rest, self.ahead) * along
        self.left -= along**2
        self.left[self.left <= NEW * self.length] = np.inf
        self.known.append(rest)

    def told(self) -> Float64[np.ndarray, "reader node"]:
        """Shares of the squares of ahead_i, below 0 where past_j runs against it."""
        return self.product * np.abs(self.product) / self.left


def _dot(a: Float64[np.ndarray, "node row"], b: Float64[np.ndarray, "node row"]) -> np.ndarray:
    return np.einsum("nr,nr->n", a, b)[:, None]
