"""Gated dilated convolutions along time with kernels of several widths.

    out = tanh(F * h) sigmoid(G * h)            F, G: kernels of 2, 3, 6 and 7 steps side by side, dilated

Each width makes a quarter of the channels. Steps before the window are 0, so the length stays.

Source: van den Oord et al. 2016 (WaveNet), arXiv 1609.03499, for the gate; Wu et al. 2020 (MTGNN), arXiv 2005.11650,
for the widths; brief D's spatial branch.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

KERNELS = (2, 3, 6, 7)  # steps; sums of them make the common daily and weekly periods


class GatedInception(nn.Module):
    """One layer; d is a multiple of the number of kernels."""

    def __init__(self, d: int, dilation: int) -> None:
        super().__init__()
        self.dilation = dilation
        width = 2 * d // len(KERNELS)
        self.convolutions = nn.ModuleList(
            nn.Conv1d(d, width, kernel, dilation=dilation) for kernel in KERNELS
        )

    def forward(self, h: Float[Tensor, "batch node time d"]) -> Float[Tensor, "batch node time d"]:
        rows = h.flatten(0, 1).transpose(1, 2)  # (batch node) d time
        padded = F.pad(rows, ((KERNELS[-1] - 1) * self.dilation, 0))
        halves = []
        for kernel, convolution in zip(KERNELS, self.convolutions, strict=True):
            unread = (KERNELS[-1] - kernel) * self.dilation
            halves.append(convolution(padded[..., unread:]).chunk(2, 1))
        signal, gate = (torch.cat(half, 1) for half in zip(*halves, strict=True))
        out = torch.tanh(signal) * torch.sigmoid(gate)
        return out.transpose(1, 2).unflatten(0, h.shape[:2]).float()
