"""What a Dask worker does for a training: it starts one rank as a process, and looks after it.

Enters: a seat, the stage's script, the folder it runs in. Leaves: how the rank ended. A process and not the worker's
own thread: it has its own signals and memory, always runs the code that is on the disk now, and can be ended whatever
it waits for. The rank ends with the worker (its input is a pipe of the worker's), and with the client, which gives a
sign of life in a Dask variable, beside what the rank is asked to do.

This file travels to the workers by its text, so that they need not import headway: it stands alone.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from pathlib import Path
from typing import Any

POLL_SECONDS = 0.25
REMEMBERED = 200  # lines of a rank that are told should it fail


def look_around(host: str, interface: str) -> dict[str, Any]:
    """Where this worker can be met.

    Args: host: address it is known by. interface: name, or auto for the one that has this address.
    Returns: address, interface, a free port, the name of the machine and the GPUs it may see; or what is wrong.
    """
    import psutil

    found = {
        name: [entry.address for entry in entries if entry.family == socket.AF_INET]
        for name, entries in psutil.net_if_addrs().items()
    }
    if interface == "auto":
        interface = next((name for name, addresses in found.items() if host in addresses), "")
    addresses = found.get(interface, [])
    if not addresses:
        names = ", ".join(name for name, known in found.items() if known)
        return {"problem": f"no interface {interface!r} with an IPv4 address; there are {names}"}
    address = host if host in addresses else addresses[0]
    with socket.create_server((address, 0)) as server:
        port = server.getsockname()[1]
    return {
        "address": address,
        "interface": interface,
        "port": port,
        "machine": socket.gethostname(),
        "gpus": os.environ.get("CUDA_VISIBLE_DEVICES", ""),
    }


def keep(
    rank: int,
    environment: dict[str, str],
    script: str,
    folder: str,
    marker: str,
    channel: str,
    patience: float,
) -> dict[str, Any]:
    """Run a rank to its end.

    Args:
        environment: its seat and what else it is started with. script: run with this worker's Python, in `folder`.
        marker: a file that the client has written; rank 0 must see it, because it writes the results.
        channel: of the Dask variable with the client's orders. patience: seconds without a sign of the client.
    Returns: "rank", "code" and "said", the last lines of its log.
    """
    from distributed import Variable, get_client

    if rank == 0 and not Path(marker).exists():
        return {
            "rank": 0,
            "code": 1,
            "said": f"error: the Dask worker on {socket.gethostname()} does not see {folder} of the machine that "
            "started the training; rank 0 writes there, so share the folder or run a worker on that machine",
        }
    try:
        process = _start(script, folder, environment)
    except OSError as error:
        return {"rank": rank, "code": 1, "said": f"error: {socket.gethostname()}: {error}"}
    client = get_client()  # this worker's own
    said: deque[str] = deque(maxlen=REMEMBERED)
    topic = channel if rank == 0 else ""
    reader = threading.Thread(target=_listen, args=(process, said, client, topic), daemon=True)
    reader.start()
    try:
        _look_after(process, Variable(channel, client=client), patience)
    finally:
        if process.poll() is None:
            process.terminate()  # it saves
    code = process.wait()
    reader.join(timeout=5)
    return {"rank": rank, "code": code, "said": "".join(said)}


def _start(script: str, folder: str, environment: dict[str, str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, script],
        cwd=folder,
        env={**os.environ, **environment},
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,  # a Ctrl-C in a terminal is the client's; it passes it on
    )


def _look_after(process: subprocess.Popen[str], orders: Any, patience: float) -> None:
    """Pass on what the client orders, until the rank has ended."""
    beat, heard, sent = -1, time.monotonic(), 0
    while process.poll() is None:
        time.sleep(POLL_SECONDS)
        try:
            order = orders.get(timeout=5)
        except (OSError, RuntimeError, ValueError):  # the scheduler is gone, or busy
            order = {"beat": beat, "signal": 0}
        if order["beat"] != beat:
            beat, heard = order["beat"], time.monotonic()
        alone = time.monotonic() - heard > patience
        wanted = order["signal"] or (signal.SIGTERM if alone else 0)
        if wanted and wanted != sent:
            process.send_signal(wanted)
            sent = wanted


def _listen(process: subprocess.Popen[str], said: deque[str], client: Any, topic: str) -> None:
    """Remember the log of a rank; where there is a topic, the client is told, but for the rank's last word."""
    lines: Any = process.stderr
    last_word = False
    for line in lines:
        said.append(line)
        last_word = last_word or line.startswith(("error: ", "Traceback"))
        if topic and not last_word:
            client.log_event(topic, json.dumps(line))
