"""`headway.nn.coefficients` by `coefficients_in_c.c`: the numbers of a sensor's edges are read once.

There is at least one edge.
"""

from __future__ import annotations

from functools import cache

import torch
from jaxtyping import Float
from torch import Tensor

from headway.nn import native

TOLERANCE = 1e-5  # of the largest number of a tensor


def weigh_(
    scores: Float[Tensor, "batch node time head neighbor"],
    agreement: Float[Tensor, "batch node time head neighbor"],
    bias: Float[Tensor, "node head neighbor"],
    usual: Float[Tensor, "node head neighbor"],
) -> None:
    native.call("weigh", [*scores.shape, 1], [bias, usual], [scores, agreement])


def coefficients(
    alpha: Float[Tensor, "batch node time head neighbor"],
    sign: Float[Tensor, "batch node time head neighbor"],
    keep: Float[Tensor, "#batch node 1 head neighbor"],
) -> Float[Tensor, "batch node time head neighbor"]:
    w = torch.empty_like(alpha, memory_format=torch.contiguous_format)
    native.call("coefficients", [*alpha.shape, len(keep)], [alpha, sign, keep], [w])
    return w


def weigh_back(
    grad: Float[Tensor, "batch node time head neighbor"],
    alpha: Float[Tensor, "batch node time head neighbor"],
    sign: Float[Tensor, "batch node time head neighbor"],
    keep: Float[Tensor, "#batch node 1 head neighbor"],
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Of scores, in the place of `grad`, agreement, bias and usual agreement."""
    batch, nodes, _, heads, neighbors = grad.shape
    agreement = torch.empty_like(grad)
    sums = [grad.new_empty(batch, nodes, heads, neighbors) for _ in range(2)]
    native.call("weigh_back", [*grad.shape, len(keep)], [alpha, sign, keep], [grad, agreement, *sums])
    bias, usual = (of_window.sum(0) for of_window in sums)
    return grad, agreement, bias, usual


@cache
def problem() -> str:
    """Why C is not used; empty where it is there and gives what plain operations give. It is told in the log once."""
    return native.problem("coefficients of edges", _difference)


def _difference() -> str:
    """How results differ on a few edges, with rows of every kind of length."""
    random = torch.Generator().manual_seed(0)
    for neighbors in (2, 3, 15, 16, 33):
        for name, (ours, plain) in _both_ways(neighbors, random).items():
            off = float((ours - plain).abs().max() / plain.abs().max())
            if not off <= TOLERANCE:  # a nan is not
                return f"compiled on this machine, its {name} are off by {off:.1e} of the largest"
    return ""


def _both_ways(neighbors: int, random: torch.Generator) -> dict[str, tuple[Tensor, Tensor]]:
    """Results in C, and as plain operations."""
    of_edges, of_slots = (2, 3, 4, 2, neighbors), (3, 2, neighbors)
    scores, agreement, grad = (torch.randn(of_edges, generator=random, dtype=torch.float32) for _ in range(3))
    bias, usual = (torch.randn(of_slots, generator=random, dtype=torch.float32) for _ in range(2))
    keep = (torch.rand(2, 3, 1, 2, neighbors, generator=random) < 0.8).float()
    alpha, sign = (scores + bias.unsqueeze(1)).softmax(-1), (agreement + usual.unsqueeze(1)).tanh()
    of_alpha, of_sign = grad * keep * sign, grad * keep * alpha
    of_scores = (of_alpha - (of_alpha * alpha).sum(-1, keepdim=True)) * alpha
    of_agreement = of_sign * (1 - sign * sign)
    weigh_(scores, agreement, bias, usual)
    w, back = coefficients(scores, agreement, keep), weigh_back(grad, scores, agreement, keep)
    return {
        "shares": (scores, alpha),
        "signs": (agreement, sign),
        "coefficients": (w, keep * alpha * sign),
        "gradients of scores": (back[0], of_scores),
        "gradients of agreement": (back[1], of_agreement),
        "gradients of the bias": (back[2], of_scores.sum((0, 2))),
        "gradients of what is usual": (back[3], of_agreement.sum((0, 2))),
    }
