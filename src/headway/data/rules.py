"""What counts as a reading, and how rows are brought onto the grid: decided for training, kept for use."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Duplicates = Literal["mean", "last", "error"]
OffGrid = Literal["error", "round"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """How rows are brought onto the grid, and from how many equal readings on a sensor is stuck; 0: never."""

    duplicates: Duplicates
    off_grid: OffGrid
    stuck_steps: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """Which readings are none: equal to `null`, or outside minimum..maximum; None for no such rule."""

    null: float | None
    minimum: float | None
    maximum: float | None


NO_BOUNDS = Bounds(null=None, minimum=None, maximum=None)
