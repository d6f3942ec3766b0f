"""One run: who it is, the folder its unfinished state lives in, its lock, its signals.

The folder is `$DVC_ROOT/.resume/<stage>/<identity>/`, outside every output of DVC and ignored by Git: DVC
deletes outputs before a stage starts, and `persist` would hand one experiment's weights to the next. The
identity is a hash of what decides the result - parameters without `runtime`, the prepared data, the stage's
code, the major version of torch - so the same experiment finds its folder again, also from `dvc exp run
--temp` and from a queue, and another experiment never does.
"""

from __future__ import annotations

import ast
import hashlib
import json
import logging
import os
import shutil
import signal
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Annotated, Any, Literal, NoReturn

from annotated_types import Ge, Gt

from headway.atomic import write_text
from headway.data.windows import Residence
from headway.errors import InputError, Stopped
from headway.training.lock import acquire, remove_unused
from headway.training.memory import parse_size
from headway.training.ranks import ALONE, Ranks
from headway.training.seat import parse_cluster

IDENTITY, SEQUENCE = "identity.json", "sequence"
FORECAST_STEPS, MOST_FORECASTS = 60_000, 64  # sensors x steps, and windows, forecast at once without a plan
EXIT_BUDGET = 75  # sysexits' "temporary failure": not finished, run me again

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class RuntimeParams:
    """Section `runtime` of params.yaml: what may change between pause and resume without retraining.

    Attributes:
        device, precision: where and in which arithmetic.
        micro_batch: windows in memory at once; 0 leaves it to the planner.
        memory_budget: what training may use, as 4GB, for the planner; auto is a share of the machine's memory.
        data: where the readings are: mapped from the disk, in memory, or on the device.
        allocator: how a GPU's memory is divided.
        threads: CPU threads, 0 for torch's choice.
        cluster: none | local:N | the path of a Dask scheduler file | its address: who trains.
        workers: of a cluster that is there: how many to wait for and take, 0 for all that are there.
        interface: network interface that ranks meet on; auto is that of the Dask workers.
        rank_timeout: seconds after which a rank that says nothing is taken for dead.
        checkpoint_steps, checkpoint_minutes: cadence of checkpoints, whichever comes first.
        max_hours: stop after so long with exit code 75; 0 for no limit.
        resume: auto continues the same experiment; never starts it over; same-params continues it across a
            change of code, and the model card says so.
        keep_runs: run folders kept.
    """

    device: Literal["auto", "cpu", "cuda"]
    precision: Literal["auto", "fp32", "bf16", "fp16"]
    micro_batch: Annotated[int, Ge(0)]
    memory_budget: str
    data: Residence
    allocator: Literal["expandable", "default"]
    threads: Annotated[int, Ge(0)]
    cluster: str
    workers: Annotated[int, Ge(0)]
    interface: str
    rank_timeout: Annotated[float, Gt(0)]
    checkpoint_steps: Annotated[int, Ge(1)]
    checkpoint_minutes: Annotated[float, Ge(0)]
    max_hours: Annotated[float, Ge(0)]
    resume: Literal["auto", "never", "same-params"]
    keep_runs: Annotated[int, Ge(1)]

    def __post_init__(self) -> None:
        if self.memory_budget != "auto":
            try:
                parse_size(self.memory_budget)
            except InputError as error:
                raise InputError(f"runtime.memory_budget: {error}") from None
        parse_cluster(self.cluster)

    def forecast_windows(self, sensors: int, history: int) -> int:
        """Windows to forecast at once: the micro-batch, or where the planner chooses it a number from the sizes."""
        return self.micro_batch or max(1, min(MOST_FORECASTS, FORECAST_STEPS // (sensors * history)))


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
            other for other in self._others() if _differences(read_identity(other), self.identity) == {"code"}
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


def digest(content: Any) -> str:
    """SHA-256 of canonical JSON."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def code_digest(package: str, script: Path) -> str:
    """Hash of the parsed source of every loaded module of `package` and of the stage's script.

    Parsed, not read: a comment or a line break does not end a run. Call it when all is imported and built.
    """
    files = [module.__file__ for name, module in sys.modules.items() if name.split(".")[0] == package]
    sources = sorted(Path(file) for file in files if file)
    return digest(sorted(_tree(ast.parse(path.read_text(encoding="utf-8"))) for path in [*sources, script]))


def _tree(node: Any) -> str:
    """A syntax tree without empty fields, of which each minor version of Python has others."""
    if isinstance(node, ast.AST):
        fields = [(name, value) for name, value in ast.iter_fields(node) if value is not None and value != []]
        return f"{type(node).__name__}({', '.join(f'{name}={_tree(value)}' for name, value in fields)})"
    return f"[{', '.join(map(_tree, node))}]" if isinstance(node, list) else repr(node)


def describe(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    """What differs, as `train.lr: 0.001 -> 0.002, code`.

    Sections that only one of them has, those of another model, are passed over: `model.name` says it.
    """
    before, after = dict(_flatten(old)), dict(_flatten(new))
    shared = {key.rpartition(".")[0] for key in before} & {key.rpartition(".")[0] for key in after}
    words = []
    for key in sorted(key for key in before.keys() | after.keys() if key.rpartition(".")[0] in shared):
        if before.get(key) != after.get(key):
            plain = key.split(".")[0] == "params"
            values = f": {before.get(key, 'absent')} -> {after.get(key, 'absent')}" if plain else ""
            words.append(key.removeprefix("params.") + values)
    return ", ".join(words) or ("nothing" if old == new else "everything")


def _differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> set[str]:
    return {key for key in old.keys() | new.keys() if old.get(key) != new.get(key)}


def _flatten(content: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in content.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def read_identity(folder: Path) -> dict[str, Any]:
    """Of another run; nothing where it was removed meanwhile or cannot be read."""
    try:
        return json.loads((folder / IDENTITY).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}


def last_use(folder: Path) -> int:
    """Order of use, counted: a clock that jumps must not decide what is kept."""
    try:
        return int((folder / SEQUENCE).read_text())
    except (OSError, ValueError):
        return 0
