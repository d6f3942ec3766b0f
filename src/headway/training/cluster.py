"""The Dask cluster that a training asks for, and the seats of its workers.

Enters: section `runtime`. Leaves: a Dask client of workers in this process, or of a scheduler that is there; and for
each worker where it can be met, its number and its GPU. Dask is imported when it is asked for.
"""

from __future__ import annotations

import logging
import os
import socket
import uuid
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from headway.errors import InputError, Stopped
from headway.training import keeper
from headway.training.runtime import RuntimeParams
from headway.training.seat import Seat, parse_cluster

LOOPBACK = "127.0.0.1"

# of a connection that is lost they write a traceback, and what Dask raises is told here in a sentence; its client has
# a level and a handler of its own, so the first name does not speak for the second
DASK_LOGS = ("distributed", "distributed.client")


@contextmanager
def open_client(runtime: RuntimeParams) -> Iterator[Any]:
    """A Dask client: of workers in this process, or of a scheduler that is there.

    Raises: InputError without Dask or a scheduler file; Stopped where no scheduler answers, or workers are missing.
    """
    choice = parse_cluster(runtime.cluster)
    try:
        import cloudpickle
        from distributed import Client, LocalCluster
    except ImportError as error:
        raise InputError(
            f"runtime.cluster is {runtime.cluster} and needs Dask: pip install distributed"
        ) from error
    for name in DASK_LOGS:
        logging.getLogger(name).setLevel(logging.CRITICAL)
    cloudpickle.register_pickle_by_value(keeper)  # Dask's own way to send a task; the workers need no headway
    if choice.kind == "local":
        with (
            LocalCluster(
                n_workers=choice.workers,
                threads_per_worker=1,
                processes=False,
                protocol="inproc://",  # no port is opened but those of its pages, on the loopback
                dashboard_address=f"{LOOPBACK}:0",
                worker_dashboard_address=f"{LOOPBACK}:0",
            ) as cluster,
            Client(cluster) as client,
        ):
            yield client
        return
    if choice.kind == "file" and not Path(choice.place).is_file():
        raise InputError(
            f"runtime.cluster: no scheduler file {choice.place}; dask scheduler --scheduler-file writes it"
        )
    place: dict[str, Any] = (
        {"scheduler_file": choice.place} if choice.kind == "file" else {"address": choice.place}
    )
    try:
        client = Client(**place, timeout=runtime.rank_timeout, name="headway")
    except (OSError, TimeoutError) as error:
        raise Stopped(f"no Dask scheduler answers at {choice.place}: {error}") from None
    with client:
        _wait_for_workers(client, runtime)
        yield client


def _wait_for_workers(client: Any, runtime: RuntimeParams) -> None:
    wanted = max(1, runtime.workers)
    try:
        client.wait_for_workers(wanted, timeout=runtime.rank_timeout)
    except TimeoutError:
        there = len(client.nthreads())
        raise Stopped(
            f"{there} of {wanted} Dask workers are there after {runtime.rank_timeout:.0f} s; start the others, or "
            "set runtime.workers lower"
        ) from None


@contextmanager
def shown_file() -> Iterator[Path]:
    """A file that shows a worker that it sees this project."""
    folder = Path(os.environ.get("DVC_ROOT", ".")).resolve() / ".resume"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f".{uuid.uuid4().hex}"
    path.touch()
    try:
        yield path
    finally:
        path.unlink(missing_ok=True)


def seats_of(client: Any, runtime: RuntimeParams) -> dict[str, Seat]:
    """A seat for each worker, by its address; rank 0 on this machine where one is."""
    hosts = {address: _host(address) for address in client.nthreads()}
    views = {
        address: client.run(keeper.look_around, host, runtime.interface, workers=[address])[address]
        for address, host in hosts.items()
    }
    for address, view in views.items():
        if "problem" in view:
            raise InputError(f"runtime.interface: on the Dask worker {address}: {view['problem']}")
    here = socket.gethostname()
    order = sorted(views, key=lambda address: (views[address]["machine"] != here, hosts[address], address))
    chosen = (
        order[: runtime.workers or len(order)] if parse_cluster(runtime.cluster).kind != "local" else order
    )
    return _assign(chosen, views, runtime.rank_timeout)


def _assign(chosen: Sequence[str], views: Mapping[str, dict[str, Any]], timeout: float) -> dict[str, Seat]:
    first = views[chosen[0]]
    on_host = Counter(views[address]["machine"] for address in chosen)
    same_view: Counter[tuple[str, str]] = Counter()
    seats = {}
    for rank, address in enumerate(chosen):
        view = views[address]
        sees = (view["machine"], view["gpus"])  # workers with a view of their own have their GPU in front
        seats[address] = Seat(
            rank=rank,
            world=len(chosen),
            on_host=on_host[view["machine"]],
            device=same_view[sees],
            address=first["address"],
            port=first["port"],
            interface=view["interface"],
            timeout=timeout,
        )
        same_view[sees] += 1
    return seats


def _host(address: str) -> str:
    from distributed.comm.addressing import get_address_host

    return LOOPBACK if address.startswith("inproc://") else get_address_host(address)
