"""Files beside the readings: where sensors are, and which are joined.

Enters: a table of positions; a list of edges (CSV, Parquet), an adjacency (DCRNN's pickle, .npy). Leaves: the
rows that speak of the sensors of the series, and sentences on what was left out.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from headway.data.importers.imported import sensor_table
from headway.data.importers.limits import open_npy, require_file
from headway.data.importers.plain_pickle import read_plain_pickle
from headway.data.importers.tables import column_names, encode_text, find_column, places, read_columns
from headway.data.parquet import listing
from headway.errors import InputError

METERS = {"m": 1.0, "km": 1000.0, "mi": 1609.344}
IDS = ("sensor_id", "sensor", "station_id", "station", "id", "node_id", "node")
LATITUDE, LONGITUDE = ("latitude", "lat"), ("longitude", "lon", "lng", "long")
SOURCE, TARGET = ("source", "from", "from_id"), ("target", "to", "to_id")
COST = ("distance_m", "distance", "cost", "weight")
BLOCK = 2**24  # cells of an adjacency looked at at once


def read_positions(path: Path | None, ids: Sequence[str]) -> tuple[pd.DataFrame, list[str]]:
    """sensors.parquet of the sensors `ids`, in their order, and what the table lacks or has besides.

    Raises: InputError where it names none of them, one twice, or a position that is no number.
    """
    if path is None:
        return sensor_table(list(ids)), []
    names, headed = _names(path, ("sensor_id", "latitude", "longitude"))
    key = find_column(path, names, "", IDS, "a column sensor_id")
    wanted = {
        "latitude": find_column(path, names, "", LATITUDE, "a column latitude"),
        "longitude": find_column(path, names, "", LONGITUDE, "a column longitude"),
    }
    table = read_columns(path, [key], list(wanted.values()), pa.float64(), () if headed else names)
    codes, texts = encode_text(path, table[key], key, "no id", headed=headed)
    found = [texts[code] for code in codes]
    if len(texts) < len(found):
        twice = [texts[code] for code, count in enumerate(np.bincount(codes)) if count > 1]
        raise InputError(f"{path}: column {key} has sensors more than once: {listing(twice)}")
    positions = pd.DataFrame({name: table[of].to_pandas().to_numpy() for name, of in wanted.items()}, found)
    absent = [sensor for sensor in ids if sensor not in positions.index]
    if len(absent) == len(ids):
        raise InputError(f"{path} names none of the sensors, such as {ids[0]}; it names {listing(found, 3)}")
    remarks = [f"{path.name}: no position for {listing(absent)}"] if absent else []
    if len(positions) > len(ids) - len(absent):
        remarks.append(
            f"{path.name}: {len(positions) - len(ids) + len(absent)} sensors without readings left out"
        )
    return positions.reindex(list(ids)).rename_axis("sensor_id").reset_index(), remarks


def read_edges(path: Path, ids: Sequence[str], unit: str) -> tuple[pd.DataFrame, list[str]]:
    """edges.parquet of the sensors `ids`.

    Args: unit: of distances in a column that does not name it; "" where nobody said.
    Raises: InputError for unreadable files, adjacencies of another size, and lists that join none of the sensors.
    """
    match require_file(path).suffix.lower():
        case ".pkl" | ".pickle":
            return adjacency_edges(*pickled_adjacency(path, ids), ids, "weight", path)
        case ".npy":
            return adjacency_edges(open_npy(path), ids, ids, "weight", path)
        case _:
            return _listed(path, ids, unit)


def adjacency_edges(
    matrix: Any, names: Sequence[str], ids: Sequence[str], column: str, path: Path
) -> tuple[pd.DataFrame, list[str]]:
    """An N x N matrix as a list of its cells that are neither 0 nor on the diagonal.

    Args: names: sensors of its rows; column: what a cell is, weight or distance_m.
    Raises: InputError for a matrix of another shape, negative cells and cells that are no numbers.
    """
    if getattr(matrix, "shape", None) != (len(names), len(names)):
        raise InputError(
            f"{path} holds a matrix of shape {getattr(matrix, 'shape', 'unknown')}; {len(names)} sensors need "
            f"{len(names)} x {len(names)}"
        )
    sources, targets, cells = [], [], []
    height = max(1, BLOCK // max(1, len(names)))
    for first in range(0, len(names), height):
        block = np.asarray(matrix[first : first + height], dtype=np.float64)
        wrong = np.argwhere(~(np.isfinite(block) & (block >= 0)))
        if len(wrong):
            row, other = wrong[0]
            raise InputError(
                f"{path}: row {first + row}, column {other} is {block[row, other]}; cells must be 0 or more"
            )
        rows, columns = np.nonzero(block)
        cells.append(block[rows, columns])
        sources.append(rows + first)
        targets.append(columns)
    source, target = np.concatenate(sources), np.concatenate(targets)
    kept = source != target
    labels = np.array(names, dtype=object)
    edges = pd.DataFrame(
        {
            "source": labels[source[kept]],
            "target": labels[target[kept]],
            column: np.concatenate(cells)[kept],
        }
    )
    return _known(edges, ids, path)


def pickled_adjacency(path: Path, ids: Sequence[str]) -> tuple[np.ndarray, list[str]]:
    """(matrix, names of its rows) of DCRNN's [names, name -> row, matrix], or of a bare matrix."""
    found = read_plain_pickle(path)
    if isinstance(found, np.ndarray):
        return found, list(ids)
    if not (isinstance(found, list) and found and isinstance(found[-1], np.ndarray)):
        raise InputError(f"{path} holds no adjacency: neither a matrix nor [ids, index, matrix]")
    names = found[0] if isinstance(found[0], list) else list(ids)
    return found[-1], [str(name) for name in names]


def _listed(path: Path, ids: Sequence[str], unit: str) -> tuple[pd.DataFrame, list[str]]:
    names, headed = _names(path, ("from", "to", "cost"))
    ends = [find_column(path, names, "", usual, "columns source and target") for usual in (SOURCE, TARGET)]
    lower = {name.lower(): name for name in names}
    measures = [lower[name] for name in COST if name in lower]
    if not measures:
        raise InputError(f"{path} needs a column distance_m, cost or weight; it has {listing(names)}")
    table = read_columns(path, ends, measures, pa.float64(), () if headed else names)
    edges = pd.DataFrame()
    for column, end in zip(("source", "target"), ends, strict=True):
        codes, texts = encode_text(path, table[end], end, "no sensor", headed=headed)
        edges[column] = np.array(texts, dtype=object)[codes]
    for measure in measures:
        numbers = table[measure].to_pandas().to_numpy(dtype=float)
        wrong = np.flatnonzero(~(numbers >= 0))[:5]
        if len(wrong):
            lines = places(path, wrong, headed=headed)
            found = [f"{line} ({numbers[row]})" for line, row in zip(lines, wrong, strict=True)]
            raise InputError(f"{path}: {measure} must be 0 or more, found {listing(found)}")
        if measure.lower() == "weight":
            edges["weight"] = numbers
        elif "distance_m" not in edges:
            edges["distance_m"] = numbers * _meters(path, measure, unit)
    return _known(edges.loc[edges["source"] != edges["target"]], ids, path)


def _meters(path: Path, measure: str, unit: str) -> float:
    if measure.lower() == "distance_m":
        return 1.0
    if unit not in METERS:
        raise InputError(
            f"{path}: the unit of {measure} is not stated; say --distance-unit m, km or mi (PEMS03 and PEMS07 "
            "are in km, PEMS04 and PEMS08 in m)"
        )
    return METERS[unit]


def _known(edges: pd.DataFrame, ids: Sequence[str], path: Path) -> tuple[pd.DataFrame, list[str]]:
    """The edges between sensors of the series."""
    inside = np.isin(edges[["source", "target"]].to_numpy(dtype=str), list(ids)).all(axis=1)
    if len(edges) and not inside.any():
        pair = f"{edges['source'].iloc[0]} -> {edges['target'].iloc[0]}"
        raise InputError(f"{path} joins none of the sensors, such as {ids[0]}; its first edge is {pair}")
    left_out = int((~inside).sum())
    remarks = [f"{path.name}: {left_out} edges of sensors without readings left out"] if left_out else []
    return edges.loc[inside].reset_index(drop=True), remarks


def _names(path: Path, headerless: Sequence[str]) -> tuple[list[str], bool]:
    """Names of the columns, and whether a header says them: the first line of a CSV may hold numbers already."""
    names = column_names(path) if path.suffix == ".parquet" else _first_line(path)
    if not _is_headerless(names):
        return column_names(path), True
    if len(names) != len(headerless):
        raise InputError(f"{path} has no header and {len(names)} columns; write {','.join(headerless)}")
    return list(headerless), False


def _first_line(path: Path) -> list[str]:
    with require_file(path).open(encoding="utf-8-sig", errors="replace", newline="") as file:
        try:
            return next(csv.reader(file), [])
        except csv.Error as error:
            raise InputError(f"{path}: line 1 is no CSV: {error}") from None


def _is_headerless(names: Sequence[str]) -> bool:
    try:
        float(names[-1])
    except (ValueError, IndexError):
        return False
    return True
