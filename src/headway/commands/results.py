"""`python -m headway results`: the table of the last evaluation, for the terminal or between two marks of a page."""

from __future__ import annotations

import json
from pathlib import Path

from headway.atomic import write_text
from headway.commands.sections import read_sections
from headway.errors import InputError
from headway.evaluation.tables import results_table

FORECASTS = Path("metrics/evaluate/forecasts.json")
BEGIN, END = "<!-- results -->\n", "<!-- /results -->"


def evaluation_table(root: Path) -> str:
    """Markdown: error of the model and of the naive forecasts at `evaluate.minutes` and over all steps.

    Raises: InputError when nothing was evaluated yet.
    """
    minutes = read_sections(root / "params.yaml")["evaluate"].minutes
    try:
        forecasts = json.loads((root / FORECASTS).read_text())
    except FileNotFoundError:
        raise InputError(f"{FORECASTS} not found; run `dvc repro`, or `dvc pull`") from None
    except ValueError as error:
        raise InputError(f"{FORECASTS} is damaged: {error}; run `dvc repro`, or `dvc checkout`") from None
    return results_table(forecasts, minutes)


def write_table(page: Path, table: str) -> None:
    """Put the table between the marks of a page.

    Raises: InputError when there is no such page, or it has no such marks.
    """
    try:
        text = page.read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(f"{page} cannot be read: {error.strerror}") from None
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise InputError(f"{page} has no place for the table: it needs the lines {BEGIN.strip()} and {END}")
    write_text(page, before + begin + table + end + after)
