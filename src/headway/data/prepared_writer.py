"""Write the prepared folder, whose files and shapes `prepared` states.

Enters: channels on the regular grid and what was derived from them. Leaves: a folder that appears whole or not
at all.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
from jaxtyping import Float, Int16, Int64
from numpy.lib.format import open_memmap
from safetensors.numpy import save

from headway.atomic import replacing_folder
from headway.data.prepared import FILES, PreparedMeta, fingerprint
from headway.data.store import release

BLOCK_BYTES = 64 * 2**20  # of float32 readings turned from columns to rows at once
COLUMNS = 256  # of them between two releases: the system may map a whole column where a part is read


@dataclass(frozen=True, slots=True, kw_only=True)
class Channel:
    """One variable on the grid, NaN where not observed, and the scale of its training readings.

    `mean` and `std` are of shape [] (global) or [N] (per sensor).
    """

    readings: Float[np.ndarray, "step node"]
    mean: np.ndarray
    std: np.ndarray


def write_prepared(
    out: Path,
    *,
    meta: PreparedMeta,
    channels: Iterable[Channel],
    time: Int64[np.ndarray, " step"],
    calendar: Int16[np.ndarray, "step 2"],
    covariates: Float[np.ndarray, "step covariate"],
    climatology: Float[np.ndarray, "time_of_week node"],
    graph: Mapping[str, np.ndarray],
    geometry: Mapping[str, np.ndarray],
    sensors: pd.DataFrame,
    covariate_scale: tuple[np.ndarray, np.ndarray],
) -> PreparedMeta:
    """Write the folder beside `out` and rename it into place; on any exception `out` is as it was.

    Args:
        meta: everything but `files`, which is filled here.
        channels: in the order of `meta.channels`; taken one at a time, so one is in memory.
        graph: "neighbors", "valid", "features". geometry: "positions", "roads", "lengths", "paths".
        covariate_scale: mean and std of each covariate.
    Returns: the meta that was written.
    """
    with replacing_folder(out) as folder:
        shape = (meta.steps, meta.sensors, len(meta.channels))
        scales = _write_channels(folder, shape, channels)
        np.save(folder / "time.npy", time.astype(np.int64, copy=False))
        np.save(folder / "calendar.npy", calendar.astype(np.int16, copy=False))
        np.save(folder / "covariates.npy", covariates.astype(np.float32, copy=False))
        np.save(folder / "climatology.npy", climatology.astype(np.float32, copy=False))
        sensors.to_parquet(folder / "sensors.parquet", index=False, write_page_checksum=True)
        for name, arrays in (("graph", graph), ("geometry", geometry)):
            content = save({key: np.ascontiguousarray(array) for key, array in arrays.items()})
            (folder / f"{name}.safetensors").write_bytes(content)  # save_file would make it private (0600)
        scaler = {"covariate_mean": covariate_scale[0].tolist(), "covariate_std": covariate_scale[1].tolist()}
        scaler |= {"mean": [mean for mean, _ in scales], "std": [std for _, std in scales]}
        (folder / "scaler.json").write_text(json.dumps(scaler, sort_keys=True, allow_nan=False) + "\n")
        meta = replace(meta, files={name: fingerprint(folder / name) for name in FILES})
        (folder / "meta.json").write_text(json.dumps(asdict(meta), sort_keys=True, indent=2) + "\n")
    return meta


def _write_channels(
    folder: Path, shape: tuple[int, int, int], channels: Iterable[Channel]
) -> list[tuple[float | list[float], float | list[float]]]:
    values = open_memmap(folder / "values.npy", mode="w+", dtype=np.float32, shape=shape)
    observed = open_memmap(folder / "observed.npy", mode="w+", dtype=np.bool_, shape=shape)
    block = max(1, BLOCK_BYTES // (4 * shape[1]))
    scales = []
    for index, channel in enumerate(channels):
        assert channel.readings.shape == shape[:2], (channel.readings.shape, shape)
        for first in range(0, shape[0], block):
            rows = slice(first, first + block)
            for column in range(0, shape[1], COLUMNS):
                columns = slice(column, column + COLUMNS)
                part = channel.readings[rows, columns]
                seen = ~np.isnan(part)
                values[rows, columns, index] = np.where(seen, part, np.float32(0))
                observed[rows, columns, index] = seen
                release(channel.readings)
            release(values)
            release(observed)
        scales.append((channel.mean.tolist(), channel.std.tolist()))
        del channel  # the next one is read when this one is gone
    assert len(scales) == shape[2], (len(scales), shape)
    values.flush()
    observed.flush()
    return scales
