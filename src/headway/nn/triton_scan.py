"""mamba-ssm's Triton kernel in place of `headway.nn.selective_scan`, on a GPU where it gives the same numbers.

Enters: what the selective scan reads. Leaves: its y, or nothing, where our own operators are to be used: on a CPU, in
float32 (Triton rounds the factors of a float32 product to TF32, which costs less than bf16 does elsewhere), without
mamba-ssm, and where a first try on a few sequences gives other values or gradients. One line of the log says why.

The package is read without its `__init__`, which wants an extension that the pure-Python build of
requirements-gpu.txt does not have. Its deterministic mode is on: one block size instead of the fastest of the day,
and no atomic addition.

Source: github.com/state-spaces/mamba, `mamba_ssm/ops/triton/ssd_combined.py`; Dao & Gu 2024.
"""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Callable
from functools import cache
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from types import ModuleType

import torch
from torch import Tensor

from headway.nn.selective_scan import CHUNK, selective_scan

PACKAGE = "mamba_ssm"
NATIVE, IN_C = "native", "native, in C"
ROWS, STEPS, HEADS, WIDTH, STATE = 3, CHUNK + 6, 2, 16, 16  # of the try: more than one chunk
TOLERANCE = 5e-3  # of the largest number; TF32 keeps ten bits of a factor

# u, dt, A, B, C, D of selective_scan
Scan = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]

log = logging.getLogger(__name__)


def kernel_for(u: Tensor) -> Scan | None:
    """The kernel for what this tensor is part of; None where our own operators are to be used."""
    if not u.is_cuda or not torch.is_autocast_enabled("cuda"):
        return None
    return tried_kernel("cuda")


def kernel_name(device_type: str, precision: str) -> str:
    """What runs the scan of a training with this device and precision."""
    from headway.nn.gated_scan import why_not_in_c  # no part of models without a scan

    if device_type == "cpu" and not why_not_in_c():
        return IN_C
    if device_type == "cpu" or precision == "fp32" or tried_kernel(device_type) is None:
        return NATIVE
    try:
        return f"mamba-ssm {version('mamba-ssm')}"
    except PackageNotFoundError:  # a checkout on the path
        return "mamba-ssm"


@cache
def tried_kernel(device_type: str) -> Scan | None:
    """The kernel where it passes the try on this device; tried, and told in the log, once."""
    try:
        kernel = load_kernel()
        problem = differing(kernel, torch.device(device_type))
    except Exception as error:
        # whatever a compiler, a driver or another version says: there is a way without it
        first_line = str(error).partition("\n")[0]
        problem = f"{type(error).__name__}: {first_line}"
    if problem:
        log.info("the selective scan runs on headway's own operators, not on mamba-ssm's: %s", problem)
        return None
    log.info("the selective scan runs on mamba-ssm's Triton kernel")
    return kernel


def load_kernel() -> Scan:
    """`mamba_chunk_scan_combined` with the arguments of `selective_scan`.

    Raises: ImportError where mamba-ssm or what it needs is missing.
    """
    import_part("utils.determinism").set_deterministic_mode(True)
    with warnings.catch_warnings(action="ignore"):  # it advises to let block sizes be timed
        combined = import_part("ops.triton.ssd_combined").mamba_chunk_scan_combined

    def scan(u: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, /) -> Tensor:
        return combined(u, dt, A, B.unsqueeze(2), C.unsqueeze(2), CHUNK, D=D)

    return scan


def import_part(name: str) -> ModuleType:
    """A module of mamba-ssm, such as `modules.mamba2`, without what the package itself imports.

    Raises: ImportError where it, or what it needs, is missing.
    """
    found = find_spec(PACKAGE)
    if found is None or not found.submodule_search_locations:
        raise ImportError("mamba-ssm is not installed; `make kernel` installs it")
    if PACKAGE in sys.modules:
        return import_module(f"{PACKAGE}.{name}")
    bare = ModuleType(PACKAGE)
    bare.__path__ = list(found.submodule_search_locations)
    sys.modules[PACKAGE] = bare
    try:
        return import_module(f"{PACKAGE}.{name}")
    finally:
        del sys.modules[PACKAGE]


def differing(kernel: Scan, device: torch.device) -> str:
    """How the kernel's values or gradients differ from ours on a few sequences; empty where they do not."""
    given = _sequences(device)
    found, expected = (
        [part.detach() for part in _with_gradients(scan, given)] for scan in (kernel, selective_scan)
    )
    for name, ours, theirs in zip(("y", "u", "dt", "A", "B", "C", "D"), expected, found, strict=True):
        off = ((theirs - ours).abs().max() / ours.abs().max()).item()
        if not off <= TOLERANCE:  # a nan is not
            what = "values" if name == "y" else f"the gradient of {name}"
            return f"{what} are off by {off:.1e} of the largest"
    return ""


def _sequences(device: torch.device) -> list[Tensor]:
    random = torch.Generator().manual_seed(0)

    def some(*size: int) -> Tensor:
        return torch.rand(*size, generator=random)

    u, B, C = (2 * some(ROWS, STEPS, *rest) - 1 for rest in ((HEADS, WIDTH), (STATE,), (STATE,)))
    given = [u, 0.1 * some(ROWS, STEPS, HEADS), -1 - some(HEADS), B, C, some(HEADS)]
    return [tensor.to(device).requires_grad_() for tensor in given]


def _with_gradients(scan: Scan, given: list[Tensor]) -> list[Tensor]:
    with torch.enable_grad():
        u, dt, A, B, C, D = given
        y = scan(u, dt, A, B, C, D)
        return [y, *torch.autograd.grad(y.square().sum(), given)]
