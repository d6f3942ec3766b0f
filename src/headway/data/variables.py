"""Which file holds which variable of a data set.

Enters: a folder, its facts, `windows.target` and `windows.inputs`. Leaves: a `VariableFile` each, the target first.

Glossary: main variable = that of series.parquet, the one dataset.yaml speaks of; any other is in
series_<name>.parquet.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from headway.data.facts import DatasetFacts
from headway.data.parquet import listing
from headway.data.rules import NO_BOUNDS, Bounds

AUTO = "auto"  # windows.target: the main variable
MAIN = "series.parquet"


@dataclass(frozen=True, slots=True, kw_only=True)
class VariableFile:
    """A variable: its name, unit ("" where nobody said), file, and which readings in it are none."""

    name: str
    unit: str
    path: Path
    bounds: Bounds


def find_variables(
    folder: Path, facts: DatasetFacts, target: str, inputs: Sequence[str]
) -> tuple[tuple[VariableFile, ...], list[str]]:
    """The target, then the inputs; and sentences on names that no file has.

    Unit and bounds of dataset.yaml go with the main variable, whether it is the target or an input.
    """
    main = VariableFile(
        name=facts.variable,
        unit=facts.unit,
        path=folder / MAIN,
        bounds=Bounds(null=facts.null_value, minimum=facts.minimum, maximum=facts.maximum),
    )
    there = {main.name: main}
    for path in sorted(folder.glob("series_*.parquet")):  # a file of the main variable's name stands above it
        name = path.stem.removeprefix("series_")
        there[name] = VariableFile(name=name, unit="", path=path, bounds=NO_BOUNDS)
    chosen = main if target == AUTO else there.get(target, main)
    others = [name for name in there if name != chosen.name]
    problems = [] if target in (AUTO, *there) else [f"windows.target: {_unknown(target, there)}"]
    problems += [f"windows.inputs: {_unknown(name, others)}" for name in inputs if name not in there]
    if chosen.name in inputs:
        problems.append(f"windows.inputs: {chosen.name} is the target, which is read anyway; leave it out")
    problems += [
        f"windows.inputs: {name} is listed twice" for name in sorted(set(inputs)) if inputs.count(name) > 1
    ]
    return (chosen, *(there[name] for name in inputs if name in others)), problems


def _unknown(name: str, there: Sequence[str] | dict[str, VariableFile]) -> str:
    return f"no variable {name!r}; there are: {listing(there) or 'none'}"
