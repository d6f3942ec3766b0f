"""The lock of a run folder: one process at a time trains a run.

The kernel holds the lock and releases it with the process, so it is never stale; the file only tells people who has
it. lockf, not flock: after a kill a forked child still holds a flock.
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import socket
import time
from io import TextIOWrapper
from pathlib import Path

from headway.errors import Stopped

LOCK = "lock"
TRIES, PAUSE = 5, 0.02  # seconds; who only looks at a lock holds it for less
TAKEN = (errno.EACCES, errno.EAGAIN)


class RunLocked(Stopped):
    """Another process is training this very experiment."""


def acquire(folder: Path) -> TextIOWrapper:
    """The lock of a run's folder, held until it is closed or the process ends. Makes the folder.

    Raises: RunLocked naming the owner; Stopped where the file system has no locks; OSError as `open`.
    """
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / LOCK).open("a+", encoding="utf-8")
        try:
            _lock(file)
        except OSError as error:
            file.seek(0)
            owner = _owner(file.read())
            file.close()
            if error.errno in TAKEN:
                raise RunLocked(f"{owner}, is training this experiment; wait for it or stop it") from None
            raise Stopped(f"{folder} is on a file system without locks ({error}); use a local disk") from None
        if _is_there(file, folder):
            break
        file.close()  # another process removed the folder in between
    file.truncate(0)
    started = time.strftime("%Y-%m-%d %H:%M:%S %Z")
    file.write(f"pid {os.getpid()} on {socket.gethostname()}, since {started}")
    file.flush()
    return file


def lock_owner(folder: Path) -> str:
    """Who trains this run now, as `pid 12 on host, since ...`; empty when nobody does."""
    try:
        file = (folder / LOCK).open("r", encoding="utf-8")
    except FileNotFoundError:
        return ""
    with file:
        try:
            fcntl.lockf(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            return _owner(file.read())
    return ""


def remove_unused(folder: Path) -> bool:
    """Remove a run's folder. Returns: False when somebody trains it, or it is gone already."""
    if not folder.exists():
        return False
    try:
        lock = acquire(folder)
    except (RunLocked, OSError):
        return False
    with lock:
        going = folder.with_name(f".{folder.name}-{os.getpid()}.tmp")  # at once: nobody finds half of it
        folder.rename(going)
        shutil.rmtree(going, ignore_errors=True)
    return True


def _lock(file: TextIOWrapper) -> None:
    """Raises: OSError when another process has it."""
    for left in reversed(range(TRIES)):
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except OSError as error:
            if error.errno not in TAKEN or not left:
                raise
        time.sleep(PAUSE)


def _owner(text: str) -> str:
    return text.strip().rstrip(",") or "another process"


def _is_there(file: TextIOWrapper, folder: Path) -> bool:
    """Whether the locked file is the one that the next process would try to lock."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), (folder / LOCK).stat())
    except FileNotFoundError:
        return False
