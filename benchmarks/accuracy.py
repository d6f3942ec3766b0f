"""Our error beside that of everything else that runs here, under one protocol.

    pip install lightgbm==4.7.0
    git clone https://github.com/GestaltCogTeam/STID
    STID=$PWD/STID python benchmarks/accuracy.py --data DIR [--data DIR ...] [--simulated] --work FOLDER
        [--seeds 3] [--steps [DATA:]4000 ...] [--models headway,stid_context] [--set [DATA:]KEY=VALUE ...]
        [--json FILE]

Each DIR is a folder of the raw contract (docs/data.md). The pipeline's own stages prepare it once, 7-1-2 in time;
ours is trained by them from params.yaml, but for what the data set makes impossible and what `--set` changes, on all
data sets or on the one that it names. The peers read the same prepared folder, and are judged on the same windows by
the same code: the naive forecasts, our anchors alone, linear maps in closed form, LightGBM, STID; the latter three
also, or only, with the windows of a day and a week ago. A peer that is not installed is left out, and how to get it
is said. What learns by steps gets `--steps` of them, on all data sets or on the one that it names, LOOKS looks at the
same validation windows, and keeps its best weights.

Graph WaveNet and STAEformer are left out: an epoch of theirs takes 42 and 180 minutes of one core, so nothing is
claimed against them here.

Every result is a line of FOLDER/results.jsonl, by a key that holds all that decides it: code, data, params.yaml,
steps and seed. A second call does what is missing, going on with a training of ours that was interrupted; two calls
at a time share the work. On Ctrl-C the training saves its state.

`train s` counts from the first step to the last look; MiB is the peak of the resident memory until then.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import peer_naive
import peer_stid
from accuracy_tables import tables
from child import ChildFailed, run_child
from own_run import COST, SIMULATED, Setting, make_setting, prepare, run_own
from peer import PEERS, SEEDED, family_of
from project_copy import LOOKS, ROOT, VALIDATION_WINDOWS, log
from results_log import Key, ResultsLog, code_digest
from ruamel.yaml import YAML

from headway.data.prepared import open_prepared
from headway.errors import InputError
from headway.training.identity import digest
from headway.training.lock import RunLocked, acquire

OURS = "headway"
MODELS = (*PEERS, OURS)
SHARED_CODE = ("peer.py", "fitted.py")  # that every peer's numbers rest on, beside its own module
SHOWN_DIGITS = 4


def main() -> None:
    arguments = parse_arguments()
    arguments.work.mkdir(parents=True, exist_ok=True)
    book = ResultsLog(arguments.work / "results.jsonl")
    found: dict[str, Any] = {}
    failures: list[str] = []
    for source in [*arguments.data, *([None] if arguments.simulated else [])]:
        name = source.resolve().name if source else SIMULATED
        steps = arguments.steps.get(name, arguments.steps[""])
        setting = make_setting(arguments.work, source, steps, changes_for(name, arguments.changes))
        prepare(setting)
        failures += fill(setting, book, arguments)
        found[setting.name] = collect(setting, book, arguments)
        log(tables(found[setting.name]))
        if arguments.json:
            arguments.json.write_text(json.dumps(found, indent=1) + "\n")
    if failures:
        sys.exit(f"{len(failures)} failed: {', '.join(failures)}; the same command tries them again")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, action="append", default=[], help="folder of the raw contract")
    parser.add_argument("--simulated", action="store_true", help="also the embedded data set")
    parser.add_argument(
        "--work", type=Path, required=True, help="folder of copies, results and what is unfinished"
    )
    parser.add_argument("--seeds", type=int, default=3, help="number of trainings; seeds are 0, 1, ...")
    parser.add_argument(
        "--steps",
        type=split_steps,
        action="append",
        default=[("", 4000)],
        metavar="[DATA:]N",
        help="of a training",
    )
    parser.add_argument("--models", default=",".join(MODELS), help="names, with commas")
    parser.add_argument(
        "--set", action="append", default=[], metavar="[DATA:]KEY=VALUE", help="of params.yaml"
    )
    parser.add_argument("--json", type=Path, help="file to write all that was found to")
    arguments = parser.parse_args()
    missing = [str(path) for path in arguments.data if not (path / "series.parquet").is_file()]
    if missing:
        parser.error(f"no series.parquet in {', '.join(missing)}")
    if not arguments.data and not arguments.simulated:
        parser.error("give --data DIR or --simulated")
    arguments.models = arguments.models.split(",")
    unknown = set(arguments.models) - set(MODELS)
    if unknown:
        parser.error(f"unknown models {', '.join(sorted(unknown))}; there are {', '.join(MODELS)}")
    arguments.changes = dict(split_change(text) for text in arguments.set)
    arguments.steps = dict(arguments.steps)
    return arguments


def split_steps(text: str) -> tuple[str, int]:
    """`DATA:N` as (data, N); without a data set it is of all, and the first is empty."""
    data, _, number = text.rpartition(":")
    return data, int(number)


def split_change(text: str) -> tuple[tuple[str, str], Any]:
    """`DATA:KEY=VALUE` as ((data, key), value); without a data set it is of all, and the first is empty."""
    place, _, value = text.partition("=")
    data, _, key = place.rpartition(":")
    return (data, key), YAML(typ="safe").load(value)


def changes_for(name: str, changes: dict[tuple[str, str], Any]) -> dict[str, Any]:
    """What `--set` changes on this data set: what names it counts more than what is for all."""
    for_all = {key: value for (data, key), value in changes.items() if not data}
    return for_all | {key: value for (data, key), value in changes.items() if data == name}


def fill(setting: Setting, book: ResultsLog, arguments: argparse.Namespace) -> list[str]:
    """Do what is missing, the quick ones first. Returns: what failed."""
    failures: list[str] = []
    for key in keys_of(setting, arguments):
        name = f"{key[1]}, seed {key[2]}" if key[1] in (*SEEDED, OURS) else key[1]
        try:
            result = do(setting, book, key)
        except RunLocked:
            log(f"{setting.name}, {name}: another process is at it")
        except ChildFailed as failure:
            log(f"{setting.name}, {name}: {failure}")
            failures.append(f"{setting.name}, {name}")
        else:
            if result:
                mae = result["scores"]["all"]["mae"]
                log(f"{setting.name}, {name}: MAE {mae:.{SHOWN_DIGITS}f}, {result['seconds']:.0f} s")
    return failures


def keys_of(setting: Setting, arguments: argparse.Namespace) -> Iterator[Key]:
    """What is asked for and can be done here, seed by seed: a table that is cut short has all rows."""
    there = [model for model in MODELS if model in arguments.models and not absent(setting, model)]
    for seed in range(arguments.seeds):
        for model in there:
            if seed == 0 or model in (*SEEDED, OURS):
                yield (setting.name, model, seed, settings_hash(setting, model))


def absent(setting: Setting, model: str) -> str:
    """Why a model is left out; empty where it is not."""
    if model == OURS:
        return ""
    return family_of(model).absent(model, open_prepared(setting.prepared, verify=False))


def settings_hash(setting: Setting, model: str) -> str:
    """Of all that decides a model's numbers but the seed.

    A peer rests on the arrays, not on the code that made them: while ours is worked on, theirs stay.
    """
    if model == OURS:
        return setting.own_hash[:16]
    meta, family = open_prepared(setting.prepared, verify=False).meta, family_of(model)
    sources = [ROOT / "benchmarks" / name for name in (*SHARED_CODE, f"{family.__name__}.py")]
    arrays = [meta.files[f"{name}.npy"]["sha256"] for name in ("values", "observed", "calendar")]
    windows = [meta.history, meta.horizon, meta.context, meta.splits, meta.training_rows]
    own = setting.own_hash if model in peer_naive.MODELS else ""  # our anchors; quickly done
    looks = [setting.steps, LOOKS, VALIDATION_WINDOWS] if model in peer_stid.MODELS else []
    floor = setting.params["evaluate"]["mape_floor"]
    return digest([code_digest(sources), arrays, windows, own, looks, floor])[:16]


def do(setting: Setting, book: ResultsLog, key: Key) -> dict[str, Any] | None:
    """Make and note one result, unless it is there. Returns: it, or None where nothing was left to do.

    Raises: RunLocked when another process is at it; ChildFailed.
    """
    _, model, seed, settings = key
    own = model == OURS
    folder = setting.own_project(seed) if own else setting.folder / f"{model}-{settings[:10]}-{seed}"
    if book.find(key):
        return None
    with acquire(folder):
        if book.find(key):  # by the process that has just let go of the lock
            return None
        result = run_own(setting, seed) if own else run_peer(setting, folder, model, seed)
        book.append(key, {**result, "changes": setting.changes})
    return result


def run_peer(setting: Setting, folder: Path, model: str, seed: int) -> dict[str, Any]:
    """Fit and judge a peer in a process of its own."""
    job = {
        "prepared": str(setting.prepared.resolve()),
        "model": model,
        "seed": seed,
        "steps": setting.steps,
        "mape_floor": setting.params["evaluate"]["mape_floor"],
        "device": setting.params["runtime"]["device"],
    }
    asked, told = folder / "job.json", folder / "result.json"
    asked.write_text(json.dumps(job) + "\n")
    command = [sys.executable, str(ROOT / "benchmarks/peer.py"), str(asked.resolve()), str(told.resolve())]
    run_child(command, folder, folder / "peer.log", folder / COST)
    return json.loads(told.read_text())


def collect(setting: Setting, book: ResultsLog, arguments: argparse.Namespace) -> dict[str, Any]:
    """All results of a data set by model, what is missing of them, and what the data set is."""
    runs: dict[str, list[dict[str, Any]]] = {}
    missing: list[str] = []
    for key in keys_of(setting, arguments):
        if result := book.find(key):
            runs.setdefault(key[1], []).append(result)
        else:
            missing.append(f"{key[1]}, seed {key[2]}")
    left_out = {model: reason for model in arguments.models if (reason := absent(setting, model))}
    meta = open_prepared(setting.prepared, verify=False).meta
    facts = {name: getattr(meta, name) for name in ("sensors", "steps", "step_seconds", "unit", "context")}
    test = meta.splits["test"]
    facts |= {"name": setting.name, "test_windows": test[1] - test[0], "optimizer_steps": setting.steps}
    return {"facts": facts, "runs": runs, "missing": missing, "left_out": left_out}


if __name__ == "__main__":
    try:
        main()
    except (InputError, ChildFailed) as error:
        sys.exit(f"error: {error}")
