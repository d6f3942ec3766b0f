"""What `pip install` of the package brings: enough to forecast with a model folder, in the versions pinned here."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BROUGHT = {"annotated-types"}  # by pydantic
LOADED = """
import sys, headway, headway.commands.predict, headway.__main__
print(*(module.__file__ for name, module in sys.modules.items() if name.split('.')[0] == 'headway'), sep='\\n')
"""


def test_the_package_names_what_forecasting_imports() -> None:
    declared = set(map(_name, dependencies()))
    found = subprocess.run([sys.executable, "-c", LOADED], check=True, capture_output=True, text=True)
    owners = packages_distributions()
    needed = {
        owner.lower()
        for file in found.stdout.split()
        for module in third_parties(Path(file))
        for owner in owners.get(module, [])[:1]
    }
    assert needed - declared - BROUGHT == set()


def test_its_oldest_versions_are_the_pinned_ones() -> None:
    pins = dict(re.findall(r"^([\w.-]+)==([\w.]+)", (ROOT / "requirements.txt").read_text(), re.M))
    assert dependencies() == [f"{name}>={pins[name]}" for name in map(_name, dependencies())]


def dependencies() -> list[str]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]


def third_parties(file: Path) -> set[str]:
    """Packages that a module imports when it is imported."""
    names = set[str]()
    for node in ast.parse(file.read_text()).body:
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
    tops = {name.split(".")[0] for name in names}
    return tops - sys.stdlib_module_names - {"headway"}


def _name(line: str) -> str:
    return line.partition(">=")[0]
