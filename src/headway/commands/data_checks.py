"""The data set that params.yaml names, raw and prepared, as `python -m headway check` and `plan` look at it.

Enter: the sections, the project's root. Leave: findings, and sizes as far as they are known. Of the large files only
timestamps and footers are read, and the columns of sensors of which the footer shows at most one value. Preprocess
judges sensors by their training rows and counts the targets of each split, so it may find more.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from headway.commands.findings import Finding, note, ok, problem
from headway.commands.sections import heading_and_problems
from headway.data.grid import Grid, choose_grid, choose_step, mask_readings, place_rows
from headway.data.holidays import NONE, require_place
from headway.data.parquet import columns_at_once, listing, open_parquet, read_readings, read_times
from headway.data.prepared import Prepared, open_prepared
from headway.data.quality import find_unusable
from headway.data.raw import RawFolder, read_raw
from headway.data.series import COVARIATES
from headway.data.split import describe_seconds, resolve_lags, split_origins
from headway.data.variables import AUTO
from headway.errors import InputError

SIMULATED = "simulated"
Ratio = Literal["7-1-2", "6-2-2"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """Of the data set that params.yaml names, as far as they are known before it is prepared."""

    steps: int
    step_seconds: int
    sensors: int


def inspect_data(sections: Mapping[str, Any], root: Path) -> tuple[list[Finding], Sizes | None]:
    """The raw data set; its sizes where it can be used, or where it is still to be simulated."""
    name = sections["dataset"]
    folder = root / "data/raw" / name
    if not folder.is_dir():
        if name == SIMULATED:
            return _simulated(sections)
        if folder.with_name(f"{name}.dvc").is_file():
            return [problem(name, "not here yet", f"dvc pull data/raw/{name}.dvc")], None
    return _real(folder, sections)


def inspect_prepared(sections: Mapping[str, Any], root: Path) -> tuple[list[Finding], Prepared | None]:
    """data/prepared, opened where it is what params.yaml asks for."""
    folder = root / "data/prepared"
    if not (folder / "meta.json").exists():
        return [note("prepared", "not made yet", "dvc repro preprocess")], None
    try:
        prepared = open_prepared(folder, verify=False)
    except InputError as error:
        return _data_problems("prepared", error), None
    differing = _differing(sections, prepared)
    if differing:
        return [note("prepared", f"made with another {listing(differing)}", "dvc repro preprocess")], None
    meta = prepared.meta
    counts = {split: last - first for split, (first, last) in meta.splits.items()}
    spans = ", ".join(f"{split} {counts[split]}" for split in ("train", "validation", "test"))
    return [ok("prepared", f"{meta.sensors} sensors, windows: {spans}")], prepared


def _data_problems(name: str, error: InputError) -> list[Finding]:
    heading, problems = heading_and_problems(error)
    return [problem(name, f"{heading} {text}") for text in problems] or [problem(name, heading)]


def _simulated(sections: Mapping[str, Any]) -> tuple[list[Finding], Sizes | None]:
    """What the first stage will make."""
    world = sections["simulate"]
    steps, step_seconds = world.days * 1440 // world.step_minutes, world.step_minutes * 60
    sizes = Sizes(steps=steps, step_seconds=step_seconds, sensors=world.sensors)
    try:
        return [ok(SIMULATED, f"{_describe(sizes)}, made by the first stage"), *_plan(sections, sizes)], sizes
    except InputError as error:
        return _data_problems(SIMULATED, error), None


def _real(folder: Path, sections: Mapping[str, Any]) -> tuple[list[Finding], Sizes | None]:
    """Check the raw contract, the timestamps and what the footers say of the sensors."""
    windows, drop = sections["windows"], sections["preprocess"].unusable_sensors == "drop"
    try:
        require_place(windows.holidays)
        raw = read_raw(
            folder,
            windows.inputs,
            windows.covariates,
            drop=drop,
            target=windows.target,
            ahead=windows.future_covariates,
        )
        path, minutes = raw.target.path, raw.facts.step_minutes
        times = read_times(path, raw.zone)
        step = choose_step(times.utc, path) if minutes is None else int(minutes * 60)
        grid = choose_grid(times.utc, step, path)
        sizes = Sizes(steps=grid.steps, step_seconds=step, sensors=len(raw.sensors))
        switched_off = _plan(sections, sizes, raw.facts.split)
    except InputError as error:
        return _data_problems(folder.name, error), None
    refused = [*_strays(raw, sections, grid), *_unusable(raw, sections["preprocess"].unusable_sensors)]
    left_out = [
        note("left out", f"{where}: {listing(ids)} (preprocess.unusable_sensors is drop)")
        for where, ids in raw.left_out.items()
    ]
    stopped = any(finding.status == "problem" for finding in refused)
    fine = [] if stopped else [ok(folder.name, _describe(sizes))]
    return [*fine, *refused, *left_out, *switched_off], sizes


def _strays(raw: RawFolder, sections: Mapping[str, Any], grid: Grid) -> Iterator[Finding]:
    """Files with rows that preprocess will refuse to put onto the grid of the target."""
    windows = sections["windows"]
    paths = [variable.path for variable in (raw.target, *raw.inputs)]
    paths += [raw.path / COVARIATES] if windows.covariates or windows.future_covariates else []
    for path in paths:
        try:
            place_rows(read_times(path, raw.zone).utc, grid, sections["preprocess"].off_grid, path)
        except InputError as error:
            yield from _data_problems(raw.path.name, error)


def _unusable(raw: RawFolder, rule: Literal["error", "drop", "keep"]) -> Iterator[Finding]:
    """Sensors without a reading, or with one value only, in all rows of the target."""
    path, bounds = raw.target.path, raw.target.bounds
    found: dict[str, list[str]] = defaultdict(list)
    try:
        suspects = _suspects(path, list(raw.sensors["sensor_id"]))
        width = columns_at_once(open_parquet(path).metadata.num_rows)
        for first in range(0, len(suspects), width):
            batch = suspects[first : first + width]
            readings = read_readings(path, batch)
            mask_readings(readings, bounds.null, bounds.minimum, bounds.maximum)
            for fault, ids in find_unusable(readings, len(readings)).named(batch).items():
                found[fault] += ids
    except InputError as error:
        yield from _data_problems(raw.path.name, error)
    for fault, ids in found.items():
        text = f"{path.name}, {fault}: {listing(ids)}"
        if rule == "error":
            yield problem(
                "sensors",
                text,
                "preprocess.unusable_sensors: drop leaves them out, keep goes on with global statistics",
            )
        else:
            yield note("sensors", f"{text} (preprocess.unusable_sensors is {rule})")


def _suspects(path: Path, ids: Sequence[str]) -> list[str]:
    """Sensors of which the footer shows fewer than two values; where it has no statistics, none."""
    metadata = open_parquet(path).metadata
    values: dict[str, set[Any]] = {name: set() for name in ids}
    for group in range(metadata.num_row_groups):
        chunks = metadata.row_group(group)
        for index in range(chunks.num_columns):
            chunk = chunks.column(index)
            name, found = chunk.path_in_schema, chunk.statistics
            if found is None:
                values.pop(name, None)
            elif name in values and found.has_min_max:
                values[name] |= {found.min, found.max}
    return [name for name, seen in values.items() if len(seen) < 2]


def _plan(sections: Mapping[str, Any], sizes: Sizes, ratio: Ratio = "7-1-2") -> list[Finding]:
    """Cut the windows as preprocess will; what it will switch off.

    Args: ratio: of the data set, for `preprocess.split: auto`.
    Raises: InputError where the data are too short, or a lag is none.
    """
    windows, preprocess = sections["windows"], sections["preprocess"]
    ratio = ratio if preprocess.split == "auto" else preprocess.split
    splits = split_origins(sizes.steps, windows.history, windows.horizon, ratio, preprocess.purge)
    lags = resolve_lags(windows, sizes.step_seconds, splits["train"][1] - 1)
    return [note("context", f"{key} will be switched off: {why}") for key, why in lags.switched_off.items()]


def _describe(sizes: Sizes) -> str:
    return f"{sizes.steps} steps of {describe_seconds(sizes.step_seconds)}, {sizes.sensors} sensors"


def _differing(sections: Mapping[str, Any], prepared: Prepared) -> list[str]:
    """Keys of params.yaml whose value is not the one that the prepared folder was made with."""
    windows, meta = sections["windows"], prepared.meta
    try:
        lags = resolve_lags(windows, meta.step_seconds, meta.training_rows)
    except InputError:  # told where the raw data are looked at
        return ["windows.context"]
    values = {
        "dataset": (sections["dataset"], meta.dataset),
        "preprocess.scaling": (sections["preprocess"].scaling, meta.scaling),
        "windows.history": (windows.history, meta.history),
        "windows.horizon": (windows.horizon, meta.horizon),
        "windows.target": (windows.target, AUTO if windows.target == AUTO else meta.variable),
        "windows.inputs": (windows.inputs, meta.channels[1:]),
        "windows.covariates": (windows.covariates, meta.past_covariates()),
        "windows.future_covariates": (windows.future_covariates, meta.future_covariates),
        "windows.holidays": (windows.holidays, meta.holidays or NONE),
        "windows.context": (lags.context, meta.context),
        "windows.trailing_weeks": (lags.trailing, meta.trailing),
        "preprocess.max_neighbors": (sections["preprocess"].max_neighbors, prepared.valid.shape[1]),
    }
    return [key for key, (wanted, found) in values.items() if wanted != found]
