"""Folders and files that appear whole or not at all, whatever kills the program in between.

Both are written under a hidden sibling name and renamed: a rename is one step of the file system, a write is not.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing_folder(out: Path) -> Iterator[Path]:
    """A folder to write into that becomes `out` when the block ends well, and vanishes when it does not.

    The former `out` comes back where the block, or a run that was killed, ended between the two renames.
    """
    folder, old = out.with_name(f".{out.name}.tmp"), out.with_name(f".{out.name}.old")
    out.parent.mkdir(parents=True, exist_ok=True)
    _clear(out, folder, old)  # of a run that was killed
    folder.mkdir()
    try:
        yield folder
        if out.exists():
            out.replace(old)
        folder.replace(out)
    finally:
        _clear(out, folder, old)


def _clear(out: Path, folder: Path, old: Path) -> None:
    if old.exists() and not out.exists():
        old.replace(out)
    for left_over in (folder, old):
        shutil.rmtree(left_over, ignore_errors=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file; `path` holds its old content until it holds all of the new."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file; `path` holds its old content until it holds all of the new."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.tmp")  # one name: what a killed run left is overwritten
    try:
        draft.write_bytes(content)
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
