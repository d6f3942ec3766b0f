"""Where a process sits among those that train together, and which cluster section `runtime` asks for.

Enters: `runtime.cluster`, or the environment of a process started as a rank. Leaves: a checked choice, a seat.

Glossary: rank = one process of a training, numbered from 0; world = how many there are.
"""

from __future__ import annotations

import json
import os
import re
from dataclasses import asdict, dataclass
from typing import Literal

from headway.errors import InputError

VARIABLE = "HEADWAY_SEAT"
NONE, AUTO = "none", "auto"
LOCAL = re.compile(r"local:([1-9]\d*)")
ADDRESS = re.compile(r"(tcp|tls)://\S+:\d+")


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterChoice:
    """What `runtime.cluster` says.

    Attributes:
        kind: none | local | file | address.
        workers: of a local one, else 0.
        place: the scheduler file or address.
    """

    kind: Literal["none", "local", "file", "address"]
    workers: int = 0
    place: str = ""


def parse_cluster(text: str) -> ClusterChoice:
    """Raises: InputError where it is none of the four."""
    if text == NONE:
        return ClusterChoice(kind="none")
    local = LOCAL.fullmatch(text)
    if local is not None:
        return ClusterChoice(kind="local", workers=int(local[1]))
    if ADDRESS.fullmatch(text):
        return ClusterChoice(kind="address", place=text)
    if text.endswith(".json"):
        return ClusterChoice(kind="file", place=text)
    raise InputError(
        f"runtime.cluster is {text!r}: write none, local:2, the path of a Dask scheduler file (.json), or an address "
        "as tcp://10.0.0.1:8786 or tls://10.0.0.1:8786"
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Seat:
    """What a rank must know to meet the others.

    Attributes:
        rank, world: its number, and how many there are.
        on_host: ranks on this machine. device: which of the GPUs that it sees is its own.
        address, port: where rank 0 waits for the others.
        interface: the network interface that this rank listens on.
        timeout: seconds after which a rank that says nothing is taken for dead.
    """

    rank: int
    world: int
    on_host: int
    device: int
    address: str
    port: int
    interface: str
    timeout: float

    def to_environment(self) -> dict[str, str]:
        """What the process that takes this seat is started with."""
        return {
            VARIABLE: json.dumps(asdict(self)),
            "GLOO_SOCKET_IFNAME": self.interface,
            "NCCL_SOCKET_IFNAME": self.interface,
            "TORCH_NCCL_BLOCKING_WAIT": "1",  # a rank that is gone is an error, not the end of the process
        }


def seat_of_this_process() -> Seat | None:
    """The seat it was started with; None where it trains alone or starts others."""
    text = os.environ.get(VARIABLE)
    return Seat(**json.loads(text)) if text else None
