"""Format pgt-zip: METR-LA.zip and PEMS-BAY.zip of PyTorch Geometric Temporal.

The archive holds node_values.npy [time, sensor, channel], whose first channel is the speed and whose second tells the
time of day, and adj_mat.npy, weights; PEMS-BAY's names begin with `pems_`. It has no ids and no times, and the
library's copy of PEMS-BAY is 11 steps shorter than the published one.
"""

from __future__ import annotations

import zipfile
from pathlib import Path

from headway.data.facts import DatasetFacts
from headway.data.importers.formats import Options
from headway.data.importers.graph_files import adjacency_edges, read_positions
from headway.data.importers.imported import Imported, numbered, regular_times, state_facts
from headway.data.importers.known import recognize
from headway.data.importers.limits import read_npz, require_file
from headway.data.parquet import listing
from headway.errors import InputError

FACTS = DatasetFacts(unit="mph", variable="speed", null_value=0.0, step_minutes=5.0)
PREFIXES = ("", "pems_")
SUFFIXES = (".zip",)


def read_pgt_zip(source: Path, options: Options) -> Imported:
    """Speeds and graph; sensors are numbers.

    Raises: InputError for damaged archives, names with folders, arrays of objects or of another shape.
    """
    prefix = _prefix(source)
    values = read_npz(source, f"{prefix}node_values", SUFFIXES)
    if values.ndim != 3 or not values.size:
        raise InputError(
            f"{source}: node_values has shape {values.shape}; it must be [time, sensor, channel]"
        )
    known, sentence = recognize(source, values.shape[:2])
    facts = state_facts(known.facts if known else FACTS, options, source.name)
    start = options.start or (known.start if known else "")
    times = regular_times(start, len(values), facts.step_minutes or 5.0, facts.time_zone or "UTC")
    ids = numbered(values.shape[1])
    sensors, remarks = read_positions(options.sensors, ids)
    edges, found = adjacency_edges(read_npz(source, f"{prefix}adj_mat", SUFFIXES), ids, ids, "weight", source)
    return Imported(
        times=times,
        readings={options.variable or "speed": values[:, :, 0]},
        sensors=sensors,
        edges=edges,
        facts=facts,
        remarks=tuple(remark for remark in (sentence, *remarks, *found) if remark),
    )


def _prefix(source: Path) -> str:
    """What the names in the archive begin with."""
    try:
        with zipfile.ZipFile(require_file(source, SUFFIXES)) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{source} is no readable archive, perhaps truncated: {error}") from None
    for prefix in PREFIXES:
        if {f"{prefix}node_values.npy", f"{prefix}adj_mat.npy"} <= set(names):
            return prefix
    raise InputError(
        f"{source} has {listing(names) or 'nothing'}; node_values.npy and adj_mat.npy are needed"
    )
