"""What a source may claim before it is believed: size, kind of file, memory that it would take.

A file of a few bytes can say that it holds terabytes. Every reader here asks before it decodes.
"""

from __future__ import annotations

import zipfile
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import psutil

from headway.errors import InputError

MAX_JSON = 2**29  # bytes; WindmillLarge has about 1e8
GIB = 2**30


def require_file(path: Path, suffixes: tuple[str, ...] = ()) -> Path:
    """The path of an ordinary file, with one of the suffixes where any are given.

    Raises: InputError saying what is there instead.
    """
    if path.is_dir():
        raise InputError(f"{path} is a folder; name the file")
    if not path.is_file():
        near = sorted(entry.name for entry in path.parent.glob("*"))[:8] if path.parent.is_dir() else []
        raise InputError(f"{path} not found; {path.parent} has {', '.join(near) or 'nothing'}")
    if suffixes and path.suffix.lower() not in suffixes:
        raise InputError(f"{path.name}: its suffix must be one of {', '.join(suffixes)}")
    if not path.stat().st_size:
        raise InputError(f"{path} is empty")
    return path


def require_folder(path: Path) -> Path:
    """The path of a folder. Raises: InputError."""
    if not path.is_dir():
        raise InputError(f"{path} is no folder")
    return path


def require_memory(needed: int, path: Path) -> None:
    """Refuse what would not fit.

    Raises: InputError naming the bytes that are claimed and those that are free.
    """
    free = psutil.virtual_memory().available
    if needed > free:
        raise InputError(
            f"{path} claims {needed / GIB:.1f} GiB once decoded; {free / GIB:.1f} GiB are free. Is it what it "
            "should be? Then import it on a larger machine"
        )


def read_npz(path: Path, name: str, suffixes: tuple[str, ...] = (".npz",)) -> np.ndarray:
    """One array of numbers from an archive of .npy files; sizes are checked before anything is decompressed.

    Raises: InputError for names with paths, arrays of objects, sizes that do not fit, damaged archives.
    """
    require_file(path, suffixes)
    try:
        with zipfile.ZipFile(path) as archive:
            _require_plain_names(archive, path)
            names = [member.removesuffix(".npy") for member in archive.namelist()]
            if name not in names:
                raise InputError(f"{path} has no array {name!r}; it has {', '.join(names) or 'none'}")
            info = archive.getinfo(f"{name}.npy")
            require_memory(info.file_size, path)
            with archive.open(info) as file:
                _require_numbers(file, info.file_size, path, name)
        with np.load(path, allow_pickle=False) as arrays:
            return arrays[name]
    except (zipfile.BadZipFile, ValueError, EOFError, OSError, RuntimeError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path} is no readable archive of arrays, perhaps truncated: {error}") from None
    except Exception as error:  # zlib.error and kin, which have no base class of their own
        raise InputError(f"{path} is damaged: {error}") from None


def open_npy(path: Path) -> np.ndarray:
    """A memory-mapped .npy array of numbers.

    Raises: InputError for arrays of objects, and files shorter than their header says.
    """
    require_file(path, (".npy",))
    try:
        with path.open("rb") as file:
            _require_numbers(file, path.stat().st_size, path, path.stem)
        return np.load(path, allow_pickle=False, mmap_mode="r")
    except (ValueError, EOFError, OSError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path} is no readable .npy file, perhaps truncated: {error}") from None


def _require_plain_names(archive: zipfile.ZipFile, path: Path) -> None:
    for member in archive.namelist():
        if len(PurePosixPath(member).parts) != 1 or "\\" in member or member in (".", ".."):
            raise InputError(f"{path} holds {member!r}; names with folders are not admitted")


def _require_numbers(file: Any, size: int, path: Path, name: str) -> None:
    """Check an array's header against the bytes that follow it."""
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read(file)
    if dtype.kind not in "biuf":
        raise InputError(f"{path}: the array {name} is of type {dtype}; only numbers are read")
    claimed = dtype.itemsize * int(np.prod([int(side) for side in shape], dtype=object) if shape else 1)
    if claimed != size - file.tell():
        raise InputError(
            f"{path}: the array {name} claims {claimed} bytes, {size - file.tell()} follow; the file is damaged"
        )
