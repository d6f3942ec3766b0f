"""An imported data set as data/raw/<name>/: written in pieces, checked by the reader of preprocess.

Enters: `Imported`. Leaves: the folder, whole or not at all, and what it holds.
"""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from ruamel.yaml import YAML

from headway.data.facts import DatasetFacts, read_facts
from headway.data.importers.imported import Imported, Rows
from headway.data.parquet import TIME, listing, read_times
from headway.data.raw import read_raw
from headway.errors import InputError

GROUP_CELLS = 2**26  # of one row group, 256 MiB; METR-LA has 7e6 cells, all of PeMS 1.2e9
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass(frozen=True, slots=True, kw_only=True)
class Content:
    """What was written, for the user.

    Attributes:
        first, last: of the times, as they are written.
        missing, zeros: shares of the cells of the target.
    """

    rows: int
    sensors: int
    first: str
    last: str
    missing: float
    zeros: float
    files: tuple[str, ...]


def write_raw(folder: Path, imported: Imported, source: Path) -> Content:
    """Write the files of the contract into an empty folder, then read them as preprocess will.

    Raises: InputError in the words of the source: names that cannot be used, infinite readings, and whatever
        preprocess would refuse.
    """
    problems = _name_problems(imported)
    if problems:
        raise InputError.from_problems(f"{source} cannot be imported:", problems)
    counts = np.zeros(3, dtype=np.int64)
    for index, (variable, rows) in enumerate(imported.readings.items()):
        file = folder / ("series.parquet" if index == 0 else f"series_{variable}.parquet")
        found = _write_series(file, imported.times, list(imported.sensors["sensor_id"]), rows, source)
        counts = found if index == 0 else counts
    _write_frame(folder / "sensors.parquet", imported.sensors)
    if imported.edges is not None:
        _write_frame(folder / "edges.parquet", imported.edges)
    if imported.covariates is not None:
        _write_frame(folder / "covariates.parquet", imported.covariates)
    write_facts(folder / "dataset.yaml", imported.facts)
    check_folder(folder, source)
    cells = max(1, int(counts[0]))
    return Content(
        rows=len(imported.times),
        sensors=len(imported.sensors),
        first=str(imported.times.min()),
        last=str(imported.times.max()),
        missing=float(counts[1] / cells),
        zeros=float(counts[2] / cells),
        files=tuple(sorted(path.name for path in folder.iterdir())),
    )


def write_facts(path: Path, facts: DatasetFacts) -> None:
    """dataset.yaml with the keys that say something."""
    default = asdict(DatasetFacts())
    stated: dict[str, Any] = {
        key: value
        for key, value in asdict(facts).items()
        if value != default[key] or key in ("variable", "split")
    }
    with path.open("w", encoding="utf-8") as file:
        yaml = YAML(typ="safe", pure=True)
        yaml.default_flow_style = False
        yaml.width = 1000
        yaml.dump(stated, file)


def check_folder(folder: Path, source: Path) -> None:
    """Read what was written as preprocess reads it.

    Raises: InputError about the source: the folder is not there yet for its user.
    """
    try:
        read_facts(folder / "dataset.yaml")
        raw = read_raw(folder, (), (), drop=False)
        for path in sorted(folder.glob("series*.parquet")):
            read_times(path, raw.zone)
    except InputError as error:
        text = str(error).replace(f"{folder}/", "").replace(str(folder), source.name)
        raise InputError(f"{source} cannot be imported as it is: {text}") from None


def _name_problems(imported: Imported) -> list[str]:
    ids = [str(sensor) for sensor in imported.sensors["sensor_id"]]
    problems = []
    if not ids:
        problems.append("it has no sensor")
    if len(imported.times) < 2:
        problems.append(f"it has {len(imported.times)} row(s); a series needs more")
    twice = sorted({sensor for sensor in ids if ids.count(sensor) > 1}) if len(set(ids)) < len(ids) else []
    if twice:
        problems.append(f"sensors of the same name: {listing(twice)}")
    wrong = [repr(sensor) for sensor in ids if not sensor.strip() or sensor == TIME or "\0" in sensor]
    if wrong:
        problems.append(f"names that no sensor can have: {listing(wrong)}")
    problems += [
        f"{variable!r} cannot be part of a file's name; use letters, digits, '.', '_' and '-'"
        for variable in list(imported.readings)[1:]
        if not NAME.fullmatch(variable)
    ]
    return problems


def _write_series(
    path: Path, times: pd.DatetimeIndex, ids: list[str], rows: Rows, source: Path
) -> np.ndarray:
    """Write readings in row groups; returns [cells, missing, zeros]."""
    assert rows.shape == (len(times), len(ids)), (rows.shape, len(times), len(ids))
    stamps = times.as_unit("us")
    kind = pa.timestamp("us", tz=None if times.tz is None else "UTC")
    schema = pa.schema([(TIME, kind), *((sensor, pa.float32()) for sensor in ids)])
    height = max(1, GROUP_CELLS // len(ids))
    counts = np.zeros(3, dtype=np.int64)
    with pq.ParquetWriter(path, schema, compression="zstd", write_page_checksum=True) as writer:
        for first in range(0, len(times), height):
            with np.errstate(over="ignore"):  # beyond float32 is infinite, refused below
                block = np.asfortranarray(rows[first : first + height], dtype=np.float32)
            infinite = np.argwhere(np.isinf(block))
            if len(infinite):
                places = [f"{ids[column]} in row {first + row}" for row, column in infinite[:6]]
                raise InputError(
                    f"{source}: infinite readings: {listing(places, 5)}; write missing ones as NaN"
                )
            counts += [block.size, np.isnan(block).sum(), (block == 0).sum()]
            columns = [pa.array(stamps[first : first + height], type=kind)]
            columns += [pa.array(block[:, column]) for column in range(len(ids))]
            writer.write_table(pa.Table.from_arrays(columns, schema=schema), row_group_size=height)
    return counts


def _write_frame(path: Path, frame: pd.DataFrame) -> None:
    pq.write_table(
        pa.Table.from_pandas(frame, preserve_index=False).replace_schema_metadata(None),
        path,
        compression="zstd",
        write_page_checksum=True,
    )
