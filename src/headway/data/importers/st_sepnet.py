"""Format st-sepnet: a folder of ST-SepNet: inflow.csv and outflow.csv (a column `date`, then a column a station)
and adj.csv, a matrix under a line of column numbers.

`--variable outflow` makes the outflow the target; the other file becomes a further variable.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from headway.data.facts import DatasetFacts
from headway.data.importers.formats import Options
from headway.data.importers.graph_files import adjacency_edges, read_positions
from headway.data.importers.imported import Imported, Rows, state_facts
from headway.data.importers.known import compare_bytes
from headway.data.importers.limits import require_folder
from headway.data.importers.pemsd7 import read_matrix
from headway.data.importers.wide import read_wide
from headway.errors import InputError

FLOWS = ("inflow", "outflow")
FACTS = DatasetFacts(unit="trips/step", variable="inflow", time_zone="UTC")


def read_st_sepnet(source: Path, options: Options) -> Imported:
    """Both flows at the same times, and the graph.

    Raises: InputError for absent files, and files of different times or stations.
    """
    require_folder(source)
    target = options.variable or FLOWS[0]
    there = [name for name in (target, *FLOWS) if (source / f"{name}.csv").is_file()]
    if target not in there:
        raise InputError(
            f"{source} has no {target}.csv; --variable names the target, one of {', '.join(FLOWS)}"
        )
    found = {name: read_wide(source / f"{name}.csv", Options()) for name in dict.fromkeys(there)}
    first = found[target]
    ids = list(first.sensors["sensor_id"])
    readings: dict[str, Rows] = {}
    for name, part in found.items():
        if list(part.sensors["sensor_id"]) != ids or not part.times.equals(first.times):
            raise InputError(f"{source}: {name}.csv has other times or stations than {target}.csv")
        readings[name] = next(iter(part.readings.values()))
    sensors, remarks = read_positions(options.sensors, ids)
    remarks += [compare_bytes(source / f"{name}.csv") for name in found]
    edges, matrix = None, source / "adj.csv"
    if matrix.is_file():
        edges, sentences = adjacency_edges(_square(matrix), ids, ids, "weight", matrix)
        remarks += sentences
    facts = state_facts(replace(FACTS, variable=target), options, f"ST-SepNet {source.name}")
    return Imported(
        times=first.times,
        readings=readings,
        sensors=sensors,
        edges=edges,
        facts=facts,
        remarks=tuple(remark for remark in remarks if remark),
    )


def _square(path: Path) -> np.ndarray:
    """The matrix, whose first line is column numbers: ST-SepNet's own reader takes it for a header."""
    return read_matrix(path, header_rows=1)
