"""How much memory there is, what is held now and was held at most, and what is said when none is left."""

from __future__ import annotations

import ctypes
import os
import re
import resource
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import psutil
import torch

from headway.errors import InputError, Stopped

MIB, GIB = 2**20, 2**30
UNITS = {"MB": 10**6, "GB": 10**9, "MiB": MIB, "GiB": GIB}
ALLOCATOR = "PYTORCH_ALLOC_CONF"
SIZE = re.compile(r"(\d+(?:\.\d+)?) ?(MB|GB|MiB|GiB)")
CGROUP_LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))
# M_MMAP_MAX: no tensor gets a mapping of its own; M_TRIM_THRESHOLD, M_TOP_PAD: the heap shrinks and grows rarely.
HEAP = {-4: 0, -1: 2**31 - 1, -2: 256 * MIB}
# what allocators of the CPU, of CUDA and of its libraries say
OUT_OF_MEMORY = ("can't allocate memory", "not enough memory", "out of memory", "ALLOC_FAILED")


def parse_size(text: str) -> int:
    """Bytes of `4GB`, `512 MiB` and the like.

    Raises: InputError where it is none.
    """
    found = SIZE.fullmatch(text.strip())
    if found is None or not float(found[1]):
        raise InputError(f"{text!r} is no amount of memory: write 4GB, 3.5 GiB or 800MB")
    return int(float(found[1]) * UNITS[found[2]])


def host_memory() -> int:
    """Bytes of memory this process may have: the computer's, or its container's."""
    texts = [path.read_text().strip() for path in CGROUP_LIMITS if path.is_file()]
    return min([psutil.virtual_memory().total, *(int(text) for text in texts if text.isdigit())])


def memory_mib(device: torch.device) -> dict[str, float]:
    """Resident memory and its peak; on a GPU also allocated, reserved and peak allocated bytes. MiB."""
    memory = {
        "resident": psutil.Process().memory_info().rss / MIB,
        "resident_peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,  # Linux gives KiB
    }
    if device.type == "cuda":
        memory |= {
            "allocated": torch.cuda.memory_allocated(device) / MIB,
            "reserved": torch.cuda.memory_reserved(device) / MIB,
            "allocated_peak": torch.cuda.max_memory_allocated(device) / MIB,
        }
    return {name: round(value, 1) for name, value in memory.items()}


def choose_allocator(choice: Literal["expandable", "default"]) -> None:
    """How a GPU's memory is divided: `expandable` segments lose less of it to fragments. Call it before CUDA is used.

    What the user's own environment says counts more.
    """
    if choice == "expandable":
        os.environ.setdefault(ALLOCATOR, "expandable_segments:True")


def peak_mib(device: torch.device) -> float:
    """The figure the progress line shows: the GPU's peak where there is one, else the process's."""
    memory = memory_mib(device)
    return memory.get("allocated_peak", memory["resident_peak"])


def keep_heap() -> None:
    """Let glibc keep freed tensors instead of returning each above 32 MiB to the kernel and faulting it in again.

    Measured 1.25 to 1.65 times as fast on a CPU; resident memory then stays at its high mark. Elsewhere than on
    Linux with glibc nothing happens.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        for option, value in HEAP.items():
            mallopt(option, value)


def is_out_of_memory(error: Exception) -> bool:
    """Whether an allocator raised it; torch.OutOfMemoryError is a RuntimeError."""
    return isinstance(error, MemoryError) or any(words in str(error) for words in OUT_OF_MEMORY)


@contextmanager
def out_of_memory_says(advice: Callable[[], str]) -> Iterator[None]:
    """Turn what an allocator raises into advice. Raises: Stopped with it, or with the advice of a block within."""
    try:
        yield
    except Stopped:
        raise
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise Stopped(f"out of memory{advice()}") from error
