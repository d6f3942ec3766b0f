"""One run: who it is, the folder its unfinished state lives in, its lock, its signals.

The folder is `$DVC_ROOT/.resume/<stage>/<identity>/`, outside every output of DVC and ignored by Git: DVC
deletes outputs before a stage starts, and `persist` would hand one experiment's weights to the next. The
identity is a hash of what decides the result - parameters without `runtime`, the prepared data, the stage's
code, the major version of torch - so the same experiment finds its folder again, also from `dvc exp run
--temp` and from a queue, and another experiment never does.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import signal
import time
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from headway.atomic import write_text
from headway.errors import Stopped
from headway.training.identity import IDENTITY, describe, differences, digest, read_identity
from headway.training.lock import acquire, remove_unused
from headway.training.ranks import ALONE, Ranks
from headway.training.runtime import RuntimeParams

SEQUENCE = "sequence"
EXIT_BUDGET = 75  # sysexits' "temporary failure": not finished, run me again

log = logging.getLogger(__name__)


class Run:
    """An opened run folder; the `with` block, or else this process, holds its lock until it ends.

    Of several ranks the first has the folder; the others know its name and touch nothing.
    """

    def __init__(
        self, stage: str, identity: Mapping[str, Any], runtime: RuntimeParams, ranks: Ranks = ALONE
    ) -> None:
        """Open or create the folder of this identity.

        Args:
            stage: name of the DVC stage. identity: JSON content that decides the result; must have "code".
        Raises: RunLocked naming the owner; Stopped when the folder cannot be written.
        """
        self.identity = json.loads(json.dumps(identity))  # a tuple is a list, as it will be when read back
        self.runtime, self.stage, self.ranks = runtime, stage, ranks
        self.store = Path(os.environ.get("DVC_ROOT", ".")).resolve() / ".resume" / stage
        self.folder = self.store / digest(self.identity)[:16]
        self.steps = 0  # of the whole course, once it is known
        self.scan = ""  # what runs the selective scan, of a model that has one
        self._lock = self._open() if ranks.first else ExitStack()
        self._started = self._last_save = time.monotonic()
        self._signal, self._terminals = 0, list[int]()

    def __enter__(self) -> Run:
        return self

    def __exit__(self, *_: object) -> None:
        self._lock.close()

    def _open(self) -> ExitStack:
        try:
            with ExitStack() as on_failure:
                on_failure.enter_context(acquire(self.folder))
                self._announce()
                write_text(self.folder / IDENTITY, json.dumps(self.identity, indent=1, sort_keys=True))
                write_text(self.folder / SEQUENCE, str(1 + max(map(last_use, self._others()), default=0)))
                held = on_failure.pop_all()
        except OSError as error:
            raise Stopped(f"{self.folder} cannot be written, so no run could be resumed: {error}") from None
        if self.runtime.resume == "never":
            self.forget()
        self.prune()
        return held

    def watch_signals(self) -> None:
        """From now on SIGINT, SIGTERM and a closed terminal let the step finish; a second signal leaves at once."""
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._on_signal)
        self._terminals = [descriptor for descriptor in (1, 2) if os.isatty(descriptor)]
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # under nohup a run outlives its terminal
            signal.signal(signal.SIGHUP, self._on_signal)

    def exit_code(self) -> int:
        """0 to go on; else the code to leave with once the state is saved."""
        if self._signal:
            return 128 + self._signal
        hours = (time.monotonic() - self._started) / 3600
        return EXIT_BUDGET if self.runtime.max_hours and hours >= self.runtime.max_hours else 0

    def agreed_exit_code(self) -> int:
        """The same on every rank: what any of them was asked to do, all do at the end of the same step."""
        return int(max(code for (code,) in self.ranks.tell(self.exit_code())))

    def checkpoint_due(self, step: int) -> bool:
        """Every `checkpoint_steps`, or `checkpoint_minutes` after the last one."""
        minutes = (time.monotonic() - self._last_save) / 60
        late = self.runtime.checkpoint_minutes and minutes >= self.runtime.checkpoint_minutes
        return bool(late) or step % self.runtime.checkpoint_steps == 0

    def saved(self) -> None:
        """A checkpoint was just written."""
        self._last_save = time.monotonic()

    def record(self, row: Mapping[str, Any]) -> None:
        """Append a line to the run's own log of speed and memory, which no metric holds."""
        if self.ranks.first:
            with (self.folder / "record.jsonl").open("a") as file:
                file.write(json.dumps(row) + "\n")

    def relative(self) -> Path | None:
        """With `resume: same-params`, the folder of a run that differs in code only."""
        if self.runtime.resume != "same-params":
            return None
        same = [
            other for other in self._others() if differences(read_identity(other), self.identity) == {"code"}
        ]
        return max(same, key=last_use, default=None)

    def leave(self, step: int, steps: int, code: int) -> NoReturn:
        """Leave unfinished, with the state saved. DVC must not take the stage for done, so never with 0."""
        log.info("stopped at step %d of %d, saved; `dvc repro` continues there", step, steps)
        raise SystemExit(code)

    def prune(self) -> None:
        """Remove the oldest run folders beyond `keep_runs`; never one that is in use, or that this run continues."""
        others, continued = sorted(self._others(), key=last_use, reverse=True), self.relative()
        for other in others[self.runtime.keep_runs - 1 :]:
            if other != continued:
                remove_unused(other)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self._signal:
            os._exit(128 + number)
        self._signal = number
        if number == signal.SIGHUP:  # nobody reads on; a failing write at exit would replace the exit code
            for descriptor in self._terminals:
                os.dup2(os.open(os.devnull, os.O_WRONLY), descriptor)
        line = f"{signal.Signals(number).name}: finishing the step and saving; once more to leave at once\n"
        with suppress(OSError):  # the terminal may be gone. Not logged: that may be what was interrupted
            os.write(2, line.encode())

    def _others(self) -> list[Path]:
        return [path for path in self.store.iterdir() if path != self.folder and (path / IDENTITY).exists()]

    def _announce(self) -> None:
        """Say why a start is fresh when an unfinished run of other parameters is there."""
        if any(self.folder.glob("step-*")):
            return
        unfinished = [other for other in self._others() if any(other.glob("step-*"))]
        if unfinished:
            newest = max(unfinished, key=last_use)
            log.info(
                "starting fresh; an earlier run differs in %s", describe(read_identity(newest), self.identity)
            )

    def forget(self) -> None:
        """Remove every checkpoint of this run."""
        for path in self.folder.iterdir():
            if path.is_dir():
                shutil.rmtree(path)


def last_use(folder: Path) -> int:
    """Order of use, counted: a clock that jumps must not decide what is kept."""
    try:
        return int((folder / SEQUENCE).read_text())
    except (OSError, ValueError):
        return 0
