"""`headway.nn.gated_scan` by `scan_in_c.c`: the same values and gradients, a sequence at a time.

Three parts of a sequence are read and one is written, and as much again on the way back; nothing else leaves the
cache. What a compiler has made of it is tried once before it is used.
"""

from __future__ import annotations

from functools import cache, partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from headway.nn import native

MOST_SHARES = 64  # of the sequences: sums of gradients are made in each, whatever the number of threads
FEWEST = 16  # sequences of a share
TOLERANCE = 1e-4  # of the largest number of a tensor
GIVEN = ["z", "mixed", "d", "taps", "bias", "A", "D"]


class ScanInC(torch.autograd.Function):
    """z, mixed, d, taps, bias, A, D -> normalized outputs; see `headway.nn.gated_scan.gated_scan`."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, *others: Tensor) -> Tensor:
        ctx.save_for_backward(z, *others)
        out = _place_for(z)
        native.call("scan", _sizes(z, *others), _in_order(z, *others), [out])
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, ...]:
        given: tuple[Tensor, ...] = ctx.saved_tensors
        sizes, (z, mixed, d, *of_weights) = _sizes(*given), _in_order(*given)
        parts = [_place_for(x) for x in (z, mixed, d)]
        sums = [weight.new_zeros(sizes[-1], *weight.shape) for weight in of_weights]
        native.call("scan_back", sizes, [grads[0], z, mixed, d, *of_weights], [*parts, *sums])
        taps, *rest = (shares.sum(0) for shares in sums)
        return *parts, taps.flip(0).t().unsqueeze(1), *rest


@cache
def problem(reference: type[torch.autograd.Function]) -> str:
    """Why C is not used; empty where it is there and gives what this function gives. It is told in the log once."""
    return native.problem("the scan", partial(_difference, reference))


def _difference(reference: type[torch.autograd.Function]) -> str:
    """How values or gradients differ on a few sequences; empty where they do not."""
    random = torch.Generator().manual_seed(0)
    shapes = (5, 3, 16), (5, 9, 32), (5, 9, 2), (32, 1, 4), (32,), (2,), (2,)
    drawn = [torch.rand(shape, generator=random, dtype=torch.float32) for shape in shapes]
    z, mixed, d, taps, bias, A, D = drawn
    given = [x.requires_grad_() for x in (2 * z - 1, 2 * mixed - 1, d, 2 * taps - 1, bias, -A, D)]
    along = torch.rand(z.shape, generator=random, dtype=torch.float32)
    found, expected = (
        [y.detach(), *torch.autograd.grad(y, given, along)]
        for y in (ScanInC.apply(*given), reference.apply(*given))
    )
    names = ["values are", *(f"gradients of {name} are" for name in GIVEN)]
    for name, ours, theirs in zip(names, found, expected, strict=True):
        off = float((ours - theirs).abs().max() / theirs.abs().max())
        if not off <= TOLERANCE:  # a nan is not
            return f"compiled on this machine, its {name} off by {off:.1e} of the largest"
    return ""


def _in_order(
    z: Tensor, mixed: Tensor, d: Tensor, taps: Float[Tensor, "c 1 w"], *others: Tensor
) -> list[Tensor]:
    """As C reads them: the taps of the newest step first."""
    return [z, mixed, d, taps.squeeze(1).t().flip(0), *others]


def _sizes(
    z: Float[Tensor, "r q d"],
    mixed: Float[Tensor, "r l c"],
    d: Float[Tensor, "r l h"],
    taps: Float[Tensor, "c 1 w"],
    *others: Tensor,
) -> list[int]:
    """`Sizes` of scan_in_c.c."""
    (sequences, wanted, width), (_, steps, channels), heads = z.shape, mixed.shape, d.shape[2]
    assert wanted <= steps and width % heads == 0, f"{wanted} of {steps} steps, {width} in {heads} heads"
    expected = [(sequences, steps), (sequences, steps), (channels, 1), (channels,), (heads,), (heads,)]
    assert [x.shape[:2] for x in (mixed, d, taps, *others)] == expected, "shapes that do not belong together"
    shares = max(1, min(MOST_SHARES, sequences // FEWEST))
    return [sequences, wanted, steps, width, (channels - width) // 2, heads, taps.shape[2], shares]


def _place_for(x: Tensor) -> Tensor:
    return torch.empty_like(x, memory_format=torch.contiguous_format)
