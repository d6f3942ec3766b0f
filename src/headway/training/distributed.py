"""More than one process: Dask starts the ranks, or joins those that are there, and this process looks on.

    client (the stage)  ->  Dask scheduler  ->  Dask workers  ->  one rank each  <- gloo or nccl ->  the other ranks

Enters: section `runtime` and the stage's script. Leaves: the exit code of the whole. Each rank is the same stage in a
process of its own, with a seat; it trains its share of each group, and rank 0 writes what a training leaves. Dask
carries names, a heartbeat, orders to stop and log lines: no reading and no gradient.

Glossary: client = the process that `dvc repro` started; keeper = a task of a Dask worker (headway.training.keeper).
"""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import time
import uuid
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Any

from headway.errors import Stopped
from headway.training import keeper
from headway.training.cluster import open_client, seats_of, shown_file
from headway.training.ranks import LOST
from headway.training.run import EXIT_BUDGET
from headway.training.runtime import RuntimeParams
from headway.training.seat import NONE, Seat, seat_of_this_process

BEAT_SECONDS = 1.0
NEXT = "`dvc repro` continues from the last checkpoint"
STOPPED = (128 + signal.SIGHUP, 128 + signal.SIGINT, 128 + signal.SIGTERM, EXIT_BUDGET)

log = logging.getLogger(__name__)


def take_seat(runtime: RuntimeParams, script: Path) -> Seat | None:
    """The seat of this process, None where it trains alone; where it is to start others, it does, and leaves.

    Raises: SystemExit with the code of the training, InputError and Stopped as `lead`.
    """
    seat = seat_of_this_process()
    if seat is not None and seat.rank > 0:
        logging.disable(logging.INFO)  # rank 0 says it already
    if seat is not None or runtime.cluster == NONE:
        return seat
    raise SystemExit(lead(runtime, script))


def lead(runtime: RuntimeParams, script: Path) -> int:
    """Start a rank on every worker and wait for them.

    Returns: the exit code: 0 trained, 75, 129, 130 or 143 stopped and saved.
    Raises: InputError without Dask or workers; Stopped when a rank, a worker or the scheduler is gone.
    """
    with open_client(runtime) as client, shown_file() as marker:
        seats = seats_of(client, runtime)
        log.info("%d ranks on %s", len(seats), ", ".join(sorted({seat.address for seat in seats.values()})))
        return _Training(client, seats, runtime, script, marker).lead()


class _Training:
    """Ranks at work, as the client sees them."""

    def __init__(
        self, client: Any, seats: Mapping[str, Seat], runtime: RuntimeParams, script: Path, marker: Path
    ) -> None:
        """`seats`: by the address of the Dask worker."""
        from distributed import Variable

        self._client, self._patience = client, runtime.rank_timeout
        self._ranks = {seat.rank: address for address, seat in seats.items()}
        self._channel = f"headway-{uuid.uuid4().hex}"
        self._orders = Variable(self._channel, client=client)
        self._beat = self._asked = 0
        self._ended: dict[int, dict[str, Any]] = {}
        self._give_order(0)
        client.subscribe_topic(self._channel, _show)
        folder, project = os.fspath(Path.cwd()), os.environ.get("DVC_ROOT", os.fspath(Path.cwd()))
        self._tasks = {
            seat.rank: client.submit(
                keeper.keep,
                seat.rank,
                {**seat.to_environment(), "DVC_ROOT": project},
                os.fspath(script.resolve()),
                folder,
                os.fspath(marker),
                self._channel,
                self._patience,
                key=f"{self._channel}-{seat.rank}",
                workers=[address],
                allow_other_workers=False,
                retries=0,
                pure=False,
            )
            for address, seat in seats.items()
        }

    def lead(self) -> int:
        """Look on until every rank has ended."""
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._on_signal)
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
            signal.signal(signal.SIGHUP, self._on_signal)
        sent, failing_since = 0, 0.0
        while len(self._ended) < len(self._tasks):
            time.sleep(keeper.POLL_SECONDS)
            self._collect()
            if any(end["code"] for end in self._ended.values()):
                failing_since = failing_since or time.monotonic()
            late = failing_since and time.monotonic() - failing_since > self._patience
            order = signal.SIGKILL if late else self._asked
            if order != sent or time.monotonic() - self._beaten > BEAT_SECONDS:
                self._give_order(order)
                sent = order
        return self._conclude()

    def _give_order(self, number: int) -> None:
        """A signal for every rank, 0 for none; and a sign of life."""
        self._beat, self._beaten = self._beat + 1, time.monotonic()
        try:
            self._orders.set({"beat": self._beat, "signal": int(number)}, timeout="5 s")
        except (OSError, TimeoutError) as error:
            raise self._without_scheduler() from error

    def _collect(self) -> None:
        """See which ranks have ended, and which workers are gone."""
        try:
            there = self._client.nthreads()
        except (OSError, TimeoutError) as error:
            raise self._without_scheduler() from error
        for rank, task in self._tasks.items():
            if rank in self._ended:
                continue
            if task.status == "finished":
                self._ended[rank] = task.result(timeout=5)
            elif task.status == "error":
                said = f"error: {task.exception(timeout=5)}"
                self._ended[rank] = {"rank": rank, "code": 1, "said": said}
            elif task.status in ("cancelled", "lost"):
                raise self._without_scheduler()
            elif self._ranks[rank] not in there:
                said = f"error: the Dask worker of rank {rank} at {self._ranks[rank]} is gone; {NEXT}"
                self._ended[rank] = {"rank": rank, "code": 1, "said": said}

    def _conclude(self) -> int:
        """The code of the whole.

        Raises: Stopped with what the ranks that failed of themselves have said.
        """
        ends = [self._ended[rank] for rank in sorted(self._ended)]
        codes = [_code(end) for end in ends]
        if not any(codes) or all(code in STOPPED for code in codes):
            return codes[0]
        reasons = [text for text in (_reason(end) for end in ends) if text]
        raise Stopped(
            "\n".join(dict.fromkeys(reasons))
            or f"{LOST}: look at the network, or raise runtime.rank_timeout; {NEXT}"
        )

    def _without_scheduler(self) -> Stopped:
        return Stopped(
            "the Dask scheduler is gone; its workers end with it, and the ranks save at the end of their step. "
            "Start the cluster again, then `dvc repro` continues"
        )

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        """Once: every rank finishes the step, and rank 0 saves. Twice: at once."""
        self._asked = signal.SIGKILL if self._asked else number


def _code(end: Mapping[str, Any]) -> int:
    """A signal that comes when a rank has left its last step ends it by itself; that is the same end."""
    code = end["code"]
    return 128 - code if 128 - code in STOPPED else code


def _reason(end: Mapping[str, Any]) -> str:
    """Why a rank failed, nothing where it only missed another."""
    code, said = _code(end), end["said"]
    text = (
        said[said.rfind("error: ") :].removeprefix("error: ").strip() if "error: " in said else said.strip()
    )
    if code == 0 or text.startswith(LOST) or code in STOPPED:
        return ""
    if code < 0:
        return f"rank {end['rank']} was ended by {signal.Signals(-code).name}; {NEXT}"
    return text or f"rank {end['rank']} ended with {code} and said nothing"


def _show(event: tuple[float, str]) -> None:
    """A line of rank 0's log, for people."""
    with suppress(OSError):
        sys.stderr.write(json.loads(event[1]))
        sys.stderr.flush()
