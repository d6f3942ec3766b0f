"""How much a model knows about its own errors: CRPS, coverage and width beside naive distributions.

    python benchmarks/uncertainty.py --data DIR [--data DIR ...] [--simulated] [--models st_mamba,stmgt]
        [--seeds 3] [--minutes 5 | --steps 600] [--sensors 24] [--days 120] [--until 2014-12-01]
        [--set KEY=VALUE ...] [--json FILE]

Each model is trained with `model.head: mixture` by the pipeline's own stages, in copies of the project, on the last
`--days` before `--until` of the first `--sensors` sensors. The naive distributions are those of the evaluate stage:
climatology by hour and kind of day, and the last reading with its training errors.

JSON: {data set: {model: [metrics.json of each seed]}}.
"""

from __future__ import annotations

import argparse
import json
import tempfile
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
    plan_steps,
    run_stage,
    write_params,
)
from ruamel.yaml import YAML

from headway.evaluation.distribution import KINDS

SPATIAL = {"st_mamba": "ha_gat", "stmgt": "gatv2"}


def main() -> None:
    arguments = parse_arguments()
    results: dict[str, dict[str, list[dict[str, Any]]]] = {}
    sources: list[Path | None] = [*arguments.data, *([None] if arguments.simulated else [])]
    for source in sources:
        name = source.resolve().name if source else "simulated"
        with tempfile.TemporaryDirectory(prefix="headway-") as folder:
            results[name] = measure(Path(folder), source, name, arguments)
        if arguments.json:
            arguments.json.write_text(json.dumps(results, indent=1) + "\n")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, action="append", default=[], help="folder of the raw contract")
    parser.add_argument("--simulated", action="store_true", help="also the embedded data set")
    parser.add_argument("--models", default="st_mamba,stmgt", help="names, with commas")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--minutes", type=float, default=5.0, help="limit of each training")
    parser.add_argument("--steps", type=int, default=0, help="of each training, instead of minutes")
    parser.add_argument("--sensors", type=int, default=0, help="only the first so many; 0: all")
    parser.add_argument("--days", type=int, default=0, help="only the last so many; 0: all")
    parser.add_argument("--until", default="", help="only what is before this date")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="of params.yaml")
    parser.add_argument("--json", type=Path, help="file to write the scores to")
    arguments = parser.parse_args()
    if not arguments.data and not arguments.simulated:
        parser.error("give --data DIR or --simulated")
    return arguments


def measure(
    project: Path, source: Path | None, name: str, arguments: argparse.Namespace
) -> dict[str, list[dict[str, Any]]]:
    """Prepare once; train and evaluate every model with every seed; print the table."""
    copy_code(project)
    yaml = YAML(typ="safe")
    wished = {key: yaml.load(value) for key, _, value in (pair.partition("=") for pair in arguments.set)}
    if source:
        copy_raw(source, project / "data/raw" / name, arguments.sensors)
        keep_days(project / "data/raw" / name, arguments.days, arguments.until)
    changes = choose_params(project, name) | {"model.head": "mixture"} | wished
    write_params(project, changes)
    if not source:
        run_stage(project, "simulate")
    run_stage(project, "preprocess")
    run_stage(project, "pretrain")
    meta = json.loads((project / "data/prepared/meta.json").read_text())
    found: dict[str, list[dict[str, Any]]] = {}
    for model in arguments.models.split(","):
        own = changes | {"model.name": model, "model.spatial": SPATIAL[model]} | wished
        own |= (
            count_steps(arguments.steps)
            if arguments.steps
            else plan_steps(project, meta, own, arguments.minutes)
        )
        found[model] = []
        for seed in range(arguments.seeds):
            write_params(project, own | {"train.seed": seed})
            seconds = run_stage(project, "train")
            run_stage(project, "evaluate")
            distribution = json.loads((project / "metrics/evaluate/distribution.json").read_text())
            metrics = json.loads((project / "metrics/evaluate/metrics.json").read_text())
            found[model].append({"metrics": metrics, "distribution": distribution, "seconds": seconds})
            scores = distribution["all"]
            log(f"{name}, {model}, seed {seed}: MAE {metrics['mae']}, CRPS {scores['crps']}, {seconds:.0f} s")
    print_table(name, meta, found)
    return found


def print_table(name: str, meta: dict[str, Any], found: dict[str, list[dict[str, Any]]]) -> None:
    """Markdown: CRPS at a few horizons, then error, coverage and width over all steps."""
    labels = [label for label in next(iter(found.values()))[0]["distribution"] if label != "all"]
    shown = [labels[step - 1] for step in (1, 3, 6, 12) if step <= len(labels)] + ["all"]
    lines = [
        f"\n### {name}\n",
        f"{meta['sensors']} sensors, {meta['steps']} steps of {meta['step_seconds'] / 60:g} min\n",
        f"| CRPS ({meta['unit'] or 'units'}) | {' | '.join(shown)} | MAE | coverage 80 % {', '.join(KINDS)} "
        f"| width {', '.join(KINDS)} | training |",
        f"|---|{'---:|' * (len(shown) + 4)}",
    ]
    for model, runs in found.items():
        cells = [spread([run["distribution"][label]["crps"] for run in runs]) for label in shown]
        cells.append(spread([run["metrics"]["mae"] for run in runs]))
        for part, form in (("coverage", "{:.1%}"), ("width", "{:.2f}")):
            means = [
                np.mean([run["distribution"]["all"][kind][part]["80%"] for run in runs]) for kind in KINDS
            ]
            cells.append(", ".join(form.format(value) for value in means))
        cells.append(f"{np.median([run['seconds'] for run in runs]):.0f} s")
        lines.append(f"| {model} | {' | '.join(cells)} |")
    first = next(iter(found.values()))[0]["distribution"]
    for naive in ("persistence", "climatology"):
        cells = [f"{first[label][f'crps_{naive}']:.3f}" for label in shown]
        lines.append(f"| {naive} | {' | '.join(cells)} | | | | |")
    lines.append("\n" + verdict(found, labels))
    log("\n".join(lines))


def verdict(found: dict[str, list[dict[str, Any]]], labels: list[str]) -> str:
    """Where a naive distribution is as good as a model, or that it is nowhere."""
    lost = []
    for model, runs in found.items():
        for label in labels:
            entries = [run["distribution"][label] for run in runs]
            naive = min(entries[0]["crps_persistence"], entries[0]["crps_climatology"])
            if np.mean([entry["crps"] for entry in entries]) >= naive:
                lost.append(f"{model} at {label}")
    return (
        f"Not below the naive CRPS: {', '.join(lost)}." if lost else "Below both naive CRPS at every horizon."
    )


def spread(values: list[float]) -> str:
    """Mean, and standard deviation over seeds."""
    deviation = f" ± {np.std(values, ddof=1):.3f}" if len(values) > 1 else ""
    return f"{np.mean(values):.3f}{deviation}"


if __name__ == "__main__":
    main()
