"""What an importer hands over: a data set in memory, or within reach, in the terms of the raw contract.

Glossary: T rows (times) in file order, N sensors in the order of `sensors`; NaN = missing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
import pandas as pd

from headway.data.calendar import to_utc
from headway.data.facts import DatasetFacts, is_zone
from headway.data.importers.formats import Options
from headway.errors import InputError


@runtime_checkable
class Rows(Protocol):
    """Readings [T, N] that need not be in memory: a slice of rows at a time is asked for."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(T, N)."""
        ...

    def __getitem__(self, rows: slice, /) -> np.ndarray:
        """float [rows, N]."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Chained:
    """Readings of several sources of the same sensors, one after the other."""

    parts: tuple[Rows, ...]

    @property
    def shape(self) -> tuple[int, int]:
        """(T, N)."""
        return sum(part.shape[0] for part in self.parts), self.parts[0].shape[1]

    def __getitem__(self, rows: slice, /) -> np.ndarray:
        first, last, _ = rows.indices(self.shape[0])
        found, offset = [], 0
        for part in self.parts:
            begin, end = max(first - offset, 0), min(last - offset, part.shape[0])
            if begin < end:
                found.append(part[begin:end])
            offset += part.shape[0]
        return np.concatenate(found)


@dataclass(frozen=True, slots=True, kw_only=True)
class Imported:
    """One data set.

    Attributes:
        times: [T], naive civil time of `facts.time_zone`, or zone-aware.
        readings: variable -> [T, N]; the first is the target, the others are named as their files will be.
        sensors: sensor_id (str) and what else is known, N rows.
        edges: source, target (sensor ids), distance_m and/or weight; None where the source has no graph.
        covariates: `timestamp` and float columns; None for none.
        remarks: what the user should know of this source, a sentence each.
    """

    times: pd.DatetimeIndex
    readings: Mapping[str, Rows]
    sensors: pd.DataFrame
    facts: DatasetFacts
    edges: pd.DataFrame | None = None
    covariates: pd.DataFrame | None = None
    remarks: tuple[str, ...] = ()


def sensor_table(ids: list[str]) -> pd.DataFrame:
    """sensors.parquet of sensors of which only the names are known."""
    return pd.DataFrame({"sensor_id": pd.Series(ids, dtype=str)})


def numbered(sensors: int) -> list[str]:
    """Ids of sensors that have none: their numbers, as the published graphs write them."""
    return [str(number) for number in range(sensors)]


def regular_times(start: str, steps: int, minutes: float, zone: str) -> pd.DatetimeIndex:
    """UTC times of a source that has none: `start` is civil time of `zone`.

    Raises: InputError for a start that is no time, or a zone that is unknown.
    """
    first = parse_start(start)
    if not is_zone(zone):
        raise InputError(f"--time-zone {zone}: no zone of the tz database, e.g. Europe/London or UTC")
    seconds = np.array([first.timestamp()], dtype=np.int64)  # a naive Timestamp counts as UTC
    utc, _, nonexistent = to_utc(seconds, zone)
    if nonexistent.any():
        raise InputError(f"--start {start}: {zone} skips this time when its clocks go forward")
    step = pd.Timedelta(seconds=round(60 * minutes))
    origin = pd.Timestamp(int(utc[0]), unit="s", tz="UTC")
    return pd.date_range(origin, periods=steps, freq=step, unit="us")


def parse_start(start: str) -> pd.Timestamp:
    """A naive time.

    Raises: InputError where none was given, or it is no ISO 8601 time.
    """
    if not start:
        raise InputError("the source has no times; give the first row's with --start, e.g. 2018-01-01T00:00")
    try:
        first = pd.to_datetime(start, format="ISO8601")
    except ValueError:
        raise InputError(f"--start {start}: write ISO 8601, e.g. 2018-01-01T00:00") from None
    if first.tz is not None:
        raise InputError(f"--start {start}: write civil time without an offset, and the zone as --time-zone")
    return first


def in_microseconds(times: pd.DatetimeIndex, path: Path) -> pd.DatetimeIndex:
    """The same times in the unit of the files to be written.

    Raises: InputError for times that no calendar has.
    """
    try:
        return times.as_unit("us")
    except (ValueError, OverflowError) as error:
        raise InputError(f"{path} has times beyond any calendar: {error}") from None


def state_facts(known: DatasetFacts, options: Options, source: str) -> DatasetFacts:
    """What is known of a source, where the options do not say otherwise; `--null nan` is no number at all."""
    null = known.null_value if options.null is None else options.null
    return DatasetFacts(
        unit=options.unit or known.unit,
        variable=options.variable or known.variable,
        time_zone=options.time_zone or known.time_zone,
        null_value=None if null is None or np.isnan(null) else null,
        split=known.split,
        step_minutes=known.step_minutes if options.step_minutes is None else options.step_minutes,
        minimum=known.minimum,
        maximum=known.maximum,
        source=known.source or source,
        licence=known.licence,
        description=known.description,
    )
