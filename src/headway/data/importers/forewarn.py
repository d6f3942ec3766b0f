"""What preprocess will refuse in a data set, unless params.yaml says otherwise: told when it is imported.

Enters: times, and the least and largest reading of each sensor. Leaves: sentences with the key that helps. Preprocess
looks at the training rows alone, so it may find more.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int64

from headway.data.grid import choose_grid, choose_step, place_rows
from headway.data.parquet import listing
from headway.errors import InputError


def warn_of_strays(utc: Int64[np.ndarray, " row"], step_minutes: float | None, path: Path) -> list[str]:
    """Rows between two steps, or times that make no grid."""
    try:
        step = choose_step(utc, path) if step_minutes is None else int(60 * step_minutes)
        strays = place_rows(utc, choose_grid(utc, step, path), "round", path).off_grid
    except InputError as error:
        return [f"preprocess will refuse this: {error}"]
    if not strays:
        return []
    return [
        f"{strays} of {len(utc)} rows lie between two steps of {step} s: preprocess will refuse them, unless "
        "params.yaml has preprocess.off_grid: round, or another step is right (--step-minutes)"
    ]


def warn_of_sensors(span: Float[np.ndarray, "2 sensor"], ids: Sequence[str]) -> list[str]:
    """Sensors without a reading, or with one value only.

    Args: span: least and largest reading, NaN where there is none.
    """
    silent = [name for name, empty in zip(ids, np.isnan(span[0]), strict=True) if empty]
    constant = [name for name, same in zip(ids, span[0] == span[1], strict=True) if same]
    found = [f"without a reading: {listing(silent)}"] if silent else []
    found += [f"with one value only: {listing(constant)}"] if constant else []
    if not found:
        return []
    return [
        f"sensors {'; '.join(found)}: preprocess will refuse them, unless params.yaml has "
        "preprocess.unusable_sensors: drop"
    ]
