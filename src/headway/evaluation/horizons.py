"""How the steps of a forecast are called."""

from __future__ import annotations


def horizon_label(step: int, step_seconds: int) -> str:
    """`15min` for the third step (counted from 1) of five minutes."""
    return f"{horizon_minutes(step, step_seconds)}min"


def horizon_minutes(step: int, step_seconds: int) -> int | float:
    """How far ahead a step (counted from 1) lies; an integer wherever it is one."""
    whole, seconds = divmod(step * step_seconds, 60)
    return whole + seconds / 60 if seconds else whole
