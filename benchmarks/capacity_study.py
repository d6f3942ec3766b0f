"""What width and components of STMGT are worth: one queued sweep, and its table.

    python benchmarks/capacity_study.py --data DIR [--hidden 64,96,128] [--components 3,5] [--seeds 3]
        [--steps 400] [--sensors 12] [--days 120] [--threads 1] [--json FILE]

A new project under Git and DVC gets the last `--days` of the first `--sensors` sensors and `preset stmgt`, with
`train.batch_size` 16 and so many steps. Every combination is queued by

    dvc exp run --queue -S gatv2.hidden_dim=64,96,128 -S mixture.components=3,5 -S train.seed=0,1,2

and the queue is run. Scores come from `dvc exp show`, seconds and memory from the records of the runs. An epoch is
one pass over the training windows, whatever part of it the steps were.

JSON: {"data": ..., "rows": [{"hidden", "components", "seed", "mae", "crps", "coverage", "weights", "epoch_seconds",
"resident_mib"}]}.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from dvc_sweep import dvc, start_project
from project_copy import count_steps, log
from uncertainty import spread

BATCH = 16
Row = dict[str, Any]


def main() -> None:
    arguments = parse_arguments()
    name = arguments.data.resolve().name
    with tempfile.TemporaryDirectory(prefix="headway-") as folder:
        project = Path(folder) / "project"
        size = {"sensors": arguments.sensors, "days": arguments.days}
        start_project(project, arguments.data, changes_of(name, arguments), **size, preset="stmgt")
        queue_sweep(project, arguments)
        meta = json.loads((project / "data/prepared/meta.json").read_text())
        rows = read_experiments(project, meta)
    print_table(rows, name, meta, arguments.steps)
    if arguments.json:
        arguments.json.write_text(json.dumps({"data": name, "rows": rows}, indent=1) + "\n")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder of the raw contract")
    parser.add_argument("--hidden", default="64,96,128", help="widths, with commas")
    parser.add_argument("--components", default="3,5", help="numbers of Gaussians, with commas")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=400, help="of each training")
    parser.add_argument("--sensors", type=int, default=12, help="only the first so many; 0: all")
    parser.add_argument("--days", type=int, default=120, help="only the last so many; 0: all")
    parser.add_argument("--threads", type=int, default=0, help="of the processor; 0: all")
    parser.add_argument("--json", type=Path, help="file to write the scores to")
    return parser.parse_args()


def changes_of(name: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """What this study asks of params.yaml."""
    changes = count_steps(arguments.steps) | {"train.batch_size": BATCH}
    changes |= {"dataset": name, "preprocess.unusable_sensors": "drop", "runtime.threads": arguments.threads}
    return changes


def queue_sweep(project: Path, arguments: argparse.Namespace) -> None:
    """Queue every combination, and run the queue to its end."""
    seeds = ",".join(map(str, range(arguments.seeds)))
    sweep = [
        f"gatv2.hidden_dim={arguments.hidden}",
        f"mixture.components={arguments.components}",
        f"train.seed={seeds}",
    ]
    dvc(project, "exp", "run", "--queue", *(part for pair in sweep for part in ("-S", pair)))
    dvc(project, "exp", "run", "--run-all")


def read_experiments(project: Path, meta: dict[str, Any]) -> list[Row]:
    """A row an experiment, by width, components and seed."""
    costs = dict(map(read_cost, project.glob(".resume/train/*")))
    rows = []
    for state in json.loads(dvc(project, "exp", "show", "--json")):
        for experiment in state["experiments"] or ():
            data = experiment["revs"][0]["data"]
            params = data["params"]["params.yaml"]["data"]
            scores = data["metrics"]["metrics/evaluate/metrics.json"]["data"]
            key = (
                params["gatv2"]["hidden_dim"],
                params["mixture"]["components"],
                params["train"]["seed"],
            )
            step_seconds, resident = costs[key]
            windows = meta["splits"]["train"][1] - meta["splits"]["train"][0]
            rows.append(
                {
                    **dict(zip(("hidden", "components", "seed"), key, strict=True)),
                    "mae": scores["mae"],
                    "crps": scores["distribution"]["crps"],
                    "coverage": scores["distribution"]["calibrated"]["coverage"]["80%"],
                    "weights": data["metrics"]["metrics/train/metrics.json"]["data"]["weights"],
                    "epoch_seconds": step_seconds * windows / BATCH,
                    "resident_mib": resident,
                }
            )
    return sorted(rows, key=lambda row: (row["hidden"], row["components"], row["seed"]))


def read_cost(folder: Path) -> tuple[tuple[int, int, int], tuple[float, float]]:
    """(width, components, seed) of a run, its median seconds a step and its largest resident memory in MiB."""
    params = json.loads((folder / "identity.json").read_text())["params"]
    lines = (folder / "record.jsonl").read_text().splitlines()
    records = [row for row in map(json.loads, lines) if "seconds" in row]
    steps = np.diff([0, *(row["step"] for row in records)])
    seconds = np.median([row["seconds"] / count for row, count in zip(records, steps, strict=True)])
    key = (params["gatv2"]["hidden_dim"], params["mixture"]["components"], params["train"]["seed"])
    return key, (float(seconds), max(row["resident_peak"] for row in records))


def print_table(rows: list[Row], name: str, meta: dict[str, Any], steps: int) -> None:
    """Markdown: a row a size, mean and deviation over seeds."""
    lines = [
        f"\n### {name}\n",
        f"{meta['sensors']} sensors, {meta['steps']} steps of {meta['step_seconds'] / 60:g} min; {steps} training "
        f"steps of {BATCH} windows\n",
        f"| width | components | weights | MAE ({meta['unit']}) | CRPS | coverage 80 % | seconds an epoch "
        "| resident MiB |",
        "|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for (hidden, components), group in groupby(rows, key=lambda row: (row["hidden"], row["components"])):
        runs = list(group)
        column = {key: [run[key] for run in runs] for key in runs[0]}
        cells = [
            str(hidden),
            str(components),
            f"{runs[0]['weights']:,}",
            spread(column["mae"]),
            spread(column["crps"]),
        ]
        cells.append(f"{np.mean(column['coverage']):.1%}")
        cells += [f"{np.median(column[key]):.0f}" for key in ("epoch_seconds", "resident_mib")]
        lines.append(f"| {' | '.join(cells)} |")
    log("\n".join(lines))


if __name__ == "__main__":
    main()
