"""The unit border: outside physical units, inside z-units.

    z = (x - mean) / max(std, 1e-6)        forecast = anchor mix + correction, back in physical units

Enters: a Batch as `Windows` gathers it. Leaves: a Forecast in the target's unit, or, for training, the
summed z-unit error of the batch and nothing else. No other module adds or removes a mean, so a model cannot
forecast 150 km/h because somebody forgot to (brief B's fault).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Literal

from jaxtyping import Float
from torch import Tensor, nn

from headway.nn.anchors import AnchorMix
from headway.nn.sensor_dropout import drop_sensors
from headway.nn.slices import MOST_SLICES, history_slices, slice_history
from headway.nn.stepwise import Stepwise
from headway.objectives.forecast_loss import absolute_error
from headway.types import Batch, Forecast

SMALLEST_STD = 1e-6
OutputSpace = Literal["standardized", "raw"]


class Standardized(nn.Module):
    """A forecaster in physical units around a model in z-units.

    Args:
        model: Batch (z) -> Forecast (z), the correction.
        mix: the anchor mix, or None to forecast without anchors.
        mean, std: of observed training readings, [channel] or [channel, node].
        output_space: `standardized`, what every model here is trained to say; `raw` serves a network that was
            trained on physical targets (brief B's first kind), whose output must not be scaled a second time.
        loss: what forecasts in z-units are trained by: a sum over the observed targets of a batch.
        sensor_dropout: share of the sensors of a window that training leaves without readings.
        context: lags of the data, in steps; a sensor silent lately has none of those that lie in the history.
    """

    model: Any  # a module whose `recompute` says whether the inside of each block is computed again
    mean: Tensor
    std: Tensor

    def __init__(
        self,
        model: nn.Module,
        mix: AnchorMix | None,
        mean: Float[Tensor, "channel ..."],
        std: Float[Tensor, "channel ..."],
        loss: Callable[[Forecast, Batch], Tensor] = absolute_error,
        output_space: OutputSpace = "standardized",
        sensor_dropout: float = 0.0,
        context: Sequence[int] = (),
    ) -> None:
        assert output_space == "standardized" or mix is None, "anchors are mixed in z-units"
        super().__init__()
        self.output_space: OutputSpace = output_space
        self.loss = loss
        self.sensor_dropout = sensor_dropout
        self.context = tuple(context)
        self.model = model
        self.mix = mix
        self.register_buffer("mean", mean.reshape(len(mean), -1), persistent=False)  # channel, node or 1
        self.register_buffer("std", std.reshape(len(std), -1).clamp(min=SMALLEST_STD), persistent=False)

    def forward(self, batch: Batch) -> Forecast:
        """Forecast in the target's unit."""
        return self.to_physical(self.forecast_standard(self.standardize(batch)))

    def forecast_standard(self, batch: Batch) -> Forecast:
        """Forecast in z-units from a batch in z-units; what the loss is taken of."""
        if self.training and self.sensor_dropout:
            batch = drop_sensors(batch, self.sensor_dropout, self.context)
        correction = self.model(batch)
        return correction.shifted(self.mix(batch)) if self.mix is not None else correction

    def standardize(self, batch: Batch) -> Batch:
        """The batch in z-units; what was not observed is 0, the mean."""
        mean, std = self.mean[0], self.std[0]  # node or 1: the target variable
        channels = (batch.history - self.mean.T) / self.std.T  # mean.T broadcasts over batch and history
        return replace(
            batch,
            history=channels * batch.history_observed,
            past=(batch.past - mean.unsqueeze(-1)) / std.unsqueeze(-1) * batch.past_observed,
            anchors=(batch.anchors - mean.unsqueeze(-1)) / std.unsqueeze(-1) * batch.anchors_observed,
            fallback=(batch.fallback - mean) / std,
            target=(batch.target - mean) / std * batch.target_observed,
        )

    def to_physical(self, forecast: Forecast) -> Forecast:
        """What the network says, in the target's unit."""
        if self.output_space == "raw":
            return forecast
        return forecast.scaled(self.std[0]).shifted(self.mean[0])

    def to_standard(self, physical: Float[Tensor, "... node"]) -> Float[Tensor, "... node"]:
        """Readings of the target in z-units."""
        return (physical - self.mean[0]) / self.std[0]

    def summed_loss(self, forecast: Forecast, batch: Batch) -> Tensor:
        """The loss of a forecast, both in z-units, summed over observed targets.

        Where every sensor has a scale of its own, an absolute error counts by its size in the target's unit all the
        same. Of a mixture only what has a unit is weighed so: the squared error of its mean by the square of the
        sensor's deviation, the spread of its means by the deviation. Its likelihood is not: a scale adds a constant.
        """
        if self.std.shape[1] == 1:
            return self.loss(forecast, batch)
        weight = self.std[0] / self.std[0].mean()
        return self.loss(forecast.scaled(weight), replace(batch, target=batch.target * weight))

    def set_recompute(self, recompute: bool) -> None:
        """Whether the backward pass computes the inside of each block again instead of finding it kept."""
        self.model.recompute = recompute

    def recomputes(self) -> bool:
        """Whether it does."""
        return self.model.recompute

    def set_slices(self, slices: int) -> None:
        """Pieces along time that spatial operators are given one by one, each computed again."""
        slice_history(self, slices)

    def slices(self) -> int:
        """How many there are; 1: the operators are given all steps at once."""
        return history_slices(self)

    def save_memory(self) -> str:
        """Give up time for memory: first by computing blocks again, then by ever smaller slices.

        Returns: what was given up; empty where nothing is left.
        """
        if not self.recomputes():
            self.set_recompute(True)
            return "activations computed again"
        before = self.slices()
        if before < MOST_SLICES:
            self.set_slices(2 * before)
        if self.slices() == before:  # also where nothing in the model reads neighbors
            return ""
        return f"sensors read in {self.slices()} slices of the history"

    def begin_step(self, step: int) -> None:
        """Training goes on to this step: what changes outside the optimizer does so now."""
        for module in self.modules():
            if isinstance(module, Stepwise):
                module.begin_step(step)

    def parameter_count(self) -> int:
        """Trained numbers."""
        return sum(parameter.numel() for parameter in self.parameters() if parameter.requires_grad)
