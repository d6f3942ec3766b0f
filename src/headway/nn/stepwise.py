"""Parts that change outside the optimizer: what they do is a function of the step, so a run can be resumed."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import nn


class Stepwise(nn.Module, ABC):
    """A module that training tells which step begins; evaluation never does."""

    @abstractmethod
    def begin_step(self, step: int) -> None:
        """Called before the windows of step 0, 1, ..., once however they are cut into pieces.

        What changes here lies in buffers, so a checkpoint holds it.
        """
