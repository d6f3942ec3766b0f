"""The optimizers of a model's weights, their rate, and the random numbers of a step."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

from headway.training.muon import Muon

RATE_SHARE = "share"  # of the learning rate that a group of weights gets; 1 where it is not named
MATRIX_SHARE = 2.0  # of it that linear maps get: a step that is turned may be longer
COUNTER_BYTES = 4  # of AdamW, for each tensor


class MuonAdamW(torch.optim.Optimizer):
    """Muon over some weights and AdamW over the others, as one: a step that fp16 leaves out, both leave out."""

    def __init__(
        self, turned: list[dict[str, Any]], others: list[dict[str, Any]], lr: float, weight_decay: float
    ) -> None:
        adamw = torch.optim.AdamW(others, lr=lr, weight_decay=weight_decay, fused=True)
        self.parts = (Muon(turned, lr, weight_decay), adamw)
        super().__init__([group for part in self.parts for group in part.param_groups], {})
        self._share_with_parts()

    def step(self, closure: Callable[[], float] | None = None) -> None:
        """One update of all weights that have a gradient."""
        assert closure is None
        for part in self.parts:
            part.step()

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        super().load_state_dict(dict(state_dict))
        self._share_with_parts()

    def _share_with_parts(self) -> None:
        """Groups and moments are held once."""
        groups = iter(self.param_groups)
        for part in self.parts:
            part.state, part.param_groups = self.state, [next(groups) for _ in part.param_groups]


def make_optimizer(
    model: nn.Module, lr: float, weight_decay: float, slow: frozenset[str] = frozenset(), share: float = 1.0
) -> MuonAdamW:
    """Muon over the linear maps that are not frozen, AdamW over all else.

    Args: slow: names of weights that get only this `share` of the rate.
    """
    linear = linear_maps(model)
    turned = _groups(model, lambda name: name in linear, slow, share)
    for group in turned:
        group[RATE_SHARE] *= MATRIX_SHARE
    others = _groups(model, lambda name: name not in linear, slow, share)
    return MuonAdamW(turned, others, lr, weight_decay)


def state_bytes(model: nn.Module) -> int:
    """What it keeps between two updates: one moment of a linear map's numbers, two of others and a counter each."""
    linear, total = linear_maps(model), 0
    for name, weight in model.named_parameters():
        if weight.requires_grad:
            total += weight.nbytes if name in linear else 2 * weight.nbytes + COUNTER_BYTES
    return total


def linear_maps(model: nn.Module) -> frozenset[str]:
    """Names of the weights of `nn.Linear`, which take vectors to vectors: tables and stacks of vectors do not."""
    named = model.named_modules()
    return frozenset(f"{name}.weight" for name, module in named if isinstance(module, nn.Linear))


def _groups(
    model: nn.Module, chosen: Callable[[str], bool], slow: frozenset[str], share: float
) -> list[dict[str, Any]]:
    """Those that are trained, by their rate and whether they decay: matrices do, identities and vectors do not."""
    tables = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    found: dict[tuple[float, bool], list[nn.Parameter]] = {}
    for name, weight in model.named_parameters():
        if weight.requires_grad and chosen(name):
            decays = weight.dim() > 1 and id(weight) not in tables
            found.setdefault((share if name in slow else 1.0, decays), []).append(weight)
    return [
        {"params": weights, RATE_SHARE: part} | ({} if decays else {"weight_decay": 0.0})
        for (part, decays), weights in found.items()
    ]


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """The learning rate of the next update."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group.get(RATE_SHARE, 1.0)


def seed_step(seed: int, step: int, rank: int = 0) -> None:
    """Dropout of a step is drawn from (seed, step, rank), so that no generator has to be saved."""
    entropy = [seed, step, int.from_bytes(b"step", "big"), *([rank] if rank else [])]
    words = np.random.SeedSequence(entropy).generate_state(1, np.uint64)
    torch.manual_seed(int(words[0] >> np.uint64(1)))
