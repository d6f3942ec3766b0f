"""A data frame somebody has at hand, as times and float32 readings, with every fault of its shape named.

Enters: a frame with a column `timestamp` or a DatetimeIndex and numeric columns. Leaves: `Table`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
from jaxtyping import Float

from headway.data.parquet import TIME, Times, to_times
from headway.errors import InputError

FILE = "read from"  # of a frame's attrs: the file that messages name


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """Rows as they came.

    Attributes:
        name: what messages call it.
        columns: of `readings`, in the order asked for. readings: NaN where missing.
    """

    name: str
    columns: tuple[str, ...]
    times: Times
    readings: Float[np.ndarray, "row column"]


def read_table(
    frame: pd.DataFrame, columns: Sequence[str], zone: str, name: str, *, further: Literal["refuse", "ignore"]
) -> Table:
    """The named columns, in this order, whatever the frame's own; the frame is left as it is.

    Args:
        zone: of naive timestamps. name: what messages call the table, behind the file that it was read from (FILE).
        further: what to do with columns that were not asked for.
    Raises: InputError, with a line each, for columns that are absent, unknown, there twice, or no finite numbers,
        and for timestamps that are absent or none.
    """
    name = f"{frame.attrs[FILE]}: {name}" if FILE in frame.attrs else name
    stamps, values = _split(frame, name)
    values.columns = values.columns.map(str)  # the ids of a model are text, those of a frame may be numbers
    problems = _column_problems(values.columns, columns, further)
    counts = values.columns.value_counts()
    kept = {column: pd.Series(values[column]) for column in columns if counts.get(column) == 1}
    problems += [
        f"column {column} is of type {readings.dtype}; write numbers, and NaN for a missing reading"
        for column, readings in kept.items()
        if not _numeric(readings)
    ]
    _refuse(name, problems)
    readings = np.empty((len(frame), len(columns)), dtype=np.float32, order="F")
    for index, column in enumerate(columns):
        readings[:, index] = _numbers(kept[column])
    infinite = np.flatnonzero(np.isinf(readings).any(axis=0))
    _refuse(name, [f"infinite readings in column {columns[index]}" for index in infinite.tolist()])
    times = to_times(_naive(stamps), stamps.tz is not None, zone, name)
    return Table(name=name, columns=tuple(columns), times=times, readings=readings)


def _split(frame: pd.DataFrame, name: str) -> tuple[pd.DatetimeIndex, pd.DataFrame]:
    """Timestamps, and the other columns."""
    if not len(frame):
        raise InputError(f"{name} have no rows" if name.endswith("s") else f"{name} has no rows")
    if TIME not in frame.columns:
        if not isinstance(frame.index, pd.DatetimeIndex):
            raise InputError(
                f"{name} cannot be used: there is no column {TIME}, and the index is no DatetimeIndex"
            )
        return frame.index, frame.copy(deep=False)
    column: Any = frame[TIME]
    if not isinstance(column, pd.Series) or not pd.api.types.is_datetime64_any_dtype(column):
        kind = column.dtype if isinstance(column, pd.Series) else "two columns"
        raise InputError(
            f"{name} cannot be used: column {TIME} is of type {kind}; make timestamps of it with pandas.to_datetime"
        )
    return pd.DatetimeIndex(column), frame.drop(columns=TIME)


def _naive(stamps: pd.DatetimeIndex) -> np.ndarray:
    return (stamps if stamps.tz is None else stamps.tz_convert("UTC").tz_localize(None)).to_numpy()


def _column_problems(
    there: pd.Index, wanted: Sequence[str], further: Literal["refuse", "ignore"]
) -> list[str]:
    absent = [column for column in wanted if column not in there]
    unknown = [column for column in there.unique() if column not in set(wanted)]
    twice = [column for column in there[there.duplicated()].unique() if column in set(wanted)]
    problems = []
    if absent:
        problems.append(
            f"columns are missing: {', '.join(absent)}; give what was not measured an empty column"
        )
    if unknown and further == "refuse":
        problems.append(f"the model does not know the columns {', '.join(unknown)}; leave them out")
    if twice:
        problems.append(f"columns are there more than once: {', '.join(twice)}")
    return problems


def _numeric(readings: pd.Series) -> bool:
    kind: Any = readings.dtype
    number = pd.api.types.is_float_dtype(kind) or pd.api.types.is_integer_dtype(kind)
    return number or bool(readings.isna().all())


def _numbers(readings: pd.Series) -> np.ndarray:
    if isinstance(readings.dtype, np.dtype) and readings.dtype.kind in "fiu":
        numbers: Any = readings.to_numpy()
    else:  # a nullable type, or nothing but missing readings
        numbers = readings.to_numpy(dtype=np.float64, na_value=np.nan)
    with np.errstate(over="ignore"):  # beyond float32 is infinite, reported by the caller
        return numbers.astype(np.float32)


def _refuse(name: str, problems: list[str]) -> None:
    if problems:
        raise InputError.from_problems(f"{name} cannot be used:", problems)
