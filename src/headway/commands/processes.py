"""How many processes a training would have, as far as section `runtime` says it before any of them is there.

Enters: section `runtime`. Leaves: a number of processes, and how many of them share this machine's memory.
"""

from __future__ import annotations

from dataclasses import dataclass

from headway.training.runtime import RuntimeParams
from headway.training.seat import parse_cluster


@dataclass(frozen=True, slots=True, kw_only=True)
class Processes:
    """Those that would train together.

    Attributes:
        world: how many; 1 where nobody can know.
        on_host: how many of them share this machine's memory; 1 where nobody can know.
        what: whom a plan is for, in words; empty where it is one process and nothing is open.
    """

    world: int
    on_host: int
    what: str

    def share(self, batch_size: int) -> int:
        """Windows of an update that the busiest of them takes, as training divides it."""
        return -(-batch_size // self.world)


def planned_processes(runtime: RuntimeParams) -> Processes:
    """What `runtime.cluster` and `runtime.workers` say."""
    choice, workers = parse_cluster(runtime.cluster), runtime.workers
    if choice.kind == "local" and choice.workers > 1:
        what = f"for each of the {choice.workers} processes of runtime.cluster: {runtime.cluster}"
        return Processes(world=choice.workers, on_host=choice.workers, what=what)
    if choice.kind in ("none", "local"):
        return Processes(world=1, on_host=1, what="")
    if workers:
        what = (
            f"for each of {workers} workers (runtime.workers), as if each had a machine or a GPU of its own"
        )
        return Processes(world=workers, on_host=1, what=what)
    unknown = f"how many workers {choice.place} has is not known before they are there"
    return Processes(world=1, on_host=1, what=f"for one process: {unknown}; runtime.workers says it")
