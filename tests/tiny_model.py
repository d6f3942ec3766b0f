"""Tiny sensor graphs, batches and models, all dimensions different, for the tests of networks and training."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from headway.data.prepared import PreparedMeta
from headway.models import ModelParams, build
from headway.models.st_mamba import STMambaParams
from headway.models.standardized import Standardized
from headway.nn.gatv2 import GATv2Params
from headway.nn.ha_gat import HAGATParams
from headway.nn.heads import MixtureParams, PointParams
from headway.nn.hypergraph import HypergraphParams
from headway.nn.none import NoneParams
from headway.types import Batch, Graph
from tiny_prepared import tiny_prepared

BATCH, HISTORY, HORIZON, NODES, NEIGHBORS = 2, 6, 3, 5, 4
SLOTS_PER_DAY = 24
MEAN, STD = 50.0, 8.0  # km/h

MODEL = ModelParams(name="st_mamba", spatial="ha_gat", head="point", anchors=True, sensor_dropout=0.0)
HA_GAT = HAGATParams(hidden_dim=8, heads=2, regimes=3, hops=2, attention_dropout=0.0)
POINT = PointParams(hidden_dim=7, layers=1, dropout=0.0)
GATV2 = GATv2Params(hidden_dim=8, heads=2, attention_dropout=0.0, edge_dropout=0.0)
MIXTURE = MixtureParams(
    hidden_dim=7,
    layers=1,
    dropout=0.0,
    components=2,
    smallest=0.05,
    largest=10.0,
    mean_square=0.4,
    spread=0.0,
    entropy=0.0,
)
HYPERGRAPH = HypergraphParams(
    hidden_dim=8,
    orders=(2, 3),
    pairs="mixprop",
    mixing="learned",
    shares=(0.5, 0.5),
    kind="hgcn",
    graph="adaptive",
    rebuild_steps=3,
    node_dim=6,
    neighbors=2,
    tau=0.2,
)
ST_MAMBA = STMambaParams(
    layers=2,
    expand=1,
    head_dim=4,
    state_dim=3,
    conv_width=3,
    dropout=0.0,
    node_embedding=True,
    time_of_day_embedding=True,
    day_of_week_embedding=True,
    multi_scale=True,
)
SECTIONS = {  # of every operator and head
    "ha_gat": HA_GAT,
    "gatv2": GATV2,
    "hypergraph": HYPERGRAPH,
    "none": NoneParams(hidden_dim=8),
    "point": POINT,
    "mixture": MIXTURE,
}


def tiny_graph(nodes: int = NODES, neighbors: int = NEIGHBORS, seed: int = 0) -> Graph:
    """Random neighbors; sensor 0 has none, the last one as many as fit, the others some of them."""
    random = torch.Generator().manual_seed(seed)
    table = torch.arange(nodes).unsqueeze(1).repeat(1, neighbors)
    valid = torch.zeros(nodes, neighbors, dtype=torch.bool)
    for node in range(1, nodes):
        others = torch.randperm(nodes, generator=random)
        others = others[others != node]
        full = node == nodes - 1
        degree = neighbors if full else int(torch.randint(1, neighbors + 1, (), generator=random))
        degree = min(degree, nodes - 1)
        table[node, :degree] = others[:degree]
        valid[node, :degree] = True
    features = torch.randn(nodes, neighbors, 2, generator=random) * valid.unsqueeze(-1)
    return Graph(neighbors=table.int(), valid=valid, features=features)


def tiny_batch(
    *,
    batch: int = BATCH,
    history: int = HISTORY,
    horizon: int = HORIZON,
    nodes: int = NODES,
    channels: int = 1,
    lags: int = 2,
    covariates: int = 0,
    missing: float = 0.2,
    seed: int = 0,
) -> Batch:
    """Readings near 50 km/h in physical units, a share of them missing (0 and not observed)."""
    random = torch.Generator().manual_seed(seed)
    readings, calendar = partial(_readings, random, missing), partial(_calendar, random)
    recent = readings(batch, history, nodes, channels)
    lagged = readings(batch, history, nodes, lags + 1)
    anchors = readings(batch, horizon, nodes, lags + 2)
    target = readings(batch, horizon, nodes)
    return Batch(
        origin=torch.arange(batch) + history,
        history=recent[0],
        history_observed=recent[1],
        history_calendar=calendar(batch, history),
        covariates=torch.randn(batch, history, covariates, generator=random),
        past=lagged[0],
        past_observed=lagged[1],
        anchors=anchors[0],
        anchors_observed=anchors[1],
        fallback=MEAN + STD * torch.randn(batch, horizon, nodes, generator=random),
        target_calendar=calendar(batch, horizon),
        target=target[0],
        target_observed=target[1],
    )


def _readings(random: torch.Generator, missing: float, *shape: int) -> tuple[Tensor, Tensor]:
    observed = torch.rand(shape, generator=random) >= missing
    return (MEAN + STD * torch.randn(shape, generator=random)) * observed, observed


def _calendar(random: torch.Generator, batch: int, steps: int) -> Tensor:
    slots = torch.randint(SLOTS_PER_DAY, (batch, steps), generator=random)
    return torch.stack([slots, torch.randint(7, (batch, steps), generator=random)], -1)


def tiny_meta(
    *,
    nodes: int = NODES,
    history: int = HISTORY,
    horizon: int = HORIZON,
    channels: int = 1,
    lags: int = 2,
    covariates: int = 0,
) -> PreparedMeta:
    """What `build` must know of data whose batches `tiny_batch` makes."""
    return replace(
        tiny_prepared(steps=40).meta,
        sensors=nodes,
        channels=tuple(f"channel{index}" for index in range(channels)),
        covariates=tuple(f"covariate{index}" for index in range(covariates)),
        slots_per_day=SLOTS_PER_DAY,
        history=history,
        horizon=horizon,
        context=tuple(SLOTS_PER_DAY * (index + 1) for index in range(lags)),
        trailing=(7 * SLOTS_PER_DAY,),
        trailing_days=(SLOTS_PER_DAY,),
        training_rows=14 * SLOTS_PER_DAY,  # enough to know the days of the week
    )


def tiny_model(
    meta: PreparedMeta, graph: Graph, *, choice: ModelParams = MODEL, seed: int = 0, **changes: Any
) -> Standardized:
    """A freshly built model in evaluation mode; `changes` are of section `st_mamba`."""
    sections = SECTIONS | {"st_mamba": replace(ST_MAMBA, **changes)}
    torch.manual_seed(seed)
    channels = len(meta.channels)
    mean, std = torch.full((channels,), MEAN), torch.full((channels,), STD)
    return build(choice, sections, meta, graph, mean, std).eval()


def stirred(model: torch.nn.Module, seed: int = 1) -> torch.nn.Module:
    """The model with every parameter moved a little, so that what starts at zero takes part."""
    random = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.2 * torch.randn(parameter.shape, generator=random)
    return model
