"""The plan of a forecaster's training: how many windows are held in memory at once, beside the readings."""

from __future__ import annotations

from collections.abc import Sequence

from headway.data.prepared import PreparedMeta
from headway.data.windows import Residence, held_bytes, row_spans
from headway.models.standardized import Standardized
from headway.training.plan import Planner, power_of_two
from headway.training.precision import Precision
from headway.training.storages import StepMemory
from headway.training.trace import trace_modules, trace_step

PROBE_STEPS = 40_000  # sensors x steps from which memory is linear: what goes block by block no longer counts


class WindowPlanner(Planner):
    """Plans for one model and its data."""

    def __init__(
        self, model: Standardized, meta: PreparedMeta, batch_size: int, precision: Precision, series: int = 0
    ) -> None:
        """`batch_size`: windows of an update. `precision`: its device decides the allowance. `series`: as of Plan."""
        probe = power_of_two(2 * PROBE_STEPS // (meta.sensors * meta.history))
        super().__init__(model, batch_size, precision, probe, series)
        self._forecaster, self._meta = model, meta

    def _trace(self, windows: int, *, accumulate: bool) -> StepMemory:
        return trace_step(self._forecaster, self._meta, windows, self._precision, accumulate=accumulate)

    def activations(self, windows: int, recompute: bool) -> dict[str, int]:
        """Bytes of activations by the name of the module that made them, the largest first.

        Beyond two probes in the proportions of the larger one.
        """
        few = min(windows, 2 * self._probe)
        with self._planned(recompute):
            by_module = trace_modules(
                self._forecaster, self._meta, few, self._precision, accumulate=few < self.batch_size
            )
        times = self.trace(windows, recompute).activations / max(1, sum(by_module.values()))
        return {name: round(times * size) for name, size in by_module.items()}


def series_bytes(
    meta: PreparedMeta, steps: int, data: Residence, device_type: str, parts: Sequence[tuple[int, int]] = ()
) -> int:
    """Bytes of a series of so many steps in the memory that is planned: the device's, which on a CPU is the only one.

    Args: parts: origins that are trained on and judged; empty: all.
    """
    if data == "memmap" or (data == "memory" and device_type != "cpu"):
        return 0
    return held_bytes(meta, row_spans(meta, steps, parts), meta.sensors)
