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
from jaxtyping import Float
from ruamel.yaml import YAML

from headway.data.facts import DatasetFacts, read_facts
from headway.data.importers.forewarn import warn_of_sensors, warn_of_strays
from headway.data.importers.imported import Imported
from headway.data.parquet import TIME, Times, listing, read_times
from headway.data.raw import read_raw
from headway.errors import InputError

GROUP_CELLS = 2**26  # of one row group, 256 MiB; METR-LA has 7e6 cells, all of PeMS 1.2e9
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass(frozen=True, slots=True, kw_only=True)
class Content:
    """What was written, for the user.

    Attributes:
        sensors: their ids.
        first, last: of the times, as they are written.
        missing, zeros: shares of the cells of the target.
    """

    rows: int
    sensors: tuple[str, ...]
    first: str
    last: str
    missing: float
    zeros: float
    files: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """What was found in the readings of one file while they were written.

    Attributes:
        nulls: readings of the null number, written as NaN.
        span: [2, N] least and largest reading that counts of each sensor, NaN where there is none.
    """

    cells: int
    missing: int
    zeros: int
    nulls: int
    span: Float[np.ndarray, "2 sensor"]


def write_raw(
    folder: Path, imported: Imported, source: Path, null: float | None
) -> tuple[Content, list[str]]:
    """Write the files of the contract into an empty folder, then read them as preprocess will.

    Args: null: the number that means "no reading" in the whole source. In the target it stays, and dataset.yaml
        says it; in further variables, of which dataset.yaml does not speak, it becomes NaN.
    Returns: what was written, and sentences on what was changed and what preprocess will refuse.
    Raises: InputError in the words of the source: names that cannot be used, infinite readings, and whatever
        preprocess would refuse.
    """
    problems = _name_problems(imported)
    if problems:
        raise InputError.from_problems(f"{source} cannot be imported:", problems)
    written, remarks = _write_files(folder, imported, source, null)
    times = check_folder(folder, source)
    ids = tuple(str(sensor) for sensor in imported.sensors["sensor_id"])
    remarks += warn_of_strays(times.utc, imported.facts.step_minutes, source)
    remarks += warn_of_sensors(written.span, ids)
    cells = max(1, written.cells)
    content = Content(
        rows=len(imported.times),
        sensors=ids,
        first=str(imported.times.min()),
        last=str(imported.times.max()),
        missing=written.missing / cells,
        zeros=written.zeros / cells,
        files=tuple(sorted(path.name for path in folder.iterdir())),
    )
    return content, remarks


def _write_files(
    folder: Path, imported: Imported, source: Path, null: float | None
) -> tuple[Written, list[str]]:
    """What was found in the target, and sentences on what was changed in further variables."""
    target, *further = imported.readings
    written = _write_series(
        folder / "series.parquet", imported, target, source, null=imported.facts.null_value, keep=True
    )
    remarks = []
    for variable in further:
        path = folder / f"series_{variable}.parquet"
        nulls = _write_series(path, imported, variable, source, null=null, keep=False).nulls
        if nulls:
            remarks.append(f"{nulls} readings of {variable} are {null:g}, written as missing (--null)")
    _write_frame(folder / "sensors.parquet", imported.sensors)
    if imported.edges is not None:
        _write_frame(folder / "edges.parquet", imported.edges)
    if imported.covariates is not None:
        _write_frame(folder / "covariates.parquet", imported.covariates)
    write_facts(folder / "dataset.yaml", imported.facts)
    return written, remarks


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


def check_folder(folder: Path, source: Path) -> Times:
    """Read what was written as preprocess reads it.

    Returns: times of series.parquet.
    Raises: InputError about the source: the folder is not there yet for its user.
    """
    try:
        read_facts(folder / "dataset.yaml")
        raw = read_raw(folder, (), (), drop=False)
        times = {path.name: read_times(path, raw.zone) for path in sorted(folder.glob("series*.parquet"))}
    except InputError as error:
        text = str(error).replace(f"{folder}/", "").replace(str(folder), source.name)
        raise InputError(f"{source} cannot be imported as it is: {text}") from None
    return times["series.parquet"]


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
    path: Path, imported: Imported, variable: str, source: Path, *, null: float | None, keep: bool
) -> Written:
    """Write readings in row groups; the null number is kept, or written as NaN."""
    times, rows, ids = imported.times, imported.readings[variable], list(imported.sensors["sensor_id"])
    assert rows.shape == (len(times), len(ids)), (rows.shape, len(times), len(ids))
    stamps = times.as_unit("us")
    kind = pa.timestamp("us", tz=None if times.tz is None else "UTC")
    schema = pa.schema([(TIME, kind), *((sensor, pa.float32()) for sensor in ids)])
    height = max(1, GROUP_CELLS // len(ids))
    counts = np.zeros(4, dtype=np.int64)
    least, largest = np.full((2, len(ids)), np.nan, dtype=np.float32)
    with pq.ParquetWriter(path, schema, compression="zstd", write_page_checksum=True) as writer:
        for first in range(0, len(times), height):
            with np.errstate(over="ignore"):  # beyond float32 is infinite, refused below
                block = np.asfortranarray(rows[first : first + height], dtype=np.float32)
            _refuse_infinite(block, ids, first, source)
            nulls = np.zeros(0, dtype=bool) if null is None else block == np.float32(null)
            believed = block if null is None else np.where(nulls, np.float32(np.nan), block)
            least = np.fmin(least, np.fmin.reduce(believed, axis=0))
            largest = np.fmax(largest, np.fmax.reduce(believed, axis=0))
            block = block if keep else np.asfortranarray(believed)
            counts += [block.size, np.isnan(block).sum(), (block == 0).sum(), nulls.sum()]
            columns = [pa.array(stamps[first : first + height], type=kind)]
            columns += [pa.array(block[:, column]) for column in range(len(ids))]
            writer.write_table(pa.Table.from_arrays(columns, schema=schema), row_group_size=height)
    cells, missing, zeros, found = (int(count) for count in counts)
    return Written(cells=cells, missing=missing, zeros=zeros, nulls=found, span=np.stack([least, largest]))


def _refuse_infinite(block: np.ndarray, ids: list[str], first: int, source: Path) -> None:
    infinite = np.argwhere(np.isinf(block))
    if len(infinite):
        places = [f"{ids[column]} in row {first + row}" for row, column in infinite[:6]]
        raise InputError(f"{source}: infinite readings: {listing(places, 5)}; write missing ones as NaN")


def _write_frame(path: Path, frame: pd.DataFrame) -> None:
    pq.write_table(
        pa.Table.from_pandas(frame, preserve_index=False).replace_schema_metadata(None),
        path,
        compression="zstd",
        write_page_checksum=True,
    )
