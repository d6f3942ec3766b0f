"""What a stage imports, followed through the source without running it."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
SOURCE = ROOT / "src"


def imported_files(script: Path, choice: Mapping[str, str]) -> set[str]:
    """Files of this project that `script` needs, itself included, as paths from the project's root.

    Args:
        choice: subject of a `match` (its last attribute: name, spatial) -> the case that is taken.
            Imports in other cases, and under TYPE_CHECKING, are not followed.
    """
    found: set[Path] = set()
    waiting = [script]
    while waiting:
        path = waiting.pop()
        if path in found:
            continue
        found.add(path)
        source = path.read_text(encoding="utf-8")
        if path.suffix in (".c", ".h"):
            waiting += [
                path.with_name(name) for name in re.findall(r'^#include "(.+)"$', source, re.MULTILINE)
            ]
            continue
        modules = _modules(ast.parse(source), choice)
        for module in modules:
            waiting += _files_of(module)
    return {path.relative_to(ROOT).as_posix() for path in found if path == script or not _is_bare(path)}


def _modules(node: ast.AST, choice: Mapping[str, str]) -> Iterator[str]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            yield from (alias.name for alias in child.names)
        elif isinstance(child, ast.ImportFrom) and child.module:
            yield child.module
            yield from (f"{child.module}.{alias.name}" for alias in child.names)
        elif isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test):
            continue
        elif isinstance(child, ast.Match) and isinstance(child.subject, ast.Attribute):
            wanted = choice.get(child.subject.attr)
            for case in child.cases:
                if wanted is None or wanted in ast.dump(case.pattern):
                    yield from _modules(case, choice)
        else:
            yield from _modules(child, choice)


def _files_of(module: str) -> list[Path]:
    """The file of a module of ours, C of its name, the `__init__` of each package above it; else nothing."""
    parts = module.split(".")
    if parts[0] != "headway":
        return []
    packages = [SOURCE.joinpath(*parts[:depth], "__init__.py") for depth in range(1, len(parts) + 1)]
    file = SOURCE.joinpath(*parts).with_suffix(".py")
    return [path for path in (*packages, file, file.with_suffix(".c")) if path.exists()]


def _is_bare(path: Path) -> bool:
    """Whether the file holds nothing that a stage's result could depend on.

    That is a docstring, names and version, what only type checkers read, and a `__getattr__` with its imports:
    the door to what is loaded when somebody first asks for it, which no stage does.
    """
    if path.suffix in (".c", ".h"):
        return False
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return not _files_imported(tree) and all(_is_inert(node) for node in tree.body)


def _files_imported(tree: ast.AST) -> list[Path]:
    return [file for module in _modules(tree, {}) for file in _files_of(module)]


def _is_inert(node: ast.stmt) -> bool:
    match node:
        case ast.Expr() | ast.Import() | ast.ImportFrom():
            return True
        case ast.Assign(targets=[ast.Name(id=name)]):
            return name in ("__version__", "__all__")
        case ast.FunctionDef(name=name):
            return name == "__getattr__"
        case ast.If():
            return "TYPE_CHECKING" in ast.dump(node.test)
        case _:
            return False
