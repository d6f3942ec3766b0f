"""STID, and STID with our context: the official network, trained under the protocol of this comparison.

    git clone https://github.com/GestaltCogTeam/STID; export STID=$PWD/STID

Enters: the prepared data. Leaves: a `Fitted`. Widths, dropout and optimizer are the authors': 32 to an embedding, 3
layers, Adam 0.002 with decay 0.0001, batch 32, masked MAE in raw units. Ours are the cosine schedule over the steps
that every model gets, and the weights of the best of LOOKS looks at validation.

`stid_context` has one embedding more, as wide as the others: the 24 readings of the windows a day and a week ago, and
whether the series had begun by then, enter it as the history enters its own.

Source: Shao et al., "Spatial-Temporal Identity", CIKM 2022 (arXiv:2208.05233).
Glossary: B windows, L history, N sensors, K lags, H horizon.
"""

from __future__ import annotations

import importlib.util
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from fitted import Fitted, peer_windows, training_scale
from project_copy import LOOKS, VALIDATION_WINDOWS
from torch import Tensor, nn

from headway.data.order import group_origins, spread_origins
from headway.data.prepared import Prepared, PreparedMeta
from headway.data.windows import Windows
from headway.training.optimizer import set_rate
from headway.training.schedule import learning_rate
from headway.types import Batch, Forecast, PointForecast

MODELS = ("stid", "stid_context")
WIDTH, LAYERS, BATCH, RATE, DECAY, WARMUP, AT_ONCE = 32, 3, 32, 2e-3, 1e-4, 50, 64
PACKAGE = "official_stid"


def absent(model: str, prepared: Prepared) -> str:
    """Why it cannot run here; empty where it can."""
    if _source() is None:
        return "set STID to a checkout of https://github.com/GestaltCogTeam/STID"
    if model == "stid_context" and not prepared.meta.context:
        return "no context lag fits the series"
    return ""


def fit(model: str, prepared: Prepared, device: torch.device, seed: int, steps: int) -> Fitted:
    """Train for so many steps; the weights are those of the best look."""
    torch.manual_seed(seed)
    windows = peer_windows(prepared, device, context=model == "stid_context")
    scale = (torch.from_numpy(part[:1]) for part in training_scale(prepared, per_sensor=False))
    network = _Stid(windows.series.meta, *scale).to(device)
    curve = _train(network, windows, prepared.meta.splits, seed, steps)

    def forecaster(batch: Batch) -> Forecast:
        return PointForecast(point=network(batch))

    parameters = sum(parameter.numel() for parameter in network.parameters())
    return Fitted(
        forecaster=forecaster, windows=windows, parameters=parameters, steps=steps, curve=tuple(curve)
    )


class _Stid(nn.Module):
    """The official network between physical units; with the context where the windows have one."""

    mean: Tensor
    std: Tensor

    def __init__(self, meta: PreparedMeta, mean: Tensor, std: Tensor) -> None:
        super().__init__()
        self.register_buffer("mean", mean)
        self.register_buffer("std", std)
        self.slots, self.lags = meta.slots_per_day, meta.context
        self.network = _official()(**_arguments(meta))
        self.context = None
        if self.lags:
            readings = len(self.lags) * (meta.history + meta.horizon + 1)
            self.context = _Context(self.network.encoder, self.network.hidden_dim, readings)
            self.network.encoder = self.context
            wide = self.network.hidden_dim + WIDTH
            self.network.regression_layer = nn.Conv2d(wide, meta.horizon, (1, 1))

    def forward(self, batch: Batch) -> Tensor:
        """[B, H, N] in the unit of the target."""
        if self.context is not None:
            self.context.given = self._context(batch)
        said = self.network(self._history(batch), None, 0, 0, self.training)  # B H N 1
        return said.squeeze(-1) * self.std + self.mean

    def _history(self, batch: Batch) -> Tensor:
        """[B, L, N, 3]: reading, time of day, day of week; the half keeps the official code from rounding down."""
        reading = (batch.history[..., 0] - self.mean) / self.std * batch.history_observed[..., 0]
        clock = (batch.history_calendar + 0.5) / torch.tensor([self.slots, 7], device=reading.device)
        clock = clock.unsqueeze(2).expand(-1, -1, reading.shape[-1], -1)
        return torch.cat([reading.unsqueeze(-1), clock], -1)

    def _context(self, batch: Batch) -> Tensor:
        """[B, K (L + H + 1), N, 1]."""
        past = (batch.past - self.mean) / self.std * batch.past_observed
        ahead, known = (part[..., 1 : 1 + len(self.lags)] for part in (batch.anchors, batch.anchors_observed))
        ahead = (ahead - self.mean) / self.std * known
        last = batch.origin + ahead.shape[1] - 1
        begun = last[:, None] >= torch.tensor(self.lags, device=last.device)  # B K
        flag = begun[:, None, None].expand(-1, 1, ahead.shape[2], -1)
        return torch.cat([past, ahead, flag], 1).permute(0, 3, 1, 2).flatten(1, 2).unsqueeze(-1)


class _Context(nn.Module):
    """The official encoder, wider by an embedding of what it is `given` before each call."""

    given: Tensor

    def __init__(self, encoder: nn.Sequential, width: int, readings: int) -> None:
        super().__init__()
        wide = width + WIDTH
        self.embedding = nn.Conv2d(readings, WIDTH, (1, 1))
        self.layers = nn.Sequential(*(type(layer)(wide, wide) for layer in encoder))  # pyright: ignore

    def forward(self, hidden: Tensor) -> Tensor:
        return self.layers(torch.cat([hidden, self.embedding(self.given)], 1))


def _train(
    network: _Stid, windows: Windows, splits: dict[str, tuple[int, int]], seed: int, steps: int
) -> list[tuple[float, float]]:
    """Returns: (seconds, validation MAE) of each look; the network holds the best weights."""
    optimizer = torch.optim.Adam(network.parameters(), RATE, weight_decay=DECAY)
    looked_at = spread_origins(splits["validation"], VALIDATION_WINDOWS)
    between, started = -(-steps // LOOKS), time.monotonic()
    curve: list[tuple[float, float]] = []
    best: dict[str, Tensor] = {}
    for step in range(steps):
        batch = windows.gather(group_origins(splits["train"], BATCH, seed, step))
        set_rate(optimizer, _rate(step, steps))
        optimizer.zero_grad(set_to_none=True)
        error, count = _absolute_error(network, batch)
        (error / count.clamp(min=1)).backward()
        optimizer.step()
        if (step + 1) % between == 0 or step + 1 == steps:
            mae = _validation_mae(network, windows, looked_at)
            if not curve or mae < min(seen for _, seen in curve):
                best = {name: part.clone() for name, part in network.state_dict().items()}
            curve.append((round(time.monotonic() - started, 1), mae))
    network.load_state_dict(best)
    network.eval()
    return curve


def _rate(step: int, steps: int) -> float:
    """Linear to the peak, then along a cosine to 0: the schedule that ours has, by the same code."""
    return learning_rate(
        step,
        schedule="cosine",
        peak=RATE,
        warmup=min(WARMUP, steps // 10),
        total=steps,
        epoch_steps=steps,
        milestones=(),
        decay=1.0,
    )


def _absolute_error(network: _Stid, batch: Batch) -> tuple[Tensor, Tensor]:
    """Summed over the observed targets, and how many they are."""
    error = torch.where(batch.target_observed, (network(batch) - batch.target).abs(), 0.0)
    return error.sum(), batch.target_observed.sum().float()


@torch.no_grad()
def _validation_mae(network: _Stid, windows: Windows, origins: np.ndarray) -> float:
    network.eval()
    total = torch.zeros(2, dtype=torch.float64)
    for first in range(0, len(origins), AT_ONCE):
        batch = windows.gather(origins[first : first + AT_ONCE])
        total += torch.stack(_absolute_error(network, batch)).double().cpu()
    network.train()
    return float(total[0] / total[1].clamp(min=1))


def _arguments(meta: PreparedMeta) -> dict[str, Any]:
    """As in the authors' settings of METR-LA and PEMS04."""
    widths = dict.fromkeys(("embed_dim", "node_dim", "temp_dim_tid", "temp_dim_diw"), WIDTH)
    chosen = dict.fromkeys(("if_node", "if_T_i_D", "if_D_i_W"), True)
    sizes = {"num_nodes": meta.sensors, "input_len": meta.history, "output_len": meta.horizon, "input_dim": 3}
    clock = {"time_of_day_size": meta.slots_per_day, "day_of_week_size": 7}
    return {**widths, **chosen, **sizes, **clock, "num_layer": LAYERS}


def _source() -> Path | None:
    """The package of the network in the checkout, which imports nothing else of it."""
    checkout = os.environ.get("STID", "")
    found = sorted(Path(checkout).rglob("stid_arch.py")) if checkout else []
    return found[0].parent if found else None


def _official() -> Callable[..., Any]:
    source = _source()
    assert source is not None, "see absent()"
    places = [str(source)]
    spec = importlib.util.spec_from_file_location(
        PACKAGE, source / "__init__.py", submodule_search_locations=places
    )
    assert spec and spec.loader, source
    module = importlib.util.module_from_spec(spec)
    sys.modules[PACKAGE] = module  # the package imports its own modules by name
    spec.loader.exec_module(module)
    return module.STID
