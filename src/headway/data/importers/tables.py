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

from headway.data.importers.csv_lines import SHOWN, delimiter_of, line_faults, record_lines
from headway.data.importers.imported import in_microseconds
from headway.data.importers.limits import require_file, require_memory
from headway.data.parquet import listing, open_parquet, read_parquet
from headway.errors import InputError

TIME_NAMES = ("timestamp", "time", "datetime", "date_time", "date", "")  # "": an index written by pandas
SUFFIXES = (".csv", ".txt", ".tsv", ".parquet")
MAX_HEADER = 2**24
TEXT = pa.dictionary(pa.int32(), pa.string())  # each different text is kept, and parsed, once
OFFSET = r"\d[T ]\d\d\S* ?(?:Z|[+-]\d\d(?::?\d\d)?)$"  # after a time of day only: 2024-01-10 has none
LARGEST = float(np.finfo(np.float32).max)  # readings are float32
EMPTY = ("na", "n/a", "nan", "null", "#n/a", "#na", "-nan", "1.#ind", "-1.#ind", "1.#qnan", "-1.#qnan")
NULLS = sorted(
    {"", " ", "  ", "NaN", "-NaN"}
    | {form(word) for word in EMPTY for form in (str, str.upper, str.capitalize)}
)


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


def read_columns(
    path: Path, texts: Sequence[str], numbers: Sequence[str], kind: pa.DataType, names: Sequence[str] = ()
) -> pa.Table:
    """Columns of a table, `texts` as they are written and `numbers` of a float type, NaN where empty.

    Args: names: of all columns of a CSV that has no header.
    Raises: InputError naming the lines that cannot be read, and the numbers that are none or infinite.
    """
    wanted = [*texts, *numbers]
    if path.suffix == ".parquet":
        file = open_parquet(path)
        require_memory(8 * file.metadata.num_rows * len(wanted), path)
        table = _cast(path, read_parquet(path, wanted).select(wanted), numbers, kind)
    else:
        types = {**dict.fromkeys(texts, TEXT), **dict.fromkeys(numbers, kind)}
        require_memory(path.stat().st_size, path)
        try:
            table = _read_csv(path, types, names, threads=True)
        except (pa.ArrowException, OSError) as error:
            raise InputError(_diagnosis(path, texts, numbers, names, str(error))) from None
    if not table.num_rows:
        raise InputError(f"{path} has no rows" + ("" if path.suffix == ".parquet" else " after its header"))
    _refuse_infinite(path, table, numbers, headed=not names)
    return table


def read_times(path: Path, column: pa.ChunkedArray, name: str, form: str = "") -> pd.DatetimeIndex:
    """Times of a column, naive or in UTC, in file order.

    Args: form: strptime format of texts; ISO 8601 where empty. An offset may lack its minutes.
    Raises: InputError naming lines that are empty or no times, and columns that mix both kinds of clock.
    """
    if pa.types.is_timestamp(column.type) or pa.types.is_date(column.type):
        times = pd.DatetimeIndex(column.to_pandas())
        refuse(path, name, np.asarray(times.isna()), [], "no time")
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
    parsed = _parse(path, name, pd.Series(texts, dtype=str), form)
    wrong = np.asarray(parsed.isna())
    hint = f"not of the form {form}" if form else "not ISO 8601 (see --time-format)"
    refuse(path, name, wrong[codes], [texts[code] for code in codes] if wrong.any() else [], hint)
    return in_microseconds(parsed[codes], path)


def encode_text(
    path: Path, column: pa.ChunkedArray, name: str, absence: str, *, headed: bool = True
) -> tuple[np.ndarray, list[str]]:
    """A column of ids or times: for each row the number of its text, and the texts.

    Args: headed: the first line of the file is no row.
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
    refuse(path, name, empty, [], absence, headed=headed)
    unique, codes = np.unique(np.array(texts, dtype=str), return_inverse=True)
    return codes[np.asarray(encoded.indices)], [str(text) for text in unique]


def places(path: Path, rows: Sequence[int] | np.ndarray, *, headed: bool = True) -> list[str]:
    """Where rows (ascending, from 0) are, in the file's own terms."""
    if path.suffix == ".parquet":
        return [f"row {row}" for row in rows]
    return [f"line {line}" for line in record_lines(path, [int(row) for row in rows], headed=headed)]


def refuse(
    path: Path, name: str, wrong: np.ndarray, found: Sequence[str], what: str, *, headed: bool = True
) -> None:
    """Raise an InputError that names the lines of the `wrong` rows of a column, and what was `found` there."""
    rows = np.flatnonzero(wrong)
    if len(rows):
        shown = rows[:SHOWN]
        texts = [f" ({str(found[row])!r})" if len(found) else "" for row in shown]
        where = [place + text for place, text in zip(places(path, shown, headed=headed), texts, strict=True)]
        more = f" ({len(rows)} in all)" if len(rows) > SHOWN else ""
        raise InputError(f"{path}: column {name}: {what} in {listing(where)}{more}")


def _parse(path: Path, name: str, texts: pd.Series, form: str) -> pd.DatetimeIndex:
    """Times of texts, NaT where they are none; in UTC where they say an offset."""
    if form:
        aware = "%z" in form or "%Z" in form
        # strptime wants the minutes of an offset
        texts = texts.str.replace(r"([+-]\d\d)$", r"\g<1>00", regex=True) if form.endswith("%z") else texts
        return pd.DatetimeIndex(pd.to_datetime(texts, format=form, errors="coerce", utc=aware))
    offset = texts.str.contains(OFFSET)
    if offset.any() and not offset.all():
        mixed = [texts[int(np.flatnonzero(offset == side)[0])] for side in (True, False)]
        raise InputError(f"{path}: column {name} mixes times with an offset and without: {listing(mixed)}")
    return pd.DatetimeIndex(pd.to_datetime(texts, format="ISO8601", errors="coerce", utc=bool(offset.any())))


def _is_text(kind: pa.DataType) -> bool:
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    return pa.types.is_string(kind) or pa.types.is_large_string(kind)


def _refuse_infinite(path: Path, table: pa.Table, numbers: Sequence[str], *, headed: bool) -> None:
    problems: list[str] = []
    for name in numbers:
        column = table[name].to_numpy()
        rows = np.flatnonzero(np.abs(column) > LARGEST)[:SHOWN]
        problems += [f"column {name}, {place}" for place in places(path, rows, headed=headed)]
        if len(problems) >= SHOWN:
            break
    if problems:
        raise InputError(f"{path}: infinite numbers in {listing(problems)}; write missing ones as NaN")


def _header(path: Path) -> list[str]:
    with path.open("rb") as file:
        line = file.readline(MAX_HEADER)
    try:
        text = line.decode("utf-8-sig").rstrip("\r\n")
        return next(csv.reader([text], delimiter=delimiter_of(text)), [])
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is no text in UTF-8: {error}") from None
    except csv.Error as error:
        raise InputError(f"{path}: line 1, the header, is no CSV: {error}") from None


def _read_csv(
    path: Path, types: Mapping[str, pa.DataType], names: Sequence[str], *, threads: bool
) -> pa.Table:
    with path.open("rb") as file:
        first = file.readline(MAX_HEADER).decode("utf-8-sig", errors="replace")
    return pv.read_csv(
        path,
        # our own names: Arrow would leave the mark of a byte order, and does not know an empty one
        read_options=pv.ReadOptions(
            column_names=list(names) or _header(path), skip_rows=0 if names else 1, use_threads=threads
        ),
        parse_options=pv.ParseOptions(delimiter=delimiter_of(first)),
        convert_options=pv.ConvertOptions(
            column_types=dict(types), include_columns=list(types), strings_can_be_null=True, null_values=NULLS
        ),
    )


def _diagnosis(
    path: Path, texts: Sequence[str], numbers: Sequence[str], names: Sequence[str], error: str
) -> str:
    """What is wrong with a CSV file that Arrow refused, by line and column."""
    faults = line_faults(path, len(names or _header(path)))
    if faults:
        return str(InputError.from_problems(f"{path} is no readable CSV:", faults))
    problems = []
    try:
        table = _read_csv(path, dict.fromkeys([*texts, *numbers], pa.string()), names, threads=False)
    except (pa.ArrowException, OSError) as again:
        return f"{path} is no readable CSV: {again}"
    for name in numbers:
        found = pd.Series(table[name].to_pylist(), dtype=object)
        parsed = np.asarray(pd.to_numeric(found, errors="coerce"), dtype=float)
        rows = np.flatnonzero(np.isnan(parsed) & np.asarray(found.notna()))[:SHOWN]
        lines = places(path, rows, headed=not names)
        problems += [
            f"column {name}, {place}: {found[row]!r} is no number"
            for row, place in zip(rows, lines, strict=True)
        ]
        if len(problems) >= SHOWN:
            break
    if not problems:
        return f"{path} is no readable CSV: {error}"
    return str(InputError.from_problems(f"{path} holds text where numbers should be:", problems))


def _cast(path: Path, table: pa.Table, numbers: Sequence[str], kind: pa.DataType) -> pa.Table:
    for name in numbers:
        column = table[name]
        if not (pa.types.is_floating(column.type) or pa.types.is_integer(column.type)):
            raise InputError(f"{path}: column {name} is of type {column.type}; write numbers")
        table = table.set_column(table.column_names.index(name), name, pc.cast(column, kind, safe=False))
    return table
