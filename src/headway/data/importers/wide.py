"""Format wide: a table with a time column and a column a sensor."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa

from headway.data.facts import DatasetFacts
from headway.data.importers.formats import Options
from headway.data.importers.graph_files import IDS, read_edges, read_positions
from headway.data.importers.imported import Imported, state_facts
from headway.data.importers.tables import TIME_NAMES, column_names, find_column, read_columns, read_times
from headway.errors import InputError

FACTS = DatasetFacts()


def read_wide(source: Path, options: Options) -> Imported:
    """Every column but the time is a sensor.

    Raises: InputError for a table without times or sensors, and cells that are no numbers.
    """
    names = column_names(source)
    time = find_column(source, names, options.time_column, TIME_NAMES, "--time-column")
    ids = [name for name in names if name != time]
    if not ids:
        raise InputError(f"{source} has no column beside {time!r}; the format wide has a column a sensor")
    try:
        table = read_columns(source, [time], ids, pa.float32())
    except InputError as error:
        if any(name.strip().lower() in IDS for name in ids):
            raise InputError(
                f"{error}\nIf each row is one reading of one sensor, the format is long"
            ) from None
        raise
    times = read_times(source, table[time], time, options.time_format)
    if times.has_duplicates:
        _refuse_long(source, ids)
    readings = np.empty((len(times), len(ids)), dtype=np.float32, order="F")
    for column, name in enumerate(ids):
        readings[:, column] = table[name].to_numpy()
    sensors, remarks = read_positions(options.sensors, ids)
    edges = None
    if options.edges:
        edges, found = read_edges(options.edges, ids, options.distance_unit)
        remarks += found
    return Imported(
        times=times,
        readings={options.variable or "target": readings},
        sensors=sensors,
        edges=edges,
        facts=state_facts(FACTS, options, source.name),
        remarks=tuple(remarks),
    )


def _refuse_long(source: Path, ids: list[str]) -> None:
    """A table whose times repeat and that has a column of ids: numbers as they are, they would pass for readings."""
    keys = [name for name in ids if name.strip().lower() in IDS]
    if keys:
        raise InputError(
            f"{source}: times repeat and a column is called {keys[0]!r}, so that each row seems to be one reading "
            f"of one sensor: that format is long. Is {keys[0]!r} a sensor? Then rename the column"
        )
