"""Everything that decides the next bit of a training run, and its way into a checkpoint and back.

The order of windows, the dropout of a step and the learning rate are functions of the step or the update, so a
position is two integers and no generator has to be saved.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Generic, TypeVar

import torch
from safetensors.torch import load, save
from torch import Tensor, nn

from headway.nn.slices import history_slices, slice_history

Trained = TypeVar("Trained", bound=nn.Module)


@dataclass(slots=True, kw_only=True)
class Progress:
    """Where a run stands. Plain numbers: it becomes the JSON of a checkpoint.

    Attributes:
        step: groups of windows, or of trees, seen; the next group is a function of it.
        updates: optimizer steps; a group without a reading and an overflow of fp16 take none.
        skipped_in_row: overflows of fp16 since the last update.
        epoch_error, epoch_count: summed error in z-units and observed targets of the open epoch; in pretraining the
            summed loss and its steps.
        epoch_gradient, epoch_updates: summed gradient norms and updates of the open epoch.
        best_error: lowest validation error, in the target's unit, or lowest loss of pretraining.
        best_step, best_epoch: when it was found.
        epochs_since_best: epochs closed since then.
        curve: a row of metrics for each closed epoch.
        notes: sentences the model card must carry.
        machine: what rounded the numbers so far; see `headway.training.resume.machine`.
    """

    step: int = 0
    updates: int = 0
    skipped_in_row: int = 0
    epoch_error: float = 0.0
    epoch_count: int = 0
    epoch_gradient: float = 0.0
    epoch_updates: int = 0
    best_error: float = math.inf
    best_step: int = 0
    best_epoch: int = 0
    epochs_since_best: int = 0
    curve: list[dict[str, float]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    machine: dict[str, Any] = field(default_factory=dict)

    def count_step(self, error: float, observed: int, norm: float) -> None:
        """A step is taken; without a finite gradient norm its update was skipped."""
        self.step += 1
        self.epoch_error += error
        self.epoch_count += observed
        if math.isfinite(norm):
            self.updates, self.skipped_in_row = self.updates + 1, 0
            self.epoch_gradient += norm
            self.epoch_updates += 1
        else:
            self.skipped_in_row += 1

    def close_epoch(self, error: float, lr: float, scores: Mapping[str, float]) -> bool:
        """Add a row with these scores to the curves and begin the next epoch.

        Returns: whether the validation error is the best so far.
        """
        row = {"lr": lr, **scores}
        if self.epoch_count:
            row["train/loss"] = self.epoch_error / self.epoch_count
        if self.epoch_updates:
            row["train/grad_norm"] = self.epoch_gradient / self.epoch_updates
        self.curve.append(row)
        self.epoch_error, self.epoch_count, self.epoch_gradient, self.epoch_updates = 0.0, 0, 0.0, 0
        better = error < self.best_error
        self.epochs_since_best = 0 if better else self.epochs_since_best + 1
        if better:
            self.best_error, self.best_step, self.best_epoch = error, self.step, len(self.curve)
        return better


class TrainingState(Generic[Trained]):
    """A model in training with its optimizer, gradient scaler, best weights and progress."""

    def __init__(
        self, model: Trained, optimizer: torch.optim.Optimizer, scaler: torch.amp.GradScaler
    ) -> None:
        self.model, self.optimizer, self.scaler = model, optimizer, scaler
        self.progress = Progress()
        self.best: dict[str, Tensor] = {}

    def keep_best(self) -> None:
        """The weights as they are now are the best so far."""
        self.best = {name: tensor.detach().cpu().clone() for name, tensor in self.model.state_dict().items()}

    def pack(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Tensors and plain numbers of a checkpoint."""
        tensors = {f"model.{name}": tensor for name, tensor in self.model.state_dict().items()}
        tensors |= {f"best.{name}": tensor for name, tensor in self.best.items()}
        for index, moments in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{index}.{key}": tensor for key, tensor in moments.items()}
        numbers = asdict(self.progress)
        if not self.best:
            del numbers["best_error"]  # infinite, which JSON does not have
        slices = history_slices(self.model)  # they decide how dropout masks are drawn
        return tensors, {"progress": numbers, "scaler": self.scaler.state_dict(), "slices": slices}

    def unpack(self, tensors: Mapping[str, Tensor], numbers: Mapping[str, Any]) -> None:
        """Take over a checkpoint of the same run."""
        self.model.load_state_dict(_under(tensors, "model."))
        self.best = _under(tensors, "best.")
        moments: dict[int, dict[str, Tensor]] = {}
        for name, tensor in _under(tensors, "optimizer.").items():
            index, key = name.split(".", 1)
            moments.setdefault(int(index), {})[key] = tensor
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": moments, "param_groups": groups})
        if numbers["scaler"] and self.scaler.is_enabled():
            self.scaler.load_state_dict(numbers["scaler"])
        slice_history(self.model, numbers["slices"])
        self.progress = Progress(**numbers["progress"])

    def to_bytes(self) -> bytes:
        """All of it, for another process of this training."""
        tensors, numbers = self.pack()
        text = json.dumps(numbers, allow_nan=False).encode()
        plain = {name: tensor.detach().contiguous().cpu() for name, tensor in tensors.items()}
        return len(text).to_bytes(8, "little") + text + save(plain)

    def take_bytes(self, content: bytes) -> None:
        """Take over what `to_bytes` of another process gave."""
        size = int.from_bytes(content[:8], "little")
        self.unpack(load(content[8 + size :]), json.loads(content[8 : 8 + size]))


def _under(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
