"""Index-batching: a window is an integer, a batch is a read of whole windows from the prepared array.

Enters: the opened prepared folder, or recent rows laid out like it, and window origins. Leaves: a Batch in
physical units. The windows of a day and a week ago are the same gather at other row offsets, so they cost no
memory (models.md 0b). Windows of an array are a view of it that overlaps itself, each one piece of memory, copied
whole; no mask is applied to them, since the arrays are 0 where nothing was observed.

The array stays on disk and is mapped, or is held in memory, or is copied to the device once and gathered there:
the same bits each time. Who trains on a part of the series holds the rows of that part and of what its windows
look back to.

Glossary: B windows, L history, H horizon, N nodes, C channels; K context lags and what was usual stand beside each
reading; A = K + 2 anchors, which are those of a target step and the last reading.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from headway.data.store import release
from headway.data.usual import last_observed, trailing_climatology
from headway.errors import InputError
from headway.types import Batch

if TYPE_CHECKING:
    from headway.data.prepared import PreparedMeta

# Readings behind anchors that are held at once: a 50th of the series, and no fewer than these.
SHARE, FEWEST = 50, 2**17

Residence = Literal["memmap", "memory", "device"]


@runtime_checkable
class Series(Protocol):
    """What windows are gathered from: these arrays of the prepared folder, and what they mean.

    `values` is 0 where not `observed`.
    """

    @property
    def meta(self) -> PreparedMeta: ...
    @property
    def values(self) -> Float[np.ndarray, "step node channel"]: ...
    @property
    def observed(self) -> Bool[np.ndarray, "step node channel"]: ...
    @property
    def calendar(self) -> Int[np.ndarray, "step 2"]: ...
    @property
    def covariates(self) -> Float[np.ndarray, "step covariate"]: ...
    @property
    def climatology(self) -> Float[np.ndarray, "time_of_week node"]: ...


class Windows:
    """Gathers windows of one data set."""

    def __init__(
        self,
        prepared: Series,
        device: torch.device | str = "cpu",
        data: Residence = "memmap",
        parts: Sequence[tuple[int, int]] = (),
    ) -> None:
        """Hold what windows are gathered from.

        Args:
            device: of the batches.
            data: `memmap` leaves the arrays as they are, `memory` copies them into memory, `device` to the device.
            parts: origins [first, last) that will be asked for; a copy holds no other rows. Empty: all.
        Raises: InputError where there is no room for a copy.
        """
        meta = prepared.meta
        self.series, self.data, self.device = prepared, data, torch.device(device)
        self.held_on = self.device if data == "device" else torch.device("cpu")
        self.history, self.horizon, self.context = meta.history, meta.horizon, meta.context
        self.steps, self.sensors = prepared.values.shape[:2]
        self.slots_per_day, self.weeks, self.days = meta.slots_per_day, meta.trailing, meta.trailing_days
        self.lags = _distinct_lags(meta)
        assert all(lag >= meta.horizon for lag in self.lags), f"a lag of {self.lags} reads the future"
        # steps from the first row of a read to the origin: history, target, the lags of each
        past = [meta.history + lag for lag in self.lags]
        self.back = np.array([meta.history, 0, *self.lags, *past], np.int64)
        spans = row_spans(meta, self.steps, parts) if data != "memmap" else [(0, self.steps)]
        self.spans = np.array(spans, np.int64).reshape(-1, 2)
        arrays = prepared.values, prepared.observed, prepared.calendar, prepared.covariates
        self.held = tuple(self._hold(array, spans) for array in arrays)  # each [rows, ...]
        self.climatology = torch.from_numpy(prepared.climatology).to(self.held_on)  # [7 * slots, N]
        self._view(*self.held)

    def _view(self, values: Tensor, observed: Tensor, calendar: Tensor, covariates: Tensor) -> None:
        """Name what a batch reads, from every row on: history and target in one piece, and the target variable of
        either alone."""
        length, target = self.history + self.horizon, (values[..., 0], observed[..., 0])
        self.whole = tuple(_windows(array, length) for array in (values, observed, calendar))
        self.covariates = _windows(covariates, self.history)
        self.of_history = _windows(target[0], self.history), _windows(target[1], self.history)
        self.of_target = _windows(target[0], self.horizon), _windows(target[1], self.horizon)

    def mapped(self) -> Windows:
        """The same windows from the prepared arrays as they are: those of every origin, at no memory."""
        return self if self.data == "memmap" else Windows(self.series, self.device)

    def gather(self, origins: Int[Tensor, " batch"] | Int[np.ndarray, " batch"]) -> Batch:
        """The windows of these origins, in the order given; every window lies inside the series."""
        origin, rows = self._locate(origins)
        # the one thing that moves to where the series is held
        moved = torch.from_numpy(np.column_stack([rows.clip(0), origin])).to(self.held_on)
        whole = (windows.index_select(0, moved[:, 0]) for windows in self.whole)
        fields = before_and_after(self.history, *whole) | {"origin": moved[:, -1].contiguous()}
        fields |= {"covariates": self.covariates.index_select(0, moved[:, 0])}
        slot, day = fields["target_calendar"].unbind(-1)
        fallback = self.climatology.index_select(0, (day * self.slots_per_day + slot).flatten())
        later, before = slice(2, 2 + len(self.lags)), slice(2 + len(self.lags), len(self.back))
        last = last_observed(fields["history"][..., 0], fields["history_observed"][..., 0])
        anchors = self._beside(self.of_target, rows[:, later], moved[:, later], last)
        past = self._beside(self.of_history, rows[:, before], moved[:, before])
        fields |= {"past": past[0], "past_observed": past[1]}
        fields |= {"anchors": anchors[0], "anchors_observed": anchors[1]}
        fields["fallback"] = fallback.view(fields["target"].shape)
        return Batch(**{name: field.to(self.device) for name, field in fields.items()})

    def count_observed(self, origins: Int[np.ndarray, " batch"]) -> int:
        """Observed target readings of these windows: what a masked loss of the group divides by."""
        _, rows = self._locate(origins)
        target_row = torch.from_numpy(rows[:, 1].copy()).to(self.held_on)
        return int(self.of_target[1].index_select(0, target_row).sum())

    def _locate(
        self, origins: Int[Tensor, " batch"] | Int[np.ndarray, " batch"]
    ) -> tuple[Int[np.ndarray, " batch"], Int[np.ndarray, "batch read"]]:
        """The origins, and where in what is held each read of a window begins; negative before the series.

        Raises: AssertionError naming origins outside the series, IndexError those whose rows are not held.
        """
        origin = np.asarray(origins, np.int64)
        outside = (origin < self.history) | (origin > self.steps - self.horizon)
        assert not outside.any(), f"windows reach outside the series: origins {origin[outside].tolist()}"
        return origin, self._places(origin) - self.back

    def _places(self, origin: Int[np.ndarray, " batch"]) -> Int[np.ndarray, "batch 1"]:
        """Where in what is held the origins lie."""
        if self.data == "memmap":
            return origin[:, None]
        span = np.searchsorted(self.spans[:, 0], (origin - self.back.max()).clip(0), side="right") - 1
        last = self.spans[span, 1]
        absent = (span < 0) | (origin + self.horizon > last)
        if absent.any():
            raise IndexError(f"windows whose rows are not held: origins {origin[absent].tolist()}")
        held = (self.spans[:, 1] - self.spans[:, 0]).cumsum()  # rows up to the end of each span
        return (origin + held[span] - last)[:, None]

    def _hold(self, array: np.ndarray, spans: Sequence[tuple[int, int]]) -> Tensor:
        """The array, or a copy of these rows of it."""
        if self.data == "memmap":
            return torch.from_numpy(array)
        whole = torch.from_numpy(array)
        rows = sum(last - first for first, last in spans)
        try:
            held = torch.empty(rows, *whole.shape[1:], dtype=whole.dtype, device=self.held_on)
        except (MemoryError, RuntimeError) as error:  # the allocators of a CPU and of a GPU
            size = held_bytes(self.series.meta, spans, self.sensors) / 2**30
            memory, said = f"{self.held_on.type} memory", str(error).partition("\n")[0]
            raise InputError(
                f"runtime.data: {self.data} copies the readings, {size:.2f} GiB, and {memory} has no room for them; "
                f"set runtime.data: memmap, which leaves them on the disk ({said})"
            ) from error
        filled = 0
        for first, last in spans:
            held[filled : filled + last - first] = whole[first:last]
            filled += last - first
        release(array)
        return held

    def _beside(
        self,
        views: tuple[Tensor, Tensor],
        rows: Int[np.ndarray, "batch lag"],
        begins: Int[Tensor, "batch lag"],
        last: tuple[Float[Tensor, "batch node"], Bool[Tensor, "batch node"]] | None = None,
    ) -> tuple[Float[Tensor, "batch step node reading"], Bool[Tensor, "batch step node reading"]]:
        """What stands beside each step of these windows: the last reading where it is given, that of each context
        lag, what was usual. A few windows at a time, for what it is made of is three times as large."""
        steps, first = views[0].shape[1], last is not None
        size = len(rows), steps, self.sensors, first + len(self.context) + bool(self.weeks)
        found, known = views[0].new_empty(size), views[1].new_empty(size)
        if last is not None:
            found[..., 0], known[..., 0] = (of_last.unsqueeze(1) for of_last in last)
        if not self.lags:
            return found, known
        days = len(self.lags) - len(set(self.weeks) | set(self.days))
        weeks = len(self.lags) - len(self.weeks)
        at_once = max(FEWEST, self.held[0].numel() // SHARE) // (len(self.lags) * steps * self.sensors)
        at_once = max(1, at_once)
        for begin in range(0, len(rows), at_once):
            part = slice(begin, begin + at_once)
            readings, observed = _lagged(views, rows[part], begins[part])
            for number, lag in enumerate(self.context, first):
                place = self.lags.index(lag)
                found[part, ..., number] = readings[:, place]
                known[part, ..., number] = observed[:, place]
            if self.weeks:
                of_days = slice(days, days + len(self.days))
                found[part, ..., -1], known[part, ..., -1] = trailing_climatology(
                    readings[:, weeks:], observed[:, weeks:], readings[:, of_days], observed[:, of_days]
                )
        return found, known


def before_and_after(
    history: int,
    values: Float[Tensor, "batch step node channel"],
    observed: Bool[Tensor, "batch step node channel"],
    calendar: Int[Tensor, "batch step 2"],
) -> dict[str, Tensor]:
    """Fields of a Batch that are views of whole windows: the history, and the target variable after it."""
    return {
        "history": values[:, :history],
        "history_observed": observed[:, :history],
        "history_calendar": calendar[:, :history].long(),
        "target": values[:, history:, :, 0],
        "target_observed": observed[:, history:, :, 0],
        "target_calendar": calendar[:, history:].long(),
    }


def _distinct_lags(meta: PreparedMeta) -> list[int]:
    """Lags of anchors, each once: those of the context alone, then the days, then the weeks.

    The last day may be the first week. Days lie together, and so do weeks.
    """
    weeks = [lag for lag in meta.trailing if lag not in meta.trailing_days]
    alone = [lag for lag in meta.context if lag not in (*meta.trailing, *meta.trailing_days)]
    lags = [*alone, *meta.trailing_days, *weeks]
    assert lags[len(lags) - len(meta.trailing) :] == list(meta.trailing), "a week is a day in the middle"
    return lags


def _windows(array: Tensor, length: int) -> Tensor:
    """A view of so many rows from every row on, each one piece of memory: [rows - length + 1, length, ...]."""
    count = max(0, len(array) - length + 1)
    return array.as_strided((count, length, *array.shape[1:]), (array.stride(0), *array.stride()))


def _lagged(
    views: tuple[Tensor, Tensor], rows: Int[np.ndarray, "batch lag"], begins: Int[Tensor, "batch lag"]
) -> tuple[Float[Tensor, "batch lag step node"], Bool[Tensor, "batch lag step node"]]:
    """Windows of the target variable from these rows on, and what of them was read; 0 and False before the series."""
    begin = begins.flatten()
    found = [view.index_select(0, begin) for view in views]
    if rows.size and rows.min() < 0:
        _clear(found, rows.ravel())
    readings, observed = (windows.view(*rows.shape, *windows.shape[1:]) for windows in found)
    return readings, observed


def _clear(found: Sequence[Tensor], rows: Int[np.ndarray, " window"]) -> None:
    """Windows that begin before the series were read from its first row on: move them there and put 0 before them."""
    length = found[0].shape[1]
    gone = torch.from_numpy(np.flatnonzero(rows <= -length)).to(found[0].device)
    partly = np.flatnonzero((rows < 0) & (rows > -length)).tolist()
    for windows in found:
        windows.index_fill_(0, gone, 0)
        for number in partly:
            window, ahead = windows[number], -int(rows[number])
            window[ahead:] = window[: length - ahead].clone()
            window[:ahead] = 0


def anchor_lags(meta: PreparedMeta) -> list[int]:
    """How far before a step the readings lie that stand beside it."""
    return [*meta.context, *meta.trailing, *meta.trailing_days]


def row_spans(meta: PreparedMeta, steps: int, parts: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Rows [first, last) that the windows of these origins read, in order and apart; all rows without a part."""
    if not parts:
        return [(0, steps)]
    back = meta.history + max(anchor_lags(meta), default=0)
    spans: list[tuple[int, int]] = []
    for first, last in sorted(part for part in parts if part[0] < part[1]):
        span = max(0, first - back), min(steps, last - 1 + meta.horizon)
        if spans and span[0] <= spans[-1][1]:
            before = spans.pop()
            span = before[0], max(before[1], span[1])
        spans.append(span)
    return spans


def held_bytes(meta: PreparedMeta, spans: Sequence[tuple[int, int]], sensors: int) -> int:
    """Bytes that a copy of these rows takes, with the climatology."""
    rows = sum(last - first for first, last in spans)
    row = sensors * len(meta.channels) * 5 + 4 + 4 * len(meta.covariates)  # a reading and whether it was one
    return rows * row + 4 * 7 * meta.slots_per_day * sensors
