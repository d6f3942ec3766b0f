"""The ranks of one training: what they tell each other and add up. One process alone is a world of one.

    gradient of a group = sum over ranks of (gradient of the summed loss of the rank's windows) / observed

Enters: a seat. Leaves: `Ranks`, which the loop asks. `observed` counts the targets of the whole group, and gradients
are added once, at its end, so a group may be cut in pieces and begun again on any rank (see `accumulate` in
headway.training.loop). That is why DistributedDataParallel does not add them while the backward pass runs: it adds
after every piece or must know the last one beforehand, takes a mean over ranks where a sum is wanted, and leaves no
way back to a rank whose memory ran out. A model here is about a megabyte: there is nothing to hide behind the
backward pass.

Sums are made in the order of ranks: the same world gives the same bits.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor

from headway.errors import InputError, Stopped
from headway.training.seat import Seat

LOST = "the other ranks cannot be reached"


class RanksLost(Stopped):
    """Another rank is gone, or has said nothing for too long."""


class Ranks:
    """Who trains together; every method but the plain attributes must be called by all, in the same order."""

    def __init__(self, seat: Seat | None = None) -> None:
        self.rank, self.world, self.on_host = (seat.rank, seat.world, seat.on_host) if seat else (0, 1, 1)
        self.device_number = seat.device if seat else 0

    @property
    def first(self) -> bool:
        """Whether this one writes checkpoints, curves and the model."""
        return self.rank == 0

    def tell(self, *numbers: float | int) -> list[tuple[float | int, ...]]:
        """What each rank says, in the order of ranks."""
        if self.world == 1:
            return [numbers]
        mine = torch.tensor(numbers, dtype=torch.float64)
        told = [torch.empty_like(mine) for _ in range(self.world)]
        with _or_lost():
            dist.all_gather(told, mine)
        return [tuple(said.tolist()) for said in told]

    def total(self, *numbers: float | int) -> tuple[float | int, ...]:
        """Sums over ranks."""
        return tuple(sum(said) for said in zip(*self.tell(*numbers), strict=True))

    def share(self, content: bytes) -> bytes:
        """What rank 0 gives; the others' argument does not count."""
        if self.world == 1:
            return content
        size = torch.tensor([len(content)])
        with _or_lost():
            dist.broadcast(size, 0)
            given = torch.empty(int(size), dtype=torch.uint8)
            if self.first:
                given.copy_(torch.frombuffer(bytearray(content), dtype=torch.uint8))
            dist.broadcast(given, 0)
        return given.numpy().tobytes()

    def add_gradients(self, parameters: Iterable[Tensor]) -> None:
        """Replace each gradient by its sum over ranks. One that no rank has stays absent."""
        if self.world == 1:
            return
        trained = [parameter for parameter in parameters if parameter.requires_grad]
        parts = [torch.zeros_like(p) if p.grad is None else p.grad for p in trained]
        used = torch.tensor([float(p.grad is not None) for p in trained], device=parts[0].device)
        flat = torch.cat([*(part.flatten() for part in parts), used])
        with _or_lost():
            dist.all_reduce(flat)
        *summed, used = flat.split([*(part.numel() for part in parts), len(trained)])
        for parameter, total, anywhere in zip(trained, summed, used.tolist(), strict=True):
            parameter.grad = total.view_as(parameter) if anywhere else None

    @torch.no_grad()
    def take_first(self, parameters: Iterable[Tensor]) -> None:
        """Take over the numbers of rank 0: machines that round differently must not drift apart."""
        if self.world == 1:
            return
        tensors = list(parameters)
        flat = torch.cat([tensor.flatten() for tensor in tensors])
        with _or_lost():
            dist.broadcast(flat, 0)
        for tensor, part in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):
            tensor.copy_(part.view_as(tensor))

    def leave(self) -> None:
        """All have what they need from each other; what is left is rank 0's own."""
        if self.world > 1:
            self.tell()
            dist.destroy_process_group()


ALONE = Ranks()


def join(seat: Seat, device: torch.device) -> Ranks:
    """Meet the other ranks.

    Raises: InputError where rank 0 cannot listen; RanksLost when the others do not come in time.
    """
    patience = timedelta(seconds=seat.timeout)
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    _leave_with_the_starter()
    listening = _listen(seat).detach() if seat.rank == 0 else None
    with _or_lost():
        store = dist.TCPStore(  # pyright: ignore[reportPrivateImportUsage] - its documented place
            seat.address,
            seat.port,
            seat.world,
            seat.rank == 0,
            patience,
            wait_for_workers=False,
            master_listen_fd=listening,
        )
        dist.init_process_group(backend, store=store, rank=seat.rank, world_size=seat.world, timeout=patience)
    return Ranks(seat)


def _listen(seat: Seat) -> socket.socket:
    """Of rank 0: on the address of its interface, and on no other."""
    try:
        return socket.create_server((seat.address, seat.port), backlog=2 * seat.world)
    except OSError as error:
        raise InputError(
            f"rank 0 cannot listen on {seat.address}:{seat.port} ({error}); start again, or name another "
            "runtime.interface"
        ) from None


def _leave_with_the_starter() -> None:
    """Take the end of the process that started this rank, whose pipe is the standard input, for a SIGTERM."""

    def wait() -> None:
        while os.read(0, 1024):
            pass
        os.kill(os.getpid(), signal.SIGTERM)

    if not sys.stdin.isatty():
        threading.Thread(target=wait, daemon=True).start()


@contextmanager
def _or_lost() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        raise RanksLost(f"{LOST}: {reason}; `dvc repro` continues from the last checkpoint") from error
