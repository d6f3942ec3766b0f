"""Gated dilated convolutions along time with kernels of several widths.

    out = tanh(F * h) sigmoid(G * h)            F, G: kernels of 2, 3, 6 and 7 steps side by side, dilated

Each width makes a quarter of the channels. Steps before the window are 0, so the length stays.

Source: van den Oord et al. 2016 (WaveNet), arXiv 1609.03499, for the gate; Wu et al. 2020 (MTGNN), arXiv 2005.11650,
for the widths; brief D's spatial branch.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

KERNELS = (2, 3, 6, 7)  # steps; sums of them make the common daily and weekly periods


class GatedInception(nn.Module):
    """One layer; d is a multiple of the number of kernels.

    A sum over taps of matrix products on time-major rows, whose slices are views: what is kept for the backward pass
    is the padded input once, which a planner can count; what a convolution library takes for a moment it cannot.
    """

    def __init__(self, d: int, dilation: int) -> None:
        super().__init__()
        self.dilation = dilation
        self.kernels = nn.ParameterList(
            torch.empty(taps, d, 2, d // len(KERNELS)).uniform_(-1, 1) / math.sqrt(taps * d)
            for taps in KERNELS
        )
        self.bias = nn.Parameter(torch.zeros(2, d))

    def forward(self, h: Float[Tensor, "batch node time d"]) -> Float[Tensor, "batch node time d"]:
        last = KERNELS[-1]
        rows = h.flatten(0, 1).transpose(0, 1)  # time (batch node) d
        padded = F.pad(rows, (0, 0, 0, 0, (last - 1) * self.dilation, 0))
        total = _TapSum.apply(padded, self.weights().flatten(2), self.dilation) + self.bias.flatten()
        signal, gate = total.unflatten(-1, (2, -1)).unbind(-2)
        out = torch.tanh(signal) * torch.sigmoid(gate)
        return out.transpose(0, 1).unflatten(0, h.shape[:2])

    def weights(self) -> Float[Tensor, "tap d 2 d"]:
        """Of all kernels side by side, the oldest tap first; a short kernel has none there."""
        last = KERNELS[-1]
        padded = [F.pad(kernel, (0, 0, 0, 0, 0, 0, last - len(kernel), 0)) for kernel in self.kernels]
        return torch.cat(padded, -1)


class _TapSum(torch.autograd.Function):
    """out[t] = sum_j in[t + j dilation] W_j; keeps its inputs, and adds in place on the way back."""

    @staticmethod
    def forward(ctx: Any, padded: Tensor, weights: Tensor, dilation: int) -> Tensor:
        ctx.dilation = dilation
        ctx.save_for_backward(padded, weights)
        steps = len(padded) - (len(weights) - 1) * dilation
        total = padded.new_zeros(steps * padded.shape[1], weights.shape[-1])
        for tap, weight in enumerate(weights):
            read = padded[tap * dilation : tap * dilation + steps]
            total.add_(read.flatten(0, 1) @ weight)
        return total.unflatten(0, (steps, -1))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None]:
        (padded, weights), steps, grad = ctx.saved_tensors, len(grads[0]), grads[0].flatten(0, 1)
        by_padded, by_weights = torch.zeros_like(padded), torch.empty_like(weights)
        for tap, weight in enumerate(weights):
            place = slice(tap * ctx.dilation, tap * ctx.dilation + steps)
            by_padded[place] += (grad @ weight.T).view_as(padded[place])
            by_weights[tap] = padded[place].flatten(0, 1).T @ grad
        return by_padded, by_weights, None
