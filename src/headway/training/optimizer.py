"""AdamW over a model's weights, its rate, and the random numbers of a step."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

RATE_SHARE = "share"  # of the learning rate that a group of weights gets; 1 where it is not named


def make_optimizer(
    model: nn.Module, lr: float, weight_decay: float, slow: frozenset[str] = frozenset(), share: float = 1.0
) -> torch.optim.AdamW:
    """AdamW over the weights that are not frozen; only matrices decay.

    Decay of an identity or of a state-space constant means nothing.

    Args: slow: names of weights that get only this `share` of the rate.
    """
    tables = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    groups = [{"params": []}, {"params": [], "weight_decay": 0.0}]
    if slow:
        groups += [{**group, "params": [], RATE_SHARE: share} for group in groups]
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        decays = parameter.dim() > 1 and id(parameter) not in tables
        groups[2 * (name in slow) + (not decays)]["params"].append(parameter)
    return torch.optim.AdamW(groups, lr=lr, weight_decay=weight_decay, fused=True)


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """The learning rate of the next update."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group[RATE_SHARE] if RATE_SHARE in group else rate


def seed_step(seed: int, step: int, rank: int = 0) -> None:
    """Dropout of a step is drawn from (seed, step, rank), so that no generator has to be saved."""
    entropy = [seed, step, int.from_bytes(b"step", "big"), *([rank] if rank else [])]
    words = np.random.SeedSequence(entropy).generate_state(1, np.uint64)
    torch.manual_seed(int(words[0] >> np.uint64(1)))
