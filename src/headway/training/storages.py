"""What a training step holds at its peak, found without computing anything.

Enters: a model, a piece of a step. Leaves: `StepMemory`. The very step that training takes
runs on fake tensors, which have shapes but no numbers; every storage is counted from its first use until it is
freed. On a CPU that is what the allocator hands out, to the byte but for what a kernel takes for a moment.

Glossary: piece = the windows in memory at once; a group of several pieces is one update.
"""

from __future__ import annotations

import copy
import sys
import weakref
from collections import Counter
from collections.abc import Callable
from dataclasses import astuple, dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from headway.training.optimizer import state_bytes
from headway.training.state import Trained

Owned = tuple[str, str]  # a label, and the name of the module that made it


@dataclass(frozen=True, slots=True, kw_only=True)
class StepMemory:
    """Bytes at the moment when most are held.

    Attributes:
        parameters: weights and buffers, the sensor graph among them. optimizer: moments of the updates.
        best: the best weights so far. gradients: of the weights.
        data: the windows of the piece, in physical and in z-units. tables: who reads whom.
        activations: kept from the forward pass. workspace: what the backward pass holds for a moment.
    """

    parameters: int
    optimizer: int
    best: int
    gradients: int
    data: int
    tables: int
    activations: int
    workspace: int

    @property
    def fixed(self) -> int:
        """What does not grow with the windows in memory."""
        return self.parameters + self.optimizer + self.best + self.gradients

    def of_windows(self, windows: int) -> StepMemory:
        """At most so much for so many windows, where this is of one: blocks of a kernel are shared by windows."""
        parts = ("data", "tables", "activations", "workspace")
        return replace(self, **{name: windows * getattr(self, name) for name in parts})

    def towards(self, other: StepMemory, times: float) -> StepMemory:
        """On the line through both: itself at 0, the other one at 1."""
        pairs = zip(self.__slots__, astuple(self), astuple(other), strict=True)
        return StepMemory(**{name: int(ours + times * (theirs - ours)) for name, ours, theirs in pairs})

    @property
    def peak(self) -> int:
        """All of it."""
        return sum(astuple(self))


def trace_piece(
    model: Trained,
    make_batch: Callable[[FakeTensorMode], Any],
    backward: Callable[[Trained, Any], None],
    *,
    accumulate: bool,
) -> StepMemory:
    """Run one piece of a step, whatever it is of, on fake tensors.

    Args: make_batch: called once, to count what it makes as data. backward: of a copy of the model, on that batch.
    """
    twin, held = _run_piece(model, make_batch, backward, accumulate)
    by_label: Counter[str] = Counter()
    for (label, _), size in held.items():
        by_label[label] += size
    return _summary(twin, by_label)


def trace_activations(
    model: Trained,
    make_batch: Callable[[FakeTensorMode], Any],
    backward: Callable[[Trained, Any], None],
    *,
    accumulate: bool,
) -> dict[str, int]:
    """Bytes of the same piece's activations at the peak by the module that made them, the largest first.

    Returns: by the module's name, empty for the whole model; summed they are `StepMemory.activations`.
    """
    held = _run_piece(model, make_batch, backward, accumulate)[1]
    by_module = {name: size for (label, name), size in held.items() if label == "activations" and size}
    return dict(sorted(by_module.items(), key=lambda item: (-item[1], item[0])))


def _run_piece(
    model: Trained,
    make_batch: Callable[[FakeTensorMode], Any],
    backward: Callable[[Trained, Any], None],
    accumulate: bool,
) -> tuple[Trained, Counter[Owned]]:
    """The copy that was run, and what was held at the peak."""
    twin = _copied(model).cpu().train()
    with torch.random.fork_rng(devices=[]), FakeTensorMode() as fakes, _Storages() as storages:
        _fake(twin, fakes, storages)
        storages.names = {id(module): name for name, module in twin.named_modules()}
        storages.label = "data"
        batch = make_batch(fakes)
        storages.label = "tables"  # of the first piece only who reads whom and its gradients stay
        backward(twin, batch)
        for parameter in twin.parameters():
            if not accumulate:
                parameter.grad = None
            elif parameter.grad is not None:
                storages.relabel(parameter.grad, "gradients")
        storages.begin()
        storages.label = "activations"
        trained = [parameter for parameter in twin.parameters() if parameter.requires_grad]
        hooks = [p.register_post_accumulate_grad_hook(storages.gradient) for p in trained]
        backward(twin, batch)
        del hooks
    return twin, storages.at_peak


def _copied(model: Trained) -> Trained:
    """A copy that shares the numbers of frozen weights, which are only read."""
    frozen = [parameter for parameter in model.parameters() if not parameter.requires_grad]
    return copy.deepcopy(model, {id(weight): nn.Parameter(weight.detach(), False) for weight in frozen})


def _summary(model: nn.Module, held: Counter[str]) -> StepMemory:
    return StepMemory(
        parameters=held["parameters"],
        optimizer=state_bytes(model),
        best=sum(tensor.nbytes for tensor in model.state_dict().values()),
        gradients=held["gradients"],
        data=held["data"],
        tables=held["tables"],
        activations=held["activations"],
        workspace=held["workspace"],
    )


class _Storages(TorchDispatchMode):
    """Counts the bytes of the storages that are alive, by the label under which each was made.

    Attributes: names: of the modules that activations are counted by, by their `id`.
    """

    def __init__(self) -> None:
        super().__init__()
        self.label = "parameters"
        self.names: dict[int, str] = {}
        self.at_peak: Counter[Owned] = Counter()
        self._labels: dict[int, Owned] = {}
        self._held: Counter[Owned] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(made):
            if isinstance(leaf, Tensor):
                self.watch(leaf)
        return made

    def watch(self, tensor: Tensor) -> None:
        """Count this tensor's storage until it is freed."""
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._labels:
            return
        in_backward = self.label == "activations" and torch._C._current_graph_task_id() != -1
        name = self._maker() if self.label == "activations" and not in_backward else ""
        label = ("workspace" if in_backward else self.label, name)
        self._labels[key] = label
        self._held[label] += storage.nbytes()
        weakref.finalize(storage, self._forget, key, storage.nbytes())
        if self._held.total() > self.at_peak.total():
            self.at_peak = self._held.copy()

    def begin(self) -> None:
        """What was held at most so far does not count."""
        self.at_peak = self._held.copy()

    def relabel(self, tensor: Tensor, label: str) -> None:
        """What it holds is something else than it was made as."""
        storage = tensor.untyped_storage()
        key = storage._cdata
        self._held[self._labels[key]] -= storage.nbytes()
        self._held[label, ""] += storage.nbytes()
        self._labels[key] = (label, "")

    def gradient(self, parameter: Tensor) -> None:
        """A hook: the gradient of this parameter is complete."""
        if parameter.grad is not None:
            self.relabel(parameter.grad, "gradients")

    def _maker(self) -> str:
        """Name of the innermost module one of whose methods is running."""
        frame = sys._getframe()
        while frame is not None:
            if frame.f_code.co_varnames[:1] == ("self",):
                there = frame.f_locals
                name = self.names.get(id(there.get("self")))
                if isinstance(there, dict):  # before Python 3.13 a copy, which would keep alive what it names
                    there.clear()
                if name is not None:
                    return name
            frame = frame.f_back
        return ""

    def _forget(self, key: int, nbytes: int) -> None:
        self._held[self._labels.pop(key)] -= nbytes


def _fake(model: nn.Module, fakes: FakeTensorMode, storages: _Storages) -> None:
    """Give the model fake weights and buffers, and count them."""
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                module._parameters[name] = fakes.from_tensor(parameter)  # pyright: ignore[reportArgumentType] - a fake Parameter
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = fakes.from_tensor(buffer)
    for tensor in [*model.parameters(), *model.buffers()]:
        storages.watch(tensor)
