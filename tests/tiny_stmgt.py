"""Tiny STMGT models and windows with weather, for the tests of that model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch

from headway.models import build
from headway.models.standardized import Standardized
from headway.models.stmgt import STMGT, STMGTParams
from headway.nn.gatv2 import GATv2Params
from headway.nn.heads import MixtureParams
from headway.nn.none import NoneParams
from headway.types import Batch, Graph
from tiny_model import HA_GAT, HYPERGRAPH, MEAN, MODEL, POINT, STD, stirred, tiny_batch, tiny_graph, tiny_meta

WEATHER = 3
CHOICE = replace(MODEL, name="stmgt", spatial="gatv2")
PARAMS = STMGTParams(
    layers=2,
    heads=2,
    expand=3,
    dropout=0.0,
    gate="gated",
    weather=True,
    clock="smooth",
    step_embedding=True,
    node_embedding=True,
)
GATV2 = GATv2Params(hidden_dim=8, heads=2, attention_dropout=0.0, edge_dropout=0.0)
MIXTURE = MixtureParams(
    hidden_dim=7, components=2, smallest=0.05, largest=10.0, mean_square=0.4, spread=0.0, entropy=0.0
)


def made(
    *,
    graph: Graph | None = None,
    facts: Mapping[str, Any] | None = None,
    choice: Mapping[str, Any] | None = None,
    gatv2: Mapping[str, Any] | None = None,
    **changes: Any,
) -> Standardized:
    """A model in evaluation mode; `facts` are of the data, `changes` of section `stmgt`."""
    meta = tiny_meta(**{"covariates": WEATHER, **(facts or {})})
    sections = {
        "stmgt": replace(PARAMS, **changes),
        "gatv2": replace(GATV2, **(gatv2 or {})),
        "ha_gat": HA_GAT,
        "hypergraph": HYPERGRAPH,
        "none": NoneParams(hidden_dim=8),
        "point": POINT,
        "mixture": MIXTURE,
    }
    torch.manual_seed(0)
    channels = len(meta.channels)
    mean, std = torch.full((channels,), MEAN), torch.full((channels,), STD)
    return build(replace(CHOICE, **(choice or {})), sections, meta, graph or tiny_graph(), mean, std).eval()


def stirred_model(**changes: Any) -> Standardized:
    model = made(**changes)
    stirred(model)
    return model


def network(model: Standardized) -> STMGT:
    assert isinstance(model.model, STMGT)
    return model.model


def windows(**changes: Any) -> Batch:
    return tiny_batch(**{"covariates": WEATHER, **changes})
