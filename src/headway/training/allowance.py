"""What a process holds beside the bytes that a trace sees: stated, or measured on the GPU at hand.

    allowance = fixed + share * traced peak

Enters: a kind of device. Leaves: an `Allowance`. `python -m headway plan --calibrate` writes an entry for a kind of
GPU to `.resume/cuda.json`, beside the unfinished runs: outside Git, of no stage's inputs or outputs, in no run's
identity. It decides how many windows are held at once, and nothing else. An entry of another GPU or of another
torch is not used.

Glossary: fixed = the interpreter, or the CUDA context; share = what the allocator loses to rounding and fragments.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from headway.atomic import write_text
from headway.errors import InputError
from headway.training.memory import MIB

FILE = "cuda.json"
PROCESS = 600 * MIB  # Python with torch, pandas and pyarrow before training; measured 450 to 600
CONTEXT, ROUNDING = 500 * MIB, 0.12  # of CUDA with cuBLAS workspaces; not measured here


@dataclass(frozen=True, slots=True, kw_only=True)
class Allowance:
    """Bytes beside the traced ones.

    Attributes: fixed: bytes. share: of the traced peak. source: what it is, in a few words.
    """

    fixed: int
    share: float
    source: str

    def beside(self, peak: int) -> int:
        """Bytes to add to this peak."""
        return self.fixed + int(self.share * peak)


ON_CPU = Allowance(fixed=PROCESS, share=0.0, source="Python and its libraries")
STATED = Allowance(fixed=CONTEXT, share=ROUNDING, source="CUDA context, rounding; not measured")


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredStep:
    """What a real step took on a GPU. All but `windows` in bytes.

    Attributes:
        windows: in memory at once. traced: the peak that the planner predicts.
        allocated, reserved: the most by the account of torch's allocator.
        used: of the GPU at the end, with the context, and with whatever else runs there.
    """

    windows: int
    traced: int
    allocated: int
    reserved: int
    used: int


def known_allowance(device_type: str) -> Allowance:
    """That of a CPU, the measured one of this GPU, or the stated one of GPUs.

    Raises: InputError where the file is not what the command wrote.
    """
    if device_type == "cpu":
        return ON_CPU
    return read_allowance(gpu_name()) or STATED


def gpu_name() -> str:
    """Name of the GPU that this process uses; empty without one."""
    return torch.cuda.get_device_name() if torch.cuda.is_available() else ""


def fit_allowance(steps: Sequence[MeasuredStep], gpu: str) -> Allowance:
    """The share that the largest step lost, and as much beside it as covers every step."""
    largest = max(steps, key=lambda step: step.traced)
    share = max(0.0, largest.reserved / largest.traced - 1)
    fixed = max(step.used - int((1 + share) * step.traced) for step in steps)
    return Allowance(fixed=max(0, fixed), share=share, source=_measured_on(gpu))


def read_allowance(gpu: str) -> Allowance | None:
    """What was measured on this GPU with this torch; None where nothing was.

    Raises: InputError where the file is not what the command wrote.
    """
    entry = _entries().get(gpu)
    if entry is None or entry.get("torch") != torch.__version__:
        return None
    try:
        return Allowance(fixed=int(entry["fixed"]), share=float(entry["share"]), source=_measured_on(gpu))
    except (KeyError, TypeError, ValueError) as error:
        raise _unreadable() from error


def write_allowance(found: Allowance, steps: Sequence[MeasuredStep], gpu: str) -> Path:
    """Keep it for this GPU, with what was measured. Returns: the file."""
    entry = {"torch": torch.__version__, "fixed": found.fixed, "share": round(found.share, 6)}
    measured = {"steps": [asdict(step) for step in steps]}
    write_text(_file(), json.dumps({**_entries(), gpu: entry | measured}, indent=1, sort_keys=True) + "\n")
    return _file()


def _measured_on(gpu: str) -> str:
    return f"context, rounding; measured on {gpu}"


def _file() -> Path:
    return Path(os.environ.get("DVC_ROOT", ".")).resolve() / ".resume" / FILE


def _entries() -> dict[str, dict[str, Any]]:
    if not _file().is_file():
        return {}
    try:
        entries = json.loads(_file().read_text(encoding="utf-8"))
    except ValueError as error:
        raise _unreadable() from error
    if not isinstance(entries, dict) or not all(isinstance(entry, dict) for entry in entries.values()):
        raise _unreadable()
    return entries


def _unreadable() -> InputError:
    return InputError(
        f"{_file()} is not what `python -m headway plan --calibrate` writes; remove it and run that again"
    )
