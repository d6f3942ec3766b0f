"""Heads: from the state of each sensor, and all that its window says, to what is said about its next steps.

    hidden = decoder(state, window)              the window: readings, lagged readings and anchors, as they are
    point:    one number a step                  mixture:  weights, means and deviations of K Gaussians a step

A head gives a *correction* in z-units; `Standardized` adds it to the anchor mix. The last layer starts at
zero, so an untrained model forecasts the mix itself: a mixture then lies evenly around it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
import torch.nn.functional as F
from annotated_types import Ge, Gt, Interval
from jaxtyping import Float
from torch import Tensor, nn

from headway.mixture import Mixture
from headway.nn.decoder import Decoder, DecoderParams
from headway.types import Batch, PointForecast


@dataclass(frozen=True, slots=True, kw_only=True)
class PointParams(DecoderParams):
    """Section `point` of params.yaml: the decoder alone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MixtureParams(DecoderParams):
    """Section `mixture` of params.yaml: the decoder's keys, and these.

    Attributes:
        components: Gaussians a step; 1 is a Gaussian.
        smallest, largest: a deviation lies between smallest and smallest + largest, in z-units. Both bounds are
            approached smoothly: a component that collapses onto one reading has an infinite likelihood, and a clamp
            would stop its gradient.
        mean_square: weight of the squared error of the mean beside the likelihood; brief B's 0.4.
        spread: reward of means that lie apart, an answer to components that fall together.
        entropy: reward of weights that are even.
    """

    components: Annotated[int, Interval(ge=1, le=16)]
    smallest: Annotated[float, Interval(gt=0, le=1)]
    largest: Annotated[float, Gt(1)]
    mean_square: Annotated[float, Ge(0)]
    spread: Annotated[float, Ge(0)]
    entropy: Annotated[float, Ge(0)]


class PointHead(nn.Module):
    """One number per step."""

    def __init__(self, params: PointParams, d: int, horizon: int, readings: int) -> None:
        super().__init__()
        self.decoder = Decoder(params, d, readings)
        self.out = nn.Linear(params.hidden_dim, horizon)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, state: Float[Tensor, "batch node d"], batch: Batch) -> PointForecast:
        return PointForecast(point=self.out(self.decoder(state, batch)).float().transpose(1, 2))


class MixtureHead(nn.Module):
    """K Gaussians per step: logits, means, raw deviations.

    deviation = smallest + r / (1 + r / largest),  r = softplus(raw)
    """

    def __init__(self, params: MixtureParams, d: int, horizon: int, readings: int) -> None:
        super().__init__()
        self.smallest, self.largest = params.smallest, params.largest
        self.decoder = Decoder(params, d, readings)
        self.out = nn.Linear(params.hidden_dim, 3 * horizon * params.components)
        self.shape = (3, horizon, params.components)
        nn.init.zeros_(self.out.weight)
        apart = torch.linspace(-0.5, 0.5, params.components) if params.components > 1 else torch.zeros(1)
        start = torch.stack([torch.zeros_like(apart), apart, torch.zeros_like(apart)])  # equals stay equal
        with torch.no_grad():
            self.out.bias.copy_(start.unsqueeze(1).expand(self.shape).flatten())

    def forward(self, state: Float[Tensor, "batch node d"], batch: Batch) -> Mixture:
        hidden = self.decoder(state, batch)
        # sensors last in memory: every sum over the few components then adds whole rows, in the loss too
        out = torch.addmm(self.out.bias.unsqueeze(1), self.out.weight, hidden.flatten(0, 1).T).float()
        logits, means, raw = out.unflatten(0, self.shape).unflatten(-1, hidden.shape[:2])
        rising = F.softplus(raw)
        deviations = self.smallest + rising / (1 + rising / self.largest)
        said = (part.permute(2, 0, 3, 1) for part in (logits.log_softmax(1), means, deviations))
        log_weights, means, deviations = said  # batch horizon node component
        return Mixture(log_weights=log_weights, means=means, deviations=deviations)
