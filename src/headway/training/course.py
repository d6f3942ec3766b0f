"""Section `train` of params.yaml, and the course it comes to on a data set: how many steps, which windows."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated

import numpy as np
from annotated_types import Ge, Gt, Interval
from jaxtyping import Int

from headway.data.order import (
    Order,
    group_origins,
    partition_bounds,
    partitioned_origins,
    spread_origins,
    steps_per_pass,
)
from headway.errors import InputError
from headway.training.schedule import Schedule, depends_on_length, learning_rate


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainParams:
    """Section `train` of params.yaml.

    Attributes:
        seed: of the first weights, the order of windows and dropout.
        batch_size: windows of one step, however few of them fit in memory at once.
        order: shuffled | partitioned | batches: see headway.data.order.
        partitions: parts of the series in time that the latter two shuffle within.
        epochs, epoch_steps: an epoch is `epoch_steps` steps, or one pass over the training windows if 0.
        max_steps: 0 for no limit but `epochs`.
        patience: epochs without a better validation error before training stops; 0: never.
        validation_windows: how many, evenly spread; 0: all.
        lr, schedule, warmup_steps, milestones, decay: see `learning_rate`.
        weight_decay: of matrices; vectors, embeddings and state-space constants have none.
        clip_norm: largest gradient norm; 0: unlimited.
        anchor_pull: weight of `AnchorMix.pull` in the loss.
    """

    seed: Annotated[int, Ge(0)]
    batch_size: Annotated[int, Ge(1)]
    order: Order
    partitions: Annotated[int, Ge(1)]
    epochs: Annotated[int, Ge(1)]
    epoch_steps: Annotated[int, Ge(0)]
    max_steps: Annotated[int, Ge(0)]
    patience: Annotated[int, Ge(0)]
    validation_windows: Annotated[int, Ge(0)]
    lr: Annotated[float, Gt(0)]
    schedule: Schedule
    warmup_steps: Annotated[int, Ge(0)]
    milestones: tuple[Annotated[int, Ge(1)], ...]
    decay: Annotated[float, Interval(gt=0, le=1)]
    weight_decay: Annotated[float, Ge(0)]
    clip_norm: Annotated[float, Ge(0)]
    anchor_pull: Annotated[float, Ge(0)]

    def without_length(self) -> TrainParams:
        """What the identity of a run holds: where the schedule allows it, more epochs continue fewer."""
        return self if depends_on_length(self.schedule) else replace(self, epochs=1)


class Course:
    """Which windows each step trains on, at which rate, and when an epoch closes."""

    def __init__(self, params: TrainParams, splits: dict[str, tuple[int, int]]) -> None:
        """`splits`: origins [first, last) of "train" and "validation". Raises: InputError where one is empty."""
        empty = [name for name in ("train", "validation") if splits[name][1] <= splits[name][0]]
        if empty:
            raise InputError(
                f"no window in split(s) {', '.join(empty)}: bring more data, shorten windows.history "
                "or windows.horizon, or set preprocess.purge: false"
            )
        self.params, self._train = params, splits["train"]
        self.validation = spread_origins(splits["validation"], params.validation_windows)
        windows = self._train[1] - self._train[0]
        self.epoch_steps = params.epoch_steps or steps_per_pass(windows, params.batch_size)
        steps = params.epochs * self.epoch_steps
        self.steps = min(steps, params.max_steps) if params.max_steps else steps

    def training(self) -> Int[np.ndarray, " window"]:
        """Every window that steps are made of, in order."""
        return np.arange(*self._train)

    def origins(self, step: int) -> Int[np.ndarray, " group"]:
        """Windows of step 0, 1, ..."""
        params = self.params
        match params.order:
            case "shuffled":
                return group_origins(self._train, params.batch_size, params.seed, step)
            case "partitioned":
                together = 1
            case "batches":
                together = max(1, params.batch_size // params.partitions)
        return partitioned_origins(
            self._train, params.batch_size, params.seed, step, params.partitions, together
        )

    def share(self, origins: Int[np.ndarray, " group"], rank: int, world: int) -> Int[np.ndarray, " share"]:
        """What one of `world` ranks takes of a group; together they take each window once."""
        if self.params.order == "shuffled":
            return origins[rank::world]
        first, last = self._own(rank, world)
        return origins[(origins >= first) & (origins < last)]

    def validation_share(self, rank: int, world: int) -> Int[np.ndarray, " share"]:
        """What one of `world` ranks judges of the validation windows; together they judge each once."""
        if self.params.order == "shuffled":
            return self.validation[rank::world]
        return np.array_split(self.validation, world)[rank]

    def parts(self, rank: int, world: int) -> list[tuple[int, int]]:
        """Origins [first, last) among which a rank's windows lie.

        Raises: InputError when there are more ranks than partitions.
        """
        share = self.validation_share(rank, world)
        judged = [(int(share[0]), int(share[-1]) + 1)] if len(share) else []
        return [self._train if self.params.order == "shuffled" else self._own(rank, world), *judged]

    def _own(self, rank: int, world: int) -> tuple[int, int]:
        partitions = self.params.partitions
        if world > partitions:
            raise InputError(
                f"train.partitions is {partitions}, and {world} ranks would train: at most one for each; "
                f"set runtime.cluster: local:{partitions}, or runtime.workers: {partitions} of a cluster that is "
                "there, or train.order: shuffled"
            )
        bounds = partition_bounds(self._train, partitions)
        mine = np.array_split(np.arange(partitions), world)[rank]
        return bounds[mine[0]], bounds[mine[-1] + 1]

    def learning_rate(self, update: int) -> float:
        """Rate of update 0, 1, ..."""
        params = self.params
        return learning_rate(
            update,
            schedule=params.schedule,
            peak=params.lr,
            warmup=params.warmup_steps,
            total=self.steps,
            epoch_steps=self.epoch_steps,
            milestones=params.milestones,
            decay=params.decay,
        )

    def closes_epoch(self, step: int) -> bool:
        """Whether validation follows the first `step` steps."""
        return step % self.epoch_steps == 0 or step == self.steps

    def is_over(self, step: int, epochs_since_best: int) -> bool:
        """Whether training ends after `step` steps."""
        patient = not self.params.patience or epochs_since_best < self.params.patience
        return step >= self.steps or not patient
