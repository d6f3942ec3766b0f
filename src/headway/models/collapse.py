"""Whether components of a mixture have collapsed: weight on Gaussians as narrow as the head allows.

A component that sits on repeated readings buys likelihood with a spike. The floor of `mixture.smallest` keeps the
density finite, and this count keeps it from going unnoticed.

Enter: forecasts of validation windows. Leaves: a sentence for the log and the model card, or nothing.
"""

from __future__ import annotations

import logging

from jaxtyping import Float
from torch import Tensor

from headway.mixture import Mixture

NEAR = 1.2  # times the floor: a deviation that is as good as on it
HEAVY = 0.1  # weight of a forecast that lies in such components
COMMON = 0.01  # share of forecasts from which a user must know

log = logging.getLogger(__name__)


class CollapseCount:
    """Counts forecasts with a weight of at least HEAVY in components on the floor.

    Args:
        floor: smallest deviation that a component can have, in the forecasts' unit; of each node, or of all.
    """

    def __init__(self, floor: Float[Tensor, " node"]) -> None:
        self.floor = floor
        self.collapsed = self.forecasts = 0

    def look(self, mixture: Mixture) -> Mixture:
        """Count it, and hand it on."""
        narrow = mixture.deviations <= NEAR * self.floor.to(mixture.deviations).unsqueeze(-1)
        weight = (mixture.log_weights.exp() * narrow).sum(-1)
        self.collapsed += int((weight >= HEAVY).sum())
        self.forecasts += weight.numel()
        return mixture

    def told(self) -> list[str]:
        """The sentence, in the log too; nothing where few forecasts are."""
        share = self.collapsed / max(self.forecasts, 1)
        if share < COMMON:
            return []
        sentence = (
            f"In {share:.1%} of the validation forecasts the mixture has collapsed: at least {HEAVY:.0%} of its "
            "weight is on components of the smallest deviation. Raise mixture.smallest, mixture.mean_square or "
            "mixture.entropy, or look for readings that stand still on the quality page."
        )
        log.warning(sentence)
        return [sentence]
