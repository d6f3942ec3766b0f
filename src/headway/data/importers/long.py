"""Format long: a table with a row a reading: time, sensor, value, and further variables."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa

from headway.data.facts import DatasetFacts
from headway.data.importers.civil import settle_clock
from headway.data.importers.formats import Options
from headway.data.importers.graph_files import IDS, read_edges, read_positions
from headway.data.importers.imported import Imported, state_facts
from headway.data.importers.limits import require_memory
from headway.data.importers.pivot import lay_out, spread
from headway.data.importers.tables import (
    TIME_NAMES,
    column_names,
    encode_text,
    find_column,
    read_columns,
    read_times,
)
from headway.data.parquet import listing
from headway.errors import InputError

VALUES = ("value", "reading", "speed", "flow", "volume", "count")


def read_long(source: Path, options: Options) -> Imported:
    """One sensor and time a row; the target is `--value-column`, further variables are `--also`.

    Raises: InputError for absent columns, rows without a time or sensor, and values that are no numbers.
    """
    names = column_names(source)
    time = find_column(source, names, options.time_column, TIME_NAMES, "--time-column")
    sensor = find_column(source, names, options.sensor_column, IDS, "--sensor-column")
    value = _value_column(source, names, options, (time, sensor))
    for name in options.also:
        find_column(source, names, name, (), "--also")
    table = read_columns(source, [time, sensor], [value, *options.also], pa.float64())
    times = read_times(source, table[time], time, options.time_format)
    codes, ids = encode_text(source, table[sensor], sensor, "no sensor")
    times = settle_clock(source, times, codes, options.time_zone, time)
    layout = lay_out(times, codes, len(ids))
    require_memory(4 * len(layout.times) * len(ids) * (1 + len(options.also)), source)
    readings = {name: spread(layout, table[name].to_numpy()) for name in (value, *options.also)}
    sensors, remarks = read_positions(options.sensors, ids)
    remarks += _left_out(value, [name for name in names if name not in (time, sensor, value, *options.also)])
    edges = None
    if options.edges:
        edges, found = read_edges(options.edges, ids, options.distance_unit)
        remarks += found
    if layout.duplicates:
        remarks.append(
            f"{layout.duplicates} readings of a sensor at a time that has one already; kept, "
            "preprocess.duplicates settles them"
        )
    facts = state_facts(DatasetFacts(variable=value), options, source.name)
    return Imported(
        times=layout.times,
        readings=readings,
        sensors=sensors,
        edges=edges,
        facts=facts,
        remarks=tuple(remarks),
    )


def _left_out(value: str, names: Sequence[str]) -> list[str]:
    if not names:
        return []
    return [
        f"forecast: {value}; columns left out: {listing(names)} (--also brings a further variable, "
        "--value-column forecasts another)"
    ]


def _value_column(source: Path, names: Sequence[str], options: Options, taken: Sequence[str]) -> str:
    """The named column, the only one left, or one of a usual name."""
    left = [name for name in names if name not in taken and name not in options.also]
    if options.value_column or len(left) != 1:
        usual = [name for name in VALUES if name not in options.also]
        value = find_column(source, names, options.value_column, usual, "--value-column")
    else:
        value = left[0]
    chosen = [*taken, value, *options.also]
    twice = sorted({name for name in chosen if chosen.count(name) > 1})
    if twice:
        raise InputError(f"{source}: column {listing(twice)} is asked for twice; there are {listing(names)}")
    return value
