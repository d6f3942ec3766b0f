"""How many windows are held in memory at once, and whether activations are kept or computed again.

Enters: a model, what traces a step of it, the effective batch, a budget. Leaves: a `Plan`. The peak of a choice comes
from `headway.training.storages`; what no trace sees - the interpreter, the CUDA context, the rounding of the GPU's
allocator - is an allowance beside it (`headway.training.allowance`). A plan depends on the machine's memory and not
on how much of it is free just now: a run that is continued makes the same choice again.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

import torch

from headway.nn.native import planned_for
from headway.training.allowance import known_allowance
from headway.training.memory import GIB, host_memory, parse_size
from headway.training.precision import Precision
from headway.training.storages import StepMemory

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


@runtime_checkable
class Recomputing(Protocol):
    """A model that can compute activations again instead of keeping them."""

    def set_recompute(self, recompute: bool) -> None: ...

    def recomputes(self) -> bool: ...


class Planner(ABC):
    """Plans for one model and its effective batch; each choice is traced once."""

    def __init__(
        self, model: Recomputing, batch_size: int, precision: Precision, probe: int, series: int = 0
    ) -> None:
        """`batch_size`: pieces of an update. `precision`: its device decides the allowance.

        `probe`: number of windows from which on memory is linear in them. `series`: as of Plan.
        """
        self._model, self.batch_size, self._precision, self._probe = model, batch_size, precision, probe
        self._series, self.beside = series, known_allowance(precision.device_type)
        self._traced: dict[tuple[int, bool], StepMemory] = {}

    def on_cuda(self, series: int = 0) -> Planner:
        """The same steps as a GPU takes them, with its allowance, and what of the series it would hold."""
        twin = copy(self)
        twin._precision, twin._series = replace(self._precision, device_type="cuda"), series
        twin.beside, twin._traced = known_allowance("cuda"), {}
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
        probe = self._probe
        if windows > 2 * probe:
            few, more = self.trace(probe, recompute), self.trace(2 * probe, recompute)
            return few.towards(more, windows / probe - 1)
        key = (windows, recompute)
        if key not in self._traced:
            with self._planned(recompute):
                self._traced[key] = self._trace(windows, accumulate=windows < self.batch_size)
        return self._traced[key]

    @contextmanager
    def _planned(self, recompute: bool) -> Iterator[None]:
        """The model as with this choice, on the device that is planned for; afterwards as it was."""
        before = self._model.recomputes()
        self._model.set_recompute(recompute)
        try:
            with planned_for(self._precision.device_type):
                yield
        finally:
            self._model.set_recompute(before)

    @abstractmethod
    def _trace(self, windows: int, *, accumulate: bool) -> StepMemory:
        """Memory of a step with so many windows at once, the model as it is now."""

    def _largest(self, one: Plan) -> Plan:
        """From one window that fits to as many as do: a further window needs at most what the first one did."""
        most = self._plan(one.memory.of_windows(self.batch_size), self.batch_size, one.recompute, one.budget)
        if most.fits:
            return most
        room = one.budget - one.allowance - one.series - one.memory.fixed
        each = one.memory.peak - one.memory.fixed
        windows = power_of_two(min(self.batch_size, 2 * room // each))
        while windows > 1:
            plan = self.judge(windows, one.recompute, one.budget)
            if plan.fits:
                return plan
            windows //= 2
        return one

    def _plan(self, memory: StepMemory, windows: int, recompute: bool, budget: int) -> Plan:
        extra = self.beside.beside(memory.peak)
        return Plan(
            micro_batch=windows,
            recompute=recompute,
            memory=memory,
            allowance=extra,
            series=self._series,
            budget=budget,
            fits=memory.peak + extra + self._series <= budget,
        )


def power_of_two(windows: int) -> int:
    """The largest that is not above; at least 1."""
    return 1 << (max(1, windows).bit_length() - 1)
