"""Tiny files of foreign formats, laid out as the published ones are; and an import of them."""

from __future__ import annotations

import gzip
import json
import pickle  # noqa: TID251 - adj_mx.pkl is one
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from headway.commands.importing import import_data
from headway.data.importers.formats import Options
from headway.errors import InputError
from worlds import daily_readings

IDS = ["773869", "767541", "767542"]
START = "2012-03-01"


def bring(form: str, source: Path, **options: Any) -> Path:
    """Import a source as raw/city beside it; the folder."""
    out = source.parent / "raw"
    import_data(form, source, "city", out, Options(**options), replace=True)
    assert sorted(path.name for path in out.iterdir()) == ["city"], "nothing else is left"
    return out / "city"


def refusal(form: str, source: Path, **options: Any) -> str:
    """The message of an import that fails, and leaves nothing."""
    out = source.parent / "raw"
    with pytest.raises(InputError) as caught:
        import_data(form, source, "city", out, Options(**options), replace=False)
    assert not out.exists() or not list(out.iterdir())
    return str(caught.value)


def table(folder: Path, name: str) -> pd.DataFrame:
    """A file of an imported folder, its page checksums verified."""
    return pq.read_table(folder / f"{name}.parquet", page_checksum_verification=True).to_pandas()


def readings(folder: Path, name: str = "series") -> np.ndarray:
    """Readings [row, sensor] of an imported folder."""
    return table(folder, name).drop(columns="timestamp").to_numpy()


def times(steps: int, minutes: int = 5) -> pd.DatetimeIndex:
    return pd.date_range(START, periods=steps, freq=f"{minutes}min", unit="ns")


def write_hdf(
    path: Path,
    values: np.ndarray,
    *,
    ids: list[Any] | None = None,
    kind: str = "datetime64",
    index: np.ndarray | None = None,
    change: Callable[[Any], None] | None = None,
) -> Path:
    """What pandas' to_hdf writes (format fixed); `change` spoils the group of the frame."""
    names = np.array(IDS if ids is None else ids)
    names = names.astype("S") if names.dtype.kind == "U" else names
    with h5py.File(path, "w") as file:
        group = file.create_group("df")
        group.attrs.update({"pandas_type": np.bytes_("frame"), "nblocks": 1, "ndim": 2})
        group["axis0"], group["block0_items"] = names, names
        group["axis1"] = times(len(values)).asi8 if index is None else index
        group["axis1"].attrs["kind"] = np.bytes_(kind)
        group["axis1"].attrs["freq"] = np.void(pickle.dumps("never read", protocol=0))  # as PyTables does
        group["block0_values"] = values
        group["block0_values"].attrs["transposed"] = np.uint8(1)
        if change:
            change(group)
    return path


def write_adjacency(path: Path, matrix: np.ndarray, protocol: int = 2) -> Path:
    """DCRNN's adj_mx.pkl: names, name -> row, matrix."""
    content = [IDS, {name: row for row, name in enumerate(IDS)}, matrix]
    path.write_bytes(pickle.dumps(content, protocol=protocol))
    return path


def write_json(path: Path, document: Any) -> Path:
    path.write_text(json.dumps(document))
    return path


def write_station_day(path: Path, lines: list[str]) -> Path:
    """A PeMS station file, packed where its name says so."""
    text = "".join(f"{line}\n" for line in lines).encode()
    path.write_bytes(gzip.compress(text) if path.suffix == ".gz" else text)
    return path


def station_line(moment: str, station: int, *, observed: int, flow: str, speed: str, lanes: int = 2) -> str:
    lane = ["10", "8", ".02", "61.5", "1"] * lanes
    head = [moment, str(station), "4", "101", "N", "ML", ".31", "20", str(observed), flow, ".0213", speed]
    return ",".join([*head, *lane])


def write_basicts(folder: Path, steps: int, **about: Any) -> Path:
    """desc.json, data.dat with a clock feature, adj_mx.pkl."""
    folder.mkdir()
    values = np.zeros((steps, 3, 2), dtype="<f4")
    values[:, :, 0] = daily_readings(steps, 3, 5)
    values[:, :, 1] = (np.arange(steps) % 288 / 288)[:, None]
    values.tofile(folder / "data.dat")
    settings = {"TRAIN_VAL_TEST_RATIO": [0.6, 0.2, 0.2], "NULL_VAL": 0.0}
    described = {
        "name": "Town",
        "domain": "traffic flow",
        "shape": [steps, 3, 2],
        "feature_description": ["traffic flow", "time of day"],
        "frequency (minutes)": 5,
        "regular_settings": settings,
    }
    write_json(folder / "desc.json", {**described, **about})
    write_adjacency(folder / "adj_mx.pkl", np.eye(3, dtype=np.float32)[::-1])
    return folder
