"""How many windows are held in memory at once, and whether activations are kept or computed again.

Enters: a model, the sizes of its data, the effective batch, a budget. Leaves: a `Plan`. The peak of a choice comes
from `headway.training.trace`; what no trace sees - the interpreter, the CUDA context, the rounding of the GPU's
allocator - is an allowance, stated beside it. A plan depends on the machine's memory and not on how much of
it is free just now: a run that is continued makes the same choice again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from headway.data.prepared import PreparedMeta
from headway.data.windows import Residence, held_bytes, row_spans
from headway.models.standardized import Standardized
from headway.training.memory import GIB, MIB, host_memory, parse_size
from headway.training.precision import Precision
from headway.training.trace import StepMemory, trace_step

PROCESS = (
    600 * MIB
)  # resident size of Python with torch, pandas and pyarrow before training; measured 450 to 600
CONTEXT = 500 * MIB  # a CUDA context with cuBLAS workspaces; not measured here
ROUNDING = 0.12  # share that the CUDA allocator loses to rounding and fragments; not measured here
PROBE_STEPS = 40_000  # sensors x steps from which memory is linear: what goes block by block no longer counts
CPU_SHARE, GPU_SHARE = 0.5, 0.9  # of the memory there is, for `auto`


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A choice and what it needs.

    Attributes:
        micro_batch: windows in memory at once.
        recompute: compute the inside of each block again in the backward pass instead of keeping it.
        memory: of a step; where the whole batch fits with ease, at most so much.
        allowance: bytes that no trace sees.
        series: bytes of the readings, where they are held in the same memory.
        budget: bytes it was to fit in.
        fits: whether it does; if not, it is the smallest choice there is.
    """

    micro_batch: int
    recompute: bool
    memory: StepMemory
    allowance: int
    series: int
    budget: int
    fits: bool

    @property
    def needed(self) -> int:
        """Bytes: what is traced and what is not."""
        return self.memory.peak + self.allowance + self.series

    def describe(self) -> str:
        """One line."""
        kept = ", activations computed again" if self.recompute else ""
        needed, budget = self.needed / GIB, self.budget / GIB
        text = f"micro-batch {self.micro_batch}{kept}: {needed:.2f} GiB of a budget of {budget:.2f}"
        return (
            text
            if self.fits
            else f"{text}, which it does not fit; docs/training.md lists what makes it smaller"
        )


def resolve_budget(choice: str, device: torch.device, processes: int = 1) -> int:
    """Bytes that a process of a training may use: as told, or a share of the memory that this device has.

    Args: processes: of the training on this machine, which share its memory; each has a GPU of its own.
    """
    if choice != "auto":
        return parse_size(choice)
    if device.type == "cuda":
        return int(GPU_SHARE * torch.cuda.get_device_properties(device).total_memory)
    return int(CPU_SHARE * host_memory() / processes)


def series_bytes(
    meta: PreparedMeta, steps: int, data: Residence, device_type: str, parts: Sequence[tuple[int, int]] = ()
) -> int:
    """Bytes of a series of so many steps in the memory that is planned: the device's, which on a CPU is the only one.

    Args: parts: origins that are trained on and judged; empty: all.
    """
    if data == "memmap" or (data == "memory" and device_type != "cpu"):
        return 0
    return held_bytes(meta, row_spans(meta, steps, parts), meta.sensors)


def allowance(peak: int, device_type: str) -> int:
    """Bytes beside the traced ones."""
    return PROCESS if device_type == "cpu" else CONTEXT + int(ROUNDING * peak)


class Planner:
    """Plans for one model, its data and its effective batch; each choice is traced once."""

    def __init__(
        self, model: Standardized, meta: PreparedMeta, batch_size: int, precision: Precision, series: int = 0
    ) -> None:
        """`batch_size`: windows of an update. `precision`: its device decides the allowance. `series`: as of Plan."""
        self._model, self._meta, self.batch_size, self._precision = model, meta, batch_size, precision
        self._series = series
        self._traced: dict[tuple[int, bool], StepMemory] = {}

    def on_cuda(self, series: int = 0) -> Planner:
        """The same steps with the allowance of a GPU, and what of the series it would hold."""
        precision = replace(self._precision, device_type="cuda")
        twin = Planner(self._model, self._meta, self.batch_size, precision, series)
        twin._traced = self._traced
        return twin

    def plan(self, budget: int) -> Plan:
        """The largest micro-batch that fits; activations are kept wherever one window fits with them."""
        for recompute in (False, True):
            one = self.judge(1, recompute, budget)
            if one.fits:
                return self._largest(one)
        return one

    def judge(self, windows: int, recompute: bool, budget: int) -> Plan:
        """This choice, whether it fits or not."""
        return self._plan(self.trace(windows, recompute), windows, recompute, budget)

    def trace(self, windows: int, recompute: bool) -> StepMemory:
        """Memory of a step with so many windows at once; beyond two probes the line through them."""
        steps = self._meta.sensors * self._meta.history
        probe = _power_of_two(2 * PROBE_STEPS // steps)
        if windows > 2 * probe:
            few, more = self.trace(probe, recompute), self.trace(2 * probe, recompute)
            return few.towards(more, windows / probe - 1)
        key = (windows, recompute)
        if key not in self._traced:
            before = self._model.recomputes()
            self._model.set_recompute(recompute)
            accumulate = windows < self.batch_size
            self._traced[key] = trace_step(
                self._model, self._meta, windows, self._precision, accumulate=accumulate
            )
            self._model.set_recompute(before)
        return self._traced[key]

    def _largest(self, one: Plan) -> Plan:
        """From one window that fits to as many as do: a further window needs at most what the first one did."""
        most = self._plan(one.memory.of_windows(self.batch_size), self.batch_size, one.recompute, one.budget)
        if most.fits:
            return most
        room = one.budget - one.allowance - one.series - one.memory.fixed
        each = one.memory.peak - one.memory.fixed
        windows = _power_of_two(min(self.batch_size, 2 * room // each))
        while windows > 1:
            plan = self.judge(windows, one.recompute, one.budget)
            if plan.fits:
                return plan
            windows //= 2
        return one

    def _plan(self, memory: StepMemory, windows: int, recompute: bool, budget: int) -> Plan:
        extra = allowance(memory.peak, self._precision.device_type)
        return Plan(
            micro_batch=windows,
            recompute=recompute,
            memory=memory,
            allowance=extra,
            series=self._series,
            budget=budget,
            fits=memory.peak + extra + self._series <= budget,
        )


def _power_of_two(windows: int) -> int:
    return 1 << (max(1, windows).bit_length() - 1)
