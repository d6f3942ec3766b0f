"""One Parquet file of a data set: its timestamps, its columns of readings, its faults.

Enters: the path of a file with a column `timestamp` and numeric columns. Leaves: UTC seconds and float32
readings in file order; page checksums are verified and every failure names file, column and row.

Glossary: readings are float32 [row, column], NaN = missing; rows count from 0.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Float, Int64

from headway.data.calendar import to_utc
from headway.errors import InputError

TIME = "timestamp"
BATCH_BYTES = 256 * 2**20  # of decoded columns in memory at once
MAX_CELLS = 2**34  # 64 GiB of float32: five years of 11,000 sensors every five minutes are 6e9
YEARS = (np.datetime64("1900-01-01", "s"), np.datetime64("2200-01-01", "s"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Times:
    """Timestamps of one file, to the second, in file order; `repeated` counts autumn's ambiguous ones."""

    utc: Int64[np.ndarray, " row"]
    repeated: int


def read_times(path: Path, zone: str) -> Times:
    """Timestamps of a file; naive ones are civil time of `zone`.

    Raises: InputError as to_times does.
    """
    column = read_parquet(path, [TIME])[TIME]
    aware = pa.types.is_timestamp(column.type) and bool(column.type.tz)
    return to_times(column.to_numpy(), aware, zone, path)


def to_times(stamps: np.ndarray, aware: bool, zone: str, path: Path | str) -> Times:
    """Timestamps as UTC seconds.

    Args:
        stamps: datetime64 of any unit, in UTC where `aware`, else civil time of `zone`.
        path: where they come from, for messages.
    Raises: InputError naming the rows that have no timestamp, an absurd one, or one that the zone skips.
    """
    if np.isnat(stamps).any():
        raise InputError(
            f"{path}: column {TIME} is empty in {describe_rows(np.isnat(stamps))}; remove or mend them"
        )
    # to the nearest second: a cast alone would cut
    stamps = (stamps.astype("datetime64[ms]") + np.timedelta64(500, "ms")).astype("datetime64[s]")
    absurd = (stamps < YEARS[0]) | (stamps > YEARS[1])
    if absurd.any():
        raise InputError(
            f"{path}: column {TIME} is before 1900 or after 2200 in {describe_rows(absurd, stamps)}"
        )
    seconds = stamps.astype(np.int64)
    if aware:
        return Times(utc=seconds, repeated=0)
    utc, repeated, nonexistent = to_utc(seconds, zone)
    if nonexistent.any():
        raise InputError(
            f"{path}: local times that {zone} skips when the clocks go forward: "
            f"{describe_rows(nonexistent, stamps)}; if the data's clock is never changed, give the timestamps "
            "a zone, or set time_zone in dataset.yaml to UTC or a fixed zone such as Etc/GMT-1; else remove "
            "the rows"
        )
    return Times(utc=utc, repeated=int(repeated.sum()))


def read_readings(path: Path, names: Sequence[str]) -> Float[np.ndarray, "row column"]:
    """The named columns, one float32 array in column-major order (a sensor's readings lie together).

    Raises: InputError naming unreadable columns, or rows and columns of infinite readings.
    """
    rows = open_parquet(path).metadata.num_rows
    readings = np.empty((rows, len(names)), dtype=np.float32, order="F")
    width = columns_at_once(rows)
    infinite: list[str] = []
    for first in range(0, len(names), width):
        batch = list(names[first : first + width])
        table = read_parquet(path, batch)
        for index, name in enumerate(batch, start=first):
            with np.errstate(over="ignore"):  # beyond float32 is infinite, reported below
                readings[:, index] = _numbers(table[name])
            where = np.flatnonzero(np.isinf(readings[:, index]))
            infinite += [f"column {name}, row {row}" for row in where]
    if infinite:
        raise InputError(f"{path}: infinite readings in {listing(infinite)}; write a missing reading as NaN")
    return readings


def columns_at_once(rows: int) -> int:
    """Columns of so many rows that are read together."""
    return max(1, BATCH_BYTES // (8 * max(1, rows)))


def listing(items: Iterable[object], limit: int = 8) -> str:
    """ "a, b, c and 5 more"."""
    texts = [str(item) for item in items]
    rest = f" and {len(texts) - limit} more" if len(texts) > limit else ""
    return ", ".join(texts[:limit]) + rest


def _numbers(column: pa.ChunkedArray) -> np.ndarray:
    if pa.types.is_decimal(column.type):
        column = column.cast(pa.float64())
    return column.to_numpy()


def open_parquet(path: Path) -> pq.ParquetFile:
    """The file with its footer read and page checksums on.

    Raises: InputError when it is absent, no Parquet file, or claims more cells than anything real has.
    """
    try:
        file = pq.ParquetFile(path, page_checksum_verification=True)
    except FileNotFoundError:
        raise InputError(f"{path} not found; a data set needs series.parquet and sensors.parquet") from None
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{path} is no readable Parquet file, perhaps truncated: {error}") from None
    rows, columns = file.metadata.num_rows, file.metadata.num_columns
    if rows * columns > MAX_CELLS:
        raise InputError(
            f"{path} claims {rows} rows of {columns} columns; at most {MAX_CELLS} cells are read"
        )
    return file


def read_parquet(path: Path, columns: list[str] | None = None) -> pa.Table:
    """The named columns, or all, row group by row group.

    Raises: InputError naming the row group that is damaged.
    """
    file = open_parquet(path)
    group = 0
    try:
        parts = []
        for group in range(file.num_row_groups):
            parts.append(file.read_row_group(group, columns=columns, use_pandas_metadata=False))
        return pa.concat_tables(parts) if parts else file.schema_arrow.empty_table()
    except (pa.ArrowException, OSError) as error:
        names = listing(columns) if columns else "all columns"
        raise InputError(f"{path} is damaged in row group {group} ({names}): {error}") from None


def describe_rows(wrong: np.ndarray, stamps: np.ndarray | None = None) -> str:
    """The rows that are marked, for a message, with their timestamps where given."""
    rows = np.flatnonzero(wrong)
    return "rows " + listing(str(row) if stamps is None else f"{row} ({stamps[row]})" for row in rows)
