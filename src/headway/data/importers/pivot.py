"""A row a reading into a row a time: duplicates keep rows of their own, for preprocess to settle.

Glossary: rank = how many readings of the same sensor at the same time stood before this one.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Float, Int64


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """Where each reading goes.

    Attributes:
        times: of the rows of the result, ascending; a time with duplicates has several rows.
        row, column: of each reading.
        duplicates: readings of rank 1 and more.
    """

    times: pd.DatetimeIndex
    row: Int64[np.ndarray, " reading"]
    column: Int64[np.ndarray, " reading"]
    columns: int
    duplicates: int


def lay_out(times: pd.DatetimeIndex, column: Int64[np.ndarray, " reading"], columns: int) -> Layout:
    """Rows for the readings of `columns` sensors; readings of one sensor at one time keep their order."""
    stamps = np.asarray(
        times if times.tz is None else times.tz_convert("UTC").tz_localize(None), dtype="datetime64[us]"
    )
    moments, moment = np.unique(stamps, return_inverse=True)
    key = moment * columns + column
    order = np.argsort(key, kind="stable")
    position = np.arange(len(key))
    starts = np.r_[True, np.diff(key[order]) != 0]
    rank = np.empty(len(key), dtype=np.int64)
    rank[order] = position - np.maximum.accumulate(np.where(starts, position, 0))
    depth = np.zeros(len(moments), dtype=np.int64)  # highest rank of each time
    np.maximum.at(depth, moment, rank)
    first = np.r_[0, np.cumsum(depth + 1)[:-1]]
    rows = pd.DatetimeIndex(np.repeat(moments, depth + 1), tz=None)
    return Layout(
        times=rows if times.tz is None else rows.tz_localize("UTC"),
        row=first[moment] + rank,
        column=column.astype(np.int64),
        columns=columns,
        duplicates=int((rank > 0).sum()),
    )


def spread(layout: Layout, values: Float[np.ndarray, " reading"]) -> Float[np.ndarray, "row sensor"]:
    """Readings in their rows and columns, NaN where there is none."""
    readings = np.full((len(layout.times), layout.columns), np.nan, dtype=np.float32, order="F")
    with np.errstate(over="ignore"):  # beyond float32 is infinite, refused when it is written
        readings[layout.row, layout.column] = values
    return readings
