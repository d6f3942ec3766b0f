"""What a training step holds at its peak, found without computing anything.

Enters: a model, the sizes of its windows, a micro-batch. Leaves: `StepMemory`. The very step that training takes
runs on fake tensors, which have shapes but no numbers; every storage is counted from its first use until it is
freed. On a CPU that is what the allocator hands out, to the byte but for what a kernel takes for a moment.

Glossary: piece = the windows in memory at once; a group of several pieces is one update.
"""

from __future__ import annotations

import copy
import weakref
from collections import Counter
from dataclasses import astuple, dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from headway.data.prepared import PreparedMeta
from headway.models.standardized import Standardized
from headway.training.piece import backward_piece
from headway.training.precision import Precision
from headway.types import Batch

MOMENTS = 2  # of AdamW, beside a step counter of 4 bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class StepMemory:
    """Bytes at the moment when most are held.

    Attributes:
        parameters: weights and buffers, the sensor graph among them. optimizer: moments of AdamW.
        best: the best weights so far. gradients: of the weights.
        data: the windows of the piece, in physical and in z-units. tables: the graph written out as row numbers.
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


def trace_step(
    model: Standardized, meta: PreparedMeta, micro_batch: int, precision: Precision, *, accumulate: bool
) -> StepMemory:
    """Run a step with so many windows in memory on fake tensors.

    Args:
        model: as training has it; it is copied. accumulate: whether a group has more than one piece, so that
            gradients are there already when the next piece begins.
    """
    arithmetic = replace(precision, device_type="cpu")
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    frozen = {id(parameter): parameter for parameter in model.parameters() if not parameter.requires_grad}
    twin = copy.deepcopy(model, frozen).cpu().train()  # without a copy of what is only read
    with torch.random.fork_rng(devices=[]), FakeTensorMode() as fakes, _Storages() as storages:
        _fake(twin, fakes, storages)
        storages.label = "data"
        batch = windows_of_size(meta, micro_batch)
        storages.label = "tables"  # of the first piece only its row numbers and its gradients stay
        backward_piece(twin, batch, 1, arithmetic, scaler)
        for parameter in twin.parameters():
            if not accumulate:
                parameter.grad = None
            elif parameter.grad is not None:
                storages.relabel(parameter.grad, "gradients")
        storages.begin()
        storages.label = "activations"
        trained = [p for p in twin.parameters() if p.requires_grad]
        hooks = [p.register_post_accumulate_grad_hook(storages.gradient) for p in trained]
        backward_piece(twin, batch, 1, arithmetic, scaler)
        del hooks
    return _summary(twin, storages.at_peak)


def _summary(model: Standardized, held: Counter[str]) -> StepMemory:
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    weights, counters = sum(parameter.nbytes for parameter in trained), 4 * len(trained)
    return StepMemory(
        parameters=held["parameters"],
        optimizer=MOMENTS * weights + counters,
        best=sum(tensor.nbytes for tensor in model.state_dict().values()),
        gradients=held["gradients"],
        data=held["data"],
        tables=held["tables"],
        activations=held["activations"],
        workspace=held["workspace"],
    )


class _Storages(TorchDispatchMode):
    """Counts the bytes of the storages that are alive, by the label under which each was made."""

    def __init__(self) -> None:
        super().__init__()
        self.label = "parameters"
        self.at_peak: Counter[str] = Counter()
        self._labels: dict[int, str] = {}
        self._held: Counter[str] = Counter()

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
        self._labels[key] = label = "workspace" if in_backward else self.label
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
        self._held[label] += storage.nbytes()
        self._labels[key] = label

    def gradient(self, parameter: Tensor) -> None:
        """A hook: the gradient of this parameter is complete."""
        if parameter.grad is not None:
            self.relabel(parameter.grad, "gradients")

    def _forget(self, key: int, nbytes: int) -> None:
        self._held[self._labels.pop(key)] -= nbytes


def _fake(model: Standardized, fakes: FakeTensorMode, storages: _Storages) -> None:
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


def windows_of_size(meta: PreparedMeta, windows: int) -> Batch:
    """So many windows of a data set of these sizes, everything in them observed and 0."""
    sizes = {
        "history": (meta.history, meta.sensors, len(meta.channels)),
        "past": (meta.history, meta.sensors, len(meta.context)),
        "anchors": (meta.horizon, meta.sensors, 1 + len(meta.context) + bool(meta.trailing)),
        "target": (meta.horizon, meta.sensors),
    }
    masks = {f"{name}_observed": torch.ones(windows, *size, dtype=torch.bool) for name, size in sizes.items()}
    readings = {name: torch.zeros(windows, *size) for name, size in sizes.items()}
    return Batch(
        **readings,
        **masks,
        origin=torch.zeros(windows, dtype=torch.int64),
        history_calendar=torch.zeros(windows, meta.history, 2, dtype=torch.int64),
        covariates=torch.zeros(windows, meta.history, len(meta.covariates)),
        fallback=torch.zeros(windows, meta.horizon, meta.sensors),
        target_calendar=torch.zeros(windows, meta.horizon, 2, dtype=torch.int64),
    )
