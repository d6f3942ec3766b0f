"""`python -m headway import`: a foreign source as data/raw/<name>/.

Enters: format, source, options, and where to. Leaves: the folder, and text: what was read, what to do next.
"""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

from headway.atomic import replacing_folder
from headway.data.facts import is_zone
from headway.data.importers.formats import FACTS, FORMATS, Options
from headway.data.importers.imported import Imported
from headway.data.importers.known import digest
from headway.data.importers.write import NAME, Content, write_raw
from headway.data.parquet import listing
from headway.errors import InputError

SIMULATED = "simulated"  # the folder that the first stage makes


def import_data(form: str, source: Path, name: str, out: Path, options: Options, *, replace: bool) -> str:
    """Import and describe.

    Raises: InputError for options that the format has no use for, names that are no folder, a folder that is there
        already, and whatever is wrong with the source.
    """
    problems = _option_problems(form, options) + _name_problems(name)
    folder = out / name
    if not problems and folder.exists() and not replace:
        problems.append(f"{folder} is there already; choose another --name, or overwrite it with --replace")
    if not source.exists():
        problems.append(f"{source} not found")
    if problems:
        raise InputError.from_problems("nothing was imported:", problems)
    lost = [path for path in (source, options.sensors, options.edges) if path and _is_inside(path, folder)]
    if lost:
        raise InputError(
            f"{lost[0]} lies in {folder}, which would be replaced; import it under another --name"
        )
    try:
        content, remarks = import_source(form, source, options, folder)
    except InputError:
        raise
    except (OSError, MemoryError) as error:  # no room, no permission
        raise InputError(f"{source} was not imported: {error or 'not enough memory'}") from None
    return _describe(form, source, folder, content, remarks)


def import_source(name: str, source: Path, options: Options, out: Path) -> tuple[Content, list[str]]:
    """Import `source`, of the format `name`, as the folder `out`.

    Returns: what was written, and remarks.
    Raises: InputError; then `out` is what it was.
    """
    if name == "raw":
        from headway.data.importers.raw_folder import copy_raw

        with replacing_folder(out) as folder:
            return copy_raw(source, folder, options)
    imported = read_source(name, source, options)
    if source.is_file():
        origin = f"{imported.facts.source}, SHA-256 {digest(source).sha256}"
        imported = dataclasses.replace(imported, facts=dataclasses.replace(imported.facts, source=origin))
    null = None if options.null is None or math.isnan(options.null) else options.null
    with replacing_folder(out) as folder:
        content, remarks = write_raw(folder, imported, source, null)
    if not imported.facts.time_zone:
        remarks.append("times are kept as UTC; civil days and rush hours need --time-zone")
    return content, [*imported.remarks, *remarks]


def read_source(name: str, source: Path, options: Options) -> Imported:
    """Read a source of any format but `raw`.

    Raises: InputError naming file, column or field, row, and what was found.
    """
    match name:
        case "wide":
            from headway.data.importers.wide import read_wide as read
        case "long":
            from headway.data.importers.long import read_long as read
        case "runs":
            from headway.data.importers.run_table import read_runs as read
        case "metr-la":
            from headway.data.importers.metr_la import read_metr_la as read
        case "pems-npz":
            from headway.data.importers.pems_npz import read_pems_npz as read
        case "pemsd7":
            from headway.data.importers.pemsd7 import read_pemsd7 as read
        case "largest":
            from headway.data.importers.largest import read_largest as read
        case "pgt-json":
            from headway.data.importers.pgt_json import read_pgt_json as read
        case "pgt-zip":
            from headway.data.importers.pgt_zip import read_pgt_zip as read
        case "basicts":
            from headway.data.importers.basicts import read_basicts as read
        case "st-sepnet":
            from headway.data.importers.st_sepnet import read_st_sepnet as read
        case "pems-station":
            from headway.data.importers.pems_station import read_pems_station as read
        case _:
            raise AssertionError(name)  # the command line admits FORMATS only
    return read(source, options)


def _is_inside(path: Path, folder: Path) -> bool:
    return path.resolve().is_relative_to(folder.resolve())


def _option_problems(form: str, options: Options) -> list[str]:
    taken = (*FACTS, *FORMATS[form].options)
    unused = [f"--{name.replace('_', '-')}" for name in options.given() if name not in taken]
    problems = [f"the format {form} has no use for {', '.join(unused)}"] if unused else []
    if options.time_zone and not is_zone(options.time_zone):
        problems.append(
            f"--time-zone {options.time_zone}: no zone of the tz database, e.g. Europe/London or UTC"
        )
    if options.null is not None and math.isinf(options.null):
        problems.append("--null must be a finite number, or nan")
    minutes = options.step_minutes
    if minutes is not None and not (0 < minutes < math.inf and (60 * minutes).is_integer()):
        problems.append(f"--step-minutes {minutes}: must be positive and whole seconds")
    return problems


def _name_problems(name: str) -> list[str]:
    if not NAME.fullmatch(name):
        return [f"--name {name!r}: use letters, digits, '.', '_' and '-', with a letter or digit first"]
    if name == SIMULATED:
        return [f"--name {name}: that folder belongs to the first stage; choose another"]
    return []


def _describe(form: str, source: Path, folder: Path, content: Content, remarks: list[str]) -> str:
    lines = [
        f"read {source} ({form}): {content.rows} rows, {len(content.sensors)} sensors: "
        f"{listing(content.sensors, 3)}",
        f"  from {content.first} to {content.last}; {content.missing:.1%} missing, {content.zeros:.1%} zeros",
        *(f"  {remark}" for remark in remarks),
        f"wrote {folder}: {', '.join(content.files)}",
        "next:",
        f"  dvc add {folder}",
        f"  dataset: {folder.name}    in params.yaml",
        "  python -m headway check",
        "  dvc repro",
    ]
    return "\n".join(lines) + "\n"
