"""Our error beside the naive forecasts on any data set: the pipeline's own stages, in copies of the project.

    python benchmarks/real_data.py --data DIR [--data DIR ...] [--simulated] --seeds 3
        [--minutes 5] [--sensors 40] [--json FILE]

Each DIR is a folder of the raw contract (docs/data.md). A short run measures the seconds of a step; the training
then gets as many steps as fit into `--minutes` on this machine, at most PASSES passes over the data. Everything
else is params.yaml, but for what the data set makes impossible (a context of a day on weekly data), which is
printed. The naive forecasts are computed by the evaluate stage on the same windows.

JSON: {data set: {forecast: {horizon: {"mae", "rmse", "mape"}}}}, `headway` the mean over seeds.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from ruamel.yaml import YAML

ROOT = Path(__file__).resolve().parent.parent
PASSES = 30  # over the training windows, at most
LOOKS = 8  # at the validation windows
VALIDATION_WINDOWS = 256
TRIAL_STEPS = 24
DAY_MINUTES = 1440

Scores = dict[str, dict[str, dict[str, float | None]]]


def main() -> None:
    arguments = parse_arguments()
    results: dict[str, Scores] = {}
    sources: list[Path | None] = [*arguments.data, *([None] if arguments.simulated else [])]
    for source in sources:
        name = source.resolve().name if source else "simulated"
        with tempfile.TemporaryDirectory(prefix="headway-") as folder:
            results[name] = measure_data_set(Path(folder), source, name, arguments)
        if arguments.json:
            arguments.json.write_text(json.dumps(results, indent=1) + "\n")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, action="append", default=[], help="folder of the raw contract")
    parser.add_argument("--simulated", action="store_true", help="also the embedded data set")
    parser.add_argument("--seeds", type=int, default=3, help="number of trainings; seeds are 0, 1, ...")
    parser.add_argument("--minutes", type=float, default=15.0, help="limit of each training")
    parser.add_argument("--sensors", type=int, default=0, help="only the first so many sensors; 0: all")
    parser.add_argument("--json", type=Path, help="file to write the scores to")
    arguments = parser.parse_args()
    missing = [str(path) for path in arguments.data if not (path / "series.parquet").is_file()]
    if missing:
        parser.error(f"no series.parquet in {', '.join(missing)}")
    if not arguments.data and not arguments.simulated:
        parser.error("give --data DIR or --simulated")
    return arguments


def measure_data_set(project: Path, source: Path | None, name: str, arguments: argparse.Namespace) -> Scores:
    """Prepare once, train and evaluate once a seed, print the table."""
    copy_code(project)
    if source:
        copy_raw(source, project / "data/raw" / name, arguments.sensors)
    changes = choose_params(project, name)
    if not source:
        if arguments.sensors:
            changes["simulate.sensors"] = arguments.sensors
        write_params(project, changes)
        run_stage(project, "simulate")
    write_params(project, changes)
    run_stage(project, "preprocess")
    run_stage(project, "pretrain")
    meta = json.loads((project / "data/prepared/meta.json").read_text())
    changes |= plan_steps(project, meta, changes, arguments.minutes)
    runs, seconds = [], []
    for seed in range(arguments.seeds):
        write_params(project, {**changes, "train.seed": seed})
        seconds.append(run_stage(project, "train"))
        run_stage(project, "evaluate")
        runs.append(json.loads((project / "metrics/evaluate/forecasts.json").read_text()))
        log(f"{name}, seed {seed}: MAE {runs[-1]['headway']['all']['mae']}, {seconds[-1]:.0f} s of training")
    cost = f"median {np.median(seconds):.0f} s of training, peak {peak_memory(project):.0f} MiB"
    print_table(name, meta, runs, changes, cost)
    return average(runs)


def copy_code(project: Path) -> None:
    """All that the stages need."""
    for part in ("src", "stages"):
        shutil.copytree(ROOT / part, project / part, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "params.yaml", project)


def copy_raw(source: Path, target: Path, sensors: int) -> None:
    """The raw folder, or its first `sensors` sensors by id."""
    target.mkdir(parents=True)
    if not sensors:
        for path in source.iterdir():
            shutil.copy(path, target)
        return
    table = pd.read_parquet(source / "sensors.parquet")
    kept = sorted(table["sensor_id"].astype(str))[:sensors]
    table[table["sensor_id"].astype(str).isin(kept)].to_parquet(target / "sensors.parquet", index=False)
    for path in source.iterdir():
        if path.name.startswith("series") and path.suffix == ".parquet":
            pd.read_parquet(path, columns=["timestamp", *kept]).to_parquet(target / path.name, index=False)
        elif path.name == "edges.parquet":
            edges = pd.read_parquet(path)
            inside = edges["source"].astype(str).isin(kept) & edges["target"].astype(str).isin(kept)
            edges[inside].to_parquet(target / path.name, index=False)
        elif path.name in ("dataset.yaml", "covariates.parquet"):
            shutil.copy(path, target)


def choose_params(project: Path, name: str) -> dict[str, Any]:
    """What must differ from params.yaml on this data set."""
    changes: dict[str, Any] = {"dataset": name, "preprocess.unusable_sensors": "drop"}
    series = project / "data/raw" / name / "series.parquet"
    if series.exists():
        timestamps = np.sort(pd.read_parquet(series, columns=["timestamp"])["timestamp"].to_numpy())
        step = np.median(np.diff(timestamps)) / np.timedelta64(1, "m")
        if step >= DAY_MINUTES or DAY_MINUTES % step:
            changes |= {"windows.context": [], "windows.trailing_weeks": 0}
    return changes


def write_params(project: Path, changes: dict[str, Any], base: Path = ROOT / "params.yaml") -> None:
    """Write params.yaml of the project: that of `base`, changed."""
    yaml = YAML()
    document = yaml.load(base.read_text())
    for key, value in changes.items():
        *sections, last = key.split(".")
        place = document
        for section in sections:
            place = place[section]
        place[last] = value
    with (project / "params.yaml").open("w") as file:
        yaml.dump(document, file)


def run_stage(project: Path, stage: str) -> float:
    """Seconds the stage took; its messages go to the terminal only when it fails."""
    started = time.monotonic()
    command = [sys.executable, f"stages/{stage}.py"]
    done = subprocess.run(command, cwd=project, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{stage} failed with exit code {done.returncode}:\n{done.stdout}{done.stderr}")
    return time.monotonic() - started


def plan_steps(
    project: Path, meta: dict[str, Any], changes: dict[str, Any], minutes: float
) -> dict[str, Any]:
    """`train` keys that fill, and do not exceed, the minutes."""
    batch = YAML(typ="safe").load((ROOT / "params.yaml").read_text())["train"]["batch_size"]
    trial = {
        "train.max_steps": TRIAL_STEPS,
        "train.epoch_steps": TRIAL_STEPS,
        "train.validation_windows": batch,
    }
    write_params(project, {**changes, **trial})
    wall = run_stage(project, "train")
    record = json.loads(next(project.glob(".resume/train/*/record.jsonl")).read_text().splitlines()[-1])
    step = record["seconds"] / TRIAL_STEPS
    shutil.rmtree(project / ".resume")
    first, last = meta["splits"]["train"]
    looked_at = min(VALIDATION_WINDOWS, meta["splits"]["validation"][1] - meta["splits"]["validation"][0])
    budget = 60 * minutes * 0.9 - (wall - record["seconds"]) - LOOKS * looked_at / batch * step / 2
    return count_steps(int(min(max(TRIAL_STEPS, budget / step), PASSES * -(-(last - first) // batch))))


def count_steps(steps: int) -> dict[str, Any]:
    """`train` keys of so many steps, with LOOKS looks at validation."""
    epoch_steps = -(-steps // LOOKS)
    return {
        "train.max_steps": steps,
        "train.epoch_steps": epoch_steps,
        "train.epochs": -(-steps // epoch_steps),
        "train.validation_windows": VALIDATION_WINDOWS,
        "train.patience": 0,
        "train.warmup_steps": min(50, steps // 10),
    }


def average(runs: list[dict[str, Any]]) -> Scores:
    """Mean over seeds of every score; the naive forecasts have no seed and stay what they are."""
    names = ("mae", "rmse", "mape")
    return {
        forecast: {
            horizon: {name: _mean([run[forecast][horizon][name] for run in runs]) for name in names}
            for horizon in table
        }
        for forecast, table in runs[0].items()
    }


def _mean(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(f"{np.mean(known):.6g}") if known else None


def peak_memory(project: Path) -> float:
    rows = [
        json.loads(path.read_text().splitlines()[-1]) for path in project.glob(".resume/train/*/record.jsonl")
    ]
    return max(row.get("allocated_peak", row["resident_peak"]) for row in rows)


def print_table(
    name: str, meta: dict[str, Any], runs: list[dict[str, Any]], changes: dict[str, Any], cost: str
) -> None:
    """Markdown: a row a forecast, a column a horizon, and whether ours is the lowest everywhere."""
    scores = average(runs)
    horizons = list(scores["headway"])
    shown = [horizons[step - 1] for step in (1, 3, 6, 12) if step < len(horizons)] + ["all"]
    lines = [
        f"\n### {name}\n",
        f"{meta['sensors']} sensors, {meta['steps']} steps of {meta['step_seconds'] / 60:g} min; "
        f"{len(runs)} seed(s) of {changes['train.max_steps']} steps, {cost}\n",
        f"| MAE ({meta['unit'] or 'units of the data'}) | {' | '.join(shown)} | RMSE | MAPE % |",
        f"|---|{'---:|' * (len(shown) + 2)}",
    ]
    for forecast, table in scores.items():
        cells = [_cell(table[horizon]["mae"]) for horizon in shown]
        if forecast == "headway" and len(runs) > 1:
            cells[-1] += f" ± {np.std([run[forecast]['all']['mae'] for run in runs], ddof=1):.3f}"
        cells += [_cell(table["all"]["rmse"]), _cell(table["all"]["mape"])]
        lines.append(f"| {forecast} | {' | '.join(cells)} |")
    lost = lost_horizons(scores)
    lines.append(f"\nNot the lowest at: {', '.join(lost)}." if lost else "\nThe lowest at every horizon.")
    log("\n".join(lines))


def lost_horizons(scores: Scores) -> list[str]:
    """Horizons at which a naive forecast is as good as ours or better."""
    own = scores["headway"]
    return [
        horizon
        for horizon in own
        if any(
            _lower(table[horizon]["mae"], own[horizon]["mae"])
            for table in scores.values()
            if table is not own
        )
    ]


def _lower(one: float | None, other: float | None) -> bool:
    return one is not None and (other is None or one <= other)


def _cell(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def log(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
