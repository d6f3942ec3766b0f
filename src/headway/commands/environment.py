"""Python and the installed packages against requirements.txt.

Enters: the path of requirements.txt. Leaves: findings. Nothing but the standard library is imported, so that
a broken installation can be named by the command that it breaks.
"""

from __future__ import annotations

import re
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from headway.commands.findings import Finding, note, ok, problem

OLDEST_PYTHON = (3, 11)
INSTALL = "pip install -r requirements.txt"
_PIN = re.compile(r"([A-Za-z0-9_.-]+)==([^\s#;]+)")


def inspect_environment(requirements: Path) -> list[Finding]:
    """Python's version, torch's, and every other package that is not as pinned."""
    return [_python(sys.version_info[:3]), *_packages(requirements)]


def read_pins(requirements: Path) -> dict[str, str]:
    """Package -> version of each `name==version` line."""
    matches = (_PIN.match(line.strip()) for line in requirements.read_text(encoding="utf-8").splitlines())
    return {match[1]: match[2] for match in matches if match}


def _python(running: tuple[int, int, int]) -> Finding:
    text = ".".join(map(str, running))
    if running[:2] >= OLDEST_PYTHON:
        return ok("python", text)
    return problem(
        "python", f"{text}, older than 3.11", "make the environment anew with Python 3.11 or later"
    )


def _packages(requirements: Path) -> list[Finding]:
    if not requirements.is_file():
        return [problem("packages", f"{requirements} not found", "run from the project's root")]
    findings = []
    pins = read_pins(requirements)
    for name, pin in pins.items():
        found = _installed(name)
        if found is None:
            findings.append(problem(name, "not installed", INSTALL))
        elif found.split("+")[0] == pin:  # 2.13.0+cpu is a build of 2.13.0
            findings += [ok(name, found)] if name == "torch" else []
        elif name == "torch":
            findings.append(problem(name, f"{found}, requirements.txt says {pin}", INSTALL))
        else:
            findings.append(note(name, f"{found}, requirements.txt says {pin}", INSTALL))
    same = len(pins) - sum(finding.status != "ok" for finding in findings)
    return [*findings, ok("packages", f"{same} of {len(pins)} as in requirements.txt")]


def _installed(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
