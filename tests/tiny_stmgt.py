"""Tiny STMGT models and windows with weather, for the tests of that model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch

from headway.models import build
from headway.models.standardized import Standardized
from headway.models.stmgt import STMGT, STMGTParams
from headway.types import Batch, Graph
from tiny_model import GATV2, MEAN, MODEL, SECTIONS, STD, stirred, tiny_batch, tiny_graph, tiny_meta

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
    sections = SECTIONS | {
        "stmgt": replace(PARAMS, **changes),
        "gatv2": replace(GATV2, **(gatv2 or {})),
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
