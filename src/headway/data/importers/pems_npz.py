"""Format pems-npz: PEMS03, PEMS04, PEMS07, PEMS08 as ASTGCN and its successors share them.

The archive has one array `data` [time, sensor, channel]: flow, and where there are three channels occupancy and
speed. It has no times, and no ids: sensors are numbers, unless `--sensors PEMS03.txt` lists their ids, one a line.
The list of distances (from, to, cost) is in kilometers for PEMS03 and PEMS07, in meters for PEMS04 and PEMS08;
no file says so.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pandas as pd

from headway.data.facts import DatasetFacts
from headway.data.importers.formats import Options
from headway.data.importers.graph_files import read_edges, read_positions
from headway.data.importers.imported import Imported, numbered, regular_times, sensor_table, state_facts
from headway.data.importers.known import compare_bytes, recognize
from headway.data.importers.limits import read_npz, require_file
from headway.errors import InputError

FACTS = DatasetFacts(unit="vehicles/5 min", variable="flow", split="6-2-2", step_minutes=5.0)
CHANNELS = ("flow", "occupancy", "speed")
UNITS = {"flow": "vehicles/5 min", "occupancy": "", "speed": "mph"}


def read_pems_npz(source: Path, options: Options) -> Imported:
    """`--variable` flow (as published), speed or occupancy is the target, the others are further variables.

    Raises: InputError for damaged archives, arrays of objects, and sources whose start is not known.
    """
    array = read_npz(source, "data")
    if array.ndim != 3 or array.shape[2] not in (1, 3) or not array.size:
        raise InputError(
            f"{source}: data has shape {array.shape}; it must be [time, sensor, 1 or 3 channels]"
        )
    names = _variables(array.shape[2], options.variable)
    known, sentence = recognize(source, array.shape[:2])
    stated = replace(known.facts if known else FACTS, variable=names[0], unit=UNITS[names[0]])
    facts = state_facts(stated, options, source.name)
    start = options.start or (known.start if known else "")
    times = regular_times(start, len(array), facts.step_minutes or 5.0, facts.time_zone or "UTC")
    sensors, found = _sensors(options.sensors, array.shape[1])
    remarks = [sentence, compare_bytes(source), *found]
    edges = None
    if options.edges:
        unit = options.distance_unit or (known.distance_unit if known else "")
        edges, found = read_edges(options.edges, list(sensors["sensor_id"]), unit)
        remarks += [compare_bytes(options.edges), *found]
    if facts.null_value is None and names[0] == "flow":
        remarks.append("a flow of 0 counts as a reading; benchmarks that mask zeros are --null 0")
    return Imported(
        times=times,
        readings={name: array[:, :, CHANNELS.index(name)] for name in names},
        sensors=sensors,
        edges=edges,
        facts=facts,
        remarks=tuple(remark for remark in remarks if remark),
    )


def _variables(channels: int, target: str) -> list[str]:
    there = CHANNELS[:channels]
    if target and target not in there:
        raise InputError(f"--variable {target}: the archive has {', '.join(there)}")
    return [target or there[0], *(name for name in there if name != (target or there[0]))]


def _sensors(path: Path | None, count: int) -> tuple[pd.DataFrame, list[str]]:
    """Numbers, ids of a list, or numbers with the positions of a table."""
    if path is None or path.suffix != ".txt":
        return read_positions(path, numbered(count))
    try:
        ids = require_file(path).read_text(encoding="utf-8").split()
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is no text in UTF-8: {error}") from None
    if len(ids) != count:
        raise InputError(f"{path} lists {len(ids)} sensors; the array has {count}")
    return sensor_table(ids), []
