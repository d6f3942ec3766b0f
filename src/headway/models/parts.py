"""What a model is assembled from: the parts that `headway.models.build` has chosen, and checks of how they fit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import nn

from headway.errors import InputError
from headway.nn.embedding import WindowEmbedding
from headway.nn.neighbor_table import NeighborTable

if TYPE_CHECKING:
    from headway.data.prepared import PreparedMeta


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """The parts that are the same for every model.

    Attributes:
        width: of the residual stream. width_key: where params.yaml says it, for messages.
        spatial: makes one spatial operator, (h, table) -> h.
        head: (state, batch) -> Forecast.
        table: the sensor graph. meta: of the prepared data.
    """

    width: int
    width_key: str
    spatial: Callable[[], nn.Module]
    head: nn.Module
    table: NeighborTable
    meta: PreparedMeta

    def embedding(
        self, *, covariates: int, node: bool, time_of_day: bool, day_of_week: bool
    ) -> WindowEmbedding:
        """Batch -> h, with fresh weights: readings, what was observed, lags, covariates, sensor, clock.

        Days of the week are left out where training is too short to tell them from the days it saw.
        """
        return WindowEmbedding(
            self.width,
            nodes=self.meta.sensors,
            channels=len(self.meta.channels),
            beside=self.meta.beside(),
            covariates=covariates,
            slots_per_day=self.meta.slots_per_day,
            node=node,
            time_of_day=time_of_day,
            day_of_week=day_of_week and self.meta.knows_weeks(),
        )


def check_divides(key: str, part: int, whole: int, keys: str) -> None:
    """Raises: InputError naming both keys where `part` does not divide `whole`."""
    if whole % part:
        raise InputError(f"{key}: {part} does not divide {keys} = {whole}")
