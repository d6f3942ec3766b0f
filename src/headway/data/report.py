"""metrics/preprocess/quality.json: what was found in a data set and what was done about it.

Enters: everything preprocess learned on its way. Leaves: one dictionary without wall-clock times or absolute
paths, so that the same data give the same report; its `done` list is for people.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Int64

from headway.data.calendar import clock_changes
from headway.data.grid import Grid, iso
from headway.data.parquet import listing
from headway.data.prepared import PreparedMeta
from headway.data.quality import (
    STUCK_STEPS,
    Unusable,
    describe_findings,
    describe_rows_found,
    examine,
    worst,
)
from headway.data.quality_splits import describe_sparse, describe_targets
from headway.data.raw import RawFolder
from headway.data.series import Variable
from headway.data.split import Lags, describe_seconds
from headway.data.variables import MAIN
from headway.graph.neighbors import NeighborTable, describe_neighbors


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What the timestamps and the parameters alone decide."""

    grid: Grid
    splits: dict[str, tuple[int, int]]
    training_rows: int
    lags: Lags


def quality_report(
    folder: RawFolder,
    target: Variable,
    plan: Plan,
    unusable: Unusable,
    table: NeighborTable,
    meta: PreparedMeta,
    ids: Sequence[str],
    read: Int64[np.ndarray, " step"],
) -> dict[str, Any]:
    """The report, ready for JSON; `inputs` and `covariates` are added by the caller.

    Args: ids: sensors that were kept, those of `target`. read: how many of them were read at each step.
    """
    grid, lags = plan.grid, plan.lags
    listed = list(folder.sensors["sensor_id"])
    report = {
        "dataset": meta.dataset,
        "variable": meta.variable,
        "unit": meta.unit,
        "time_zone": meta.time_zone,
        "steps": grid.steps,
        "step_seconds": grid.step,
        "step": describe_seconds(grid.step),
        "first": iso(grid.first),
        "last": iso(grid.first + grid.step * (grid.steps - 1)),
        "daylight_saving": clock_changes(grid.time(), meta.time_zone),
        "series": describe_input(target, grid, ids),
        "sensors": {
            "kept": len(ids),
            "dropped": sorted(set(listed) - set(ids)),
            "unusable": unusable.named(listed),
            "not_in_all_files": folder.left_out,
        },
        "graph": describe_neighbors(table, list(ids)),
        "splits": {name: _span(grid, meta, span, read) for name, span in meta.splits.items()},
        "training_rows": meta.training_rows,
        "context": {"kept": list(lags.context_names), "switched_off": lags.switched_off},
    }
    return report | {"done": _done(report, folder), "worth_a_look": _worth_a_look(report, folder)}


def summary(report: dict[str, Any]) -> list[str]:
    """The report in a few lines for the terminal."""
    rows, graph, windows = report["series"], report["graph"], report["splits"]
    places = graph["foretelling"] / report["sensors"]["kept"]
    split = ", ".join(f"{name} {windows[name]['windows']}" for name in ("train", "validation", "test"))
    return [
        f"{report['dataset']}: {report['steps']} steps of {report['step']} from {report['first']}, "
        f"{report['sensors']['kept']} sensors, {rows['missing_share']:.1%} missing",
        f"windows: {split}; context {listing(report['context']['kept']) or 'none'}",
        f"graph from {graph['source']}: {graph['degree_mean']:.1f} neighbors a sensor, "
        f"{graph['components']} component(s); {places:.1f} of {graph['max_neighbors']} places for who foretells it",
        *report["done"],
        *(f"worth a look: {sentence}" for sentence in report["worth_a_look"]),
    ]


def describe_input(variable: Variable, grid: Grid, ids: Sequence[str]) -> dict[str, Any]:
    """Rows, shares and masked readings of one file."""
    return {
        **describe_rows_found(variable.placement, grid, variable.repeated, variable.conflicts),
        **describe_findings(examine(variable.readings, ids, grid.step), grid.steps, ids),
        "stuck_masked": int(variable.stuck.sum()),
        "null_readings": int(variable.nulls.sum()),
        "null_sensors": worst(variable.nulls, ids),
        "implausible_readings": int(variable.implausible.sum()),
        "implausible_sensors": worst(variable.implausible, ids),
    }


def _span(
    grid: Grid, meta: PreparedMeta, span: tuple[int, int], read: Int64[np.ndarray, " step"]
) -> dict[str, Any]:
    first, last = span
    times = [iso(grid.first + grid.step * origin) for origin in (first, last - 1)]
    targets = describe_targets(read, span, meta.horizon, meta.sensors)
    return {"windows": last - first, "first_origin": times[0], "last_origin": times[1], **targets}


def _done(report: dict[str, Any], folder: RawFolder) -> list[str]:
    """A sentence for each thing that was not left as it was found."""
    rows, sensors, graph = report["series"], report["sensors"], report["graph"]
    bad = {name for names in sensors["unusable"].values() for name in names}
    gone = set(sensors["dropped"])
    counted = [
        ("rows out of order, sorted", rows["unsorted_rows"]),
        ("rows between two steps, moved to the nearer one", rows["off_grid_rows"]),
        ("rows that share a time with another, merged", rows["duplicate_rows"]),
        ("conflicts settled by preprocess.duplicates", rows["conflicting_readings"]),
        ("local times of a repeated hour, told apart by their order", rows["repeated_local_times"]),
        (f"steps without a row in {rows['gaps']} gap(s), made unobserved", rows["gap_steps"]),
        (f"readings of {folder.facts.null_value}, which mean none, made unobserved", rows["null_readings"]),
        ("readings outside the plausible range, made unobserved", rows["implausible_readings"]),
        ("stuck readings, made unobserved", rows["stuck_masked"]),
        ("self-loops dropped from the edges", graph.get("self_loops_dropped", 0)),
        ("edges listed again, the shortest kept", graph.get("duplicate_edges_dropped", 0)),
    ]
    named = [
        ("unusable sensors dropped", sorted(bad & gone)),
        ("unusable sensors kept with global statistics", sorted(bad - gone)),
        ("sensors that repeat another dropped", sorted(gone - bad)),
        *((f"sensors left out, {where}", ids) for where, ids in sensors["not_in_all_files"].items()),
        ("sensors without a neighbor", graph["isolated_sensors"] if graph["source"] != "none" else []),
    ]
    sentences = [f"{what}: {count}" for what, count in counted if count]
    sentences += [f"{what}: {listing(ids)}" for what, ids in named if ids]
    off = report["context"]["switched_off"]
    sentences += [f"{key} was switched off: {why}" for key, why in off.items()]
    if graph["source"] == "none":
        who = (
            "a sensor reads only those that foretell it"
            if graph["foretelling"]
            else "no sensor reads another"
        )
        sentences.append(f"{who}: the data set has no edges and no coordinates in use")
    return sentences


def _worth_a_look(report: dict[str, Any], folder: RawFolder) -> list[str]:
    """A sentence for each thing that looks wrong and was left as it is, with the rule that would change it."""
    rows, step = report["series"], report["step"]
    copies = [" = ".join(group) for group in rows["identical_sensors"]]
    copies += [f"{' and '.join(pair['sensors'])} ({pair['days']} days)" for pair in rows["shared_days"]]
    found = [
        (
            f"{rows['stuck_stretches']} stretches of {STUCK_STEPS} or more equal readings (steps of {step}), "
            f"preprocess.stuck_steps masks them: {listing(rows['stuck_worst'])}",
            rows["stuck_stretches"],
        ),
        (
            f"{rows['zero_days_readings']} readings in days of nothing but 0, {_cure('null_value', folder)} if they "
            f"mean none: {listing(rows['zero_days_sensors'])}",
            rows["zero_days_readings"],
        ),
        (
            f"{rows['negative_readings']} readings below 0, {_cure('minimum', folder)} if there cannot be any: "
            f"{listing(rows['negative_sensors'])}",
            rows["negative_readings"],
        ),
        (
            f"{rows['interpolated_readings']} readings on straight lines, as interpolation leaves them: "
            f"{listing(rows['interpolated_sensors'])}",
            rows["interpolated_readings"],
        ),
        (
            f"{rows['copied_week_readings']} readings that repeat the week before one by one, as filling in leaves "
            f"them: {listing(rows['copied_week_sensors'])}",
            rows["copied_week_readings"],
        ),
        (
            f"sensors with the same readings, preprocess.identical_sensors: drop leaves whole copies out: "
            f"{listing(copies)}",
            len(copies),
        ),
    ]
    return [sentence for sentence, count in found if count] + describe_sparse(report["splits"])


def _cure(key: str, folder: RawFolder) -> str:
    """How readings become none: dataset.yaml speaks of the main variable alone (variables.py)."""
    name = folder.target.path.name
    return f"{key}: 0 in dataset.yaml" if name == MAIN else f"make them NaN in {name}"
