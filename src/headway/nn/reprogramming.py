"""A frozen language model reads a time series: patches in its own words, a prompt before them.

    p_j      = 16 steps from step 8 j on, the last one held to fill up                 6 patches of 48 steps
    V'       = M words                                     M [prototypes, vocabulary] over the frozen table of words
    r_j      = O softmax((Q p_j) (K V')^T / sqrt width) (V V')                         8 heads
    z        = the first `features` numbers of the model's states at the last patches, side by side

Only the hidden states of the last layer are asked for, no attention maps. Words and model are bfloat16.

Source: Jin et al. 2024 (Time-LLM), arXiv 2310.01728; brief D; models.md 3d.
"""

from __future__ import annotations

import math
from typing import Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

PATCH, STRIDE = 16, 8
HEADS, HEAD_DIM = 8, 32


@runtime_checkable
class Reader(Protocol):
    """A frozen language model."""

    def words(self) -> Float[Tensor, "word width"]:
        """Its table of word embeddings."""
        ...

    def __call__(self, tokens: Float[Tensor, "batch token width"]) -> Float[Tensor, "batch token width"]:
        """Embedded tokens to the hidden states of the last layer."""
        ...


def patches_of(history: int) -> int:
    """How many patches a history makes."""
    return (history - PATCH) // STRIDE + 2


class LanguageBranch(nn.Module):
    """From the average series to a state.

    Args: reader: an nn.Module. prompt: (series, calendar) -> embedded tokens. features: of each patch's state.
    """

    def __init__(self, reader: Reader, prompt: nn.Module, prototypes: int, features: int) -> None:
        super().__init__()
        self.reader, self.prompt, self.features = reader, prompt, features
        vocabulary, width = reader.words().shape
        inner = HEADS * HEAD_DIM
        self.prototypes = nn.Parameter(torch.randn(prototypes, vocabulary) / math.sqrt(vocabulary))
        self.query = nn.Linear(PATCH, inner)
        self.key = nn.Linear(width, inner)
        self.value = nn.Linear(width, inner)
        self.out = nn.Linear(inner, width)

    def forward(
        self, series: Float[Tensor, "batch time variable"], calendar: Int[Tensor, "batch time 2"]
    ) -> Float[Tensor, "batch state"]:
        average = series[..., 0].float()
        patches = self.reprogram(average)
        prompt = self.prompt(average, calendar)
        states = self.reader(torch.cat([prompt, patches.to(prompt.dtype)], 1))
        return states[:, -patches.shape[1] :, : self.features].float().flatten(1)

    def reprogram(self, average: Float[Tensor, "batch time"]) -> Float[Tensor, "batch patch width"]:
        """Each patch as a mixture of words."""
        words = self.reader.words()
        spoken = (self.prototypes.to(words.dtype) @ words).float()  # prototype width
        filled = F.pad(average.unsqueeze(1), (0, STRIDE), mode="replicate").squeeze(1)
        query = self.query(filled.unfold(1, PATCH, STRIDE)).float()
        key, value = self.key(spoken).float(), self.value(spoken).float()
        with torch.autocast(query.device.type, enabled=False):
            query, key, value = (x.unflatten(-1, (HEADS, HEAD_DIM)) for x in (query, key, value))
            scores = torch.einsum("bjhe,phe->bhjp", query, key) / math.sqrt(HEAD_DIM)
            mixed = torch.einsum("bhjp,phe->bjhe", scores.softmax(-1), value)
        return self.out(mixed.flatten(2)).float()
