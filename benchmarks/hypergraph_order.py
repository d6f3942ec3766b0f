"""Whether sets of three sensors see what pairs do not: embedded worlds with and without planted junctions.

    python benchmarks/hypergraph_order.py [--seeds 3] [--steps 400] [--sensors 32] [--days 14] [--junctions 6]
        [--rows order_2,order_3] [--json FILE]

In a junction three approaches jointly decide a fourth sensor, 30 minutes later (src/headway/data/junctions.py). A row
trains ST-SepNet's spatial branch alone, over the sets of its order by road, 12 steps -> 6, with the pipeline's own
stages. Told are root mean squared errors at the fourth sensors and at all others, with and without the planting;
without it the "fourth" sensors are the same ones. Squares, in the loss and in the table: what is decided jointly is a
rare jump, and the median, which the absolute error asks for, passes over it.

JSON: {world: {row: [{"fourth": RMSE, "others": RMSE} of each seed]}}.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from project_copy import copy_code, count_steps, log, run_stage, write_params
from uncertainty import spread

ONE = [1.0]
BASE: dict[str, Any] = {
    "windows.history": 12,
    "windows.horizon": 6,
    "windows.trailing_weeks": 0,
    "windows.context": ["1d"],
    "simulate.missing_share": 0.0,
    "model.name": "st_sepnet",
    "model.spatial": "hypergraph",
    "model.head": "mixture",
    "mixture.mean_square": 20.0,
    "st_sepnet.gate": "spatial_only",
    "st_sepnet.layers": 2,
    "hypergraph.hidden_dim": 16,
    "hypergraph.graph": "static",
    "hypergraph.pairs": "edges",
    "train.batch_size": 32,
    "train.lr": 0.004,
    "train.warmup_steps": 20,
    "evaluate.prediction_stride": 0,
}
ROWS: dict[str, dict[str, Any]] = {
    "order_2": {"hypergraph.orders": [2], "hypergraph.shares": ONE},
    "order_3": {"hypergraph.orders": [3], "hypergraph.shares": ONE},
    "order_4": {"hypergraph.orders": [4], "hypergraph.shares": ONE},
    "mixprop": {"hypergraph.orders": [2], "hypergraph.shares": ONE, "hypergraph.pairs": "mixprop"},
}
TITLES = {
    "order_2": "order 2",
    "order_3": "order 3",
    "order_4": "order 4",
    "mixprop": "order 2, all neighbors of a sensor, two hops",
}


def main() -> None:
    arguments = parse_arguments()
    rows = arguments.rows.split(",")
    found: dict[str, dict[str, list[dict[str, float]]]] = {}
    with tempfile.TemporaryDirectory(prefix="headway-") as place:
        fourth = list[str]()
        for world, junctions in (("planted", arguments.junctions), ("nothing planted", 0)):
            project = Path(place) / world.replace(" ", "-")
            base = (
                BASE
                | count_steps(arguments.steps)
                | {
                    "simulate.sensors": arguments.sensors,
                    "simulate.days": arguments.days,
                    "simulate.junctions": junctions,
                }
            )
            prepare(project, base)
            if junctions:
                truth = pd.read_parquet(project / "data/raw/simulated/truth_junctions.parquet")
                fourth = list(truth["sensor_id"])
            found[world] = {
                row: measure(project, base | ROWS[row], fourth, arguments.seeds, row) for row in rows
            }
    log(table(found))
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=1) + "\n")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=400, help="of each training")
    parser.add_argument("--sensors", type=int, default=32)
    parser.add_argument("--days", type=int, default=14)
    parser.add_argument("--junctions", type=int, default=6)
    parser.add_argument("--rows", default=",".join(ROWS), help="names, with commas")
    parser.add_argument("--json", type=Path, help="file to write the errors to")
    return parser.parse_args()


def prepare(project: Path, base: dict[str, Any]) -> None:
    project.mkdir()
    copy_code(project)
    write_params(project, base)
    run_stage(project, "simulate")
    run_stage(project, "preprocess")
    run_stage(project, "pretrain")


def measure(
    project: Path, params: dict[str, Any], fourth: list[str], seeds: int, row: str
) -> list[dict[str, float]]:
    """Root mean squared errors of each seed, at the fourth sensors and at the others."""
    found = []
    for seed in range(seeds):
        write_params(project, params | {"train.seed": seed})
        run_stage(project, "train")
        run_stage(project, "evaluate")
        sensors = pd.read_csv(project / "metrics/evaluate/sensors.csv")
        inside = sensors["sensor_id"].isin(fourth)
        square = sensors["rmse"] ** 2
        parts = {"fourth": square[inside], "others": square[~inside]}
        found.append({name: float(np.sqrt(part.mean())) for name, part in parts.items()})
        log(
            f"{project.name}, {row}, seed {seed}: {found[-1]['fourth']:.3f} and {found[-1]['others']:.3f} km/h"
        )
    return found


def table(found: dict[str, dict[str, list[dict[str, float]]]]) -> str:
    """Markdown, and what the comparison of orders 2 and 3 says."""
    worlds = list(found)
    lines = [
        "\n| RMSE in km/h | " + " | ".join(f"{world}: fourth sensors | others" for world in worlds) + " |",
        "|---|" + "---:|" * (2 * len(worlds)),
    ]
    for row in next(iter(found.values())):
        parts = [(world, part) for world in worlds for part in ("fourth", "others")]
        cells = [spread([run[part] for run in found[world][row]]) for world, part in parts]
        lines.append(f"| {TITLES[row]} | {' | '.join(cells)} |")
    return "\n".join([*lines, "", *(verdict(world, found[world]) for world in worlds)])


def verdict(world: str, rows: dict[str, list[dict[str, float]]]) -> str:
    """Order 3 against order 2 at the fourth sensors, beside the larger spread over seeds."""
    if not {"order_2", "order_3"} <= set(rows):
        return ""
    two, three = ([run["fourth"] for run in rows[row]] for row in ("order_2", "order_3"))
    margin = float(np.mean(two) - np.mean(three))
    widest = max(float(np.ptp(two)), float(np.ptp(three)))
    said = "beats" if margin > widest else "does not beat"
    return (
        f"{world}: order 3 {said} order 2 (margin {margin:.3f}, widest spread over seeds {widest:.3f} km/h)."
    )


if __name__ == "__main__":
    main()
