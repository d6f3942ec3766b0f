"""Format largest: LargeST: HDF5 of flows written by pandas, a file a year; ca_meta.csv; ca_rn_adj.npy.

The source is one .h5 file, or a folder, of which all .h5 files are read in the order of their names. Metadata and
adjacency are `--sensors` and `--edges`, else the only *_meta.csv and *_rn_adj.npy beside the source. Rows of the
adjacency are rows of the metadata; its weights are those of the road network.
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pyarrow as pa

from headway.data.facts import DatasetFacts
from headway.data.importers.formats import Options
from headway.data.importers.graph_files import adjacency_edges, read_positions
from headway.data.importers.hdf import HdfFrame, read_frame
from headway.data.importers.imported import Chained, Imported, state_facts
from headway.data.importers.limits import open_npy, require_file
from headway.data.importers.tables import column_names, encode_text, find_column, read_columns
from headway.data.parquet import listing
from headway.errors import InputError

# The index has 105,120 rows in every year, those of the clock changes too: its clock is taken as written.
FACTS = DatasetFacts(
    unit="vehicles/step", variable="flow", time_zone="UTC", split="6-2-2", licence="CC BY-NC 4.0"
)


def read_largest(source: Path, options: Options) -> Imported:
    """Flows of all years, positions and graph.

    Raises: InputError for damaged files, years of different sensors, and an adjacency of another size.
    """
    paths = sorted(source.glob("*.h5")) if source.is_dir() else [require_file(source, (".h5", ".hdf5"))]
    if not paths:
        raise InputError(f"{source} has no .h5 file")
    frames = [read_frame(path) for path in paths]
    ids = frames[0].ids
    _require_same_sensors(paths, frames)
    beside = source if source.is_dir() else source.parent
    meta = options.sensors or _only(beside, "*_meta.csv")
    matrix = options.edges or _only(beside, "*_rn_adj.npy")
    sensors, remarks = read_positions(meta, ids)
    edges = None
    if matrix:
        if meta is None:
            raise InputError(f"{matrix} needs the metadata that name its rows: --sensors ca_meta.csv")
        edges, found = adjacency_edges(open_npy(matrix), _row_names(meta), ids, "weight", matrix)
        remarks += found
    remarks.append(
        "files that process_ca_his.ipynb wrote have 0 where a reading is missing: --null 0 for those"
    )
    times = frames[0].times.append([frame.times for frame in frames[1:]])
    return Imported(
        times=pd.DatetimeIndex(times),
        readings={options.variable or "flow": Chained(parts=tuple(frame.rows for frame in frames))},
        sensors=sensors,
        edges=edges,
        facts=state_facts(FACTS, options, ", ".join(path.name for path in paths)),
        remarks=tuple(remarks),
    )


def _require_same_sensors(paths: list[Path], frames: list[HdfFrame]) -> None:
    for path, frame in zip(paths[1:], frames[1:], strict=True):
        if frame.ids != frames[0].ids:
            others = sorted(set(frame.ids) ^ set(frames[0].ids))
            raise InputError(
                f"{path} has other sensors than {paths[0].name}, or in another order: {listing(others) or 'order'}"
            )


def _only(folder: Path, pattern: str) -> Path | None:
    found = sorted(folder.glob(pattern))
    if len(found) > 1:
        raise InputError(f"{folder} has {len(found)} files {pattern}: {listing(path.name for path in found)}")
    return found[0] if found else None


def _row_names(meta: Path) -> list[str]:
    """Sensors in the order of the metadata, which is that of the adjacency."""
    key = find_column(meta, column_names(meta), "", ("id", "sensor_id"), "a column ID")
    codes, texts = encode_text(meta, read_columns(meta, [key], [], pa.float64())[key], key, "no id")
    return [texts[code] for code in codes]
