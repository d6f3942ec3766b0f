"""SIGKILL to all processes of a real `dvc repro`, at random instants, until so many kills are spent.

    python benchmarks/kill_storm.py [--kills 200] [--seed 0] [--json FILE]

A small copy of this project runs without interruption first. Further copies are then killed and started again until
they are done: one time in two at an instant drawn from the whole duration of a run, else around the writing of a
checkpoint. A copy that is done must hold the bytes of the first one in models/train, metrics, data/predictions and
data/prepared; then the next copy is begun.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))

from dvc_project import Project, environment, new_project  # pyright: ignore[reportMissingImports]

STORM: dict[str, dict[str, Any]] = {
    "train": {"epochs": 4, "epoch_steps": 40},
    "runtime": {"checkpoint_steps": 4},
}
STAGES = ("simulate", "preprocess", "pretrain", "train", "evaluate")
AROUND_SAVE = 0.01  # seconds after a save was seen to begin; it takes about as long
MISSED = 12  # steps after which it does not matter that no save was seen to begin
WATCH, WAIT = 0.001, 0.02  # seconds between two looks
PATIENCE = 600.0
DVC_FAILED = 255
FORGET_TORN_ENTRIES = r"find .dvc/cache/runs \( -name '.*.tmp' -o -type d -empty \) -delete"
CURES = {  # docs/training.md: what DVC says of a leftover of its own, and the command that removes it
    "Unable to read RWLock-file": "rm .dvc/tmp/rwlock",
    "': 'outs'": FORGET_TORN_ENTRIES,
    "': join() argument must be": FORGET_TORN_ENTRIES,
    "'./dvc.lock' ": "rm dvc.lock",
    ".git/index.lock": "rm .git/index.lock",
}


@dataclass(slots=True, kw_only=True)
class Storm:
    """What happened.

    Attributes:
        kills: by the stage that was running; `dvc` is DVC itself, between stages or before the first.
        killed_at: step of the newest checkpoint at each kill in train.
        within_save: kills that left a checkpoint half-written.
        resumes: trainings that began at a checkpoint. finished: runs that ended, all with the same bytes.
        corrupt: checkpoints that were set aside as damaged.
        cured: starts that DVC refused, by the command that removed what the kill before had left of it.
        seconds: in all. steps: of a whole training. alone: seconds of each stage of the run that nobody interrupted.
    """

    steps: int
    alone: dict[str, float]
    kills: Counter[str] = field(default_factory=Counter)
    killed_at: list[int] = field(default_factory=list)
    within_save: int = 0
    resumes: int = 0
    finished: int = 0
    corrupt: int = 0
    cured: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0, help="of the instants")
    parser.add_argument("--json", type=Path, help="file to write the figures to")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        start = new_project(Path(folder) / "start")
        start.set_params(**STORM)
        start.commit("longer")
        whole = start.copy(Path(folder) / "whole")
        alone = {stage: seconds_of(whole, stage) for stage in STAGES}
        storm = Storm(steps=newest_step(whole), alone=alone)
        for _ in kill_until_spent(start, whole.outputs(), storm, arguments.kills, arguments.seed):
            _say(f"{storm.kills.total()} kills, {storm.finished} runs finished")
            if arguments.json:  # so far
                figures = {item.name: getattr(storm, item.name) for item in fields(storm)}
                arguments.json.write_text(json.dumps(figures, indent=1) + "\n")
    sys.stdout.write(table(storm))


def kill_until_spent(
    start: Project, whole: dict[str, str], storm: Storm, kills: int, seed: int
) -> Iterator[None]:
    """Kill and repeat copies of `start`, which has run nothing, until the kills are spent and the last copy is done.

    Yields: after each copy. Raises: AssertionError when one leaves other bytes than `whole`, or a repeated run fails.
    """
    draw, began = random.Random(seed), time.monotonic()
    while storm.kills.total() < kills:
        project = start.copy(start.folder.with_name(f"storm-{storm.finished}"))
        done = False
        while not done:
            spent = storm.kills.total() >= kills
            done = attempt(project, storm, never if spent else instant(project, storm, draw))
        found = project.outputs()
        differing = [name for name in found.keys() | whole.keys() if found.get(name) != whole.get(name)]
        assert not differing, f"{project.folder} differs in {', '.join(sorted(differing))}"
        storm.finished += 1
        storm.corrupt += len(list(project.folder.glob(".resume/train/*/*.corrupt")))
        storm.seconds = time.monotonic() - began
        shutil.rmtree(project.folder)
        yield


def attempt(project: Project, storm: Storm, due: Callable[[float], bool]) -> bool:
    """One `dvc repro`, killed when `due`. Returns: whether it was done before."""
    drafts = half_written(project)
    code, stage, said = repro(project, due)
    storm.resumes += "resuming at step" in said
    cure = next((command for words, command in CURES.items() if words in said), None)
    if code == DVC_FAILED and cure:
        project.run("sh", "-c", cure)
        storm.cured[cure] += 1
        return False
    assert code in (0, -signal.SIGKILL), f"`dvc repro` ended with {code}:\n{said}"
    if code == 0:
        return True
    storm.kills[stage] += 1
    storm.within_save += bool(half_written(project) - drafts)
    if stage == "train":
        storm.killed_at.append(newest_step(project))
    return False


def repro(project: Project, due: Callable[[float], bool]) -> tuple[int, str, str]:
    """`dvc repro`, killed with all its children when `due`. Returns: exit code, stage at the end, output.

    Args: due: of the seconds since the start; asked again and again.
    """
    with tempfile.TemporaryFile("w+") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "dvc", "repro"],
            cwd=project.folder,
            env=environment() | {"PYTHONUNBUFFERED": "1"},
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        began, stage = time.monotonic(), "dvc"
        try:
            while process.poll() is None and not due(time.monotonic() - began):
                assert time.monotonic() - began < PATIENCE, "a run takes too long"
            stage = running_stage(process.pid)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
        code = process.wait()
        output.seek(0)
        return code, stage, output.read()


def instant(project: Project, storm: Storm, draw: random.Random) -> Callable[[float], bool]:
    """When to kill next: at any instant of what is left to do, or around the writing of a checkpoint."""
    done = newest_step(project) / storm.steps
    if done < 1 and draw.random() < 0.5:
        step = newest_step(project) + draw.randrange(storm.steps // 3)
        return _around_save(project, step, draw.uniform(0, AROUND_SAVE))
    lock = project.folder / "dvc.lock"
    recorded = lock.read_text() if lock.exists() else ""
    alone = storm.alone | {"train": storm.alone["train"] * (1 - done / 2)}  # the other half is its start
    left = sum(seconds for stage, seconds in alone.items() if f"\n  {stage}:\n" not in recorded)
    left = max(left, min(alone.values()))  # DVC itself takes its time too
    return _after(draw.uniform(0, left if done < 1 else 2 * left))  # else no copy would ever be done


def never(_: float) -> bool:
    """Let the run end."""
    time.sleep(WAIT)
    return False


def _after(seconds: float) -> Callable[[float], bool]:
    def due(elapsed: float) -> bool:
        time.sleep(min(WAIT, max(0.0, seconds - elapsed)))
        return elapsed >= seconds

    return due


def _around_save(project: Project, step: int, delay: float) -> Callable[[float], bool]:
    drafts = half_written(project)  # of the kill before

    def due(_: float) -> bool:
        time.sleep(WATCH)
        newest = newest_step(project)
        if newest < step or (newest < step + MISSED and not half_written(project) - drafts):
            return False
        time.sleep(delay)
        return True

    return due


def half_written(project: Project) -> set[tuple[str, int]]:
    """Drafts of checkpoints, by name and inode."""
    found = set[tuple[str, int]]()
    for folder in (project.folder / ".resume/train").glob("*"):
        found |= {
            (entry.name, entry.inode()) for entry in os.scandir(folder) if entry.name.startswith(".tmp-")
        }
    return found


def newest_step(project: Project) -> int:
    names = [path.name for path in project.folder.glob(".resume/train/*/step-*")]
    return max((int(name[5:15]) for name in names), default=0)


def seconds_of(project: Project, stage: str) -> float:
    """Run a stage alone."""
    began = time.monotonic()
    project.dvc("repro", "--single-item", stage)
    return time.monotonic() - began


def running_stage(pid: int) -> str:
    """Of this `dvc repro`."""
    try:
        words = [word for child in psutil.Process(pid).children(recursive=True) for word in child.cmdline()]
    except psutil.Error:
        return "dvc"
    return next((Path(word).stem for word in words if word.startswith("stages/")), "dvc")


def table(storm: Storm) -> str:
    """Kills by stage, and a sentence on the rest."""
    columns = {
        "kills": storm.kills.total(),
        **{f"in {name}": storm.kills[name] for name in ("dvc", *STAGES)},
        "within a save": storm.within_save,
        "resumes": storm.resumes,
        "runs finished": storm.finished,
        "runs that differ": 0,  # one would have stopped the storm
    }
    lines = [
        f"| {' | '.join(columns)} |",
        "|" + "---:|" * len(columns),
        f"| {' | '.join(map(str, columns.values()))} |",
        "",
        f"Training was killed at steps {min(storm.killed_at, default=0)} to {max(storm.killed_at, default=0)} of "
        f"{storm.steps}; {storm.corrupt} checkpoints were damaged. What DVC needed by hand: "
        f"{', '.join(f'`{command}` {count}' for command, count in storm.cured.items()) or 'nothing'}. "
        f"{storm.seconds / 60:.0f} min; an uninterrupted run takes {sum(storm.alone.values()):.0f} s.",
    ]
    return "\n".join(lines) + "\n"


def _say(text: str) -> None:
    sys.stderr.write(text + "\n")


if __name__ == "__main__":
    main()
