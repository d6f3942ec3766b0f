"""Spatio-temporal forecasting on sensor networks, inside a stated memory budget.

    import headway

    forecasts = headway.load("models/train").predict(readings)

`load` is fetched when it is first asked for: whoever imports a part of the package does not wait for torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from headway.serving.forecaster import load

__all__ = ["load"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name == "load":
        return importlib.import_module("headway.serving.forecaster").load
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
