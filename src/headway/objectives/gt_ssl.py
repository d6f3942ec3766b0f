"""GT-SSL: what a tree teaches about its nodes before anything is measured on them.

Enters: embeddings of nodes, pairs, histograms. Leaves: sums of losses, to be divided by the counts of a whole group.

Glossary: V(a, b) = how far b sticks out of a; margin = delta; growth = where a node's children are; a histogram of
distances lies on bins a step apart, one of turns round the circle.

    V(a, b)  = mean over channels of relu(h_b - h_a)^2
    order    = mean over ancestors a of b of V(a, b) + mean over unrelated a, b of relu(margin - V(a, b))
    growth   = mean over nodes with children, roots aside, of EMD(distances) + EMD(turns)
    EMD      = sum_k |F_k - G_k| step                F, G cumulated histograms: the exact Wasserstein distance
    round    = min_a sum_k |F_k - G_k - a| step      a the median: the exact one on a circle (Werman et al. 1986)

Order embeddings: Vendrov et al. (2016), arXiv 1511.06361. GT-SSL: arXiv 2408.08799, where V is a sum of relu; a mean
of squares keeps its scale whatever the width.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

CONSTANT_STEPS, CONSTANT_RATE = 300, 0.1  # of the descent to the best constant


def violation(above: Float[Tensor, "pair d"], below: Float[Tensor, "pair d"]) -> Float[Tensor, " pair"]:
    """V: 0 where `below` is nowhere larger than `above`."""
    return torch.relu(below - above).square().mean(-1)


def order_losses(
    h: Float[Tensor, "node d"], pairs: Int[Tensor, "2 pair"], related: Bool[Tensor, " pair"], margin: float
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """Summed loss of the related and of the unrelated pairs.

    Args: pairs: (a, b). related: whether a is an ancestor of b.
    """
    out = violation(h[pairs[0]], h[pairs[1]])
    return (out * related).sum(), (torch.relu(margin - out) * ~related).sum()


def wrong_side(
    h: Float[Tensor, "node d"], pairs: Int[Tensor, "2 pair"], related: Bool[Tensor, " pair"], margin: float
) -> tuple[int, int]:
    """How many related pairs are violated by half the margin or more, and how many unrelated ones are not."""
    violated = violation(h[pairs[0]], h[pairs[1]]) >= margin / 2
    return int((violated & related).sum()), int((~violated & ~related).sum())


def line_distance(
    said: Float[Tensor, "row bin"], real: Float[Tensor, "row bin"], step: float
) -> Float[Tensor, " row"]:
    """Wasserstein distance of two histograms of sum 1 on bins `step` apart."""
    return (said - real).cumsum(-1).abs().sum(-1) * step


def circle_distance(
    said: Float[Tensor, "row bin"], real: Float[Tensor, "row bin"], step: float
) -> Float[Tensor, " row"]:
    """The same where the last bin is next to the first."""
    ahead = (said - real).cumsum(-1)
    return (ahead - ahead.median(-1, keepdim=True).values).abs().sum(-1) * step


def growth_losses(
    logits: Float[Tensor, "row halves"], real: Float[Tensor, "row halves"], reach: float, *, planar: bool
) -> Float[Tensor, " row"]:
    """Loss of each growing node: of its distances, then of its turns.

    Args: logits: a softmax over each half is the forecast. reach: where the last distance bin stands. planar: turns
        have a sign, so that they run round the circle; else they end at pi.
    """
    (far, turned), (real_far, real_turned) = logits.float().chunk(2, -1), real.chunk(2, -1)
    bins = far.shape[-1]
    distance = line_distance(far.softmax(-1), real_far, reach / (bins - 1))
    if planar:
        return distance + circle_distance(turned.softmax(-1), real_turned, 2 * math.pi / bins)
    return distance + line_distance(turned.softmax(-1), real_turned, math.pi / (bins - 1))


def best_constant(real: Float[Tensor, "row halves"], reach: float, *, planar: bool) -> float:
    """Growth loss of the one histogram that fits these rows best: what a forecaster must beat.

    It is fitted to the very rows it is judged on, so no constant known in advance does better.
    """
    logits = real.mean(0).clamp(min=1e-4).log().requires_grad_()
    optimizer = torch.optim.Adam([logits], lr=CONSTANT_RATE)
    best = math.inf
    with torch.enable_grad():
        for _ in range(CONSTANT_STEPS):
            loss = growth_losses(logits.expand(len(real), -1), real, reach, planar=planar).mean()
            best = min(best, loss.item())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return best
