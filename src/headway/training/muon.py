"""Muon: the step of a matrix is turned so that it changes all directions alike.

    B <- mu B + (1 - mu) G                          G: gradient
    U  = mu B + (1 - mu) G                          Nesterov's look ahead
    O ~ L R^T  where U = L S R^T                    five Newton-Schulz steps: X <- a X + b (X X^T) X + c (X X^T)^2 X
    W <- W - rate (decay W + 0.2 sqrt(max(n, m)) O)            W: n x m

A gradient's few large directions drown the many small ones, which matter as much; AdamW, which looks at one number at
a time, cannot see them. The factor gives the step the length that AdamW's has. Source: Jordan et al. 2024, "Muon: an
optimizer for hidden layers in neural networks"; Liu et al. 2025, "Muon is scalable for LLM training", eq. 4.

In float32, unlike torch.optim.Muon: bfloat16 takes many times as long on a CPU that has no unit for it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

MOMENTUM = 0.95
NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)  # a, b, c of Jordan et al.: steepest at 0, so that five steps do
STEPS = 5
LENGTH = 0.2  # root mean square of AdamW's usual step, in rates
SMALLEST_NORM = 1e-7


class Muon(torch.optim.Optimizer):
    """Muon over matrices."""

    def __init__(self, groups: list[dict[str, Any]], lr: float, weight_decay: float) -> None:
        """`groups`: as of any optimizer; every parameter has two dimensions."""
        super().__init__(groups, {"lr": lr, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:
        """One update of all matrices that have a gradient."""
        assert closure is None
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is None:
                    continue
                state = self.state[weight]
                if not state:
                    state["momentum"] = torch.zeros_like(weight)
                momentum = state["momentum"].lerp_(weight.grad, 1 - MOMENTUM)
                turned = orthogonal(weight.grad.lerp(momentum, MOMENTUM))
                weight.mul_(1 - group["lr"] * group["weight_decay"])
                weight.add_(turned, alpha=-group["lr"] * LENGTH * math.sqrt(max(weight.shape)))


def orthogonal(matrix: Tensor) -> Tensor:
    """About L R^T of the decomposition L S R^T: 0.7 to 1.2 in place of all but the smallest of S; 0 stays 0.

    Args: matrix: [n, m].
    """
    a, b, c = NEWTON_SCHULZ
    flat = matrix.shape[0] <= matrix.shape[1]
    x = matrix if flat else matrix.T  # the smaller of both Gram matrices
    x = x / x.norm().clamp(min=SMALLEST_NORM)
    for _ in range(STEPS):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x if flat else x.T
