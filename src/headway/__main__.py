"""The command line, beside DVC's own:

    python -m headway check             what is wrong, or worth knowing, before a run
    python -m headway plan [--budget 4GB] [--sensors N] [--history L]
                                        what training will hold in memory, by component
    python -m headway plan --calibrate  measure, on a CUDA GPU, what a plan cannot know, and plan with it from then on
    python -m headway preset            the presets there are
    python -m headway preset NAME       set params.yaml to one of them
    python -m headway fetch [NAME]      the files of a published data set, or the names there are
    python -m headway import FORMAT SOURCE --name NAME
                                        a foreign data set as data/raw/NAME (--help lists the formats)
    python -m headway results           the last evaluation: errors, and what the intervals are worth
    python -m headway runs              the unfinished and finished runs in .resume
    python -m headway runs --prune      remove those that params.yaml does not describe and nobody trains
    python -m headway predict MODEL RECENT [--out FILE]     forecasts from a table of recent readings

`predict` needs no project; the others are run from its root. `check` leaves with 1 when there is a problem.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from headway.commands import import_arguments
from headway.commands.environment import INSTALL, inspect_environment
from headway.commands.findings import count, problem, table
from headway.errors import InputError

PARAMS, PRESETS, REQUIREMENTS = Path("params.yaml"), Path("presets"), Path("requirements.txt")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; `arguments` are those of the process by default.

    Returns: the exit code.
    """
    chosen = _parser().parse_args(arguments)
    try:
        if chosen.command == "check":
            return _check()
        if chosen.command == "plan":
            return _plan(chosen)
        if chosen.command == "runs":
            return _runs(chosen.prune)
        if chosen.command == "results":
            return _results(chosen.write)
        if chosen.command == "fetch":
            return _fetch(chosen.name, chosen.out)
        if chosen.command == "import":
            return _import(chosen)
        if chosen.command == "predict":
            return _predict(chosen)
        return _preset(chosen.name) if chosen.name and not chosen.list else _presets()
    except InputError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m headway", description="Commands beside those of DVC.")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("check", help="what is wrong, or worth knowing, before a run")
    _add_plan(commands.add_parser("plan", help="what training will hold in memory, by component"))
    preset = commands.add_parser("preset", help="set params.yaml to a preset")
    preset.add_argument("name", nargs="?", metavar="NAME", help="without it, the presets there are")
    preset.add_argument("--list", action="store_true", help="the presets there are")
    results = commands.add_parser("results", help="the last evaluation, in Markdown")
    results.add_argument("--write", type=Path, metavar="PAGE", help="put it between the marks of this page")
    runs = commands.add_parser("runs", help="the unfinished and finished runs in .resume")
    runs.add_argument(
        "--prune", action="store_true", help="remove those of other parameters that nobody trains"
    )
    fetch = commands.add_parser("fetch", help="the files of a published data set")
    fetch.add_argument("name", nargs="?", metavar="NAME", help="without it, the data sets there are")
    fetch.add_argument("--out", type=Path, default=Path("data/downloads"), help="folder of the files")
    import_arguments.add_arguments(commands.add_parser("import", help="a foreign data set as data/raw/NAME"))
    _add_predict(commands.add_parser("predict", help="forecasts from a table of recent readings"))
    return parser


def _add_plan(plan: argparse.ArgumentParser) -> None:
    plan.add_argument("--budget", metavar="4GB", help="instead of runtime.memory_budget: what fits it")
    plan.add_argument("--sensors", type=_count, metavar="N", help="instead of those of the data")
    plan.add_argument("--history", type=_count, metavar="L", help="instead of windows.history")
    plan.add_argument(
        "--calibrate", action="store_true", help="measure a few steps on a CUDA GPU; later plans read it"
    )


def _count(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is less than 1")
    return number


def _add_predict(predict: argparse.ArgumentParser) -> None:
    predict.add_argument("model", type=Path, metavar="MODEL", help="a model folder, such as models/train")
    predict.add_argument("recent", type=Path, metavar="RECENT", help="readings up to now, .parquet or .csv")
    predict.add_argument(
        "--input", action="append", default=[], metavar="NAME=FILE", help="a further variable"
    )
    predict.add_argument("--covariates", type=Path, metavar="FILE", help="what holds for all sensors")
    predict.add_argument(
        "--recalibrate", action="store_true", help="calibrate intervals on the newest week of the readings"
    )
    predict.add_argument(
        "--out", type=Path, metavar="FILE", help="write .parquet or .csv instead of showing it"
    )


def _check() -> int:
    groups = {"environment": inspect_environment(REQUIREMENTS)}
    try:
        from headway.commands.checks import inspect_project  # needs the packages that were just looked for
    except (ImportError, OSError) as error:
        groups["environment"].append(problem("headway", f"cannot be loaded: {error}", INSTALL))
    else:
        groups |= inspect_project(Path())
    sys.stdout.write(table(groups))
    return 1 if count(groups, "problem") else 0


def _plan(chosen: argparse.Namespace) -> int:
    from headway.commands.calibrate import calibrate
    from headway.commands.plan import plan_text

    if chosen.calibrate:
        sys.stdout.write(calibrate(Path(), chosen.sensors, chosen.history) + "\n")
    sys.stdout.write(plan_text(Path(), chosen.budget, chosen.sensors, chosen.history))
    return 0


def _results(page: Path | None) -> int:
    from headway.commands.results import evaluation_table, write_table

    table = evaluation_table(Path())
    if page is None:
        sys.stdout.write(table)
    else:
        write_table(page, table)
    return 0


def _runs(prune: bool) -> int:
    from headway.commands.data_checks import inspect_prepared
    from headway.commands.hardware import resume_store
    from headway.commands.runs import list_runs, prune_runs, runs_table
    from headway.commands.sections import read_sections

    sections = read_sections(PARAMS)
    _, prepared = inspect_prepared(sections, Path())
    runs = list_runs(resume_store(Path()), sections, prepared.manifest if prepared else "")
    sys.stdout.write(prune_runs(runs) if prune else runs_table(runs))
    return 0


def _fetch(name: str | None, out: Path) -> int:
    from headway.commands.fetching import fetch_data, list_public

    sys.stdout.write(fetch_data(name, out) if name else list_public())
    return 0


def _import(chosen: argparse.Namespace) -> int:
    from headway.commands.importing import import_data

    options = import_arguments.read_options(chosen)
    text = import_data(chosen.format, chosen.source, chosen.name, chosen.out, options, replace=chosen.replace)
    sys.stdout.write(text)
    return 0


def _predict(chosen: argparse.Namespace) -> int:
    from headway.commands.predict import check_out, forecast_text, predict, write_file

    check_out(chosen.out)
    forecasts = predict(chosen.model, chosen.recent, chosen.input, chosen.covariates, chosen.recalibrate)
    if chosen.out is not None:
        write_file(chosen.out, forecasts)
    sys.stdout.write(forecast_text(forecasts, chosen.out))
    return 0


def _preset(name: str) -> int:
    from headway.commands.presets import apply_preset

    changes = apply_preset(PARAMS, PRESETS, name)
    if not changes:
        sys.stdout.write(f"{PARAMS} already holds every value of {name}\n")
        return 0
    width = max(len(change.key) for change in changes)
    lines = [f"  {change.key:<{width}}  {change.old} -> {change.new}" for change in changes]
    following = "next: python -m headway check, then dvc repro; `git diff params.yaml` shows what was changed"
    sys.stdout.write("\n".join([f"{PARAMS} set to {name}:", *lines, following]) + "\n")
    return 0


def _presets() -> int:
    from headway.commands.presets import list_presets

    presets = list_presets(PRESETS)
    if not presets:
        raise InputError(f"no presets in {PRESETS}; run from the project's root")
    width = max(map(len, presets))
    sys.stdout.write("".join(f"{name:<{width}}  {line}\n" for name, line in presets.items()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
