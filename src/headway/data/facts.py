"""dataset.yaml: what is true of a data set, as opposed to what was chosen for an experiment (params.yaml).

Enters: the path of dataset.yaml. Leaves: `DatasetFacts`; a folder without the file gets the defaults.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from zoneinfo import ZoneInfo

from pydantic import TypeAdapter, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from headway.errors import InputError

MAX_BYTES = 2**20  # a description, not a place for data


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetFacts:
    """The keys of dataset.yaml. `null_value`, `minimum` and `maximum` speak of series.parquet, the target.

    Attributes:
        time_zone: zone of naive timestamps and of the calendar; "" where the file does not say
            (then the zone of a zone-aware timestamp column, else UTC).
        null_value: the number that means "no reading"; None where only NaN does.
        step_minutes: None for the most common difference of two timestamps.
        description: what is measured and where, in a sentence or two, for a language model.
        minimum, maximum: readings outside are not believed; None for no bound.
    """

    unit: str = ""
    variable: str = "target"
    time_zone: str = ""
    null_value: float | None = None
    split: Literal["7-1-2", "6-2-2"] = "7-1-2"
    step_minutes: float | None = None
    minimum: float | None = None
    maximum: float | None = None
    source: str = ""
    licence: str = ""
    description: str = ""


def read_facts(path: Path) -> DatasetFacts:
    """Read dataset.yaml strictly.

    Raises: InputError listing every unknown key, wrong type, unknown zone and contradiction.
    """
    if not path.exists():
        return DatasetFacts()
    document = _load(path)
    problems = [
        f"{key}: {value} is not a finite number" for key, value in document.items() if _infinite(value)
    ]
    try:
        facts = TypeAdapter(DatasetFacts).validate_json(
            json.dumps(document, default=str), strict=True, extra="forbid"
        )
    except ValidationError as error:
        problems += [_sentence(detail) for detail in error.errors()]
        raise InputError.from_problems(f"{path}:", problems) from None
    problems += _contradictions(facts)
    if problems:
        raise InputError.from_problems(f"{path}:", problems)
    return facts


def _load(path: Path) -> dict[str, Any]:
    if path.stat().st_size > MAX_BYTES:
        raise InputError(f"{path} has {path.stat().st_size} bytes; at most {MAX_BYTES} are read")
    try:
        document = YAML(typ="safe", pure=True).load(path.read_text(encoding="utf-8"))
    except (YAMLError, ValueError, RecursionError) as error:
        raise InputError(f"{path} is not readable YAML: {error}") from None
    document = {} if document is None else document
    if not isinstance(document, dict):
        raise InputError(f"{path} must be a mapping of keys, found {type(document).__name__}")
    nested = [str(key) for key, value in document.items() if isinstance(value, dict | list)]
    if nested:  # refused here: aliases of aliases are small on disk and in memory, and huge once written out
        raise InputError(
            f"{path}: {', '.join(nested[:8])}: must be one value each, found a list or a mapping"
        )
    if str(document.get("null_value")).lower() == "nan":  # .nan, or nan, which YAML 1.2 reads as text
        document["null_value"] = None
    return document


def _infinite(value: Any) -> bool:
    return isinstance(value, float) and not math.isfinite(value)


def _sentence(detail: Any) -> str:
    key = ".".join(str(part) for part in detail["loc"])
    if detail["type"] in ("unexpected_keyword_argument", "extra_forbidden"):
        return f"{key}: unknown key; known are {', '.join(DatasetFacts.__dataclass_fields__)}"
    return f"{key}: {detail['msg'][0].lower()}{detail['msg'][1:]}, found {detail['input']!r}"


def _contradictions(facts: DatasetFacts) -> list[str]:
    problems = []
    if facts.time_zone and not is_zone(facts.time_zone):
        problems.append(
            f"time_zone: {facts.time_zone!r} is not a zone of the tz database, e.g. Europe/London or UTC"
        )
    if facts.step_minutes is not None and (facts.step_minutes <= 0 or facts.step_minutes * 60 % 1):
        problems.append(f"step_minutes: {facts.step_minutes} must be positive and whole seconds")
    if facts.minimum is not None and facts.maximum is not None and facts.minimum >= facts.maximum:
        problems.append(f"minimum: {facts.minimum} must be below maximum, {facts.maximum}")
    return problems


def is_zone(name: str) -> bool:
    """Whether the tz database knows the name."""
    try:
        ZoneInfo(name)
    except (KeyError, ValueError, OSError):  # unknown; malformed; a folder of zones
        return False
    return True
