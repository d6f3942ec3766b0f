"""Matrix products inside an operator with a gradient of its own, in the precision that autocast asks for."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


class Products:
    """In the precision that autocast had when this was made; results are float32, or float64 where the input is."""

    def __init__(self, like: Tensor) -> None:
        kind = like.device.type
        self.exact = torch.promote_types(like.dtype, torch.float32)
        self.low = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else self.exact

    def of(self, a: Float[Tensor, "i k"], b: Float[Tensor, "k j"]) -> Float[Tensor, "i j"]:
        """a b."""
        return (a.to(self.low) @ b.to(self.low)).to(self.exact)

    def add(self, total: Float[Tensor, "i j"], a: Float[Tensor, "i k"], b: Float[Tensor, "k j"]) -> None:
        """Add a b to a total."""
        if self.low == self.exact:
            torch.addmm(total, a, b, out=total)  # counted by torch's flop counter, which `addmm_` is not
        else:
            total.add_(a.to(self.low) @ b.to(self.low))
