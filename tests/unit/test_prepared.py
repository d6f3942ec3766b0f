"""The prepared folder: whole or absent, and never trusted unseen."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from headway.data.prepared import FILES, Prepared, PreparedMeta, open_prepared
from headway.data.prepared_writer import Channel, write_prepared
from headway.data.rules import NO_BOUNDS, Bounds, Rules
from headway.errors import InputError

STEPS, SENSORS, SLOTS = 30, 3, 4
READINGS = np.arange(STEPS * SENSORS, dtype=np.float32).reshape(STEPS, SENSORS) + 1
READINGS[4, 1] = np.nan


def meta(**changes: Any) -> PreparedMeta:
    facts: dict[str, Any] = {
        "dataset": "tiny",
        "variable": "speed",
        "unit": "km/h",
        "time_zone": "UTC",
        "source": "",
        "licence": "",
        "steps": STEPS,
        "sensors": SENSORS,
        "channels": ("speed", "flow"),
        "covariates": (),
        "future_covariates": (),
        "holidays": "",
        "step_seconds": 21_600,
        "slots_per_day": SLOTS,
        "history": 2,
        "horizon": 1,
        "context": (4,),
        "trailing": (28,),
        "trailing_days": (4, 8),
        "splits": {"train": (2, 20), "validation": (20, 23), "test": (23, 30)},
        "training_rows": 19,
        "scaling": "global",
        "rules": Rules(duplicates="mean", off_grid="error", stuck_steps=0),
        "bounds": (Bounds(null=0.0, minimum=None, maximum=200.0), NO_BOUNDS),
        "covariate_steps": 1,
        "files": {},
    }
    return PreparedMeta(**(facts | changes))


def channels() -> Iterator[Channel]:
    yield Channel(readings=READINGS, mean=np.asarray(40.0), std=np.asarray(9.5))
    yield Channel(readings=-READINGS, mean=np.asarray(-40.0), std=np.asarray(9.5))


def write(folder: Path, source: Iterator[Channel] | None = None, **changes: Any) -> PreparedMeta:
    return write_prepared(
        folder,
        meta=meta(**changes),
        channels=source or channels(),
        time=21_600 * np.arange(STEPS, dtype=np.int64),
        calendar=np.zeros((STEPS, 2), np.int16),
        covariates=np.zeros((STEPS, 0), np.float32),
        climatology=np.ones((7 * SLOTS, SENSORS), np.float32),
        graph={
            "neighbors": np.zeros((SENSORS, 2), np.int32),
            "valid": np.zeros((SENSORS, 2), bool),
            "features": np.zeros((SENSORS, 2, 2), np.float32),
        },
        geometry={
            "positions": np.zeros((SENSORS, 3), np.float32),
            "roads": np.zeros((2, 1), np.int32),
            "lengths": np.ones(1, np.float32),
            "paths": np.zeros((4, 2), np.int32),
        },
        sensors=pd.DataFrame({"sensor_id": ["a", "b", "c"], "latitude": [1.0, 2, 3]}),
        covariate_scale=(np.zeros(0, np.float32), np.zeros(0, np.float32)),
    )


def test_what_was_written_is_read_back(tmp_path: Path) -> None:
    written = write(tmp_path / "p")
    prepared = open_prepared(tmp_path / "p")
    assert prepared.meta == written
    assert prepared.values.shape == (STEPS, SENSORS, 2) and prepared.values.dtype == np.float32
    np.testing.assert_array_equal(prepared.values[..., 0], np.nan_to_num(READINGS))
    np.testing.assert_array_equal(prepared.values[..., 1], np.nan_to_num(-READINGS))
    np.testing.assert_array_equal(prepared.observed[..., 0], ~np.isnan(READINGS))
    assert list(prepared.sensors["sensor_id"]) == ["a", "b", "c"]
    np.testing.assert_array_equal(prepared.scaler["mean"], np.array([40, -40], np.float32))
    assert prepared.covariates.shape == (STEPS, 0)
    assert set(written.files) == set(FILES)


def test_arrays_are_mapped_and_what_is_written_to_them_stays_in_the_process(tmp_path: Path) -> None:
    write(tmp_path / "p")
    prepared: Prepared = open_prepared(tmp_path / "p")
    assert isinstance(prepared.values, np.memmap) and isinstance(prepared.observed, np.memmap)
    prepared.values[0], prepared.observed[0] = 777, False
    again = open_prepared(tmp_path / "p", verify=True)
    assert (again.values[0] != 777).all() and again.observed[0].all()


def test_torch_takes_every_array_without_a_warning(tmp_path: Path) -> None:
    write(tmp_path / "p")
    prepared = open_prepared(tmp_path / "p")
    arrays = {
        name: value for name in Prepared.__slots__ if isinstance(value := getattr(prepared, name), np.ndarray)
    }
    assert {"values", "observed", "calendar", "climatology", "neighbors", "features"} <= arrays.keys()
    for array in [*arrays.values(), *prepared.scaler.values()]:
        assert torch.from_numpy(array).numel() == array.size  # pytest turns a warning into an error


def test_the_same_data_have_the_same_manifest_and_other_data_another(tmp_path: Path) -> None:
    for name, unit in (("p", "km/h"), ("q", "km/h"), ("r", "mph")):
        write(tmp_path / name, unit=unit)
    p, q, r = (open_prepared(tmp_path / name).manifest for name in "pqr")
    assert p == q != r


@pytest.mark.parametrize("name", FILES)
def test_a_changed_byte_is_found_in_every_file(tmp_path: Path, name: str) -> None:
    write(tmp_path / "p")
    content = bytearray((tmp_path / "p" / name).read_bytes())
    content[-1] ^= 1
    (tmp_path / "p" / name).write_bytes(content)
    with pytest.raises(InputError, match=rf"dvc repro -f preprocess.*\n.*{name} has changed"):
        open_prepared(tmp_path / "p")


@pytest.mark.parametrize("verify", [True, False])
def test_a_truncated_or_absent_file_is_found_even_without_hashing(tmp_path: Path, verify: bool) -> None:
    write(tmp_path / "p")
    values = tmp_path / "p" / "values.npy"
    values.write_bytes(values.read_bytes()[:-4])
    (tmp_path / "p" / "time.npy").unlink()
    with pytest.raises(InputError) as caught:
        open_prepared(tmp_path / "p", verify=verify)
    assert "values.npy has 844 bytes, meta.json says 848" in str(caught.value)
    assert "time.npy is missing" in str(caught.value)


def test_an_absent_folder_says_what_to_run(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"meta\.json not found; run `dvc repro preprocess`"):
        open_prepared(tmp_path / "p")


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ({"steps": "many"}, "meta.json: steps: Input should be a valid integer"),
        ({"surprise": 1}, "meta.json: surprise"),
        ({"files": {"../../secret": {"bytes": 1, "sha256": ""}}}, "meta.json lists ['../../secret']"),
    ],
)
def test_a_foreign_meta_is_refused(tmp_path: Path, change: dict[str, Any], part: str) -> None:
    write(tmp_path / "p")
    path = tmp_path / "p" / "meta.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(InputError) as caught:
        open_prepared(tmp_path / "p")
    assert part in str(caught.value) and "dvc repro -f preprocess" in str(caught.value)


def broken() -> Iterator[Channel]:
    yield next(channels())
    raise KeyboardInterrupt


def test_an_interrupted_write_leaves_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "p", broken())
    assert list(tmp_path.iterdir()) == []


def test_an_interrupted_write_leaves_the_old_folder_whole(tmp_path: Path) -> None:
    write(tmp_path / "p")
    before = open_prepared(tmp_path / "p").manifest
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "p", broken(), unit="mph")
    assert open_prepared(tmp_path / "p").manifest == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["p"]


def test_a_new_folder_replaces_the_old_and_what_a_killed_run_left(tmp_path: Path) -> None:
    write(tmp_path / "p")
    (tmp_path / ".p.tmp").mkdir()
    (tmp_path / ".p.tmp" / "values.npy").write_bytes(b"half")
    write(tmp_path / "p", unit="mph")
    assert open_prepared(tmp_path / "p").meta.unit == "mph"
    assert [entry.name for entry in tmp_path.iterdir()] == ["p"]
