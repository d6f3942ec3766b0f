"""From scores and agreement to the signed coefficients of edges, and back.

    alpha = softmax over neighbors(score + bias)
    sign  = tanh(agreement + usual)
    w     = keep alpha sign

Pieces of an operator with a gradient of its own, `headway.nn.signed_attention`; they have none. On a CPU with a C
compiler `headway.nn.coefficients_in_c` makes them, for as operations on whole tensors they pass over memory twenty
times.
"""

from __future__ import annotations

from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor

from headway.nn import coefficients_in_c, native
from headway.nn.exponentials import softmax_, softmax_back

# C holds so many numbers of a sensor four times on a thread's stack, where a row takes a multiple of LANES
MOST, LANES = 2**14, 16


class Gradients(NamedTuple):
    """Of scores, agreement, bias and usual agreement."""

    scores: Float[Tensor, "batch node time head neighbor"]
    agreement: Float[Tensor, "batch node time head neighbor"]
    bias: Float[Tensor, "node head neighbor"]
    usual: Float[Tensor, "node head neighbor"]


def weigh_(
    scores: Float[Tensor, "batch node time head neighbor"],
    agreement: Float[Tensor, "batch node time head neighbor"],
    bias: Float[Tensor, "node head neighbor"],
    usual: Float[Tensor, "node head neighbor"],
) -> None:
    """In place: scores become alpha, agreement becomes signs."""
    if _for_c(scores, agreement, bias, usual):
        coefficients_in_c.weigh_(scores, agreement, bias, usual)
        return
    # tanh, which on some processors takes six times as long
    agreement.add_(usual.unsqueeze(1)).mul_(2).sigmoid_().mul_(2).sub_(1)
    softmax_(scores.add_(bias.unsqueeze(1)).flatten(0, 3))


def coefficients(
    alpha: Float[Tensor, "batch node time head neighbor"],
    sign: Float[Tensor, "batch node time head neighbor"],
    keep: Float[Tensor, "#batch node 1 head neighbor"],
) -> Float[Tensor, "batch node time head neighbor"]:
    """w."""
    if _for_c(alpha, sign, keep):
        return coefficients_in_c.coefficients(alpha, sign, keep)
    return (alpha * sign).mul_(keep)


def weigh_back(
    grad: Float[Tensor, "batch node time head neighbor"],
    alpha: Float[Tensor, "batch node time head neighbor"],
    sign: Float[Tensor, "batch node time head neighbor"],
    keep: Float[Tensor, "#batch node 1 head neighbor"],
) -> Gradients:
    """From the gradient of w, in whose place that of the scores comes."""
    if _for_c(grad, alpha, sign, keep):
        return Gradients(*coefficients_in_c.weigh_back(grad, alpha, sign, keep))
    grad_alpha = grad.mul_(keep) * sign
    agreement = grad.addcmul_(grad_alpha, sign, value=-1).mul_(alpha)
    scores = softmax_back(grad_alpha.flatten(0, 3), alpha.flatten(0, 3)).view_as(grad)
    # windows first, which are long rows
    return Gradients(scores, agreement, *(of_edges.sum(0).sum(1) for of_edges in (scores, agreement)))


def why_not_in_c() -> str:
    """Why coefficients of a CPU are not made in C; empty where they are."""
    return coefficients_in_c.problem()


def _for_c(*given: Tensor) -> bool:
    """Whether these tensors are ones that C reads, and it is there."""
    *_, steps, heads, neighbors = given[0].shape
    wide = -(-neighbors // LANES) * LANES
    return 0 < steps * heads * wide <= MOST and native.reads(*given) and not why_not_in_c()
