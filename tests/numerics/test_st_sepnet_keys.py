"""That every key of the sections `st_sepnet` and `hypergraph` acts."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import pytest
import torch
from torch import Tensor

from headway.errors import InputError
from headway.models.st_sepnet import STSepNetParams
from headway.models.standardized import Standardized
from headway.nn.hypergraph import HypergraphParams
from tiny_model import stirred, tiny_batch
from tiny_sepnet import made, stirred_model

OTHER_SEPNET: dict[str, Any] = {
    "temporal": "linear",
    "gate": "lstm",
    "layers": 1,
    "skip_dim": 5,
    "dropout": 0.5,
    "sensor_curve": False,
    "node_embedding": False,
    "time_of_day_embedding": False,
    "day_of_week_embedding": False,
    "trend_dim": 8,
    "trend_layers": 1,
    "trend_heads": 3,
}
OTHER_HYPERGRAPH: dict[str, Any] = {
    "hidden_dim": 16,
    "orders": (2, 4),
    "pairs": "edges",
    "mixing": "gated",
    "shares": (0.1, 0.9),
    "kind": "hgat",
    "graph": "static",
    "node_dim": 3,
    "neighbors": 4,
    "tau": 2.0,
}


def training_forecast(model: Standardized) -> Tensor:
    stirred(model.train())
    torch.manual_seed(0)
    return model(tiny_batch()).point


OF_LANGUAGE = {  # tests/faults/test_language_model.py
    "backbone",
    "backbone_source",
    "backbone_layers",
    "prototypes",
    "features",
    "lora_rank",
    "statistics",
}


@pytest.mark.parametrize("key", [f.name for f in fields(STSepNetParams) if f.name not in OF_LANGUAGE])
def test_every_key_of_st_sepnet_acts(key: str) -> None:
    changed = training_forecast(made(**{key: OTHER_SEPNET[key]}))
    assert not torch.allclose(changed, training_forecast(made()), atol=1e-3)


@pytest.mark.parametrize(
    "key", [field.name for field in fields(HypergraphParams) if field.name != "rebuild_steps"]
)
def test_every_key_of_hypergraph_acts(key: str) -> None:
    """`rebuild_steps` acts in training: tests/numerics/test_hypergraph_learning.py."""
    changed = training_forecast(made(hypergraph={key: OTHER_HYPERGRAPH[key]}))
    assert not torch.allclose(changed, training_forecast(made()), atol=1e-5)


@pytest.mark.parametrize("temporal", ["linear", "transformer", "st_mamba"])
def test_the_curve_knows_the_average_the_anchors_and_the_clock(temporal: str) -> None:
    model, batch = stirred_model(temporal=temporal, gate="temporal_only"), tiny_batch()
    z = model.standardize(batch)
    clock = z.target_calendar.clone()
    clock[..., 0] = (clock[..., 0] + 5) % 24
    changes = {
        "history": z.history + 1,
        "past": z.past + 1,
        "anchors": z.anchors + 1,
        "target_calendar": clock,
    }
    before = model.model(z).point
    for name, other in changes.items():
        assert not torch.allclose(model.model(replace(z, **{name: other})).point, before, atol=1e-4), name


def test_heads_that_do_not_divide_the_width_of_the_trend_are_refused() -> None:
    with pytest.raises(InputError, match=r"trend_heads: 5 does not divide st_sepnet\.trend_dim = 12"):
        made(trend_heads=5)
