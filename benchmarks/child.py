"""A command in a process that is told to stop when this one is, and is waited for.

Enters: a command, the folder it runs in. Leaves: its output in a file, its processor time in another. SIGINT, SIGTERM
and a closed terminal are handed on once each time they come, so that a training saves its state; then this process
ends too.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
EXIT_BUDGET = 75  # a stage that ran into runtime.max_hours
LAST_LINES = 15


class ChildFailed(Exception):
    """A command ended badly, and not because it was asked to."""


def run_child(command: Sequence[str], folder: Path, log: Path, cost: Path) -> None:
    """Run it to its end.

    Args: log: is overwritten with what the command says. cost: gets a line, {"log": name, "cpu_seconds": number}.
    Raises: ChildFailed with the last lines of the log; SystemExit where the command was interrupted.
    """
    received: list[int] = []
    started: list[subprocess.Popen[bytes]] = []

    def hand_on(number: int, _: object) -> None:
        received.append(number)
        for process in started:
            os.kill(process.pid, number)

    heard = [
        number for number in SIGNALS if signal.getsignal(number) is not signal.SIG_IGN
    ]  # nohup ignores one
    before = {number: signal.signal(number, hand_on) for number in heard}
    try:
        with log.open("wb") as output:
            process = _start(command, folder, output)
        started.append(process)
        if received:  # before there was anybody to hand it on to
            os.kill(process.pid, received[0])
        _, status, usage = os.wait4(process.pid, 0)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    process.returncode = os.waitstatus_to_exitcode(status)
    with cost.open("a") as file:
        row = {"log": log.name, "cpu_seconds": round(usage.ru_utime + usage.ru_stime, 2)}
        file.write(json.dumps(row) + "\n")
    if received or process.returncode == EXIT_BUDGET:
        sys.stderr.write("stopped; the same command goes on from there\n")
        raise SystemExit(128 + received[0] if received else EXIT_BUDGET)
    if process.returncode:
        lines = log.read_text(errors="replace").splitlines()[-LAST_LINES:]
        reason = "\n".join(lines)
        raise ChildFailed(f"{' '.join(command)} ended with {process.returncode}; {log}:\n{reason}")


def _start(command: Sequence[str], folder: Path, output: BinaryIO) -> subprocess.Popen[bytes]:
    """In a session of its own: Ctrl-C in a terminal reaches this process alone, which hands it on."""
    environment = {name: value for name, value in os.environ.items() if name != "DVC_ROOT"}
    return subprocess.Popen(
        command, cwd=folder, env=environment, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
    )
