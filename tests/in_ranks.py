"""Several ranks as forked processes of the test: what `headway.training.distributed` starts, without Dask."""

from __future__ import annotations

import os
import socket
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from headway.training.seat import Seat

DEADLINE = 60.0


def seats(world: int, timeout: float = 20.0) -> list[Seat]:
    """On the loopback."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    return [
        Seat(
            rank=rank,
            world=world,
            on_host=world,
            device=rank,
            address="127.0.0.1",
            port=port,
            interface="lo",
            timeout=timeout,
        )
        for rank in range(world)
    ]


def in_ranks(world: int, folder: Path, work: Callable[[Seat], object], timeout: float = 20.0) -> list[str]:
    """Run `work` at each seat. Returns: by rank "" or how it failed: the last line of its traceback, or a signal."""
    read, write = os.pipe()
    pids = []
    for seat in seats(world, timeout):
        pid = os.fork()
        if pid == 0:
            os.close(write)
            os.dup2(read, 0)  # a rank ends with the process that started it
            _work(seat, folder, work)
        pids.append(pid)
    os.close(read)
    deadline = time.monotonic() + DEADLINE
    codes = [_wait(pid, deadline) for pid in pids]
    os.close(write)
    ends = [(folder / f"end-{rank}").read_text() if code == 1 else "" for rank, code in enumerate(codes)]
    return [end or (f"ended with {code}" if code else "") for end, code in zip(ends, codes, strict=True)]


def _work(seat: Seat, folder: Path, work: Callable[[Seat], object]) -> NoReturn:
    code = 0
    try:
        os.environ.update(seat.to_environment())
        work(seat)
    except SystemExit as end:
        code = int(end.code or 0)
    except BaseException as error:
        (folder / f"end-{seat.rank}").write_text(f"{type(error).__name__}: {error}")
        (folder / f"trace-{seat.rank}").write_text(traceback.format_exc())
        code = 1
    os._exit(code)


def _wait(pid: int, deadline: float) -> int:
    while time.monotonic() < deadline:
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    os.kill(pid, 9)
    os.waitpid(pid, 0)
    return -9
