"""Frames that pandas wrote to HDF5 (`to_hdf`, format "fixed"), read field by field with h5py.

pandas' own reader unpickles attributes and columns of objects; here nothing but numbers, and text of fixed width,
is read. Layout of a frame in its group: axis0 (column names), axis1 (index), and for each type of column a pair
block<k>_items (names) and block<k>_values [row, column].
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd

from headway.data.importers.imported import in_microseconds
from headway.data.importers.limits import require_file
from headway.data.parquet import MAX_CELLS, listing
from headway.errors import InputError

MAX_RATIO = 1000  # of what is claimed to what is stored; readings pack to a tenth at best
UNITS = ("ns", "us", "ms", "s")


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """Columns of one type: where their values lie, and where they go; `flipped` values are [column, row]."""

    path: str
    columns: np.ndarray
    flipped: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class HdfRows:
    """Readings of a frame, [T, N], read from the file slice by slice."""

    path: Path
    blocks: tuple[Block, ...]
    shape: tuple[int, int]

    def __getitem__(self, rows: slice, /) -> np.ndarray:
        first, last, _ = rows.indices(self.shape[0])
        readings = np.empty((last - first, self.shape[1]), dtype=np.float32)
        with _opened(self.path) as file:
            for block in self.blocks:
                values: Any = file[block.path]
                part = values[:, first:last].T if block.flipped else values[first:last]
                with np.errstate(over="ignore"):  # beyond float32 is infinite, reported when it is written
                    readings[:, block.columns] = part
        return readings


@dataclass(frozen=True, slots=True, kw_only=True)
class HdfFrame:
    """A frame: times of its rows, names of its columns, its readings."""

    times: pd.DatetimeIndex
    ids: list[str]
    rows: HdfRows


def read_frame(path: Path) -> HdfFrame:
    """The only frame in the file.

    Raises: InputError naming the field that is absent, of another shape, or holds pickled objects.
    """
    require_file(path, (".h5", ".hdf5", ".hdf"))
    with _opened(path) as file:
        group = file[_frame_name(path, file)]
        ids = [str(name) for name in _axis(path, group, "axis0")]
        stamps = _field(path, group, "axis1")
        times = _times(path, stamps, _text(group["axis1"].attrs.get("kind", "")), group["axis1"].attrs)
        blocks = _blocks(path, group, ids, len(times))
    rows = HdfRows(path=path, blocks=blocks, shape=(len(times), len(ids)))
    return HdfFrame(times=times, ids=ids, rows=rows)


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """The file, with what h5py raises over damaged ones as an InputError."""
    try:
        with h5py.File(path, "r") as file:
            yield file
    except InputError:
        raise
    except (OSError, RuntimeError, KeyError, ValueError, MemoryError) as error:
        raise InputError(f"{path} is no readable HDF5 file, perhaps truncated: {error}") from None


def _frame_name(path: Path, file: Any) -> str:
    """The group of the frame; links into other files are not followed."""
    kinds = {}
    for name in file:
        if not isinstance(file.get(name, getlink=True), h5py.HardLink):
            raise InputError(f"{path}: {name} is a link to another place; not followed")
        if isinstance(file[name], h5py.Group):
            kinds[name] = _text(file[name].attrs.get("pandas_type", ""))
    frames = [name for name, kind in kinds.items() if kind == "frame"]
    if len(frames) == 1:
        return frames[0]
    if "frame_table" in kinds.values():
        raise InputError(
            f"{path} was written with format='table', whose column names are pickled; write it again with "
            "to_hdf(..., format='fixed'), or as Parquet for the format wide"
        )
    found = (
        f"{len(frames)} frames: {listing(frames)}" if frames else f"no frame: {listing(file) or 'nothing'}"
    )
    raise InputError(f"{path} must hold one frame written by pandas; it has {found}")


def _field(path: Path, group: Any, name: str) -> Any:
    """A dataset of numbers or of text of fixed width."""
    if name not in group or not isinstance(group.get(name, getlink=True), h5py.HardLink):
        raise InputError(f"{path}: {group.name} has no field {name}; it has {listing(group)}")
    field = group[name]
    if not isinstance(field, h5py.Dataset) or field.dtype.kind not in "biufS":
        kind = getattr(field, "dtype", "group")
        raise InputError(
            f"{path}: {group.name}/{name} is of type {kind}, perhaps pickled objects, which are never read; "
            "write the frame again with numbers only"
        )
    if field.external or field.is_virtual:
        raise InputError(f"{path}: {group.name}/{name} lies in another file; not followed")
    if field.nbytes > MAX_RATIO * max(1, field.id.get_storage_size()):
        raise InputError(
            f"{path}: {group.name}/{name} claims {field.nbytes} bytes and stores {field.id.get_storage_size()}"
        )
    return field


def _axis(path: Path, group: Any, name: str) -> list[str]:
    field = _field(path, group, name)
    if field.ndim != 1 or field.size > MAX_CELLS:
        raise InputError(f"{path}: {group.name}/{name} has shape {field.shape}; names are a list")
    values = field[:]
    return [value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value) for value in values]


def _times(path: Path, field: Any, kind: str, attributes: Any) -> pd.DatetimeIndex:
    if not kind.startswith("datetime64") or field.dtype.kind != "i" or field.ndim != 1:
        raise InputError(f"{path}: axis1, the index, is of kind {kind or 'unknown'}; it must hold times")
    unit = kind.removeprefix("datetime64").strip("[]") or "ns"
    if unit not in UNITS:
        raise InputError(f"{path}: axis1 counts time in {unit!r}; known are {listing(UNITS)}")
    times = pd.DatetimeIndex(field[:].astype(f"datetime64[{unit}]"))
    if times.isna().any():
        raise InputError(f"{path}: axis1 has no time in row {int(np.flatnonzero(times.isna())[0])}")
    times = in_microseconds(times, path)
    return times.tz_localize("UTC") if "tz" in attributes else times  # pandas stores zone-aware times in UTC


def _blocks(path: Path, group: Any, ids: list[str], steps: int) -> tuple[Block, ...]:
    place = {name: column for column, name in enumerate(ids)}
    if len(place) < len(ids):
        twice = sorted({name for name in ids if ids.count(name) > 1})
        raise InputError(f"{path}: axis0 has columns of the same name: {listing(twice)}")
    if steps * len(ids) > MAX_CELLS:
        raise InputError(
            f"{path} claims {steps} rows of {len(ids)} columns; at most {MAX_CELLS} cells are read"
        )
    blocks = []
    for number in range(int(group.attrs.get("nblocks", 0))):
        names = _axis(path, group, f"block{number}_items")
        values = _field(path, group, f"block{number}_values")
        unknown = [name for name in names if name not in place]
        flipped = not bool(values.attrs.get("transposed", 0))
        shape = (len(names), steps) if flipped else (steps, len(names))
        if unknown or values.shape != shape or values.dtype.kind == "S":
            raise InputError(
                f"{path}: block{number}_values has shape {values.shape} and type {values.dtype}; its "
                f"{len(names)} columns and {steps} rows of numbers make {shape}"
                + (f"; axis0 lacks {listing(unknown)}" if unknown else "")
            )
        columns = np.array([place.pop(name) for name in names], dtype=np.int64)
        blocks.append(Block(path=values.name, columns=columns, flipped=flipped))
    if place:
        raise InputError(f"{path}: no block has the columns {listing(place)}")
    return tuple(blocks)


def _text(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
