"""Which experiment a run is: a hash of what decides its result, and in what two of them differ."""

from __future__ import annotations

import ast
import hashlib
import json
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

IDENTITY = "identity.json"  # in the folder of a run


def digest(content: Any) -> str:
    """SHA-256 of canonical JSON."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def code_digest(package: str, script: Path) -> str:
    """Hash of the parsed source of every loaded module of `package`, of the stage's script, and of C of their names.

    Parsed, not read: a comment or a line break does not end a run. Call it when all is imported and built.
    """
    files = [module.__file__ for name, module in sys.modules.items() if name.split(".")[0] == package]
    sources = sorted(Path(file) for file in files if file)
    trees = [_tree(ast.parse(path.read_text(encoding="utf-8"))) for path in [*sources, script]]
    beside = (path.with_suffix(suffix) for path in sources for suffix in (".c", ".h"))
    in_c = [_without_comments(path.read_text(encoding="utf-8")) for path in beside if path.exists()]
    return digest(sorted([*trees, *in_c]))


def _without_comments(source: str) -> str:
    """C without comments, its white space made alike."""
    return " ".join(re.sub(r"/\*.*?\*/", " ", source, flags=re.DOTALL).split())


def _tree(node: Any) -> str:
    """A syntax tree without empty fields, of which each minor version of Python has others."""
    if isinstance(node, ast.AST):
        fields = [(name, value) for name, value in ast.iter_fields(node) if value is not None and value != []]
        return f"{type(node).__name__}({', '.join(f'{name}={_tree(value)}' for name, value in fields)})"
    return f"[{', '.join(map(_tree, node))}]" if isinstance(node, list) else repr(node)


def describe(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    """What differs, as `train.lr: 0.001 -> 0.002, code`.

    Sections that only one of them has, those of another model, are passed over: `model.name` says it.
    """
    before, after = dict(_flatten(old)), dict(_flatten(new))
    shared = {key.rpartition(".")[0] for key in before} & {key.rpartition(".")[0] for key in after}
    words = []
    for key in sorted(key for key in before.keys() | after.keys() if key.rpartition(".")[0] in shared):
        if before.get(key) != after.get(key):
            plain = key.split(".")[0] == "params"
            values = f": {before.get(key, 'absent')} -> {after.get(key, 'absent')}" if plain else ""
            words.append(key.removeprefix("params.") + values)
    return ", ".join(words) or ("nothing" if old == new else "everything")


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> set[str]:
    """Keys of the first level."""
    return {key for key in old.keys() | new.keys() if old.get(key) != new.get(key)}


def _flatten(content: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in content.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def read_identity(folder: Path) -> dict[str, Any]:
    """Of another run; nothing where it was removed meanwhile or cannot be read."""
    try:
        return json.loads((folder / IDENTITY).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
