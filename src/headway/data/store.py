"""Readings of a whole data set, in memory or, where there are many, in a file without a name.

Enters: a shape. Leaves: an array in column-major order (a sensor's readings lie together). The file is gone with the
process that made it, also when that is killed; what was read of it is given back after each block of columns, so
memory does not grow with the data.
"""

from __future__ import annotations

import mmap
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from jaxtyping import Float32

LARGE = 2**30  # bytes; smaller arrays stay in memory
BLOCK = 64  # columns between two releases


def allocate(steps: int, columns: int, folder: Path) -> Float32[np.ndarray, "step column"]:
    """An array to be filled; where it is large, in a file on the disk of `folder`."""
    size = 4 * steps * columns
    if size < max(1, LARGE):
        return np.empty((steps, columns), dtype=np.float32, order="F")
    with tempfile.TemporaryFile(dir=folder) as file:  # the map keeps it
        file.truncate(size)
        if hasattr(os, "posix_fallocate"):  # a full disk is an error now, and no signal later
            os.posix_fallocate(file.fileno(), 0, size)
        pages = mmap.mmap(file.fileno(), size)
    return np.frombuffer(pages, dtype=np.float32).reshape((steps, columns), order="F")


def release(array: np.ndarray) -> None:
    """Give back the memory of an array that lies in a file; what was written stays there."""
    base: object = array
    while isinstance(base, np.ndarray):
        base = base.base
    if isinstance(base, memoryview):
        base = base.obj
    if isinstance(base, mmap.mmap):
        base.madvise(mmap.MADV_DONTNEED)


def each_column(array: Float32[np.ndarray, "step column"]) -> Iterator[tuple[int, np.ndarray]]:
    """Numbers and views of the columns, block by block."""
    for index in range(array.shape[1]):
        yield index, array[:, index]
        if index % BLOCK == BLOCK - 1:
            release(array)
    release(array)
