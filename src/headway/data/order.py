"""The order of training windows: a pure function of (seed, step), so that nothing about it needs saving.

    shuffled      a permutation of all windows
    partitioned   the series cut in time; each part in an order of its own, and a group takes from all parts evenly,
                  so that a worker who holds some of the parts needs no reading of the others
    batches       as partitioned, but the windows that a group takes from a part follow each other in time: of a file
                  larger than memory fewer rows are read

Glossary: a pass is one visit of every training window; a group is the windows of one optimizer step.
Neither the micro-batch nor the number of workers enters: they cut a group, they do not change it.
Source: the last two are the generalized distributed index-batching of PGT-I, by windows and by whole batches.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Literal

import numpy as np
from jaxtyping import Int

Order = Literal["shuffled", "partitioned", "batches"]


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


def partition_bounds(split: tuple[int, int], partitions: int) -> list[int]:
    """Origins at which parts in time begin, and one past the last; the first parts may hold a window more."""
    first, last = split
    size, larger = divmod(last - first, partitions)
    return [first + part * size + min(part, larger) for part in range(partitions + 1)]


def partitioned_origins(
    split: tuple[int, int], batch_size: int, seed: int, step: int, partitions: int, together: int
) -> Int[np.ndarray, " group"]:
    """As `group_origins`, with each part in time in an order of its own.

    Args: together: windows that follow each other in time and stay together; 1: each goes its own way.
    """
    first, last = split
    pass_number, position = divmod(step, steps_per_pass(last - first, batch_size))
    order = _interleaved(last - first, seed, pass_number, partitions, together)
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


@lru_cache(maxsize=2)
def _interleaved(
    windows: int, seed: int, pass_number: int, partitions: int, together: int
) -> Int[np.ndarray, " window"]:
    bounds = partition_bounds((0, windows), partitions)
    order = np.empty(windows, np.int64)
    for part in range(partitions):
        words = np.random.SeedSequence([seed, pass_number, int.from_bytes(b"order", "big"), part])
        own = _in_blocks(bounds[part + 1] - bounds[part], together, np.random.default_rng(words))
        order[part::partitions] = bounds[part] + own
    return order


def _in_blocks(windows: int, together: int, random: np.random.Generator) -> Int[np.ndarray, " window"]:
    """Whole blocks in random order, what is left at the end: every group begins with a block."""
    blocks = random.permutation(windows // together)
    whole = (blocks[:, None] * together + np.arange(together)).ravel()
    return np.concatenate([whole, np.arange(len(whole), windows)])
