"""Civil time: naive local timestamps to UTC, and UTC back to the slots and days people live by.

Enters: timestamps and the name of a zone of the tz database. Leaves: UTC seconds; calendar [T, 2].

Glossary: a *repeated* local time happens twice on the 25-hour day; a *nonexistent* one is skipped on the
23-hour day; slot = number of the step within the civil day.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from jaxtyping import Bool, Int16, Int64

HOUR, DAY = 3600, 86_400  # seconds
WEEK = 7 * DAY
HOURS = DAY // HOUR
SATURDAY = 5  # Monday is 0


def slots_per_day(step: int) -> int:
    """Steps of `step` seconds that begin in a day; the last one may be cut, a longer step has one slot."""
    return -(-DAY // step)


def civil_calendar(time: Int64[np.ndarray, " step"], zone: str, step: int) -> Int16[np.ndarray, "step 2"]:
    """Slot of day and day of week (Monday 0) of each UTC second, in the civil time of `zone`."""
    local = time + utc_offset(time, zone)
    slot = local % DAY // step
    weekday = (local // DAY + 3) % 7  # 1970-01-01 was a Thursday
    return np.stack([slot, weekday], axis=1).astype(np.int16)


def covers_two_weeks(rows: int, step: int) -> bool:
    """Whether rows of `step` seconds show each time of the week twice: of one seen once, only that one is learned."""
    return rows * step >= 2 * WEEK


def time_of_week(calendar: Int16[np.ndarray, "step 2"], slots: int) -> Int64[np.ndarray, " step"]:
    """Row of the climatology of each step."""
    return calendar[:, 1].astype(np.int64) * slots + calendar[:, 0]


def utc_offset(time: Int64[np.ndarray, " step"], zone: str) -> Int64[np.ndarray, " step"]:
    """Seconds that civil time is ahead of UTC."""
    local = pd.DatetimeIndex(time.astype("datetime64[s]"), tz="UTC").tz_convert(zone).tz_localize(None)
    return np.asarray(local, dtype="datetime64[s]").astype(np.int64) - time


def clock_changes(time: Int64[np.ndarray, " step"], zone: str) -> list[dict[str, object]]:
    """Civil days of the span on which the clocks were changed, and their hours."""
    days = np.arange(time[0] - DAY, time[-1] + 2 * DAY, HOUR)
    change = np.flatnonzero(np.diff(utc_offset(days, zone)))
    found = []
    for index in change:
        if not time[0] <= days[index + 1] <= time[-1]:
            continue
        before, after = utc_offset(days[index : index + 2], zone)
        date = np.datetime64(int(days[index] + before), "s").astype("datetime64[D]")
        found.append({"date": str(date), "hours": HOURS - int(after - before) / HOUR})
    return found


def to_utc(
    local: Int64[np.ndarray, " row"], zone: str
) -> tuple[Int64[np.ndarray, " row"], Bool[np.ndarray, " row"], Bool[np.ndarray, " row"]]:
    """Naive civil seconds, in file order, to UTC seconds.

    A repeated time is the second pass when the file shows both passes: the rows go back in time once, or
    every repeated time is there twice. Otherwise it is the first pass. A file whose newest rows come first is read
    from its end.

    Returns: UTC seconds (0 where nonexistent), which rows were repeated times, which do not exist.
    """
    if np.count_nonzero(np.diff(local) < 0) > len(local) / 2:
        utc, repeated, nonexistent = to_utc(local[::-1], zone)
        return utc[::-1], repeated[::-1], nonexistent[::-1]
    index = pd.DatetimeIndex(local.astype("datetime64[s]"))
    repeated = np.asarray(index.tz_localize(zone, ambiguous="NaT", nonexistent="shift_forward").isna())
    second = np.zeros(len(local), dtype=bool)
    days = local // DAY
    for day in np.unique(days[repeated]):
        rows = np.flatnonzero(repeated & (days == day))
        second[rows] = _second_pass(local[rows])
    # for pandas `True` is the first pass (clocks still in summer time)
    aware = index.tz_localize(zone, ambiguous=~second, nonexistent="NaT")
    nonexistent = np.asarray(aware.isna())
    utc = np.asarray(aware.tz_convert("UTC").tz_localize(None), dtype="datetime64[s]").astype(np.int64)
    utc[nonexistent] = 0
    return utc, repeated, nonexistent


def _second_pass(local: Int64[np.ndarray, " row"]) -> Bool[np.ndarray, " row"]:
    backwards = np.diff(local, prepend=local[:1]) < 0
    if backwards.sum() == 1:
        return np.cumsum(backwards) > 0
    _, counts = np.unique(local, return_counts=True)
    if not (counts >= 2).all():
        return np.zeros(len(local), dtype=bool)
    return pd.Series(local).groupby(local).cumcount().to_numpy() > 0
