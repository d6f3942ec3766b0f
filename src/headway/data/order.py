"""The order of training windows: a pure function of (seed, step), so that nothing about it needs saving.

Glossary: a pass is one visit of every training window; a group is the windows of one optimizer step.
Neither the micro-batch nor the number of workers enters: they cut a group, they do not change it.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from jaxtyping import Int


def steps_per_pass(windows: int, batch_size: int) -> int:
    """Optimizer steps of one pass; the last, smaller group counts as a step."""
    return -(-windows // batch_size)


def group_origins(split: tuple[int, int], batch_size: int, seed: int, step: int) -> Int[np.ndarray, " group"]:
    """Origins of the windows of optimizer step `step` (0, 1, ...).

    Args:
        split: origins [first, last) of the training windows.
        batch_size: effective batch; only the last group of a pass may be smaller.
    """
    first, last = split
    pass_number, position = divmod(step, steps_per_pass(last - first, batch_size))
    order = _permutation(last - first, seed, pass_number)
    return first + order[position * batch_size : (position + 1) * batch_size]


def spread_origins(split: tuple[int, int], count: int) -> Int[np.ndarray, " window"]:
    """`count` evenly spread origins of a split in time order; 0, or more than there are, means all."""
    first, last = split
    if count == 0 or count >= last - first:
        return np.arange(first, last)
    return first + np.arange(count) * (last - first) // count


@lru_cache(maxsize=2)
def _permutation(windows: int, seed: int, pass_number: int) -> Int[np.ndarray, " window"]:
    # A SeedSequence of the triple: `seed + pass` would make seed 0, pass 1 equal seed 1, pass 0.
    words = np.random.SeedSequence([seed, pass_number, int.from_bytes(b"order", "big")])
    return np.random.default_rng(words).permutation(windows)
