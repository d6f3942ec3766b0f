"""Whether geometry learned beforehand helps to forecast, above all where readings are few.

    python benchmarks/few_data.py --data DIR [--data DIR ...] [--simulated] [--days 1,3,7,28] [--seeds 3]
        [--sensors 20] [--neighbors 4] [--steps 50] [--pretrain-steps 200] [--encoder sgmp] [--spatial ha_gat]
        [--set KEY=VALUE ...] [--json FILE]

The pipeline's own stages, in copies of the project, on the first `--sensors` sensors. A data set is cut to its last
days such that seven tenths of them are the days of training, so rows of the table have test windows of their own and
columns share theirs; more days than there are is left out. Columns: no pretraining; weights of the encoder that stay;
that go on at a tenth of the rate; the same from an encoder whose targets were those of trees with shuffled nodes.

JSON: {data set: {days: {way: [MAE of each seed]}}}.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
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

TRAINING_SHARE = 0.7  # of a data set's days, under the split 7-1-2
WAYS: dict[str, dict[str, Any]] = {
    "none": {"pretrain.method": "none"},
    "freeze": {"pretrain.transfer": "freeze"},
    "finetune": {"pretrain.transfer": "finetune"},
    "shuffled tree": {"pretrain.transfer": "finetune", "pretrain.targets": "shuffled_tree"},
}
LOOKS = 4  # of a pretraining at its validation trees


def main() -> None:
    arguments = parse_arguments()
    results: dict[str, dict[int, dict[str, list[float]]]] = {}
    sources: list[Path | None] = [*arguments.data, *([None] if arguments.simulated else [])]
    for source in sources:
        name = source.resolve().name if source else "simulated"
        results[name] = {}
        for days in map(int, arguments.days.split(",")):
            with tempfile.TemporaryDirectory(prefix="headway-") as folder:
                found = measure(Path(folder), source, name, days, arguments)
            if found:
                results[name][days] = found
            if arguments.json:
                arguments.json.write_text(json.dumps(results, indent=1) + "\n")
        print_table(name, results[name])


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, action="append", default=[], help="folder of the raw contract")
    parser.add_argument("--simulated", action="store_true", help="also the embedded data set")
    parser.add_argument("--days", default="1,3,7,28", help="of training, with commas")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--sensors", type=int, default=20, help="only the first so many; 0: all")
    parser.add_argument("--neighbors", type=int, default=4, help="of a sensor")
    parser.add_argument("--steps", type=int, default=50, help="of each training")
    parser.add_argument("--pretrain-steps", type=int, default=200, help="of each pretraining")
    parser.add_argument("--encoder", default="sgmp", help="sgmp | ha_gat")
    parser.add_argument("--spatial", default="ha_gat", help="operator of the forecaster")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="of params.yaml")
    parser.add_argument("--json", type=Path, help="file to write the errors to")
    arguments = parser.parse_args()
    if not arguments.data and not arguments.simulated:
        parser.error("give --data DIR or --simulated")
    return arguments


def measure(
    project: Path, source: Path | None, name: str, days: int, arguments: argparse.Namespace
) -> dict[str, list[float]]:
    """Mean absolute errors by way; nothing where the data set is too short."""
    whole = days / TRAINING_SHARE
    copy_code(project)
    yaml = YAML(typ="safe")
    wished = {key: yaml.load(value) for key, _, value in (pair.partition("=") for pair in arguments.set)}
    wished |= {"simulate.sensors": arguments.sensors or 64, "simulate.days": max(2, int(np.ceil(whole)))}
    if source:
        copy_raw(source, project / "data/raw" / name, arguments.sensors)
        if length(project / "data/raw" / name) < whole - 0.5:
            log(f"{name}: has no {days} days of training")
            return {}
        keep_days(project / "data/raw" / name, int(np.ceil(whole)))
    changes = choose_params(project, name) | common(arguments) | wished
    write_params(project, changes)
    if not source:
        run_stage(project, "simulate")
    run_stage(project, "preprocess")
    found: dict[str, list[float]] = {way: [] for way in WAYS}
    for seed in range(arguments.seeds):
        for way, own in WAYS.items():
            write_params(project, changes | {"train.seed": seed, "pretrain.seed": seed} | own)
            for stage in ("pretrain", "train", "evaluate"):
                run_stage(project, stage)
            found[way].append(json.loads((project / "metrics/evaluate/metrics.json").read_text())["mae"])
        log(f"{name}, {days} days, seed {seed}: " + ", ".join(f"{way} {found[way][-1]:.3f}" for way in WAYS))
    return found


def common(arguments: argparse.Namespace) -> dict[str, Any]:
    """Keys of params.yaml that all runs share."""
    return {
        "preprocess.max_neighbors": arguments.neighbors,
        "model.spatial": arguments.spatial,
        "pretrain.method": "gt_ssl",
        "pretrain.encoder": arguments.encoder,
        "pretrain.epochs": LOOKS,
        "pretrain.epoch_steps": -(-arguments.pretrain_steps // LOOKS),
        "runtime.keep_runs": 100,
        **count_steps(arguments.steps),
    }


def length(folder: Path) -> float:
    """Days from the first reading to the last."""
    times: Any = pd.read_parquet(folder / "series.parquet", columns=["timestamp"])["timestamp"]
    return (times.max() - times.min()) / pd.Timedelta(days=1)


def print_table(name: str, found: dict[int, dict[str, list[float]]]) -> None:
    """Markdown: a row a number of days, a column a way, and what it comes to."""
    lines = [f"\n### {name}\n", f"| days of training | {' | '.join(WAYS)} |", f"|---:|{'---:|' * len(WAYS)}"]
    for days, ways in found.items():
        lines.append(f"| {days} | {' | '.join(spread(ways[way]) for way in WAYS)} |")
    log("\n".join([*lines, "", *(f"{days} days: {verdict(ways)}" for days, ways in found.items())]))


def verdict(ways: dict[str, list[float]]) -> str:
    """Whether a way is better than no pretraining by more than the seeds differ, and better than the control."""
    words = []
    for way in ("freeze", "finetune"):
        gain = np.array(ways["none"]) - np.array(ways[way])
        control = np.array(ways["shuffled tree"]) - np.array(ways[way])
        error = gain.std(ddof=1) / np.sqrt(len(gain)) if len(gain) > 1 else np.inf
        helps = (
            "helps" if gain.mean() > 2 * error else "hurts" if gain.mean() < -2 * error else "changes nothing"
        )
        share = f"{gain.mean() / np.mean(ways['none']):+.1%}"
        words.append(f"{way} {helps} ({share} of the error gone, {control.mean():+.3f} to the control)")
    return "; ".join(words) + "."


if __name__ == "__main__":
    main()
