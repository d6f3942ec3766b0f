"""Format metr-la: METR-LA, PEMS-BAY and kin, as pandas wrote them to HDF5: times, sensor ids, one variable."""

from __future__ import annotations

from pathlib import Path

from headway.data.facts import DatasetFacts
from headway.data.importers.formats import Options
from headway.data.importers.graph_files import read_edges, read_positions
from headway.data.importers.hdf import read_frame
from headway.data.importers.imported import Imported, state_facts
from headway.data.importers.known import compare_bytes, recognize

FACTS = DatasetFacts(variable="speed")


def read_metr_la(source: Path, options: Options) -> Imported:
    """The frame's columns are sensors, its index the times.

    The graph is DCRNN's: adj_mx.pkl (weights), or its list of distances (from, to, cost in meters).

    Raises: InputError for a file that is damaged, holds no frame, or objects.
    """
    frame = read_frame(source)
    known, sentence = recognize(source, frame.rows.shape)
    remarks = [sentence, compare_bytes(source)]
    sensors, found = read_positions(options.sensors, frame.ids)
    remarks += found
    edges = None
    if options.edges:
        edges, found = read_edges(options.edges, frame.ids, options.distance_unit or "m")
        remarks += [compare_bytes(options.edges), *found]
    return Imported(
        times=frame.times,
        readings={options.variable or "speed": frame.rows},
        sensors=sensors,
        edges=edges,
        facts=state_facts(known.facts if known else FACTS, options, source.name),
        remarks=tuple(remark for remark in remarks if remark),
    )
