"""What a stage is given to run with, and what no result depends on but in rounding: section `runtime`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Ge, Gt

from headway.data.windows import Residence
from headway.errors import InputError
from headway.training.memory import parse_size
from headway.training.seat import parse_cluster

FORECAST_STEPS, MOST_FORECASTS = 60_000, 64  # sensors x steps, and windows, forecast at once without a plan


@dataclass(frozen=True, slots=True, kw_only=True)
class RuntimeParams:
    """Section `runtime` of params.yaml: what may change between pause and resume without retraining.

    Attributes:
        device, precision: where and in which arithmetic.
        micro_batch: windows in memory at once; 0 leaves it to the planner.
        memory_budget: what training may use, as 4GB, for the planner; auto is a share of the machine's memory.
        data: where the readings are: mapped from the disk, in memory, or on the device.
        allocator: how a GPU's memory is divided.
        threads: CPU threads, 0 for torch's choice.
        cluster: none | local:N | the path of a Dask scheduler file | its address: who trains.
        workers: of a cluster that is there: how many to wait for and take, 0 for all that are there.
        interface: network interface that ranks meet on; auto is that of the Dask workers.
        rank_timeout: seconds after which a rank that says nothing is taken for dead.
        checkpoint_steps, checkpoint_minutes: cadence of checkpoints, whichever comes first.
        max_hours: stop after so long with exit code 75; 0 for no limit.
        resume: auto continues the same experiment; never starts it over; same-params continues it across a
            change of code, and the model card says so.
        keep_runs: run folders kept.
    """

    device: Literal["auto", "cpu", "cuda"]
    precision: Literal["auto", "fp32", "bf16", "fp16"]
    micro_batch: Annotated[int, Ge(0)]
    memory_budget: str
    data: Residence
    allocator: Literal["expandable", "default"]
    threads: Annotated[int, Ge(0)]
    cluster: str
    workers: Annotated[int, Ge(0)]
    interface: str
    rank_timeout: Annotated[float, Gt(0)]
    checkpoint_steps: Annotated[int, Ge(1)]
    checkpoint_minutes: Annotated[float, Ge(0)]
    max_hours: Annotated[float, Ge(0)]
    resume: Literal["auto", "never", "same-params"]
    keep_runs: Annotated[int, Ge(1)]

    def __post_init__(self) -> None:
        if self.memory_budget != "auto":
            try:
                parse_size(self.memory_budget)
            except InputError as error:
                raise InputError(f"runtime.memory_budget: {error}") from None
        parse_cluster(self.cluster)

    def forecast_windows(self, sensors: int, history: int) -> int:
        """Windows to forecast at once: the micro-batch, or where the planner chooses it a number from the sizes."""
        return self.micro_batch or max(1, min(MOST_FORECASTS, FORECAST_STEPS // (sensors * history)))
