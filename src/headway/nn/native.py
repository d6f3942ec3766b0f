"""Inner loops in C, compiled for this processor by the machine's C compiler when they are first needed.

As operations on whole tensors such loops pass over memory many times; in C what belongs together stays in the
processor's cache. Where there is no compiler torch's operations do the same; `problem` tells.

Enters: the C files beside this one. Leaves: their functions, which read float32 tensors on a CPU. What was compiled
is kept in the user's cache folder, under a name that stands for the sources, the compiler and the processor. Threads
are torch's: its OpenMP has been loaded, and the library brings none of its own.
"""

from __future__ import annotations

import ctypes
import hashlib
import logging
import os
import platform
import shlex
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

SOURCES, HEADERS = (
    [Path(__file__).with_name(name) for name in names]
    for names in (["coefficients_in_c.c", "edges_in_c.c", "scan_in_c.c"], ["exponentials.h"])
)
# Not -ffast-math: nan stays nan, for a training that diverges has to be seen, and exponentials stay exact.
FLAGS = [
    *["-O3", "-march=native", "-fopenmp", "-fPIC"],
    *["-fno-math-errno", "-fno-trapping-math", "-ffp-contract=fast"],
]
PATIENCE = 120  # seconds for the compiler
CALL = "(str name, int[] sizes, Tensor[] read, Tensor(a!)[] write) -> ()"

log = logging.getLogger(__name__)

_planned: ContextVar[str] = ContextVar("_planned", default="")


def device_of(tensor: Tensor) -> str:
    """The kind of device a tensor is on, or is planned for."""
    return _planned.get() or tensor.device.type


@contextmanager
def planned_for(device_type: str) -> Iterator[None]:
    """Within it tensors take the ways that they would take on this kind of device."""
    token = _planned.set(device_type)
    try:
        yield
    finally:
        _planned.reset(token)


def reads(*tensors: Tensor) -> bool:
    """Whether tensors are of the kind that C reads."""
    return all(device_of(tensor) == "cpu" and tensor.dtype == torch.float32 for tensor in tensors)


def call(name: str, sizes: Sequence[int], read: Sequence[Tensor], write: Sequence[Tensor]) -> None:
    """Call a function of the library, which is there.

    Args: sizes: the numbers of its `Sizes`. read, write: its other arguments, in their order.
    """
    torch.ops.headway.in_c(name, list(sizes), [tensor.contiguous() for tensor in read], list(write))


def problem(what: str, difference: Callable[[], str]) -> str:
    """Why C is not used for this; empty where it is there and gives the same numbers. The log is told.

    Args: difference: how numbers in C differ from torch's on a few of them; empty where they do not.
    """
    try:
        # a thread has neither autocast nor the tensors without numbers of a plan
        with ThreadPoolExecutor(1) as alone:
            found = alone.submit(difference).result()
    except Exception as error:
        # whatever a compiler, a linker or a folder says: there is a way without it
        found = str(error).strip().partition("\n")[0] or type(error).__name__
    if found:
        log.info("%s: torch's operations, not C: %s", what, found)
    return found


# An operator, because memory is planned with tensors that have no numbers for a C function to read. Made without
# `torch.library.custom_op`, whose first call imports a compiler of torch's own: three seconds and 90 MB.
_OPERATORS = torch.library.Library("headway", "FRAGMENT")
_OPERATORS.define(f"in_c{CALL}")


@torch.library.impl(_OPERATORS, "in_c", "CPU")
def _in_c(name: str, sizes: list[int], read: list[Tensor], write: list[Tensor]) -> None:
    for tensor in [*read, *write]:
        assert tensor.is_contiguous() and tensor.dtype in (torch.float32, torch.int32), "not what C reads"
    numbers = (ctypes.c_long * len(sizes))(*sizes)
    places = [ctypes.c_void_p(tensor.data_ptr()) for tensor in [*read, *write]]
    getattr(library(), name)(numbers, torch.get_num_threads(), *places)


@torch.library.register_fake("headway::in_c")
def _(name: str, sizes: list[int], read: list[Tensor], write: list[Tensor]) -> None:
    pass


def library() -> ctypes.CDLL:
    """The compiled functions, made if need be; tried once.

    Raises: OSError, RuntimeError, subprocess.SubprocessError where there is no compiler, no folder to keep them in,
        or no way to load what was made.
    """
    found = _library()
    if isinstance(found, Exception):
        raise found
    return found


@cache
def _library() -> ctypes.CDLL | Exception:
    compiler = shlex.split(os.environ.get("CC") or "cc")
    try:
        decisive = [*_sources(), *FLAGS, *compiler, _said([*compiler, "--version"]), _processor()]
        stamp = _digest("\n".join(decisive).encode())
        kept = next((path for path in _cache_folder().glob(f"{stamp}-*.so") if _is_whole(path)), None)
        return ctypes.CDLL(str(kept or _compiled(compiler, stamp)))
    except (OSError, RuntimeError, subprocess.SubprocessError) as error:
        return error


def _compiled(compiler: list[str], stamp: str) -> Path:
    """The file's name tells what it was made of and what it holds, so that half a file is never loaded."""
    with tempfile.TemporaryDirectory(dir=_cache_folder()) as folder:
        compiled = [str(Path(folder) / f"{source.stem}.o") for source in SOURCES]
        for source, to in zip(SOURCES, compiled, strict=True):
            _said([*compiler, *FLAGS, "-c", str(source), "-o", to])
        linked = str(Path(folder) / "headway.so")
        _said([*compiler, "-shared", *compiled, "-o", linked, "-lm"])
        made = Path(linked)
        return made.replace(_cache_folder() / f"{stamp}-{_digest(made.read_bytes())}.so")


def _is_whole(path: Path) -> bool:
    return path.stem.endswith(_digest(path.read_bytes()))


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:24]


def _sources() -> list[str]:
    return [source.read_text(encoding="utf-8") for source in [*HEADERS, *SOURCES]]


def _said(command: list[str]) -> str:
    done = subprocess.run(
        command, capture_output=True, encoding="utf-8", errors="replace", timeout=PATIENCE, check=False
    )
    if done.returncode:
        raise RuntimeError(done.stderr.strip().partition("\n")[0] or f"{command[0]} failed")
    return done.stdout


def _processor() -> str:
    """What the choice of instructions depends on."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return f"{platform.machine()} {platform.processor()}"
    known = ("model name", "flags", "CPU part", "Features")
    return "\n".join(sorted({line for line in lines if line.startswith(known)}))


def _cache_folder() -> Path:
    """The user's own: what lies there is run."""
    named = Path(os.environ.get("XDG_CACHE_HOME", ""))
    folder = (named if named.is_absolute() else Path("~/.cache").expanduser()) / "headway"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = folder.stat()
    if found.st_uid != os.getuid() or found.st_mode & 0o022:
        raise PermissionError(f"{folder}: others may write here; remove it, or chmod 700")
    return folder
