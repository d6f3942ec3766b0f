"""What this machine has for a run: GPU, arithmetic, memory, disk.

Enters: section `runtime`, where it could be read, and the project's root. Leaves: findings.
"""

from __future__ import annotations

import os
import shutil
from configparser import ConfigParser
from importlib.util import find_spec
from pathlib import Path

import psutil
import torch

from headway.commands.findings import Finding, note, ok, problem
from headway.nn.gated_scan import why_not_in_c
from headway.nn.triton_scan import IN_C, NATIVE, kernel_name
from headway.training.memory import GIB
from headway.training.precision import PrecisionChoice, resolve_device, resolve_precision
from headway.training.runtime import RuntimeParams

LEAST_MEMORY = 2 * GIB  # available; torch and pandas alone take half a GiB
LEAST_DISK, LITTLE_DISK = 1 * GIB, 5 * GIB
NEEDS_COMPUTE = 8  # major compute capability that has bf16 in hardware


def inspect_hardware(runtime: RuntimeParams | None, root: Path) -> list[Finding]:
    """GPU, precision, kernel, memory and disk; without `runtime`, as if all of it were `auto`."""
    findings = [_gpu(runtime.device if runtime else "auto")]
    if findings[0].status != "problem":
        findings.append(_precision(runtime))
        findings.append(_kernel(runtime))
    return [*findings, _memory(), *_threads(runtime), *_disks(root)]


def gpu_bytes() -> tuple[int, int] | None:
    """Free and total memory of the first GPU, None without one."""
    return torch.cuda.mem_get_info(0) if torch.cuda.is_available() else None


def resume_store(root: Path) -> Path:
    """Where unfinished runs live."""
    return Path(os.environ.get("DVC_ROOT", root)).resolve() / ".resume"


def dvc_cache(root: Path) -> Path:
    """Where DVC keeps outputs: `cache.dir` of its configuration, else .dvc/cache."""
    config = ConfigParser(interpolation=None)
    config.read([root / ".dvc/config", root / ".dvc/config.local"], encoding="utf-8")
    return root / ".dvc" / config.get("cache", "dir", fallback="cache")


def _gpu(device: str) -> Finding:
    found = gpu_bytes()
    if found is not None:
        free, total = found
        text = f"{torch.cuda.get_device_name(0)}, {total / GIB:.1f} GiB, {free / GIB:.1f} free"
        if device == "cpu":
            return note("GPU", f"{text}, not used", "set runtime.device: auto to use it")
        return ok("GPU", text)
    if device == "cuda":
        return problem(
            "GPU", "none that torch can use, and runtime.device is cuda", "set runtime.device: auto"
        )
    if shutil.which("nvidia-smi"):
        build = f"torch {torch.__version__} cannot use it"
        return note("GPU", f"nvidia-smi is here, but {build}", "install a CUDA build of the same version")
    return ok("GPU", "none: everything runs on the CPU")


def _precision(runtime: RuntimeParams | None) -> Finding:
    choice: PrecisionChoice = runtime.precision if runtime else "auto"
    device = resolve_device(runtime.device if runtime else "auto")
    name = resolve_precision(choice, device).name
    text = f"{choice} is {name} on this {device.type}" if choice == "auto" else f"{name} on {device.type}"
    slow = device.type == "cpu" and name != "fp32"
    emulated = device.type == "cuda" and name == "bf16" and _compute() < NEEDS_COMPUTE
    if slow:
        return note("precision", f"{text}, slower than fp32 there", "set runtime.precision: auto")
    if emulated:
        return note("precision", f"{text}, which only emulates it", "set runtime.precision: fp16")
    if device.type == "cuda" and name == "fp32":
        return note("precision", f"{text}: twice the memory of bf16", "set runtime.precision: auto")
    return ok("precision", text)


def _compute() -> int:
    return torch.cuda.get_device_capability(0)[0] if torch.version.hip is None else NEEDS_COMPUTE


def _kernel(runtime: RuntimeParams | None) -> Finding:
    """What runs the selective scan; on a GPU the kernel is tried."""
    device = resolve_device(runtime.device if runtime else "auto")
    precision = resolve_precision(runtime.precision if runtime else "auto", device)
    name = kernel_name(device.type, precision.name)
    if name not in (NATIVE, IN_C):
        return ok("scan kernel", f"{name}, Triton")
    aside = "; mamba-ssm is installed and not used" if find_spec("mamba_ssm") else ""
    if name == NATIVE and device.type == "cpu":
        text = f"native, not in C: {why_not_in_c()}{aside}"
        return note("scan kernel", text, "with a C compiler (cc) training takes three quarters of the time")
    return ok("scan kernel", f"{name}, exact{aside}")


def _memory() -> Finding:
    memory = psutil.virtual_memory()
    text = f"{memory.total / GIB:.1f} GiB, {memory.available / GIB:.1f} available"
    if memory.available < LEAST_MEMORY:
        return note("memory", text, "close other programs before a long run")
    return ok("memory", text)


def _threads(runtime: RuntimeParams | None) -> list[Finding]:
    cores = os.cpu_count() or 1
    if runtime is None or runtime.threads <= cores:
        return []
    help = "set runtime.threads: 0"
    return [note("threads", f"runtime.threads is {runtime.threads}, more than the {cores} cores", help)]


def _disks(root: Path) -> list[Finding]:
    places = {".resume": resume_store(root), "DVC cache": dvc_cache(root)}
    return [_disk(name, path) for name, path in places.items()]


def _disk(name: str, path: Path) -> Finding:
    there = path.resolve()
    while not there.exists():
        there = there.parent
    free = shutil.disk_usage(there).free
    text = f"{free / GIB:.1f} GiB free"
    help = "free some space"
    if free < LEAST_DISK:
        return problem(f"disk, {name}", text, help)
    return note(f"disk, {name}", text, help) if free < LITTLE_DISK else ok(f"disk, {name}", text)
