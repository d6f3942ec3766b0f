"""`python -m headway results`: the last evaluation, for the terminal or between two marks of a page."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from headway.atomic import write_text
from headway.commands.sections import read_sections
from headway.errors import InputError
from headway.evaluation.tables import ALL, results_sentence, results_table

EVALUATION = Path("metrics/evaluate")
BEGIN, END = "<!-- results -->\n", "<!-- /results -->"


def evaluation_table(root: Path) -> str:
    """Markdown: error of the model and of the naive forecasts at `evaluate.minutes` and over all steps.

    Below it, what the model's distribution is worth, where it says one.
    Raises: InputError when nothing was evaluated yet.
    """
    minutes = read_sections(root / "params.yaml")["evaluate"].minutes
    table = results_table(_read(root, "forecasts.json"), minutes)
    return table + results_sentence(_read(root, "distribution.json").get(ALL, {}))


def _read(root: Path, name: str) -> dict[str, Any]:
    path = EVALUATION / name
    try:
        return json.loads((root / path).read_text())
    except FileNotFoundError:
        raise InputError(f"{path} not found; run `dvc repro`, or `dvc pull`") from None
    except ValueError as error:
        raise InputError(f"{path} is damaged: {error}; run `dvc repro`, or `dvc checkout`") from None


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
