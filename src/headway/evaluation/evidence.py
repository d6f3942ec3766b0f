"""How much a short test split can prove.

Enter: the errors of every forecast, batch by batch. Leaves: a sentence for the reader, where the readings of the test
split lie at fewer than FEW moments. The error of one moment is the mean over sensors and horizons; moments differ by
more than models do, and only they can be counted: 144 sensors read at one moment saw the same rush hour.
Glossary: moment = a time step with observed targets; gain = mean absolute error of a naive forecast less the model's;
its standard error = deviation of the gains / sqrt(moments), too small where neighboring moments resemble each other.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from headway.data.calendar import DAY
from headway.data.prepared import PreparedMeta
from headway.types import Batch

FEW = 100  # moments: eight hours of five-minute steps
WEEK_DAYS = 7


class Evidence:
    """Sums of absolute errors by moment of the target, of every forecast."""

    def __init__(self, meta: PreparedMeta) -> None:
        self._meta = meta
        self._count = np.zeros(meta.steps)
        self._sums: dict[str, np.ndarray] = {}

    def add(self, batch: Batch, points: Mapping[str, Tensor]) -> None:
        """Add one batch; points [batch, horizon, node] in the unit of the target."""
        steps = torch.arange(batch.target.shape[1], device=batch.origin.device)
        moments = (batch.origin[:, None] + steps).flatten().cpu().numpy()
        known = batch.target_observed
        np.add.at(self._count, moments, known.sum(2).flatten().cpu().numpy())
        for name, point in points.items():
            error = torch.where(known, (point - batch.target).abs(), 0.0).double().sum(2)
            sums = self._sums.setdefault(name, np.zeros(self._meta.steps))
            np.add.at(sums, moments, error.flatten().cpu().numpy())

    def warning(self, model: str) -> str:
        """What the test split cannot prove of `model` beside the best naive forecast; "" unless moments are FEW."""
        moments = np.flatnonzero(self._count)
        if len(moments) >= FEW:
            return ""
        if not len(moments):
            return (
                "no evidence: no target of the test split was read, so every metric is null. "
                "metrics/preprocess/quality.html shows what is missing; shorten the file to the rows with readings."
            )
        unit, days = self._meta.unit, np.ptp(moments) * self._meta.step_seconds / DAY
        naive = min((name for name in self._sums if name != model), key=lambda name: self._sums[name].sum())
        gain = (self._sums[naive] - self._sums[model])[moments] / self._count[moments]
        doubt = f", with a standard error of {_standard_error(gain):.2g} or more" if len(moments) > 1 else ""
        once = " No hour of the week comes twice." if days < WEEK_DAYS else ""
        return (
            f"little evidence: the test split has readings at {len(moments)} moments within {days:.1f} days. "
            f"{model} errs {gain.mean():.2g} {unit} less than {naive}{doubt}.{once} "
            "This shows that the pipeline runs, not which forecast is better."
        )


def _standard_error(values: Float[np.ndarray, " moment"]) -> float:
    return float(np.std(values, ddof=1) / np.sqrt(len(values)))
