"""Format pemsd7: PeMSD7(M) as STGCN shares it: V_228.csv, speeds without a header, a row a step, a column a sensor.

Only weekdays are in it: from Monday to Friday 288 rows a day, weekends left out. `--edges W_228.csv` is the matrix
of distances in meters; `--sensors` the list of stations, in the order of the columns.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.csv as pv

from headway.data.facts import DatasetFacts
from headway.data.importers.formats import Options
from headway.data.importers.graph_files import METERS, adjacency_edges, read_edges, read_positions
from headway.data.importers.imported import Imported, numbered, parse_start, state_facts
from headway.data.importers.known import PACIFIC, compare_bytes, recognize
from headway.data.importers.limits import require_file, require_memory
from headway.errors import InputError

FACTS = DatasetFacts(unit="mph", variable="speed", time_zone=PACIFIC, step_minutes=5.0)


def read_pemsd7(source: Path, options: Options) -> Imported:
    """Speeds of the weekdays from `--start`.

    Raises: InputError for cells that are no numbers, rows that do not fill days, a distance matrix of another size.
    """
    readings = read_matrix(source)
    known, sentence = recognize(source, (len(readings), readings.shape[1]))
    facts = state_facts(known.facts if known else FACTS, options, source.name)
    start = parse_start(options.start or (known.start if known else ""))
    times = _weekdays(start, len(readings), facts.step_minutes or 5.0)
    ids = numbered(readings.shape[1])
    sensors, found = read_positions(options.sensors, ids)
    remarks = [sentence, compare_bytes(source), "the times are those of weekdays only", *found]
    edges = None
    if options.edges:
        edges, found = _edges(options.edges, ids, options.distance_unit or "m")
        remarks += [compare_bytes(options.edges), *found]
    return Imported(
        times=times,
        readings={options.variable or "speed": readings},
        sensors=sensors,
        edges=edges,
        facts=facts,
        remarks=tuple(remark for remark in remarks if remark),
    )


def read_matrix(path: Path, header_rows: int = 0) -> np.ndarray:
    """A CSV of nothing but numbers, [row, column].

    Raises: InputError in the words of the parser, which names row and column.
    """
    require_memory(3 * require_file(path, (".csv",)).stat().st_size, path)
    with path.open("rb") as file:
        columns = file.readline().count(b",") + 1
    names = [str(column) for column in range(columns)]
    try:
        table = pv.read_csv(
            path,
            read_options=pv.ReadOptions(column_names=names, skip_rows=header_rows, use_threads=False),
            convert_options=pv.ConvertOptions(column_types=dict.fromkeys(names, pa.float64())),
        )
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{path} is no CSV of numbers: {error}") from None
    return np.column_stack([table[name].to_numpy() for name in names])


def _weekdays(start: pd.Timestamp, rows: int, minutes: float) -> pd.DatetimeIndex:
    day = round(1440 / minutes)
    if start != start.normalize() or start.dayofweek > 4:
        raise InputError(f"--start {start}: must be the midnight of a weekday")
    if rows % day:
        raise InputError(f"{rows} rows are no whole days of {day} steps; see --step-minutes")
    days = pd.bdate_range(start, periods=rows // day, unit="us")
    steps = pd.to_timedelta(np.arange(day) * minutes * 60, unit="s")
    return pd.DatetimeIndex((days.to_numpy()[:, None] + steps.to_numpy()[None, :]).ravel())


def _edges(path: Path, ids: list[str], unit: str) -> tuple[pd.DataFrame, list[str]]:
    with require_file(path).open("rb") as file:
        cells = file.readline().count(b",") + 1
    if path.suffix != ".csv" or cells <= 3 < len(ids):
        return read_edges(path, ids, unit)
    if unit not in METERS:
        raise InputError(f"--distance-unit {unit}: known are {', '.join(METERS)}")
    return adjacency_edges(METERS[unit] * read_matrix(path), ids, ids, "distance_m", path)
