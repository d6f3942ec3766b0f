"""Format raw: a folder of our own contract (docs/data.md), copied after every page of it was read.

Enters: the folder. Leaves: its files in another one; what is no part of the contract stays behind.
"""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa

from headway.data.facts import read_facts
from headway.data.importers.forewarn import warn_of_strays
from headway.data.importers.formats import Options
from headway.data.importers.imported import state_facts
from headway.data.importers.limits import require_folder
from headway.data.importers.write import Content, check_folder, write_facts
from headway.data.parquet import TIME, open_parquet, read_parquet
from headway.errors import InputError

SMALL = ("sensors.parquet", "edges.parquet", "covariates.parquet")


def copy_raw(source: Path, folder: Path, options: Options) -> tuple[Content, list[str]]:
    """Copy the contract's files into an empty folder; options change what dataset.yaml says.

    Returns: what was copied, and sentences on what was not.
    Raises: InputError for damaged files, and whatever preprocess would refuse.
    """
    require_folder(source)
    files = [path for path in sorted(source.glob("series*.parquet")) if _is_series(path.name)]
    files += [source / name for name in SMALL if (source / name).is_file()]
    if not (source / "series.parquet").is_file():
        raise InputError(f"{source} has no series.parquet; docs/data.md says what a data set needs")
    facts = read_facts(source / "dataset.yaml")
    for path in files:
        shutil.copyfile(path, folder / path.name)
    stated = replace(state_facts(facts, options, ""), source=facts.source)
    write_facts(folder / "dataset.yaml", stated)
    times = check_folder(folder, source)
    for path in files[1:]:
        _read_pages(folder / path.name)
    content = _count(folder, _read_pages(folder / "series.parquet"))
    names = {path.name for path in files} | {"dataset.yaml"}
    left = sorted(path.name for path in source.iterdir() if path.name not in names)
    remarks = [f"left behind, no part of the contract: {', '.join(left)}"] if left else []
    return content, remarks + warn_of_strays(times.utc, stated.step_minutes, source)


def _is_series(name: str) -> bool:
    return name == "series.parquet" or name.startswith("series_")


def _read_pages(path: Path) -> np.ndarray:
    """Decode every column, a few at a time, so that each page's checksum is compared; [cells, missing, zeros]."""
    file = open_parquet(path)
    names = [name for name in file.schema_arrow.names if name != TIME]
    counts = np.zeros(3, dtype=np.int64)
    width = max(1, 2**23 // max(1, file.metadata.num_rows))
    for first in range(0, len(names), width):
        for column in read_parquet(path, names[first : first + width]).columns:
            if not (pa.types.is_floating(column.type) or pa.types.is_integer(column.type)):
                continue
            values = column.to_numpy()
            counts += [len(values), np.isnan(values.astype(np.float64)).sum(), (values == 0).sum()]
    return counts


def _count(folder: Path, counts: np.ndarray) -> Content:
    times = read_parquet(folder / "series.parquet", [TIME])[TIME].to_pandas()
    cells = max(1, int(counts[0]))
    return Content(
        rows=len(times),
        sensors=tuple(
            str(sensor)
            for sensor in read_parquet(folder / "sensors.parquet", ["sensor_id"])["sensor_id"].to_pylist()
        ),
        first=str(times.min()),
        last=str(times.max()),
        missing=float(counts[1] / cells),
        zeros=float(counts[2] / cells),
        files=tuple(sorted(path.name for path in folder.iterdir())),
    )
