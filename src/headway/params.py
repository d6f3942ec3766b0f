"""Sections of params.yaml into frozen records; all problems of the file in one message.

Enters: the path of params.yaml and the record each section must become. Leaves: the records.
This module knows no record; only stages and `python -m headway` call it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from headway.errors import InputError


def read_params(path: Path | str, records: Mapping[str, Any]) -> dict[str, Any]:
    """Validate the named sections strictly.

    Args:
        path: params.yaml.
        records: section name -> dataclass, or a plain type for a scalar key such as `dataset`.
    Returns: section name -> record.
    Raises: InputError listing every missing, extra, mistyped and out-of-range key.
    """
    document = load_document(path)
    problems: list[str] = []
    found: dict[str, Any] = {}
    for section, record in records.items():
        if section not in document:
            problems.append(f"{section}: missing section")
            continue
        body = document[section]
        problems += [f"{section}{key}: {value} is not a finite number" for key, value in _non_finite(body)]
        try:
            # JSON mode: strict, yet a list is a tuple and a mapping is a record
            text = json.dumps(body, default=str)
            found[section] = TypeAdapter(record).validate_json(text, strict=True, extra="forbid")
        except ValidationError as error:
            problems += [_sentence(section, detail) for detail in error.errors()]
    if problems:
        raise InputError.from_problems(f"{path} has {len(problems)} problem(s):", problems)
    return found


def load_document(path: Path | str) -> dict[str, Any]:
    """The whole file as plain dicts and lists, parsed as DVC parses it.

    Raises: InputError when the file is absent, is not YAML, or is not a mapping.
    """
    try:
        document = YAML(typ="safe", pure=True).load(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path} not found; run from the project's root, or `git checkout {path}`") from None
    except (YAMLError, ValueError, RecursionError) as error:
        raise InputError(f"{path} is not readable YAML: {error}") from None
    if not isinstance(document, dict):
        raise InputError(f"{path} must be a mapping of sections, found {type(document).__name__}")
    return document


def _non_finite(value: Any, key: str = "") -> Iterator[tuple[str, float]]:
    if isinstance(value, dict):
        for name, item in value.items():
            yield from _non_finite(item, f"{key}.{name}")
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _non_finite(item, f"{key}[{index}]")
    elif isinstance(value, float) and not math.isfinite(value):
        yield key, value


def _sentence(section: str, detail: Any) -> str:
    path = ".".join([section, *(str(part) for part in detail["loc"])])
    if detail["type"] == "missing":
        return f"{path}: missing key"
    if detail["type"] in ("unexpected_keyword_argument", "extra_forbidden"):
        return f"{path}: unknown key"
    if detail["type"] == "value_error":  # of a record, whose sentence names the key and what was found
        return str(detail["ctx"]["error"])
    return f"{path}: {detail['msg'][0].lower()}{detail['msg'][1:]}, found {detail['input']!r}"
