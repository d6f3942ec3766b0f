"""Format basicts: a folder of BasicTS.

Until version 0.5: desc.json and data.dat, float32 [time, node, feature]; features that tell the time are left out.
Since 1.0: meta.json and train_data.npy, val_data.npy, test_data.npy, [time, node], which follow each other in time.
Both may have adj_mx.pkl. Neither has dates: known data sets bring theirs, others need `--start`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from headway.data.facts import DatasetFacts
from headway.data.importers.formats import Options
from headway.data.importers.graph_files import adjacency_edges, pickled_adjacency
from headway.data.importers.imported import (
    Chained,
    Imported,
    Rows,
    numbered,
    regular_times,
    sensor_table,
    state_facts,
)
from headway.data.importers.known import DATA_SETS, Known
from headway.data.importers.limits import open_npy, require_file, require_folder
from headway.data.importers.pgt_json import load_json
from headway.data.parquet import listing
from headway.errors import InputError

PARTS = ("train_data.npy", "val_data.npy", "test_data.npy")
CLOCK = ("time of day", "day of week", "day of month", "day of year")


def read_basicts(source: Path, options: Options) -> Imported:
    """The first feature is the target, further ones that do not tell the time are further variables.

    Raises: InputError for absent keys, and files of another size than described.
    """
    require_folder(source)
    if (source / "desc.json").is_file():
        about = load_json(source / "desc.json")
        features = _one_array(source, about)
    elif (source / "meta.json").is_file():
        about = load_json(source / "meta.json")
        features = {_name(about.get("domain", "target")): _three_arrays(source)}
    else:
        raise InputError(f"{source} has neither desc.json nor meta.json")
    first = next(iter(features.values()))
    steps, count = first.shape
    known = _known(str(about.get("name", source.name)))
    facts = state_facts(_facts(about, known), options, f"BasicTS {about.get('name', source.name)}")
    if facts.step_minutes is None:
        raise InputError(f"{source}: 'frequency (minutes)' is not stated; say --step-minutes")
    start = options.start or (known.start if known else "")
    times = regular_times(start, steps, facts.step_minutes, facts.time_zone or "UTC")
    ids, remarks, edges = numbered(count), [], None
    if known and (steps, count) != known.shape:
        remarks.append(f"{known.name}: {steps} x {count} steps x sensors, published are {known.shape}")
    if (source / "adj_mx.pkl").exists():
        ids, edges, found = _graph(source / "adj_mx.pkl", ids)
        remarks += found
    return Imported(
        times=times,
        readings=features,
        sensors=sensor_table(ids),
        edges=edges,
        facts=facts,
        remarks=tuple(remarks),
    )


def _one_array(source: Path, about: dict[str, Any]) -> dict[str, Rows]:
    """Features of data.dat, memory-mapped."""
    shape = about.get("shape")
    if not (
        isinstance(shape, list) and len(shape) == 3 and all(type(side) is int and side > 0 for side in shape)
    ):
        raise InputError(f"{source}/desc.json: shape is {shape}; it must be [time, node, feature]")
    path = require_file(source / "data.dat")
    needed = 4 * shape[0] * shape[1] * shape[2]
    if path.stat().st_size != needed:
        raise InputError(f"{path} has {path.stat().st_size} bytes; float32 of shape {shape} has {needed}")
    names = about.get("feature_description") or ["target", *CLOCK][: shape[2]]
    if not isinstance(names, list) or len(names) != shape[2]:
        raise InputError(
            f"{source}/desc.json: feature_description names {names}; there are {shape[2]} features"
        )
    array = np.memmap(path, dtype="<f4", mode="r", shape=(shape[0], shape[1], shape[2]))
    kept: dict[str, Rows] = {
        _name(name): array[:, :, column] for column, name in enumerate(names) if name not in CLOCK
    }
    if not kept:
        raise InputError(f"{source}/desc.json: no feature but the time: {listing(names)}")
    return kept


def _three_arrays(source: Path) -> Rows:
    parts = [open_npy(source / name) for name in PARTS]
    parts = [part[:, :, 0] if part.ndim == 3 else part for part in parts]
    widths = {part.shape[1:] for part in parts}
    if len(widths) != 1 or len(widths.pop()) != 1:
        raise InputError(f"{source}: {listing(PARTS)} have shapes {[part.shape for part in parts]}")
    return Chained(parts=tuple(parts))


def _facts(about: dict[str, Any], known: Known | None) -> DatasetFacts:
    settings = {str(key).lower(): value for key, value in (about.get("regular_settings") or {}).items()}
    null = settings.get("null_val")
    ratio: Literal["7-1-2", "6-2-2"] = (
        "6-2-2" if settings.get("train_val_test_ratio") == [0.6, 0.2, 0.2] else "7-1-2"
    )
    minutes = about.get("frequency (minutes)")
    return DatasetFacts(
        unit=known.facts.unit if known else "",
        variable=_name(known.facts.variable if known else about.get("domain", "target")),
        time_zone=known.facts.time_zone if known else "",
        null_value=float(null) if isinstance(null, int | float) and np.isfinite(null) else None,
        split=ratio,
        step_minutes=float(minutes) if isinstance(minutes, int | float) else None,
    )


def _graph(path: Path, numbers: list[str]) -> tuple[list[str], pd.DataFrame, list[str]]:
    """Ids, where the adjacency has them, and edges."""
    matrix, names = pickled_adjacency(path, numbers)
    if len(names) != len(numbers):
        raise InputError(f"{path} is of {len(names)} sensors; the series has {len(numbers)}")
    edges, remarks = adjacency_edges(matrix, names, names, "weight", path)
    return names, edges, remarks


def _known(name: str) -> Known | None:
    return next((known for known in DATA_SETS if name.lower() in known.stems), None)


def _name(text: Any) -> str:
    """A variable's name that can be part of a file's."""
    return "-".join(str(text).lower().split()) or "target"
