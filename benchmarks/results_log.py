"""results.jsonl: a line for each data set, model and seed that is done; several processes may write it.

Enters: results. Leaves: the file, and from it the result of a key.

Glossary: a key is (data set, model, seed, settings); settings is a hash of all that decides the numbers.
"""

from __future__ import annotations

import ast
import fcntl
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from project_copy import log

from headway.training.identity import digest

KEY = ("set", "model", "seed", "settings")
Key = tuple[str, str, int, str]


class ResultsLog:
    """The file, read anew at each question: another process may have written to it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def find(self, key: Key) -> dict[str, Any] | None:
        """The newest result of this key."""
        return self._read().get(key)

    def append(self, key: Key, result: dict[str, Any]) -> None:
        """Add a line; whole, whoever else writes."""
        line = json.dumps(dict(zip(KEY, key, strict=True)) | result, allow_nan=False)
        with self.path.open("a+b") as file:
            fcntl.lockf(file, fcntl.LOCK_EX)
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - 1))
            torn = size > 0 and file.read(1) != b"\n"  # by a process that was killed in the middle
            file.write((b"\n" if torn else b"") + line.encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())

    def _read(self) -> dict[Key, dict[str, Any]]:
        found: dict[Key, dict[str, Any]] = {}
        lines = self.path.read_text().splitlines() if self.path.exists() else []
        for number, line in enumerate(lines, start=1):
            try:
                row = json.loads(line)
            except json.JSONDecodeError:
                log(f"{self.path}, line {number} is torn and left out")
                continue
            found[(row["set"], row["model"], row["seed"], row["settings"])] = row
        return found


def code_digest(paths: Iterable[Path]) -> str:
    """Hash of parsed sources: a comment or a line break changes nothing."""
    files = sorted(path for path in paths if path.suffix == ".py")
    return digest([ast.dump(ast.parse(path.read_text(encoding="utf-8"))) for path in files])
