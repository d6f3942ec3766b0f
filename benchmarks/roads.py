"""What an encoder learns of road networks, beside controls whose targets say little of them, or nothing.

    python benchmarks/roads.py --data DIR [--data DIR ...] [--simulated] [--seeds 3] [--sensors 0]
        [--set KEY=VALUE ...] [--json FILE]

The pipeline's own stages up to `pretrain`, in copies of the project, with `pretrain.method: gt_ssl` and otherwise the
values of params.yaml. Told is what the curves end with on trees that were not trained on: growth, beside the best
constant in hindsight, and the share of pairs on the wrong side; and whether a curve ever rose above its first value.

JSON: {data set: {targets: [last row of each seed]}}.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import pandas as pd
from neurons import TARGETS, print_pretraining
from project_copy import choose_params, copy_code, copy_raw, log, run_stage, write_params
from ruamel.yaml import YAML

CURVE = "metrics/pretrain/plots/metrics/val/loss.tsv"


def main() -> None:
    arguments = parse_arguments()
    results: dict[str, dict[str, list[dict[str, float]]]] = {}
    sources: list[Path | None] = [*arguments.data, *([None] if arguments.simulated else [])]
    for source in sources:
        name = source.resolve().name if source else "simulated"
        with tempfile.TemporaryDirectory(prefix="headway-") as folder:
            results[name] = measure(Path(folder), source, name, arguments)
        log(f"\n### {name}")
        print_pretraining(results[name])
        if arguments.json:
            arguments.json.write_text(json.dumps(results, indent=1) + "\n")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, action="append", default=[], help="folder of the raw contract")
    parser.add_argument("--simulated", action="store_true", help="also the embedded data set")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--sensors", type=int, default=0, help="only the first so many; 0: all")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="of params.yaml")
    parser.add_argument("--json", type=Path, help="file to write the figures to")
    arguments = parser.parse_args()
    if not arguments.data and not arguments.simulated:
        parser.error("give --data DIR or --simulated")
    return arguments


def measure(
    project: Path, source: Path | None, name: str, arguments: argparse.Namespace
) -> dict[str, list[dict[str, float]]]:
    """Prepare once, pretrain with every kind of targets and every seed."""
    copy_code(project)
    if source:
        copy_raw(source, project / "data/raw" / name, arguments.sensors)
    yaml = YAML(typ="safe")
    wished = {key: yaml.load(value) for key, _, value in (pair.partition("=") for pair in arguments.set)}
    changes = choose_params(project, name) | {"pretrain.method": "gt_ssl"} | wished
    write_params(project, changes)
    for stage in (*([] if source else ["simulate"]), "preprocess"):
        run_stage(project, stage)
    rows: dict[str, list[dict[str, float]]] = {targets: [] for targets in TARGETS}
    for targets in TARGETS:
        for seed in range(arguments.seeds):
            write_params(project, changes | {"pretrain.targets": targets, "pretrain.seed": seed})
            run_stage(project, "pretrain")
            rows[targets].append(last_row(project))
            losses: Any = pd.read_csv(project / CURVE, sep="\t").iloc[:, -1]
            shape = f"{losses.iloc[0]:.3f} to {losses.iloc[-1]:.3f}, at most {losses.max():.3f}"
            log(f"{name}, {targets}, seed {seed}: loss {shape}")
    return rows


def last_row(project: Path) -> dict[str, float]:
    """What the curves of the pretrain stage end with."""
    folder = project / "metrics/pretrain/plots/metrics"
    return {
        f"val/{path.stem}": float(pd.read_csv(path, sep="\t").iloc[-1, -1])
        for path in sorted((folder / "val").glob("*.tsv"))
    }


if __name__ == "__main__":
    main()
