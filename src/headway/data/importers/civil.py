"""Civil times of a table with a row a reading, as UTC, while the order of its rows still tells the passes apart.

Enters: naive times in file order and the sensor of each. Leaves: UTC. Sorted into rows of a time, the two passes of
the hour that autumn repeats would be one.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from jaxtyping import Bool, Int64

from headway.data.calendar import to_utc
from headway.data.importers.tables import refuse


def settle_clock(
    path: Path, times: pd.DatetimeIndex, sensor: np.ndarray, zone: str, name: str, *, headed: bool = True
) -> pd.DatetimeIndex:
    """The times in UTC, in file order; as they are where they say an offset or no zone is given.

    A file in the order of time, oldest or newest first, shows the passes as a whole; any other by sensor.

    Args: sensor: number of the sensor of each row; name: of the column; headed: the file has a header.
    Raises: InputError naming the lines of times that the zone skips.
    """
    if not zone or times.tz is not None:
        return times
    stamps = np.asarray(times, dtype="datetime64[us]").astype(np.int64)
    local = stamps // 10**6
    utc, repeated, skipped = _by_time(local, zone)
    refuse(
        path, name, skipped, [str(time) for time in times] if skipped.any() else [],
        f"{zone} skips this time when its clocks go forward (for a clock that is never changed say "
        "--time-zone UTC, or a fixed zone such as Etc/GMT-1)", headed=headed,
    )  # fmt: skip
    if repeated.any() and not _holds(utc, repeated, sensor):
        utc = _by_sensor(local, sensor, zone)
    moments = (stamps + 10**6 * (utc - local)).astype("datetime64[us]")
    return pd.DatetimeIndex(moments, tz="UTC")


def _by_time(
    local: Int64[np.ndarray, " row"], zone: str
) -> tuple[Int64[np.ndarray, " row"], Bool[np.ndarray, " row"], Bool[np.ndarray, " row"]]:
    """`to_utc` of the file as a whole: rows of equal time one after the other are one time."""
    begins = np.r_[True, np.diff(local) != 0]
    block = np.cumsum(begins) - 1
    utc, repeated, skipped = to_utc(local[begins], zone)
    return utc[block], repeated[block], skipped[block]


def _holds(utc: Int64[np.ndarray, " row"], repeated: Bool[np.ndarray, " row"], sensor: np.ndarray) -> bool:
    """Whether the times are in order, and no sensor has two readings at a time of the repeated hour."""
    differences = np.diff(utc)
    pairs = np.stack([utc[repeated], sensor[repeated]])
    in_order = (differences >= 0).all() or (differences <= 0).all()
    return bool(in_order) and np.unique(pairs, axis=1).shape[1] == pairs.shape[1]


def _by_sensor(local: Int64[np.ndarray, " row"], sensor: np.ndarray, zone: str) -> Int64[np.ndarray, " row"]:
    utc = np.empty_like(local)
    order = np.argsort(sensor, kind="stable")
    for rows in np.split(order, np.flatnonzero(np.diff(sensor[order])) + 1):
        utc[rows] = to_utc(local[rows], zone)[0]
    return utc
