"""Format pems-station: Caltrans PeMS "Station 5-Minute" text files, .txt or .txt.gz, a file a day and district.

Lines have no header: timestamp (MM/DD/YYYY HH:MM:SS, local), station, district, freeway, direction, lane type,
station length, samples, percent observed, total flow, average occupancy, average speed, then five fields a lane.
Readings of lines with 0 percent observed are PeMS's own imputation; they are left out.
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.csv as pv

from headway.data.facts import DatasetFacts
from headway.data.importers.civil import settle_clock
from headway.data.importers.formats import Options
from headway.data.importers.graph_files import read_edges, read_positions
from headway.data.importers.imported import Imported, state_facts
from headway.data.importers.known import PACIFIC
from headway.data.importers.limits import GIB, require_file, require_memory
from headway.data.importers.pivot import lay_out, spread
from headway.errors import InputError

FIXED = 12  # fields before those of the lanes
VARIABLES = {"speed": 11, "flow": 9, "occupancy": 10}
UNITS = {"speed": "mph", "flow": "vehicles/5 min", "occupancy": ""}
MAX_TEXT = 2 * GIB  # of one file, decompressed; a day of the largest district has 0.3
MAX_LINE = 2**16  # bytes; a line without end is no station file
TIME = "%m/%d/%Y %H:%M:%S"


def read_pems_station(source: Path, options: Options) -> Imported:
    """`--variable` speed, flow or occupancy is the target (speed by default), the others further variables.

    Raises: InputError naming the file and the line that is cut short or holds something else.
    """
    target = options.variable or "speed"
    if target not in VARIABLES:
        raise InputError(f"--variable {target}: known are {', '.join(VARIABLES)}")
    paths = sorted(source.glob("*.txt*")) if source.is_dir() else [source]
    if not paths:
        raise InputError(f"{source} has no .txt or .txt.gz file")
    zone = options.time_zone or PACIFIC
    lines = pd.concat([_read_day(path, zone) for path in paths], ignore_index=True)
    imputed = np.asarray(lines["observed"] == 0)
    codes, stations = pd.factorize(lines["station"], sort=True)
    ids = [str(station) for station in stations]
    layout = lay_out(pd.DatetimeIndex(lines["time"]), np.asarray(codes, dtype=np.int64), len(ids))
    require_memory(4 * len(VARIABLES) * len(layout.times) * len(ids), source)
    names = [target, *(name for name in VARIABLES if name != target)]
    readings = {
        name: spread(layout, np.where(imputed, np.nan, lines[name].to_numpy(dtype=float))) for name in names
    }
    sensors, remarks = read_positions(options.sensors, ids)
    edges = None
    if options.edges:
        edges, found = read_edges(options.edges, ids, options.distance_unit)
        remarks += found
    if imputed.any():
        share = f"{int(imputed.sum())} of {len(lines)}"
        remarks.append(f"{share} readings are PeMS's imputation (0 % observed): left out")
    known = DatasetFacts(unit=UNITS[target], variable=target, time_zone=zone, step_minutes=5.0)
    return Imported(
        times=layout.times,
        readings=readings,
        sensors=sensors,
        edges=edges,
        facts=state_facts(known, options, f"Caltrans PeMS, {paths[0].name}"),
        remarks=tuple(remarks),
    )


def _read_day(path: Path, zone: str) -> pd.DataFrame:
    """time (UTC), station, observed, speed, flow, occupancy of one file, whose clock is that of `zone`."""
    text = b"".join(_head_fields(path))
    if not text:
        raise InputError(f"{path} has no lines")
    require_memory(3 * len(text), path)
    names = [str(field) for field in range(FIXED)]
    floats = {"8": "observed", **{str(field): name for name, field in VARIABLES.items()}}
    types = {"0": pa.timestamp("s"), "1": pa.int64(), **dict.fromkeys(floats, pa.float64())}
    try:
        table = pv.read_csv(
            pa.BufferReader(text),
            read_options=pv.ReadOptions(column_names=names, use_threads=False),
            convert_options=pv.ConvertOptions(
                column_types=types, include_columns=list(types), timestamp_parsers=[TIME]
            ),
        )
    except pa.ArrowException as error:
        raise InputError(f"{path} is no station file: {error} (columns count from 0, lines from 1)") from None
    frame: pd.DataFrame = table.rename_columns(["time", "station", *floats.values()]).to_pandas()
    empty = np.flatnonzero(np.asarray(frame["time"].isna() | frame["station"].isna()))
    if len(empty):
        raise InputError(f"{path}: line {empty[0] + 1} has no time or no station")
    stations = frame["station"].to_numpy(dtype=np.int64)
    times = settle_clock(path, pd.DatetimeIndex(frame["time"]), stations, zone, "timestamp", headed=False)
    return frame.assign(time=times)


def _head_fields(path: Path) -> Iterator[bytes]:
    """The first fields of each line; the lanes are as many as the widest station has."""
    packed = require_file(path, (".txt", ".gz")).suffix == ".gz"
    read = 0
    try:
        with gzip.open(path, "rb") if packed else path.open("rb") as file:
            for number, line in enumerate(iter(lambda: file.readline(MAX_LINE), b""), start=1):
                read += len(line)
                if read > MAX_TEXT:
                    raise InputError(f"{path} holds more than {MAX_TEXT / GIB:.0f} GiB of text")
                fields = line.rstrip(b"\r\n").split(b",", FIXED)
                if len(fields) < FIXED:
                    raise InputError(
                        f"{path}: line {number} has {len(fields)} fields; {FIXED} or more are due"
                    )
                yield b",".join(fields[:FIXED]) + b"\n"
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{path} is damaged or cut short: {error}") from None
