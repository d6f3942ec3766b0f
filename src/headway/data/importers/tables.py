"""Foreign tables: CSV and Parquet, column by column, with every fault named by its place.

Enters: a path, names of columns and what they are to be. Leaves: times, numbers, texts.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pv

from headway.data.importers.imported import in_microseconds
from headway.data.importers.limits import require_file, require_memory
from headway.data.parquet import listing, open_parquet, read_parquet
from headway.errors import InputError

TIME_NAMES = ("timestamp", "time", "datetime", "date_time", "date", "")  # "": an index written by pandas
SUFFIXES = (".csv", ".txt", ".tsv", ".parquet")
MAX_HEADER = 2**24
TEXT = pa.dictionary(pa.int32(), pa.string())  # each different text is kept, and parsed, once
OFFSET = r"(?:Z|[+-]\d\d:?\d\d)$"
SHOWN = 5


def column_names(path: Path) -> list[str]:
    """Names of the columns.

    Raises: InputError for an unreadable file, or names that are there twice.
    """
    require_file(path, SUFFIXES)
    if path.suffix == ".parquet":
        schema = open_parquet(path).schema_arrow
        index = (schema.pandas_metadata or {}).get("index_columns", [])
        names = [name for name in schema.names if name not in index or not name.startswith("__index")]
    else:
        names = _header(path)
    twice = sorted({name for name in names if names.count(name) > 1}) if len(set(names)) < len(names) else []
    if twice:
        raise InputError(f"{path} has columns of the same name: {listing(twice)}")
    return names


def find_column(path: Path, names: Sequence[str], wanted: str, usual: Sequence[str], option: str) -> str:
    """The column that an option names, else the first of the usual names, whatever their case.

    Raises: InputError listing the columns there are.
    """
    if wanted:
        if wanted not in names:
            raise InputError(f"{path} has no column {wanted!r} ({option}); its columns are {listing(names)}")
        return wanted
    lower = {name.strip().lower(): name for name in reversed(names)}
    found = [lower[name] for name in usual if name in lower]
    if not found:
        raise InputError(f"{path}: name a column with {option}; its columns are {listing(names)}")
    return found[0]


def read_columns(path: Path, texts: Sequence[str], numbers: Sequence[str], kind: pa.DataType) -> pa.Table:
    """Columns of a table, `texts` as they are written and `numbers` of a float type, NaN where empty.

    Raises: InputError naming the lines and the texts that are no numbers.
    """
    names = [*texts, *numbers]
    if path.suffix == ".parquet":
        file = open_parquet(path)
        require_memory(8 * file.metadata.num_rows * len(names), path)
        table = read_parquet(path, names)
        if not table.num_rows:
            raise InputError(f"{path} has no rows")
        return _cast(path, table.select(names), numbers, kind)
    types = {**dict.fromkeys(texts, TEXT), **dict.fromkeys(numbers, kind)}
    require_memory(path.stat().st_size, path)
    try:
        table = _read_csv(path, types, threads=True)
    except (pa.ArrowException, OSError) as error:
        raise InputError(_diagnosis(path, texts, numbers, str(error))) from None
    if not table.num_rows:
        raise InputError(f"{path} has a header and no rows")
    return table


def read_times(path: Path, column: pa.ChunkedArray, name: str, form: str = "") -> pd.DatetimeIndex:
    """Times of a column, naive or in UTC, in file order.

    Args: form: strptime format of texts; ISO 8601 where empty.
    Raises: InputError naming lines that are empty or no times, and columns that mix both kinds of clock.
    """
    if pa.types.is_timestamp(column.type) or pa.types.is_date(column.type):
        times = pd.DatetimeIndex(column.to_pandas())
        _refuse(path, name, np.asarray(times.isna()), [""] * len(times), "no time")
        return in_microseconds(times if times.tz is None else times.tz_convert("UTC"), path)
    if not _is_text(column.type):
        raise InputError(
            f"{path}: column {name} is of type {column.type}; write times as text or timestamps"
            + (
                ", e.g. pd.to_datetime(column, unit='s', utc=True)"
                if pa.types.is_integer(column.type)
                else ""
            )
        )
    codes, texts = encode_text(path, column, name, "no time")
    aware = pd.Series(texts, dtype=str).str.contains(OFFSET) if not form else pd.Series(False, index=texts)
    if aware.any() and not aware.all():
        mixed = [texts[int(np.flatnonzero(aware == side)[0])] for side in (True, False)]
        raise InputError(f"{path}: column {name} mixes times with an offset and without: {listing(mixed)}")
    parsed = pd.to_datetime(
        pd.Series(texts, dtype=str), format=form or "ISO8601", errors="coerce", utc=bool(aware.any())
    )
    wrong = np.asarray(parsed.isna())
    hint = f"not of the form {form}" if form else "not ISO 8601 (see --time-format)"
    _refuse(path, name, wrong[codes], [texts[code] for code in codes] if wrong.any() else [], hint)
    return in_microseconds(pd.DatetimeIndex(parsed)[codes], path)


def encode_text(path: Path, column: pa.ChunkedArray, name: str, absence: str) -> tuple[np.ndarray, list[str]]:
    """A column of ids or times: for each row the number of its text, and the texts.

    Raises: InputError naming the lines without one.
    """
    if pa.types.is_integer(column.type):
        column = pc.cast(column, pa.string())
    if not _is_text(column.type):
        raise InputError(f"{path}: column {name} is of type {column.type}; write text")
    if not pa.types.is_dictionary(column.type):
        column = column.dictionary_encode()
    array = column.unify_dictionaries().combine_chunks()
    encoded = array.chunk(0) if isinstance(array, pa.ChunkedArray) else array
    texts = [str(text).strip() for text in encoded.dictionary.to_pylist()]
    empty = np.asarray(encoded.is_null()) | np.isin(
        encoded.indices.fill_null(0), [code for code, text in enumerate(texts) if not text]
    )
    _refuse(path, name, empty, [""] * len(empty), absence)
    unique, codes = np.unique(np.array(texts, dtype=str), return_inverse=True)
    return codes[np.asarray(encoded.indices)], [str(text) for text in unique]


def place(path: Path, row: int) -> str:
    """Where a row (from 0) is, in the file's own terms."""
    return f"row {row}" if path.suffix == ".parquet" else f"line {row + 2}"


def _is_text(kind: pa.DataType) -> bool:
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    return pa.types.is_string(kind) or pa.types.is_large_string(kind)


def _refuse(path: Path, name: str, wrong: np.ndarray, found: Sequence[str], what: str) -> None:
    rows = np.flatnonzero(wrong)
    if len(rows):
        places = [
            place(path, int(row)) + (f" ({found[row]!r})" if found[row] else "") for row in rows[: SHOWN + 1]
        ]
        more = f" ({len(rows)} in all)" if len(rows) > SHOWN else ""
        raise InputError(f"{path}: column {name}: {what} in {listing(places[:SHOWN])}{more}")


def _header(path: Path) -> list[str]:
    with path.open("rb") as file:
        line = file.readline(MAX_HEADER)
    try:
        text = line.decode("utf-8-sig").rstrip("\r\n")
        return next(csv.reader([text], delimiter=_delimiter(text)), [])
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is no text in UTF-8: {error}") from None
    except csv.Error as error:
        raise InputError(f"{path}: line 1, the header, is no CSV: {error}") from None


def _delimiter(header: str) -> str:
    return max((",", ";", "\t"), key=header.count)


def _read_csv(path: Path, types: Mapping[str, pa.DataType], *, threads: bool) -> pa.Table:
    names = _header(path)
    with path.open("rb") as file:
        first = file.readline(MAX_HEADER).decode("utf-8-sig")
    return pv.read_csv(
        path,
        # our own names: Arrow would leave the mark of a byte order, and does not know an empty one
        read_options=pv.ReadOptions(column_names=names, skip_rows=1, use_threads=threads),
        parse_options=pv.ParseOptions(delimiter=_delimiter(first)),
        convert_options=pv.ConvertOptions(
            column_types=dict(types), include_columns=list(types), strings_can_be_null=True
        ),
    )


def _diagnosis(path: Path, texts: Sequence[str], numbers: Sequence[str], error: str) -> str:
    """What is wrong with a CSV file that Arrow refused, by line and column."""
    problems = []
    try:
        table = _read_csv(path, dict.fromkeys([*texts, *numbers], pa.string()), threads=False)
    except (pa.ArrowException, OSError) as again:
        return f"{path} is no readable CSV: {again}"
    for name in numbers:
        texts_found = table[name].to_pylist()
        parsed = np.asarray(pd.to_numeric(pd.Series(texts_found, dtype=object), errors="coerce"), dtype=float)
        wrong = [row for row in np.flatnonzero(np.isnan(parsed)) if not _is_missing(texts_found[row])]
        problems += [
            f"column {name}, {place(path, int(row))}: {texts_found[row]!r} is no number"
            for row in wrong[:SHOWN]
        ]
    if not problems:
        return f"{path} is no readable CSV: {error}"
    return str(InputError.from_problems(f"{path} holds text where numbers should be:", problems[:8]))


def _is_missing(text: str | None) -> bool:
    return text is None or text.strip().lower() in ("", "na", "n/a", "nan", "null")


def _cast(path: Path, table: pa.Table, numbers: Sequence[str], kind: pa.DataType) -> pa.Table:
    for name in numbers:
        column = table[name]
        if not (pa.types.is_floating(column.type) or pa.types.is_integer(column.type)):
            raise InputError(f"{path}: column {name} is of type {column.type}; write numbers")
        table = table.set_column(table.column_names.index(name), name, pc.cast(column, kind, safe=False))
    return table
