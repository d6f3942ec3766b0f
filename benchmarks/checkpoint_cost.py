"""What it costs that a run cannot be lost: the share of training time, the time to go on, the time to save.

    python benchmarks/checkpoint_cost.py [--rounds 5] [--json FILE]

The train stage itself is timed, in processes of its own: an epoch of this project's params.yaml on the embedded data
at its cadence of checkpoints; the same stage called again after it was stopped, from its call until its first step;
and checkpoints of a model with 100 MB of weights, which come to four times as much with the best weights and the
moments of the optimizer.
"""

from __future__ import annotations

import argparse
import json
import os
import runpy
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "src"))

from headway.training import experiment, loop

LARGE: dict[str, dict[str, Any]] = {
    "ha_gat": {"hidden_dim": 1152},
    "mixture": {"hidden_dim": 1152},
    "windows": {"history": 4, "horizon": 4},
    "train": {"batch_size": 1, "epoch_steps": 1, "validation_windows": 1, "patience": 0},
    "runtime": {"micro_batch": 1},
}
MIB = 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """A training that was timed.

    Attributes:
        seconds: from its first to its last step, checkpoints included. saves: seconds of each checkpoint.
        weights_mib: float32 weights. checkpoint_mib: the last checkpoint, on the disk.
    """

    seconds: float
    saves: list[float]
    weights_mib: float
    checkpoint_mib: float


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, help="file to write the figures to")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        shutil.copy(ROOT / "params.yaml", folder)
        for stage in ("simulate", "preprocess", "pretrain"):
            subprocess.run([sys.executable, str(ROOT / f"stages/{stage}.py")], cwd=folder, check=True)
        set_params(folder, train={"epochs": 1}, runtime={"max_hours": 1e-9})
        in_a_process(train_here, folder)  # stopped after a step, saved
        set_params(folder, runtime={"max_hours": 0.0})
        ready = [in_a_process(seconds_to_first_step, folder) for _ in range(arguments.rounds)]
        small = in_a_process(train_here, folder)
        set_params(folder, **LARGE)
        set_params(folder, train={"epochs": arguments.rounds + 1})
        subprocess.run([sys.executable, str(ROOT / "stages/preprocess.py")], cwd=folder, check=True)
        large = in_a_process(train_here, folder)
    sys.stdout.write(table(ready, small, large))
    if arguments.json:
        figures = {"ready": ready, "small": asdict(small), "large": asdict(large)}
        arguments.json.write_text(json.dumps(figures, indent=1) + "\n")


def in_a_process(measure: Callable[[Path], Any], folder: Path) -> Any:
    """What it returns in a new process that has imported all that it needs."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(measure, folder).result()


def train_here(folder: Path) -> Cost:
    """Run the train stage of a folder, or continue it."""
    stage, saves, spans, models = stage_of(folder), [], [], []
    train, save = loop.train, loop.save
    experiment.train = lambda model, *rest: (models.append(model), timed(spans, train, model, *rest))[1]
    loop.save = lambda *arguments: timed(saves, save, *arguments)
    try:
        stage()
    except SystemExit as stopped:
        assert stopped.code == 75
    newest = max(folder.glob(".resume/train/*/step-*"), key=lambda path: path.stat().st_mtime)
    return Cost(
        seconds=sum(spans),
        saves=saves,
        weights_mib=sum(weight.nbytes for weight in models[0].parameters()) / MIB,
        checkpoint_mib=sum(path.stat().st_size for path in newest.iterdir()) / MIB,
    )


def seconds_to_first_step(folder: Path) -> float:
    """From the call of the train stage, its modules imported, to the first step of a run that is continued."""
    stage, began = stage_of(folder), time.perf_counter()
    reached: list[float] = []

    def take_step(state: Any, *_: object) -> float:
        assert state.progress.step > 0
        reached.append(time.perf_counter() - began)
        raise SystemExit

    loop.take_step = take_step
    try:
        stage()
    except SystemExit:
        return reached[0]
    raise AssertionError("no step was taken")


def stage_of(folder: Path) -> Callable[[], None]:
    """The main function of stages/train.py, in a project's folder."""
    os.chdir(folder)
    os.environ["DVC_ROOT"] = str(folder)
    return runpy.run_path(str(ROOT / "stages/train.py"))["main"]


def timed(spans: list[float], call: Callable[..., Any], *arguments: Any) -> Any:
    began = time.perf_counter()
    try:
        return call(*arguments)
    finally:
        spans.append(time.perf_counter() - began)


def set_params(folder: Path, **changes: dict[str, Any]) -> None:
    yaml, path = YAML(), folder / "params.yaml"
    document = yaml.load(path.read_text())
    for section, keys in changes.items():
        document[section] |= keys
    with path.open("w") as file:
        yaml.dump(document, file)


def table(ready: list[float], small: Cost, large: Cost) -> str:
    """A row a promise."""
    whole = large.saves[1:]  # from the second one on with the best weights
    share = 100 * sum(small.saves) / small.seconds
    rows = [
        (
            f"training time spent on checkpoints, {small.seconds:.0f} s of training, {len(small.saves)} saved",
            f"{share:.3f} %",
            "1 %",
        ),
        (
            f"from the call of the stage to the first step of a continued run, median of {len(ready)}",
            f"{statistics.median(ready):.2f} s",
            "5 s",
        ),
        (
            f"one checkpoint of {large.weights_mib:.0f} MiB of weights, {large.checkpoint_mib:.0f} MiB on the disk, "
            f"median of {len(whole)}",
            f"{statistics.median(whole):.2f} s",
            "2 s",
        ),
    ]
    lines = ["| what | measured | allowed |", "|---|---:|---:|"]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)]) + "\n"


if __name__ == "__main__":
    main()
