"""Tiny ST-SepNet models, for the tests of that model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch

from headway.models import build
from headway.models.st_sepnet import STSepNet, STSepNetParams
from headway.models.standardized import Standardized
from headway.types import Graph
from tiny_hypergraph import with_weights
from tiny_model import HYPERGRAPH, MEAN, MODEL, SECTIONS, STD, stirred, tiny_graph, tiny_meta

CHOICE = replace(MODEL, name="st_sepnet", spatial="hypergraph")
PARAMS = STSepNetParams(
    temporal="transformer",
    gate="adaptive",
    layers=2,
    skip_dim=9,
    dropout=0.0,
    sensor_curve=True,
    node_embedding=True,
    time_of_day_embedding=True,
    day_of_week_embedding=True,
    trend_dim=12,
    trend_layers=2,
    trend_heads=2,
    backbone="",
    backbone_source="",
    backbone_layers=0,
    prototypes=5,
    features=3,
    lora_rank=2,
    statistics=True,
)


def made(
    *,
    graph: Graph | None = None,
    facts: Mapping[str, Any] | None = None,
    choice: Mapping[str, Any] | None = None,
    hypergraph: Mapping[str, Any] | None = None,
    **changes: Any,
) -> Standardized:
    """A model in evaluation mode; `facts` are of the data, `changes` of section `st_sepnet`."""
    meta = tiny_meta(**(facts or {}))
    sections = SECTIONS | {
        "st_sepnet": replace(PARAMS, **changes),
        "hypergraph": replace(HYPERGRAPH, **(hypergraph or {})),
    }
    torch.manual_seed(0)
    channels = len(meta.channels)
    mean, std = torch.full((channels,), MEAN), torch.full((channels,), STD)
    roads = with_weights(graph or tiny_graph())
    return build(replace(CHOICE, **(choice or {})), sections, meta, roads, mean, std).eval()


def stirred_model(**changes: Any) -> Standardized:
    model = made(**changes)
    stirred(model)
    return model


def network(model: Standardized) -> STSepNet:
    assert isinstance(model.model, STSepNet)
    return model.model
