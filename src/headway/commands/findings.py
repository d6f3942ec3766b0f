"""What a check found, and the table it is shown in.

Enters: findings, in groups. Leaves: text, one line a finding: status, name, what was found; what helps.
Glossary: ok = as it should be; note = worth knowing; problem = a stage would fail or mislead.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

Status = Literal["ok", "note", "problem"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One item of the table; `help` says what to do, best as a command; empty where nothing is."""

    status: Status
    name: str
    found: str
    help: str = ""


def ok(name: str, found: str) -> Finding:
    """As it should be."""
    return Finding(status="ok", name=name, found=found)


def note(name: str, found: str, help: str = "") -> Finding:
    """Worth knowing."""
    return Finding(status="note", name=name, found=found, help=help)


def problem(name: str, found: str, help: str = "") -> Finding:
    """In the way."""
    return Finding(status="problem", name=name, found=found, help=help)


def count(groups: Mapping[str, Sequence[Finding]], status: Status) -> int:
    """Findings of a status in all groups."""
    return sum(finding.status == status for findings in groups.values() for finding in findings)


def table(groups: Mapping[str, Sequence[Finding]]) -> str:
    """The findings under the names of their groups, and a last line that counts."""
    width = max((len(finding.name) for findings in groups.values() for finding in findings), default=0)
    blocks = []
    for group, findings in groups.items():
        lines = [
            f"  {finding.status:<7}  {finding.name:<{width}}  {_sentence(finding)}" for finding in findings
        ]
        blocks.append("\n".join([group, *lines]))
    return "\n\n".join([*blocks, _summary(groups)]) + "\n"


def _sentence(finding: Finding) -> str:
    return f"{finding.found}; {finding.help}" if finding.help else finding.found


def _summary(groups: Mapping[str, Sequence[Finding]]) -> str:
    problems, notes = count(groups, "problem"), count(groups, "note")
    counted = f"{_plural(problems, 'problem')}, {_plural(notes, 'note')}"
    return counted if problems else f"{counted}: nothing in the way of `dvc repro`"


def _plural(number: int, noun: str) -> str:
    return f"{number or 'no'} {noun}{'' if number == 1 else 's'}"
