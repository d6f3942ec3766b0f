"""A real Dask cluster under `dvc repro`: a scheduler and two workers as processes, in two network namespaces.

    sudo python benchmarks/cluster.py [--here] [--json FILE]

Each namespace has an address of its own and sees the other through a pair of virtual cables, as two machines do. A
small copy of this project is trained by one process, then by the cluster; then the training is made longer and the
worker of the other namespace, the client and the scheduler are killed in turn, each followed by `dvc repro`, which
must go on where it was. `--here` does without namespaces, and without being root: all on the loopback.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))

from dvc_project import Project, environment, new_project  # pyright: ignore[reportMissingImports]

NAMES, ADDRESSES = ("headway-a", "headway-b"), ("10.77.7.1", "10.77.7.2")
TRAIN = {"epochs": 3, "epoch_steps": 20, "schedule": "constant", "patience": 0}
PATIENCE = 120.0
RANK_TIMEOUT = 6.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """Where processes are started.

    Attributes:
        prefix: of a command that is to run there. address: that others know it by.
    """

    prefix: tuple[str, ...]
    address: str

    def start(self, module: str, *arguments: str) -> subprocess.Popen[bytes]:
        """A part of the cluster."""
        command = [*self.prefix, sys.executable, "-m", module, "--host", self.address, *arguments]
        return subprocess.Popen(
            command,
            env=environment(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def repro(self, project: Project, *options: str) -> subprocess.Popen[str]:
        """`dvc repro` of the training, as a process."""
        return subprocess.Popen(
            [*self.prefix, sys.executable, "-m", "dvc", "repro", *options, "train"],
            cwd=project.folder,
            env=environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--here", action="store_true", help="no namespaces: everything on the loopback")
    parser.add_argument("--json", type=Path, help="file to write the figures to")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, machines(arguments.here) as both:
        project = new_project(Path(folder) / "project")
        rows = measure(project, both, Path(folder) / "scheduler.json")
    lines = [
        "| what | seconds | exit code | ends with | steps saved | validation MAE |",
        "|:---|---:|---:|:---|---:|---:|",
    ]
    lines += [
        f"| {row['what']} | {row['seconds']:.1f} | {row['code']} | {row['said']} | {row['saved']} | {row['mae']} |"
        for row in rows
    ]
    sys.stdout.write("\n".join(lines) + "\n")
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=1) + "\n")


def measure(project: Project, both: tuple[Machine, Machine], file: Path) -> list[dict[str, Any]]:
    """A row a `dvc repro`."""
    here = both[0]
    project.set_params(train=TRAIN, runtime={"rank_timeout": RANK_TIMEOUT, "checkpoint_steps": 10})
    rows = [observe("one process", project, here)]
    (project.folder / ".resume").rename(project.folder / ".resume-alone")
    project.set_params(runtime={"cluster": os.fspath(file), "workers": 2})
    with cluster(both, file):
        rows.append(observe("two workers", project, here, "--force", "--single-item"))
    project.set_params(train={"epochs": 10_000})
    for victim in ("worker", "client", "scheduler"):
        with cluster(both, file) as parts:
            part = parts.get(victim)
            rows.append(observe(f"the {victim} is killed", project, here, harm=partial(kill_first, part)))
            wait(lambda: not ranks(project))
    project.set_params(
        train={"epochs": saved(project) // TRAIN["epoch_steps"] + 2}, runtime={"cluster": "none"}
    )
    rows.append(observe("one process goes on", project, here))
    return rows


def observe(
    what: str,
    project: Project,
    machine: Machine,
    *options: str,
    harm: Callable[[subprocess.Popen[str]], None] | None = None,
) -> dict[str, Any]:
    """One `dvc repro`; harmed when it has saved a few steps more."""
    before, started = saved(project), time.monotonic()
    client = machine.repro(project, *options)
    if harm is not None:
        wait(lambda: saved(project) >= before + 20)
        started = time.monotonic()
        harm(client)
    said, _ = client.communicate(timeout=PATIENCE)
    word = re.findall(r"^error: .*?(?=;|$)|resuming at step \d+", said, re.MULTILINE)
    metrics = project.folder / "metrics/train/metrics.json"
    return {
        "what": what,
        "seconds": time.monotonic() - started,
        "code": client.returncode,
        "said": ", ".join(word).replace("error: ", ""),
        "saved": saved(project),
        "mae": json.loads(metrics.read_text())["best"]["mae"] if client.returncode == 0 else "",
        "log": said.splitlines()[-12:],
    }


def kill_first(part: subprocess.Popen[bytes] | None, client: subprocess.Popen[str]) -> None:
    """The part, or else the client, with what it started in its session; ranks have sessions of their own."""
    os.killpg((part or client).pid, signal.SIGKILL)


def saved(project: Project) -> int:
    """The newest step that is saved."""
    steps = [int(path.name[-10:]) for path in project.folder.glob(".resume/train/*/step-*")]
    return max(steps, default=0)


def ranks(project: Project) -> list[str]:
    """Processes of ranks at work in this project."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if (folder / "cwd").resolve() == project.folder and b"HEADWAY_SEAT" in (
                folder / "environ"
            ).read_bytes():
                found.append(folder.name)
        except OSError:  # it has ended
            continue
    return found


def wait(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError("waited in vain")
        time.sleep(0.1)


@contextmanager
def cluster(both: tuple[Machine, Machine], file: Path) -> Iterator[dict[str, subprocess.Popen[bytes]]]:
    """A scheduler and a worker here, a worker there."""
    own = ("--scheduler-file", os.fspath(file), "--no-dashboard")
    worker = ("distributed.cli.dask_worker", *own, "--nthreads", "1", "--no-nanny", "--local-directory")
    file.unlink(missing_ok=True)
    here, there = both
    parts = {
        "scheduler": here.start("distributed.cli.dask_scheduler", *own, "--port", "0"),
        "first": here.start(*worker, os.fspath(file.parent / "a")),
        "worker": there.start(*worker, os.fspath(file.parent / "b")),
    }
    try:
        wait(file.exists)
        yield parts
    finally:
        for part in parts.values():
            part.kill()
            part.wait()


@contextmanager
def machines(here: bool) -> Iterator[tuple[Machine, Machine]]:
    """Two network namespaces with a cable between them, removed at the end."""
    if here:
        yield Machine(prefix=(), address="127.0.0.1"), Machine(prefix=(), address="127.0.0.1")
        return
    try:
        for name in NAMES:
            _ip("netns", "add", name)
        _ip(
            "link",
            "add",
            "hw-a",
            "netns",
            NAMES[0],
            "type",
            "veth",
            "peer",
            "name",
            "hw-b",
            "netns",
            NAMES[1],
        )
        for name, address, cable in zip(NAMES, ADDRESSES, ("hw-a", "hw-b"), strict=True):
            _ip("-n", name, "address", "add", f"{address}/24", "dev", cable)
            for link in (cable, "lo"):
                _ip("-n", name, "link", "set", link, "up")
        first, second = (
            Machine(prefix=("ip", "netns", "exec", name), address=address)
            for name, address in zip(NAMES, ADDRESSES, strict=True)
        )
        yield first, second
    finally:
        for name in NAMES:
            subprocess.run(["ip", "netns", "delete", name], check=False)


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True)


if __name__ == "__main__":
    main()
