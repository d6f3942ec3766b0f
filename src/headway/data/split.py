"""Which windows train, validate and test, and which lags behind them may be read.

Enters: the number of steps and section `windows`. Leaves: origins of the three splits, lags in steps.

Glossary: a window start s has origin t = s + history; its history is rows [t - history, t), its target rows
[t, t + horizon). There are S = T - history - horizon + 1 starts.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Ge, Interval

from headway.data.calendar import DAY, HOUR, WEEK, covers_two_weeks
from headway.data.holidays import HOLIDAY, NONE
from headway.errors import InputError

RATIOS = {"7-1-2": (7, 1, 2), "6-2-2": (6, 2, 2)}
UNITS = {"min": 60, "h": HOUR, "d": DAY, "w": WEEK}


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowsParams:
    """Section `windows` of params.yaml; lags are text such as 1d, 1w, 12h, 90min.

    A covariate known ahead is read at step s as of s + horizon: the last `horizon` steps of a history then hold its
    values at the steps to be forecast.
    """

    history: Annotated[int, Ge(1)]
    horizon: Annotated[int, Ge(1)]
    context: tuple[str, ...]
    trailing_weeks: Annotated[int, Interval(ge=0, le=52)]
    target: str
    inputs: tuple[str, ...]
    covariates: tuple[str, ...]
    future_covariates: tuple[str, ...]
    holidays: str

    def covariate_columns(self) -> tuple[str, ...]:
        """What the columns of the prepared covariates are: past ones, then those read ahead."""
        ahead = [*self.future_covariates, *([HOLIDAY] if self.holidays != NONE else [])]
        return (*self.covariates, *(f"{name} ahead" for name in ahead))


@dataclass(frozen=True, slots=True, kw_only=True)
class Lags:
    """Lags in steps; `switched_off` says of each key whose lags are dropped why."""

    context: tuple[int, ...]
    context_names: tuple[str, ...]
    trailing: tuple[int, ...]
    trailing_days: tuple[int, ...]
    switched_off: dict[str, str]


def split_origins(
    steps: int, history: int, horizon: int, ratio: Literal["7-1-2", "6-2-2"], purge: bool
) -> dict[str, tuple[int, int]]:
    """Origins [first, last) of each split: counts of starts rounded half up, the test gets the rest.

    `purge` drops the first history + horizon - 1 starts of validation and test, so no step is shared.

    Raises: InputError with the arithmetic when a split is empty or shorter than one history.
    """
    starts = steps - history - horizon + 1
    if starts < 1:
        raise InputError(
            f"the series has {steps} steps, fewer than one window of {history} + {horizon} "
            "(windows.history + windows.horizon); shorten the window or bring more data"
        )
    train, validation, _ = ((2 * part * starts + 10) // 20 for part in RATIOS[ratio])
    margin = history + horizon - 1 if purge else 0
    bounds = {
        "train": (0, train),
        "validation": (train + margin, train + validation),
        "test": (train + validation + margin, starts),
    }
    counted = ", ".join(f"{name} {max(0, last - first)}" for name, (first, last) in bounds.items())
    short = [name for name, (first, last) in bounds.items() if last - first < history]
    if short:
        raise InputError(
            f"{steps} steps make {starts} windows of {history} + {horizon}, split {ratio}"
            f"{f' with {margin} purged at each border' if purge else ''} into {counted}: windows.history "
            f"({history} steps) is longer than {' and '.join(short)}; shorten it or bring more data"
        )
    return {name: (first + history, last + history) for name, (first, last) in bounds.items()}


def resolve_lags(windows: WindowsParams, step: int, training_rows: int) -> Lags:
    """Text lags to steps of `step` seconds.

    A context lag longer than half of the training rows is switched off: it would be seen by too few training
    windows to be learned from. So are lags of a day or more, and the trailing weeks, where training covers less
    than two weeks: each day was seen once, and when a day is like the one before cannot be told from that. A
    trailing lag shorter than the horizon would read the future and is left out.

    Raises: InputError listing each context lag that is no lag, no multiple of the step, or shorter than the
    horizon.
    """
    _require_history_ahead(windows)
    problems: list[str] = []
    kept: dict[str, int] = {}
    off: dict[str, str] = {}
    too_short = _too_short_for_days(training_rows, step)
    for text in windows.context:
        seconds = _lag_seconds(text)
        if seconds is None:
            problems.append(f"{text!r} is not a lag; write e.g. 1d, 1w, 12h, 90min")
        elif seconds % step:
            problems.append(f"{text} is no multiple of the step of {describe_seconds(step)}")
        elif seconds // step < windows.horizon:
            problems.append(
                f"{text} is {seconds // step} steps, shorter than the horizon of {windows.horizon}: "
                "it would read the future"
            )
        elif seconds // step in kept.values():
            problems.append(f"{text} is listed twice")
        elif seconds >= DAY and too_short:
            off[f"windows.context: {text}"] = too_short
        elif 2 * (seconds // step) > training_rows:
            off[f"windows.context: {text}"] = (
                f"{seconds // step} steps are more than half of the {training_rows} training steps"
            )
        else:
            kept[text] = seconds // step
    if problems:
        raise InputError.from_problems("windows.context (use [] for none):", problems)
    weeks = windows.trailing_weeks
    if weeks and too_short:
        off[f"windows.trailing_weeks: {weeks}"], weeks = too_short, 0
    return Lags(
        context=tuple(kept.values()),
        context_names=tuple(kept),
        trailing=_multiples(WEEK, weeks, step, windows.horizon),
        trailing_days=_multiples(DAY, 7 if weeks else 0, step, windows.horizon),
        switched_off=off,
    )


def _too_short_for_days(training_rows: int, step: int) -> str:
    if covers_two_weeks(training_rows, step):
        return ""
    return f"training covers {training_rows * step / DAY:.1f} days, fewer than two weeks"


def _require_history_ahead(windows: WindowsParams) -> None:
    if windows.covariate_columns() != windows.covariates and windows.history < windows.horizon:
        raise InputError(
            f"windows.future_covariates and windows.holidays are read over the last {windows.horizon} steps "
            f"(windows.horizon) of a history; windows.history has {windows.history}: lengthen it"
        )


def describe_seconds(seconds: int) -> str:
    """A duration in its largest whole unit: 300 -> "5 min"."""
    for name, size in reversed(UNITS.items()):
        if seconds % size == 0:
            return f"{seconds // size} {name}"
    return f"{seconds} s"


def _lag_seconds(text: str) -> int | None:
    match = re.fullmatch(r"([1-9]\d*)(min|h|d|w)", text)
    return int(match[1]) * UNITS[match[2]] if match else None


def _multiples(unit: int, count: int, step: int, horizon: int) -> tuple[int, ...]:
    if unit % step:
        return ()
    return tuple(number * unit // step for number in range(1, count + 1) if number * unit // step >= horizon)
