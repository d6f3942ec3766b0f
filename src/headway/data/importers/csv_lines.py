"""Where the records of a CSV file stand. Read only for messages: a good file is never read this way.

Enters: a path. Leaves: lines, from 1, as an editor counts them: blank lines count and hold no record.
"""

from __future__ import annotations

import csv
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

SHOWN = 5
TEXTS = (".csv", ".txt", ".tsv")


def delimiter_of(header: str) -> str:
    """The delimiter of a CSV file, by its first line."""
    return max((",", ";", "\t"), key=header.count)


def record_lines(path: Path, rows: Collection[int], *, headed: bool) -> list[int]:
    """Lines on which the records `rows` (ascending, from 0 after the header) begin."""
    if not rows:
        return []
    found = {}
    for row, (line, _) in enumerate(_records(path), start=-1 if headed else 0):
        if row in rows:
            found[row] = line
            if len(found) == len(rows):
                break
    return [found.get(row, row + (2 if headed else 1)) for row in rows]


def line_faults(path: Path, width: int) -> list[str]:
    """Lines of another width, and lines that are no UTF-8; the first of them."""
    faults = []
    for line, fields in _records(path):
        if any(_is_undecodable(field) for field in fields):
            faults.append(f"line {line} is no UTF-8")
        elif len(fields) != width:
            faults.append(f"line {line} has {len(fields)} fields, {width} are due")
        if len(faults) == SHOWN:
            break
    return faults


def _records(path: Path) -> Iterator[tuple[int, Sequence[str]]]:
    """(first line, fields) of each record, as far as the file is CSV; the header is one where there is one."""
    if path.suffix.lower() not in TEXTS:
        return
    with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        delimiter = delimiter_of(file.readline())
        file.seek(0)
        reader = csv.reader(file, delimiter=delimiter)
        before = 0
        try:
            for fields in reader:
                if fields or not before:  # the first line is the header even where it is blank
                    yield before + 1, fields
                before = reader.line_num
        except csv.Error:  # a field without end: what comes after has no lines to name
            return


def _is_undecodable(field: str) -> bool:
    return not field.isascii() and any("\ud800" <= letter <= "\udfff" for letter in field)
