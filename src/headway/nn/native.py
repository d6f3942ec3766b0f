"""Inner loops in C, compiled for this processor by the machine's C compiler when they are first needed.

As operations on whole tensors such loops pass over memory many times; in C all that belongs to one sequence stays in
the processor's cache. Where there is no compiler, `library` is None, the log says why in one line, and torch's
operations do the same.

Enters: the C file beside this one. Leaves: its functions, which read float32 tensors on a CPU. What was compiled is
kept in the user's cache folder, under a name that stands for the source, the compiler and the processor. Threads are
torch's: its OpenMP has been loaded, and the library brings none of its own.
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
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

SOURCE = Path(__file__).with_name("scan_in_c.c")
# As -ffast-math, but nan and infinity stay what they are: a training that diverges has to be seen.
FLAGS = [
    *["-O3", "-march=native", "-fopenmp", "-fPIC", "-fno-math-errno", "-fno-trapping-math"],
    *["-fno-signed-zeros", "-fassociative-math", "-freciprocal-math", "-ffp-contract=fast"],
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


def call(name: str, sizes: Sequence[int], read: Sequence[Tensor], write: Sequence[Tensor]) -> None:
    """Call a function of the library, which is there.

    Args: sizes: the numbers of its `Sizes`. read, write: its other arguments, in their order.
    """
    _call(name, list(sizes), [tensor.contiguous() for tensor in read], list(write))


# An operator, because memory is planned with tensors that have no numbers for a C function to read.
@torch.library.custom_op("headway::in_c", mutates_args=("write",), schema=CALL)
def _call(name: str, sizes: list[int], read: list[Tensor], write: list[Tensor]) -> None:
    loaded = library()
    assert loaded is not None and all(tensor.is_contiguous() for tensor in [*read, *write])
    numbers = (ctypes.c_long * len(sizes))(*sizes)
    places = [ctypes.c_void_p(tensor.data_ptr()) for tensor in [*read, *write]]
    getattr(loaded, name)(numbers, torch.get_num_threads(), *places)


@_call.register_fake
def _(name: str, sizes: list[int], read: list[Tensor], write: list[Tensor]) -> None:
    pass


@cache
def library() -> ctypes.CDLL | None:
    """The compiled functions, made if need be; tried, and told in the log, once."""
    try:
        return ctypes.CDLL(str(_compiled()))
    except (OSError, RuntimeError, ValueError, subprocess.SubprocessError) as error:
        said = getattr(error, "stderr", None) or str(error)
        log.info("inner loops run as torch's operations, not in C: %s", str(said).strip().partition("\n")[0])
        return None


def _compiled() -> Path:
    compiler = shlex.split(os.environ.get("CC") or "cc")
    decisive = [SOURCE.read_text(encoding="utf-8"), *FLAGS, _said([*compiler, "--version"]), _processor()]
    name = f"{hashlib.sha256(chr(0).join(decisive).encode()).hexdigest()[:24]}.so"
    kept = _cache_folder() / name
    if not kept.exists():
        with tempfile.TemporaryDirectory(dir=kept.parent) as folder:
            compiled, linked = (str(Path(folder) / part) for part in ("scan.o", name))
            _said([*compiler, *FLAGS, "-c", str(SOURCE), "-o", compiled])
            _said([*compiler, "-shared", compiled, "-o", linked, "-lm"])
            Path(linked).replace(kept)  # another process may do the same just now
    return kept


def _said(command: list[str]) -> str:
    return subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=True).stdout


def _processor() -> str:
    """What the choice of instructions depends on."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return f"{platform.machine()} {platform.processor()}"
    return "\n".join(
        sorted({line for line in lines if line.startswith(("model name", "flags", "CPU part", "Features"))})
    )


def _cache_folder() -> Path:
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser()) / "headway"
    folder.mkdir(parents=True, exist_ok=True)
    return folder
