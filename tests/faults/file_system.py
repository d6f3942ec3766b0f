"""A file system that fails or dies at a chosen call, and one that loses what was not flushed.

Only the calls that checkpoints make are watched: making, opening, flushing, renaming, listing and removing, and the
one call that writes all tensors.
"""

from __future__ import annotations

import builtins
import io
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import pytest

from headway.training import checkpoint

TENSORS = (checkpoint, "save_file")
WRITES = (
    *((os, name) for name in ("mkdir", "open", "fsync", "rename")),
    (io, "open"),
    (builtins, "open"),
    TENSORS,
)
CALLS = (*WRITES, *((os, name) for name in ("scandir", "unlink", "rmdir")))


class PowerCut(BaseException):
    """The machine is gone: nothing catches it."""


class Calls:
    """Counts watched calls and strikes before the one chosen; `torn`: that call writes half of its file first."""

    def __init__(self, strike: Callable[[], object] = int, at: int = -1, torn: bool = False) -> None:
        self.strike, self.at, self.torn = strike, at, torn
        self.count = 0

    def wrap(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            index, self.count = self.count, self.count + 1
            if index == self.at:
                if self.torn and original.__name__ == "save_file":
                    original(*arguments, **options)
                    os.truncate(arguments[1], arguments[1].stat().st_size // 2)
                self.strike()
            return original(*arguments, **options)

        return call


def fails_with(error: BaseException) -> Callable[[], NoReturn]:
    """A strike that raises."""

    def strike() -> NoReturn:
        raise error

    return strike


@contextmanager
def failing(calls: Calls, watched: Iterable[tuple[Any, str]] = CALLS) -> Iterator[None]:
    """Every watched call goes through `calls`."""
    with pytest.MonkeyPatch.context() as context:
        for module, name in watched:
            context.setattr(module, name, calls.wrap(getattr(module, name)))
        yield


class Flushed:
    """Remembers what reached the disk, to lose the rest."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.files, self.names = folder, set[int](), set[Path]()
        for path in [folder, *folder.rglob("*")]:
            self._flush(path)

    def fsync(self, descriptor: int) -> None:
        self._flush(Path(f"/proc/self/fd/{descriptor}").resolve())

    def _flush(self, path: Path) -> None:
        if path.is_dir():  # its entries are on the disk, not what they hold
            self.names = {name for name in self.names if name.parent != path} | set(path.iterdir())
        else:
            self.files.add(path.stat().st_ino)

    def lose_the_rest(self) -> None:
        """What a power cut may leave at worst: new names gone, and files empty that were not flushed."""
        for path in sorted(self.folder.rglob("*"), reverse=True):
            if path not in self.names:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
            elif path.is_file() and path.stat().st_ino not in self.files:
                path.write_bytes(b"")
