"""The records of this repository's params.yaml with some keys changed, for tests of what reads all of it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from headway.commands.sections import read_sections

ROOT = Path(__file__).resolve().parents[1]


def sections_of(dataset: str = "simulated", **changes: dict[str, Any]) -> dict[str, Any]:
    """Every section as its record; `train={"lr": 0.1}` changes a key."""
    sections: dict[str, Any] = {**read_sections(ROOT / "params.yaml"), "dataset": dataset}
    for name, keys in changes.items():
        sections[name] = replace(sections[name], **keys)
    return sections
