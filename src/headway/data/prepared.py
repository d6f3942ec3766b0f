"""The prepared folder, the one contract between preprocess and everything after it.

Enters: the folder that `prepared_writer` wrote. Leaves: `Prepared`, the same folder checked and opened with its
arrays memory-mapped.

Glossary: T steps of the regular UTC grid, N sensors in the order of their ids, C channels (0 is the target), K
covariates, k neighbors of a sensor, R roads, P third-order paths, time of week = day of week * slots per day +
slot of day; an origin is the row of a window's first target step.

    values.npy          float32 [T, N, C]    physical units, 0 where not observed
    observed.npy        bool    [T, N, C]
    time.npy            int64   [T]          UTC seconds
    calendar.npy        int16   [T, 2]       slot of day, day of week (Monday 0), in local civil time
    covariates.npy      float32 [T, K]       z-scored, 0 where missing
    climatology.npy     float32 [7 * slots per day, N]
    sensors.parquet     N rows
    graph.safetensors   neighbors int32 [N, k], valid bool [N, k], features float32 [N, k, 2]
    geometry.safetensors  positions float32 [N, 3] m ([0, 3] unknown), roads int32 [2, R], lengths float32 [R] m,
                        paths int32 [4, P]
    scaler.json         mean, std: [C], or [C][N] when scaled per sensor; covariate_mean, covariate_std: [K]
    meta.json           PreparedMeta, with size and SHA-256 of every other file
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int, Int16, Int64
from pydantic import TypeAdapter, ValidationError
from safetensors import SafetensorError
from safetensors.numpy import load_file

from headway.data.calendar import covers_two_weeks
from headway.data.rules import Bounds, Rules
from headway.errors import InputError

FILES = (
    "values.npy",
    "observed.npy",
    "time.npy",
    "calendar.npy",
    "covariates.npy",
    "climatology.npy",
    "sensors.parquet",
    "graph.safetensors",
    "geometry.safetensors",
    "scaler.json",
)
MEND = "run `dvc repro -f preprocess`"


@dataclass(frozen=True, slots=True, kw_only=True)
class PreparedMeta:
    """What the arrays mean.

    Attributes:
        source, licence, description: of the data set, as in dataset.yaml.
        channels: variable names, the target first.
        covariates: columns of covariates.npy: past ones, `future_covariates` read ahead by the horizon, holidays.
        holidays: the place whose holidays are read, "" for none.
        context: lags of `windows.context` that survived the checks, in steps, in their order.
        trailing: lags of the trailing climatology's weeks, in steps.
        trailing_days: lags of one to seven days, in steps.
        splits: origins [first, last) of "train", "validation" and "test".
        training_rows: statistics were taken from rows [0, training_rows) only.
        rules, bounds: how rows became readings, of each channel, for those who bring newer rows.
        covariate_steps: steps for which a reading of a covariate holds.
        files: "bytes" and "sha256" of every other file of the folder.
    """

    dataset: str
    variable: str
    unit: str
    time_zone: str
    source: str
    licence: str
    steps: int
    sensors: int
    channels: tuple[str, ...]
    covariates: tuple[str, ...]
    future_covariates: tuple[str, ...]
    holidays: str
    step_seconds: int
    slots_per_day: int
    history: int
    horizon: int
    context: tuple[int, ...]
    trailing: tuple[int, ...]
    trailing_days: tuple[int, ...]
    splits: dict[str, tuple[int, int]]
    training_rows: int
    scaling: str
    rules: Rules
    bounds: tuple[Bounds, ...]
    covariate_steps: int
    files: dict[str, dict[str, int | str]]
    description: str = ""

    def beside(self) -> int:
        """Readings beside each step of a window: of each context lag, and what was usual."""
        return len(self.context) + bool(self.trailing)

    def knows_weeks(self) -> bool:
        """Whether training saw each day of the week twice; of one seen once, nothing but that day can be learned."""
        return covers_two_weeks(self.training_rows, self.step_seconds)

    def past_covariates(self) -> tuple[str, ...]:
        """Covariates of which the past is read."""
        ahead = len(self.future_covariates) + bool(self.holidays)
        return self.covariates[: len(self.covariates) - ahead]

    def given_covariates(self) -> tuple[str, ...]:
        """Columns of a table of covariates that the model needs."""
        return tuple(dict.fromkeys([*self.past_covariates(), *self.future_covariates]))


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """An opened folder; `values` and `observed` are memory maps. The module says what each holds.

    The maps are copy-on-write: torch wants memory it may write to, and what is written stays in this process.

    Attributes:
        scaler: "mean", "std", "covariate_mean", "covariate_std" in float32.
        manifest: SHA-256 of meta.json's canonical content; it names this state of the data.
    """

    meta: PreparedMeta
    values: Float[np.ndarray, "step node channel"]
    observed: Bool[np.ndarray, "step node channel"]
    time: Int64[np.ndarray, " step"]
    calendar: Int16[np.ndarray, "step 2"]
    covariates: Float[np.ndarray, "step covariate"]
    climatology: Float[np.ndarray, "time_of_week node"]
    neighbors: Int[np.ndarray, "node neighbor"]
    valid: Bool[np.ndarray, "node neighbor"]
    features: Float[np.ndarray, "node neighbor feature"]
    positions: Float[np.ndarray, "place 3"]
    roads: Int[np.ndarray, "2 road"]
    lengths: Float[np.ndarray, " road"]
    paths: Int[np.ndarray, "4 path"]
    sensors: pd.DataFrame
    scaler: dict[str, np.ndarray]
    manifest: str


def open_prepared(folder: Path | str, verify: bool = True) -> Prepared:
    """Open the folder; nothing done to the arrays reaches it.

    Args:
        verify: also compare the SHA-256 of every file (2-3 s a GB); sizes are always compared.
    Raises: InputError naming the file that is absent, foreign, or not what meta.json says.
    """
    folder = Path(folder)
    meta = _read_meta(folder / "meta.json")
    _check_files(folder, meta, verify)
    try:
        large = {name: np.load(folder / f"{name}.npy", mmap_mode="c") for name in ("values", "observed")}
        small = {
            name: np.load(folder / f"{name}.npy")
            for name in ("time", "calendar", "covariates", "climatology")
        }
        graph, geometry = (load_file(folder / f"{name}.safetensors") for name in ("graph", "geometry"))
        sensors = pd.read_parquet(folder / "sensors.parquet", page_checksum_verification=True)
        scaler = json.loads((folder / "scaler.json").read_text())
    except (ValueError, OSError, SafetensorError) as error:
        raise InputError(f"{folder} is damaged ({error}); {MEND}") from None
    canonical = json.dumps(asdict(meta), sort_keys=True, separators=(",", ":"))
    return Prepared(
        meta=meta,
        **large,
        **small,
        **graph,
        **geometry,
        sensors=sensors,
        scaler={name: np.asarray(numbers, np.float32) for name, numbers in scaler.items()},
        manifest=hashlib.sha256(canonical.encode()).hexdigest(),
    )


def fingerprint(path: Path) -> dict[str, int | str]:
    """Size and SHA-256 of a file, as meta.json states them."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {"bytes": path.stat().st_size, "sha256": digest}


def _read_meta(path: Path) -> PreparedMeta:
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise InputError(f"{path} not found; run `dvc repro preprocess`") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is damaged ({error}); {MEND}") from None
    try:
        meta = TypeAdapter(PreparedMeta).validate_json(text, strict=True, extra="forbid")
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"]) or "the file"
        raise InputError(f"{path}: {place}: {first['msg']}; {MEND}") from None
    return meta


def _check_files(folder: Path, meta: PreparedMeta, verify: bool) -> None:
    problems = []
    if set(meta.files) != set(FILES):
        problems.append(f"meta.json lists {sorted(meta.files)}, expected {sorted(FILES)}")
    for name in FILES:
        path, stated = folder / name, meta.files.get(name, {})
        if not path.is_file():
            problems.append(f"{name} is missing")
        elif path.stat().st_size != stated.get("bytes"):
            problems.append(f"{name} has {path.stat().st_size} bytes, meta.json says {stated.get('bytes')}")
        elif verify and fingerprint(path)["sha256"] != stated.get("sha256"):
            problems.append(f"{name} has changed since it was written (SHA-256 differs)")
    if problems:
        raise InputError.from_problems(f"{folder} is not what preprocess wrote; {MEND}:", problems)
