"""Index-batching: a window is an integer, a batch is two gathers from the prepared array.

Enters: the opened prepared folder, or recent rows laid out like it, and window origins. Leaves: a Batch in
physical units. The windows of a day and a week ago are the same gather at other row offsets, so they cost no
memory (models.md 0b).

The array stays on disk and is mapped, or is held in memory, or is copied to the device once and gathered there:
the same bits each time. Who trains on a part of the series holds the rows of that part and of what its windows
look back to.

Glossary: B windows, L history, H horizon, N nodes, C channels, K context lags, A = K + 2 anchors.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from headway.data.store import release
from headway.types import Batch

if TYPE_CHECKING:
    from headway.data.prepared import PreparedMeta

# A trailing mean of n weeks is shrunk to the mean of the last days as if those were one more week.
DAY_WEIGHT = 1.0

Residence = Literal["memmap", "memory", "device"]


@runtime_checkable
class Series(Protocol):
    """What windows are gathered from: these arrays of the prepared folder, and what they mean."""

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
        """
        meta = prepared.meta
        self.series, self.data, self.device = prepared, data, torch.device(device)
        self.held_on = self.device if data == "device" else torch.device("cpu")
        self.history, self.horizon, self.lags = meta.history, meta.horizon, len(meta.context)
        self.steps, self.sensors = prepared.values.shape[:2]
        self.slots_per_day, self.weeks = meta.slots_per_day, len(meta.trailing)
        spans = row_spans(meta, self.steps, parts) if data != "memmap" else [(0, self.steps)]
        self.place = _places(spans, self.steps).to(self.held_on)  # [T], where a row lies in what is held
        self.values = self._hold(prepared.values, spans)  # [rows, N, C]
        self.observed = self._hold(prepared.observed, spans)
        self.calendar = self._hold(prepared.calendar, spans)  # [rows, 2]
        self.covariates = self._hold(prepared.covariates, spans)  # [rows, K']
        self.climatology = torch.from_numpy(prepared.climatology).to(self.held_on)  # [7 * slots, N]
        steps_back = torch.arange(-meta.history, 0, device=self.held_on)
        steps_ahead = torch.arange(meta.horizon, device=self.held_on)
        self.history_rows = steps_back
        self.target_rows = steps_ahead
        self.past_rows = torch.stack([steps_back - lag for lag in meta.context]) if meta.context else None
        lags = anchor_lags(meta)
        assert all(lag >= meta.horizon for lag in lags), f"a lag of {lags} reads the future"
        self.anchor_rows = torch.stack([steps_ahead - lag for lag in lags]) if lags else None

    def mapped(self) -> Windows:
        """The same windows from the prepared arrays as they are: those of every origin, at no memory."""
        return self if self.data == "memmap" else Windows(self.series, self.device)

    def gather(self, origins: Int[Tensor, " batch"] | Int[np.ndarray, " batch"]) -> Batch:
        """The windows of these origins, in the order given; every window lies inside the series."""
        origin = self._origin(origins)
        history, history_observed = self._channels(origin, self.history_rows)
        target, target_observed = self._target(origin, self.target_rows)
        past, past_observed = self._past(origin)
        anchors, anchors_observed = self._anchors(origin, history[..., 0], history_observed[..., 0])
        history_calendar = self._calendar(origin, self.history_rows)
        target_calendar = self._calendar(origin, self.target_rows)
        slot_of_week = target_calendar[..., 1] * self.slots_per_day + target_calendar[..., 0]
        fields = {
            "origin": origin,
            "history": history,
            "history_observed": history_observed,
            "history_calendar": history_calendar,
            "covariates": self._read(origin, self.history_rows, self.covariates)[0],
            "past": past,
            "past_observed": past_observed,
            "anchors": anchors,
            "anchors_observed": anchors_observed,
            "fallback": self.climatology[slot_of_week],
            "target_calendar": target_calendar,
            "target": target,
            "target_observed": target_observed,
        }
        return Batch(**{name: field.to(self.device) for name, field in fields.items()})

    def count_observed(self, origins: Int[np.ndarray, " batch"]) -> int:
        """Observed target readings of these windows: what a masked loss of the group divides by."""
        observed, _ = self._read(self._origin(origins), self.target_rows, self.observed[..., 0])
        return int(observed.sum())

    def _origin(self, origins: Int[Tensor, " batch"] | Int[np.ndarray, " batch"]) -> Int[Tensor, " batch"]:
        origin = torch.as_tensor(origins, dtype=torch.int64)
        outside = (origin < self.history) | (origin > self.steps - self.horizon)
        assert not outside.any(), f"windows reach outside the series: origins {origin[outside].tolist()}"
        return origin.to(self.held_on)

    def _hold(self, array: np.ndarray, spans: Sequence[tuple[int, int]]) -> Tensor:
        """The array, or a copy of these rows of it."""
        if self.data == "memmap":
            return torch.from_numpy(array)
        whole = torch.from_numpy(array)
        held = torch.empty(
            sum(last - first for first, last in spans),
            *whole.shape[1:],
            dtype=whole.dtype,
            device=self.held_on,
        )
        filled = 0
        for first, last in spans:
            held[filled : filled + last - first] = whole[first:last]
            filled += last - first
        release(array)
        return held

    def _read(
        self, origin: Int[Tensor, " batch"], offsets: Int[Tensor, "..."], array: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Rows origin + offset of `array`; False in the second tensor where the row does not exist."""
        rows = origin.view(-1, *[1] * offsets.dim()) + offsets
        exists = (rows >= 0) & (rows < self.steps)
        read = array.index_select(0, self.place.index_select(0, rows.clamp(0, self.steps - 1).flatten()))
        return read.view(*rows.shape, *array.shape[1:]), exists.view(*rows.shape, *[1] * (array.dim() - 1))

    def _masked(
        self, origin: Int[Tensor, " batch"], offsets: Int[Tensor, "..."], values: Tensor, observed: Tensor
    ) -> tuple[Tensor, Tensor]:
        reading, exists = self._read(origin, offsets, values)
        was_read, _ = self._read(origin, offsets, observed)
        was_read = was_read & exists
        return reading * was_read, was_read

    def _channels(
        self, origin: Int[Tensor, " batch"], offsets: Int[Tensor, " step"]
    ) -> tuple[Float[Tensor, "batch step node channel"], Bool[Tensor, "batch step node channel"]]:
        return self._masked(origin, offsets, self.values, self.observed)

    def _target(
        self, origin: Int[Tensor, " batch"], offsets: Int[Tensor, "..."]
    ) -> tuple[Float[Tensor, "..."], Bool[Tensor, "..."]]:
        return self._masked(origin, offsets, self.values[..., 0], self.observed[..., 0])

    def _calendar(
        self, origin: Int[Tensor, " batch"], offsets: Int[Tensor, " step"]
    ) -> Int[Tensor, "batch step 2"]:
        return self._read(origin, offsets, self.calendar)[0].long()

    def _past(
        self, origin: Int[Tensor, " batch"]
    ) -> tuple[Float[Tensor, "batch history node lag"], Bool[Tensor, "batch history node lag"]]:
        if self.past_rows is None:
            empty = torch.zeros(len(origin), self.history, self.sensors, 0, device=self.held_on)
            return empty, empty.bool()
        past, observed = self._target(origin, self.past_rows)  # [B, K, L, N]
        return past.permute(0, 2, 3, 1), observed.permute(0, 2, 3, 1)

    def _anchors(
        self,
        origin: Int[Tensor, " batch"],
        history: Float[Tensor, "batch history node"],
        observed: Bool[Tensor, "batch history node"],
    ) -> tuple[Float[Tensor, "batch horizon node anchor"], Bool[Tensor, "batch horizon node anchor"]]:
        last, has_last = last_observed(history, observed)
        anchors = [last.unsqueeze(1).expand(-1, self.horizon, -1)]
        masks = [has_last.unsqueeze(1).expand(-1, self.horizon, -1)]
        if self.anchor_rows is not None:
            readings, was_read = self._target(origin, self.anchor_rows)  # [B, lag, H, N]
            anchors += readings[:, : self.lags].unbind(1)
            masks += was_read[:, : self.lags].unbind(1)
            if self.weeks:
                usual, known = trailing_climatology(
                    readings[:, self.lags :], was_read[:, self.lags :], self.weeks
                )
                anchors.append(usual)
                masks.append(known)
        return torch.stack(anchors, -1), torch.stack(masks, -1)


def anchor_lags(meta: PreparedMeta) -> list[int]:
    """How far before a target step its anchors are read, but for the last reading."""
    return [*meta.context, *meta.trailing, *meta.trailing_days]


def row_spans(meta: PreparedMeta, steps: int, parts: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Rows [first, last) that the windows of these origins read, in order and apart; all rows without a part."""
    if not parts:
        return [(0, steps)]
    back = max([meta.history + max(meta.context, default=0), *anchor_lags(meta)])
    spans: list[tuple[int, int]] = []
    for first, last in sorted(part for part in parts if part[0] < part[1]):
        span = max(0, first - back), min(steps, last - 1 + meta.horizon)
        if spans and span[0] <= spans[-1][1]:
            before = spans.pop()
            span = before[0], max(before[1], span[1])
        spans.append(span)
    return spans


def held_bytes(meta: PreparedMeta, spans: Sequence[tuple[int, int]], sensors: int) -> int:
    """Bytes that a copy of these rows takes, with the place of every row and the climatology."""
    rows = sum(last - first for first, last in spans)
    row = sensors * len(meta.channels) * 5 + 4 + 4 * len(meta.covariates)  # a reading and whether it was one
    return rows * row + 8 * max(last for _, last in spans) + 4 * 7 * meta.slots_per_day * sensors


def _places(spans: Sequence[tuple[int, int]], steps: int) -> Int[Tensor, " step"]:
    """Where each row of the series lies when only these are held; -1 for the others, which no gather accepts."""
    places = torch.full((steps,), -1, dtype=torch.int64)
    held = 0
    for first, last in spans:
        places[first:last] = torch.arange(held, held + last - first)
        held += last - first
    return places


def last_observed(
    history: Float[Tensor, "batch history node"], observed: Bool[Tensor, "batch history node"]
) -> tuple[Float[Tensor, "batch node"], Bool[Tensor, "batch node"]]:
    """The newest observed reading of each sensor, and whether there is one."""
    age = torch.arange(1, history.shape[1] + 1, device=history.device).view(1, -1, 1)
    newest = (age * observed).amax(1)  # 1-based step of the newest reading, 0 for none
    last = history.gather(1, (newest - 1).clamp(min=0).unsqueeze(1)).squeeze(1)
    return last * (newest > 0), newest > 0


def trailing_climatology(
    readings: Float[Tensor, "batch lag horizon node"],
    observed: Bool[Tensor, "batch lag horizon node"],
    weeks: int,
) -> tuple[Float[Tensor, "batch horizon node"], Bool[Tensor, "batch horizon node"]]:
    """What was usual lately: the mean of the last weeks at this time of week, shrunk to the last days.

    usual = (sum_w x_w + c * mean_d x_d) / (n_w + c), over observed readings, c = DAY_WEIGHT. Only readings
    before the origin enter, in training as in use; the training climatology would hold the target itself.
    Unknown where no reading is observed.
    """
    week_sum, week_count = readings[:, :weeks].sum(1), observed[:, :weeks].sum(1)
    day_sum, day_count = readings[:, weeks:].sum(1), observed[:, weeks:].sum(1)
    day_weight = DAY_WEIGHT * (day_count > 0)
    day_mean = day_sum / day_count.clamp(min=1)
    weight = week_count + day_weight
    usual = (week_sum + day_weight * day_mean) / torch.where(weight > 0, weight, 1.0)
    return usual, weight > 0
