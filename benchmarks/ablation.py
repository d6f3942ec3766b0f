"""What each part of the model is worth: the same training without it, or with something else in its place.

    python benchmarks/ablation.py [--data DIR ...] [--simulated] --work FOLDER [--rows no_signs,no_mamba]
        [--seeds 3] [--steps 800] [--sensors 64] [--days 90] [--threads 0] [--json FILE]

A project under Git and DVC is made for each data set; each row and seed is queued in it by

    dvc exp run --queue --name no_graph-seed0 -S model.spatial=none -S train.seed=0

and the queue is run. Scores come from `dvc exp show`. params.yaml has no key that would take the signs from HA-GAT or
the past from a block, so rows about these edit one line of the project's code before they are queued.

A second call with the same FOLDER queues what is missing; a training that was interrupted goes on. Code and
params.yaml are those of the first call, and another size of the training needs another FOLDER.

Each difference is that of the same seed with and without: `wins` counts the seeds in which params.yaml is better.
JSON: {data set: [{"row", "seed", "mae", "rmse", "weights"}]}.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from dvc_sweep import dvc, run, start_project
from own_run import SIMULATED
from project_copy import count_steps, log, possible_windows
from uncertainty import spread

ASKED = "asked.json"  # what the project was made for


@dataclass(frozen=True, slots=True, kw_only=True)
class Edit:
    """One line of the code, and what stands in its place."""

    file: str
    old: str
    new: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """What differs from params.yaml: keys, or a line of the code where no key can say it."""

    title: str
    changes: Mapping[str, Any] = field(default_factory=dict)
    edit: Edit | None = None


NO_SIGNS = Edit(
    file="src/headway/nn/signed_attention.py",
    old="return _Kept(regimes.hidden, alpha=scores, sign=agreement)",
    new="return _Kept(regimes.hidden, alpha=scores, sign=agreement.fill_(1))",
)
REGIMES_ALONE = Edit(
    file="src/headway/nn/ha_gat.py",
    old="self.edge_sign = nn.Embedding(edges[0], self.heads * edges[1]) if edges else None",
    new="self.edge_sign = None",
)
NO_MAMBA = Edit(
    file="src/headway/models/st_mamba.py",
    old="self.norm(self.dropout(past).add_(last))",
    new="self.norm(last + 0 * past)",  # every weight still has a gradient
)
DAYS_AGO = Edit(
    file="src/headway/data/split.py",
    old="if covers_two_weeks(training_rows, step):",
    new="if training_rows:  # however short it is",
)
ADAMW = Edit(
    file="src/headway/training/optimizer.py",
    old="return MuonAdamW(turned, others, lr, weight_decay)",
    new="return torch.optim.AdamW(_groups(model, lambda _: True, slow, share), weight_decay=weight_decay)",
)
ROWS = {
    "params": Row(title="params.yaml"),
    "no_graph": Row(title="no HA-GAT: no neighbor is read", changes={"model.spatial": "none"}),
    "no_signs": Row(title="HA-GAT without signs", edit=NO_SIGNS),
    "regimes_alone": Row(title="signs by regimes alone", edit=REGIMES_ALONE),
    "gatv2": Row(title="GATv2 in its place", changes={"model.spatial": "gatv2", "gatv2.hidden_dim": 32}),
    "hypergraph": Row(title="hypergraph in its place", changes={"model.spatial": "hypergraph"}),
    "one_hop": Row(title="one hop", changes={"ha_gat.hops": 1}),
    "no_mamba": Row(title="no Mamba: identity in time", edit=NO_MAMBA),
    "adamw": Row(title="all updates by AdamW", edit=ADAMW),
    "adamw_twice": Row(title="the same at twice the rate", changes={"train.lr": 0.004}, edit=ADAMW),
    "no_context": Row(
        title="no context: history alone", changes={"windows.context": [], "windows.trailing_weeks": 0}
    ),
    "days_ago": Row(
        title="day and week, not what was usual, however short training is",
        changes={"windows.trailing_weeks": 0},
        edit=DAYS_AGO,
    ),
    "no_usual": Row(title="day and week, not what was usual", changes={"windows.trailing_weeks": 0}),
    "no_anchors": Row(title="no anchors", changes={"model.anchors": False}),
    "no_identity": Row(title="sensors without identity", changes={"st_mamba.node_embedding": False}),
    "no_clock": Row(
        title="no time of day",
        changes={"st_mamba.time_of_day_embedding": False, "st_mamba.day_of_week_embedding": False},
    ),
    "no_decoder": Row(title="head of one layer", changes={"mixture.layers": 0}),
    "point": Row(title="a number, by its absolute error", changes={"model.head": "point"}),
    "likelihood": Row(title="likelihood alone", changes={"mixture.mean_square": 0.0}),
    "no_dropout": Row(title="no sensor dropout", changes={"model.sensor_dropout": 0.0}),
    "nearest": Row(title="the nearest neighbors alone", changes={"preprocess.granger_neighbors": 0}),
    "foretelling": Row(title="none of the nearest", changes={"preprocess.granger_neighbors": 8}),
    "k4": Row(title="4 neighbors", changes={"preprocess.max_neighbors": 4}),
    "k15": Row(title="15 neighbors", changes={"preprocess.max_neighbors": 15}),
    "history48": Row(title="history of 48 steps", changes={"windows.history": 48}),
    "width64": Row(title="width 64", changes={"ha_gat.hidden_dim": 64}),
    "width96": Row(title="width 96", changes={"ha_gat.hidden_dim": 96}),
    "two_blocks": Row(title="two blocks", changes={"st_mamba.layers": 2}),
    "per_sensor": Row(title="scaled per sensor", changes={"preprocess.scaling": "per_sensor"}),
}


def main() -> None:
    arguments = parse_arguments()
    found: dict[str, list[dict[str, Any]]] = {}
    failed: list[str] = []
    for source in [*arguments.data, *([None] if arguments.simulated else [])]:
        name = source.resolve().name if source else SIMULATED
        project = arguments.work.resolve() / name
        open_project(project, source, arguments)
        done = run_missing(project, arguments)
        found[name] = [done[experiment] for experiment in wanted(arguments) if experiment in done]
        failed += [
            f"{row}-seed{seed} in {project}" for row, seed in wanted(arguments) if (row, seed) not in done
        ]
        print_table(
            name, found[name], json.loads((project / "data/prepared/meta.json").read_text()), arguments
        )
        if arguments.json:
            arguments.json.write_text(json.dumps(found, indent=1) + "\n")
    if failed:
        sys.exit(f"{len(failed)} failed: {', '.join(failed)}; `dvc queue logs NAME` in the project says why")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, action="append", default=[], help="folder of the raw contract")
    parser.add_argument("--simulated", action="store_true", help="also the embedded data set")
    parser.add_argument("--work", type=Path, required=True, help="folder of the projects")
    parser.add_argument("--rows", default=",".join(ROWS), help="names, with commas; `params` is always there")
    parser.add_argument("--seeds", type=int, default=3, help="number of trainings; seeds are 0, 1, ...")
    parser.add_argument("--steps", type=int, default=800, help="of each training")
    parser.add_argument("--sensors", type=int, default=0, help="only the first so many; 0: all")
    parser.add_argument("--days", type=int, default=0, help="only the last so many; 0: all")
    parser.add_argument("--threads", type=int, default=0, help="of the processor; 0: all")
    parser.add_argument("--json", type=Path, help="file to write the scores to")
    arguments = parser.parse_args()
    if not arguments.data and not arguments.simulated:
        parser.error("give --data DIR or --simulated")
    arguments.rows = list(dict.fromkeys(["params", *arguments.rows.split(",")]))
    if unknown := set(arguments.rows) - set(ROWS):
        parser.error(f"unknown rows {', '.join(sorted(unknown))}; there are {', '.join(ROWS)}")
    return arguments


def open_project(project: Path, source: Path | None, arguments: argparse.Namespace) -> None:
    """Make the project of a data set, unless an earlier call has. It takes its name when it is whole."""
    asked = {name: getattr(arguments, name) for name in ("steps", "sensors", "days", "threads")}
    if (project / ASKED).exists():
        made_for = json.loads((project / ASKED).read_text())
        if made_for != asked:
            sys.exit(f"{project} was made for {made_for}, not for {asked}; give another --work")
        return
    if project.exists():
        sys.exit(f"{project} is there and no project of this script; move it, or give another --work")
    draft = project.with_name(f".{project.name}.draft")
    shutil.rmtree(draft, ignore_errors=True)
    changes = {"dataset": project.name, "preprocess.unusable_sensors": "drop"}
    changes |= {"runtime.threads": arguments.threads, **count_steps(arguments.steps)}
    changes |= possible_windows(source / "series.parquet") if source else {}
    start_project(draft, source, changes, sensors=arguments.sensors, days=arguments.days)
    (draft / ".git/info/exclude").write_text(f"{ASKED}\n")
    (draft / ASKED).write_text(json.dumps(asked) + "\n")
    draft.replace(project)


def wanted(arguments: argparse.Namespace) -> list[tuple[str, int]]:
    """Rows and seeds, as the table has them."""
    return [(name, seed) for name in arguments.rows for seed in range(arguments.seeds)]


def run_missing(project: Path, arguments: argparse.Namespace) -> dict[tuple[str, int], dict[str, Any]]:
    """Queue what has no scores yet, seed by seed, and run the queue. Returns: all scores, by row and seed.

    What an earlier call left is undone first: an edit of the code, and what waits in the queue or was killed at work.
    """
    run(project, "git", "checkout", "--quiet", "--", "src")
    dvc(project, "queue", "remove", "--all")
    done = read_experiments(project)
    missing = [experiment for experiment in wanted(arguments) if experiment not in done]
    if not missing:
        return done
    log(f"{project.name}: {len(missing)} experiments")
    for name, seed in sorted(missing, key=lambda experiment: experiment[1]):
        queue(project, name, seed)
    dvc(project, "exp", "run", "--run-all")
    return read_experiments(project)


def queue(project: Path, name: str, seed: int) -> None:
    row = ROWS[name]
    sets = {**row.changes, "train.seed": seed}
    path = project / row.edit.file if row.edit else None
    if path and row.edit:
        code = path.read_text()
        if code.count(row.edit.old) != 1:
            sys.exit(
                f"{row.edit.file} has no longer the one line {row.edit.old!r}, which the row {name} edits"
            )
        path.write_text(code.replace(row.edit.old, row.edit.new))
    pairs = [f"{key}={json.dumps(value)}" for key, value in sets.items()]
    dvc(
        project,
        *("exp", "run", "--queue", "--name", f"{name}-seed{seed}"),
        *(part for pair in pairs for part in ("-S", pair)),
    )
    if path:
        run(project, "git", "checkout", "--quiet", "--", str(path))


def read_experiments(project: Path) -> dict[tuple[str, int], dict[str, Any]]:
    """Scores of every experiment that has come to its end, by row and seed."""
    found = {}
    for state in json.loads(dvc(project, "exp", "show", "--json")):
        for experiment in state["experiments"] or ():
            metrics = (experiment["revs"][0]["data"] or {}).get("metrics") or {}
            scores = metrics.get("metrics/evaluate/metrics.json", {}).get("data")
            if not scores:
                continue
            name, _, seed = experiment["name"].rpartition("-seed")
            found[name, int(seed)] = {
                "row": name,
                "seed": int(seed),
                "mae": scores["mae"],
                "rmse": scores["rmse"],
                "weights": metrics["metrics/train/metrics.json"]["data"]["weights"],
            }
    return found


def print_table(
    name: str, rows: Iterable[dict[str, Any]], meta: Mapping[str, Any], arguments: argparse.Namespace
) -> None:
    """Markdown: a row each, mean and deviation over seeds, and the difference from params.yaml seed by seed."""
    by_row: dict[str, dict[int, dict[str, Any]]] = {}
    for row in rows:
        by_row.setdefault(row["row"], {})[row["seed"]] = row
    base = by_row.get("params", {})
    lines = [
        f"\n### {name}\n",
        f"{meta['sensors']} sensors, {meta['steps']} steps of {meta['step_seconds'] / 60:g} min; "
        f"{arguments.steps} training steps\n",
        f"| | weights | MAE, {meta['unit']} | RMSE | MAE against params.yaml | wins |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for row, runs in by_row.items():
        against = [100 * (runs[seed]["mae"] / base[seed]["mae"] - 1) for seed in runs if seed in base]
        cells = [ROWS[row].title, f"{next(iter(runs.values()))['weights']:,}"]
        cells += [spread([run[key] for run in runs.values()]) for key in ("mae", "rmse")]
        cells += [f"{np.mean(against):+.2f} %", f"{sum(part > 0 for part in against)} of {len(against)}"]
        lines.append(f"| {' | '.join(cells)} |" if row != "params" else f"| {' | '.join(cells[:4])} | | |")
    log("\n".join(lines))


if __name__ == "__main__":
    main()
