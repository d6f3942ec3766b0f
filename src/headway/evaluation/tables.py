"""Scores as files people and DVC read: JSON, CSV and Markdown, the same bytes for the same scores.

Enter: the errors of each forecast. Leave: plain dicts and lists, rounded; text; files, each whole or absent.
Glossary: label = how a horizon step is called, `15min`; None is null in JSON, empty in CSV, `-` in Markdown.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from headway.atomic import write_text
from headway.evaluation.horizons import horizon_label
from headway.evaluation.metrics import Errors, Scores

DIGITS = 6  # significant: more than any two machines agree on is noise in a diff
ALL = "all"
FORMULA = ("=", "+", "-", "@", "\t", "\r")  # how a cell begins that a spreadsheet computes


def rounded(value: float | None) -> float | None:
    """`value` to six significant digits."""
    return None if value is None else float(f"{value:.{DIGITS}g}")


def score_entry(scores: Scores) -> dict[str, float | int | None]:
    """The scores of one group as they stand in JSON."""
    return {name: value if name == "count" else rounded(value) for name, value in asdict(scores).items()}


def forecast_scores(errors: Mapping[str, Errors], step_seconds: int) -> dict[str, dict[str, dict[str, Any]]]:
    """forecasts.json: forecast -> horizon label, and `all` for every step together -> scores."""
    table = {}
    for name, found in errors.items():
        steps = enumerate(found.by_horizon.scores(), start=1)
        entries = {horizon_label(step, step_seconds): score_entry(scores) for step, scores in steps}
        table[name] = {**entries, ALL: score_entry(found.by_horizon.total().scores()[0])}
    return table


def results_table(forecasts: Mapping[str, Mapping[str, Mapping[str, Any]]], minutes: Sequence[int]) -> str:
    """A Markdown table of MAE, RMSE and MAPE, a row a forecast, for README and benchmarks.

    Args:
        forecasts: as in forecasts.json.
        minutes: horizons to show besides all together; those that do not exist are left out.
    """
    known = next(iter(forecasts.values()))
    labels = [label for label in (f"{value}min" for value in minutes) if label in known] + [ALL]
    metrics = {"mae": "MAE", "rmse": "RMSE", "mape": "MAPE %"}
    places = [label if label == ALL else label.replace("min", " min") for label in labels]
    header = ["forecast", *(f"{title} {place}" for place in places for title in metrics.values())]
    lines = [_markdown_row(header), _markdown_row(["---", *["---:"] * (len(header) - 1)])]
    for name, table in forecasts.items():
        cells = [_cell(table[label][metric]) for label in labels for metric in metrics]
        lines.append(_markdown_row([name.replace("_", " "), *cells]))
    return "\n".join(lines) + "\n"


def results_sentence(distribution: Mapping[str, Any]) -> str:
    """What stands below the table where the model says a distribution; empty where it does not.

    Args: distribution: scores over all steps, as in distribution.json.
    """
    if not distribution.get("count"):
        return ""
    crps, naive = _cell(distribution["crps"]), _cell(distribution["crps_climatology"])
    kinds = [distribution[kind] for kind in ("calibrated", "recalibrated")]
    covered, anew = (f"{100 * kind['coverage']['80%']:.1f} %" for kind in kinds)
    return (
        f"\nCRPS {crps}, of climatology {naive}; the 80 % interval is {_cell(kinds[0]['width']['80%'])} wide and "
        f"holds {covered} of the readings, {anew} where it is calibrated anew each day.\n"
    )


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write `content` in its own order; not a number is a fault of ours, None is the word for it."""
    write_text(path, json.dumps(content, indent=2, allow_nan=False, ensure_ascii=False) + "\n")


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Write a table; None is an empty cell."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(header)
    table.writerows([_harmless(cell) for cell in row] for row in rows)
    write_text(path, text.getvalue())


def _harmless(cell: Any) -> Any:
    """Names of sensors are the user's: no spreadsheet must take one for a formula, no page of plots for a tag."""
    if not isinstance(cell, str):
        return cell
    return ("'" + cell if cell.startswith(FORMULA) else cell).replace("<", "&lt;")


def _markdown_row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _cell(value: float | None) -> str:
    return "-" if value is None else f"{value:#.4g}".rstrip(".")
