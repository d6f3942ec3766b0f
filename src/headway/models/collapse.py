"""Whether components of a mixture have collapsed: weight, on Gaussians as narrow as can be, that no reading earns.

A component that sits on repeated readings buys likelihood with a spike. The floor of `mixture.smallest` keeps the
density finite, and this count keeps it from going unnoticed. A quiet night is forecast within that floor too, and
rightly so; what tells them apart is whether readings fall there as often as the weight says:

    said = sum of w_k                  found = sum of w_k N(y; m_k, s_k) / p(y)                  over narrow k

Where a forecast is true, both have the same mean (found is the share of y that is theirs).

Enter: forecasts of validation windows and what came. Leaves: a sentence for the log and the model card, or nothing.
"""

from __future__ import annotations

import logging

from jaxtyping import Bool, Float
from torch import Tensor

from headway.mixture import Mixture

NEAR = 1.2  # times the floor: a deviation that is as good as on it
HEAVY = 0.1  # weight of a forecast that lies in such components
COMMON = 0.01  # share of forecasts from which a user must know
EARNED = 0.7  # found of said, from which on a forecast is taken for true

log = logging.getLogger(__name__)


class CollapseCount:
    """Sums over the observed targets of forecasts with a weight of at least HEAVY in components on the floor.

    They are of the whole network: at a single sensor a few such forecasts say little.

    Args:
        floor: smallest deviation that a component can have, in the forecasts' unit; of each node, or of all.
    """

    def __init__(self, floor: Float[Tensor, " node"]) -> None:
        self.floor = floor
        self.heavy = self.forecasts = 0
        self.said = self.found = 0.0

    def look(
        self,
        mixture: Mixture,
        target: Float[Tensor, "batch horizon node"],
        observed: Bool[Tensor, "batch horizon node"],
    ) -> Mixture:
        """Count it, and hand it on."""
        narrow = mixture.deviations <= NEAR * self.floor.to(mixture.deviations).unsqueeze(-1)
        said = (mixture.log_weights.exp() * narrow).sum(-1)
        found = (mixture.shares(target) * narrow).sum(-1)
        counted = (said >= HEAVY) & observed
        self.heavy += int(counted.sum())
        self.forecasts += int(observed.sum())
        self.said += said[counted].double().sum().item()
        self.found += found[counted].double().sum().item()
        return mixture

    def told(self) -> list[str]:
        """The sentence, in the log too; nothing where few forecasts are heavy, or readings fall where they say."""
        share = self.heavy / max(self.forecasts, 1)
        if share < COMMON or self.found >= EARNED * self.said:
            return []
        weight, readings = self.said / self.heavy, self.found / self.heavy
        sentence = (
            f"{share:.1%} of the validation forecasts have {weight:.0%} of their weight on components of the "
            f"smallest deviation, where {readings:.0%} of the readings fall: the mixture has collapsed. Raise "
            "mixture.smallest, mixture.mean_square or mixture.entropy, or look for training readings that stand "
            "still on the quality page."
        )
        log.warning(sentence)
        return [sentence]
