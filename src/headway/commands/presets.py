"""Presets: overlays of params.yaml, applied so that its comments and its order survive.

Enters: presets/<name>.yaml, which holds only the keys it sets, and params.yaml. Leaves: params.yaml with
these values, written whole or not at all, and the changes made.
Glossary: overlay = the content of a preset; change = a key whose value is not what it was.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq

from headway.commands.sections import heading_and_problems, read_sections
from headway.errors import InputError
from headway.params import load_document

BLOCK_MARK = 3  # place of the token by which ruamel knows that a key's comment precedes a block


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One key that a preset changed, as `train.lr`, with the values before and after."""

    key: str
    old: Any
    new: Any


def list_presets(folder: Path) -> dict[str, str]:
    """Name -> first line of comment of every preset, in the order of their names."""
    return {path.stem: _first_comment(path) for path in sorted(folder.glob("*.yaml"))}


def apply_preset(params: Path, folder: Path, name: str) -> list[Change]:
    """Merge preset `name` into `params`.

    Returns: the changes, in the order of params.yaml; none when it already holds every value.
    Raises: InputError when the preset does not exist, names keys that params.yaml lacks, or leads to values
        that are refused; then nothing was written.
    """
    path = folder / f"{name}.yaml"
    known = list_presets(folder)
    if name not in known:
        raise InputError(f"no preset {name!r} in {folder}; there are: {', '.join(known) or 'none'}")
    overlay, plain = load_document(path), load_document(params)
    problems = list(_strangers(plain, overlay))
    if problems:
        raise InputError.from_problems(f"{path} does not fit {params}; nothing was written:", problems)
    changes = list(_changes(plain, overlay))
    if changes:
        _write_valid(params, _merged(params, changes), f"with {path}")
    return changes


def _first_comment(path: Path) -> str:
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith("#"):
            return line.lstrip("# ")
    return ""


def _strangers(params: Mapping[str, Any], overlay: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """What the overlay has and params.yaml does not."""
    for key, value in overlay.items():
        place = f"{prefix}{key}"
        if key not in params:
            yield f"{place}: no such key"
        elif isinstance(value, Mapping) != isinstance(params[key], Mapping):
            yield f"{place}: a section in one file and a value in the other"
        elif isinstance(value, Mapping):
            yield from _strangers(params[key], value, f"{place}.")


def _changes(params: Mapping[str, Any], overlay: Mapping[str, Any], prefix: str = "") -> Iterator[Change]:
    for key, old in params.items():
        if key not in overlay:
            continue
        if isinstance(old, Mapping):
            yield from _changes(old, overlay[key], f"{prefix}{key}.")
        elif (type(old), old) != (type(overlay[key]), overlay[key]):  # True == 1 in Python
            yield Change(key=f"{prefix}{key}", old=old, new=overlay[key])


def _merged(params: Path, changes: list[Change]) -> str:
    """The text of params.yaml with the changes made."""
    round_trip = YAML()
    round_trip.preserve_quotes = True
    round_trip.width = 4096
    document = round_trip.load(params.read_text(encoding="utf-8"))
    for change in changes:
        *sections, key = change.key.split(".")
        place: CommentedMap = document
        for section in sections:
            place = place[section]
        place[key] = _block_list(place, key, change.new) if isinstance(change.new, list) else change.new
    text = io.StringIO()
    round_trip.dump(document, text)
    return text.getvalue()


def _block_list(document: CommentedMap, key: str, items: list[Any]) -> CommentedSeq:
    """A list in block style, as DVC writes it; `[]` where it is empty.

    With the block's mark left on the comment, ruamel 0.19 loses the line break after the next section's name.
    """
    sequence = CommentedSeq(items)
    if not items:
        sequence.fa.set_flow_style()
    comment = document.ca.items.get(key)
    if comment and len(comment) > BLOCK_MARK and not comment[BLOCK_MARK]:
        comment[BLOCK_MARK] = None
    return sequence


def _write_valid(params: Path, text: str, what: str) -> None:
    """Replace `params` by `text` if every section of it can be used."""
    draft = params.with_name(f".{params.name}.{os.getpid()}.tmp")
    try:
        draft.write_text(text, encoding="utf-8", newline="\n")
        try:
            read_sections(draft)
        except InputError as error:
            heading = f"{params} {what} could not be used; nothing was written:"
            raise InputError.from_problems(heading, heading_and_problems(error)[1]) from None
        draft.replace(params)
    finally:
        draft.unlink(missing_ok=True)
