"""ST-SepNet's parts, one left out or changed at a time: brief D's ablation table on a real data set.

    python benchmarks/sepnet_ablation.py --data DIR [--seeds 3] [--sensors 24] [--days 120] [--steps 300]
        [--rows full,pairs ...] [--backbone DIR ...] [--set KEY=VALUE ...] [--json FILE]

48 steps -> 48, the last `--days` of the first `--sensors` sensors, trained and evaluated by the pipeline's own stages
in a copy of the project. Each row is a change of params.yaml; `--list` prints them as queued DVC experiments. Each
`--backbone` adds a row in which that language model reads the trend.

JSON: {"meta": {...}, "rows": {row: [forecasts.json of each seed]}}.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from project_copy import (
    choose_params,
    copy_code,
    copy_raw,
    count_steps,
    keep_days,
    log,
    run_stage,
    write_params,
)
from ruamel.yaml import YAML
from uncertainty import spread

BASE: dict[str, Any] = {
    "windows.history": 48,
    "windows.horizon": 48,
    "model.name": "st_sepnet",
    "model.spatial": "hypergraph",
    "model.head": "point",
    "train.batch_size": 16,
    "train.lr": 0.002,
    "train.warmup_steps": 20,
    "hypergraph.rebuild_steps": 50,
    "evaluate.prediction_stride": 0,
}
ONE = [1.0]
ROWS: dict[str, dict[str, Any]] = {
    "full": {},
    "space_only": {"st_sepnet.gate": "spatial_only"},
    "trend_only": {"st_sepnet.gate": "temporal_only"},
    "pairs": {"hypergraph.orders": [2], "hypergraph.shares": ONE},
    "order_3": {"hypergraph.orders": [3], "hypergraph.shares": ONE},
    "half_and_half": {"hypergraph.mixing": "fixed"},
    "order_4": {"hypergraph.orders": [4], "hypergraph.shares": ONE},
    "order_5": {"hypergraph.orders": [5], "hypergraph.shares": ONE},
    "static": {"hypergraph.graph": "static"},
    "attention": {"st_sepnet.gate": "attention"},
    "lstm": {"st_sepnet.gate": "lstm"},
    "transformer": {"st_sepnet.temporal": "transformer"},
    "st_mamba": {"st_sepnet.temporal": "st_mamba"},
}
TITLES = {
    "full": "full model: linear trend, orders 2 and 3, adaptive gate",
    "space_only": "without the trend (brief D: without language model)",
    "trend_only": "without space",
    "pairs": "pairwise only: order 2",
    "order_3": "order 3 only",
    "half_and_half": "orders 2 and 3, half each, not learned",
    "order_4": "order 4 only",
    "order_5": "order 5 only",
    "static": "static graph of the roads",
    "attention": "attention gate",
    "lstm": "LSTM gate",
    "transformer": "trend by a transformer",
    "st_mamba": "trend by Mamba-2",
}


def main() -> None:
    arguments = parse_arguments()
    if arguments.list:
        log(queued())
        return
    rows = {name: ROWS[name] for name in arguments.rows.split(",")}
    for folder in arguments.backbone:
        rows[folder.name] = {"st_sepnet.temporal": "llm", "st_sepnet.backbone": str(folder.resolve())}
    with tempfile.TemporaryDirectory(prefix="headway-") as place:
        meta, found = measure(Path(place), rows, arguments)
    log(table(meta, found))
    if arguments.json:
        arguments.json.write_text(json.dumps({"meta": meta, "rows": found}, indent=1) + "\n")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, help="folder of the raw contract")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--sensors", type=int, default=24, help="only the first so many; 0: all")
    parser.add_argument("--days", type=int, default=120, help="only the last so many; 0: all")
    parser.add_argument("--steps", type=int, default=300, help="of each training")
    parser.add_argument("--rows", default=",".join(ROWS), help="names, with commas")
    parser.add_argument(
        "--backbone", type=Path, action="append", default=[], help="folder of a language model"
    )
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="of params.yaml, in all rows"
    )
    parser.add_argument("--list", action="store_true", help="print the grid as queued experiments")
    parser.add_argument("--json", type=Path, help="file to write the scores to")
    arguments = parser.parse_args()
    if not arguments.list and not (arguments.data and (arguments.data / "series.parquet").is_file()):
        parser.error("give --data DIR, a folder with series.parquet")
    unknown = set(arguments.rows.split(",")) - set(ROWS)
    if unknown:
        parser.error(f"unknown rows {', '.join(sorted(unknown))}; there are {', '.join(ROWS)}")
    return arguments


def queued() -> str:
    """The grid over params.yaml, after `python -m headway preset st-sepnet`."""
    lines = []
    for name, changes in ROWS.items():
        options = " ".join(f"-S '{key}={value}'" for key, value in changes.items())
        lines.append(f"dvc exp run --queue --name sepnet-{name.replace('_', '-')} {options}".rstrip())
    return "\n".join([*lines, "dvc queue start"])


def measure(
    project: Path, rows: dict[str, dict[str, Any]], arguments: argparse.Namespace
) -> tuple[dict[str, Any], dict[str, list[dict[str, Any]]]]:
    """Prepare once; train and evaluate every row with every seed."""
    copy_code(project)
    name = arguments.data.resolve().name
    copy_raw(arguments.data, project / "data/raw" / name, arguments.sensors)
    keep_days(project / "data/raw" / name, arguments.days)
    yaml = YAML(typ="safe")
    wished = {key: yaml.load(value) for key, _, value in (pair.partition("=") for pair in arguments.set)}
    base = BASE | choose_params(project, name) | count_steps(arguments.steps) | wished
    write_params(project, base)
    run_stage(project, "preprocess")
    run_stage(project, "pretrain")
    meta = json.loads((project / "data/prepared/meta.json").read_text())
    found: dict[str, list[dict[str, Any]]] = {row: [] for row in rows}
    for seed in range(arguments.seeds):  # seed by seed: a table that is cut short has all rows
        for row, changes in rows.items():
            started = time.monotonic()
            write_params(project, base | changes | {"train.seed": seed})
            run_stage(project, "train")
            run_stage(project, "evaluate")
            found[row].append(json.loads((project / "metrics/evaluate/forecasts.json").read_text()))
            mae, seconds = found[row][-1]["headway"]["all"]["mae"], time.monotonic() - started
            log(f"{row}, seed {seed}: MAE {mae:.4f}, {seconds:.0f} s")
    return meta, found


def table(meta: dict[str, Any], found: dict[str, list[dict[str, Any]]]) -> str:
    """Markdown: a row a variant, and what a person would forecast by hand."""
    lines = [
        f"\n### {meta['dataset']}, {meta['history']} -> {meta['horizon']}\n",
        f"{meta['sensors']} sensors, {meta['steps']} steps of {meta['step_seconds'] / 60:g} min\n",
        f"| variant | MAE ({meta['unit']}) | RMSE | MAE against the full model |",
        "|---|---:|---:|---:|",
    ]
    full = scores(found["full"], "headway", "mae") if "full" in found else []
    for row, runs in found.items():
        mae, rmse = (scores(runs, "headway", metric) for metric in ("mae", "rmse"))
        change = f"{100 * (np.mean(mae) / np.mean(full) - 1):+.2f} %" if full else ""
        lines.append(f"| {TITLES.get(row, f'trend by {row}')} | {spread(mae)} | {spread(rmse)} | {change} |")
    first = next(iter(found.values()))[0]
    for forecast in first:
        if forecast != "headway":
            scored = first[forecast]["all"]
            lines.append(f"| {forecast.replace('_', ' ')} | {scored['mae']:.3f} | {scored['rmse']:.3f} | |")
    return "\n".join([*lines, *verdict(found)])


def verdict(found: dict[str, list[dict[str, Any]]]) -> list[str]:
    """Whether the full model beats each of its branches alone."""
    if not {"full", "space_only", "trend_only"} <= set(found):
        return []
    full = np.mean(scores(found["full"], "headway", "mae"))
    lost = [
        row for row in ("space_only", "trend_only") if np.mean(scores(found[row], "headway", "mae")) <= full
    ]
    said = " and ".join(TITLES[row] for row in lost)
    return [f"\nNot better than: {said}." if lost else "\nThe full model beats each of its branches alone."]


def scores(runs: list[dict[str, Any]], forecast: str, metric: str) -> list[float]:
    """Over all horizons, one a seed."""
    return [run[forecast]["all"][metric] for run in runs]


if __name__ == "__main__":
    main()
