"""What every model promises: it does not know sensors by their place, starts at the anchor mix, learns, fits."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import pytest
import torch
from torch import Tensor

import tiny_sepnet
import tiny_stmgt
from headway.models.standardized import Standardized
from headway.nn import gates
from headway.objectives.forecast_loss import absolute_error
from headway.types import Batch, Graph
from tensor_sizes import LargestTensor
from tiny_hypergraph import with_weights
from tiny_model import HORIZON, MODEL, NODES, STD, stirred, tiny_batch, tiny_graph, tiny_meta, tiny_model

NAMES = ("st_mamba", "stmgt", "st_sepnet")
SENSOR_AXIS = ("history", "history_observed", "past", "past_observed", "anchors", "anchors_observed")
SENSOR_AXIS += ("fallback", "target", "target_observed")
OF_SENSORS = ("model.embedding.node.weight", "model.space.embedding.node.weight", "mix.offsets")
OF_SENSORS += ("model.gain", "model.shift", "model.gate.query", "model.gate.key", "model.gate.value")
OF_EDGES = ".edge_sign.weight"  # a row for each sensor that reads
OF_GRAPH = (".table.", ".members", ".present", ".road", ".neighbors")
every_model = pytest.mark.parametrize("name", NAMES)


def made(
    name: str, facts: Any = None, choice: Any = None, graph: Graph | None = None, **own: Any
) -> Standardized:
    """In evaluation mode; `facts` are of the data, `own` of the model's section."""
    if name == "stmgt":
        return tiny_stmgt.made(graph=graph, facts=facts, choice=choice, **own)
    if name == "st_sepnet":
        return tiny_sepnet.made(graph=graph, facts=facts, choice=choice, **own)
    roads = with_weights(graph or tiny_graph())
    return tiny_model(tiny_meta(**(facts or {})), roads, choice=replace(MODEL, **(choice or {})), **own)


def stirred_model(name: str, **changes: Any) -> Standardized:
    model = made(name, **changes)
    stirred(model)
    return model


def windows(name: str, **shape: Any) -> Batch:
    return tiny_stmgt.windows(**shape) if name == "stmgt" else tiny_batch(**shape)


def graph_in_order(graph: Graph, order: Tensor) -> Graph:
    place = torch.empty_like(order)
    place[order] = torch.arange(len(order))
    return Graph(
        neighbors=place[graph.neighbors[order].long()].int(),
        valid=graph.valid[order],
        features=graph.features[order],
    )


@pytest.mark.parametrize(
    ("name", "own"),
    [
        ("st_mamba", {}),
        ("stmgt", {}),
        *(
            ("st_sepnet", {"gate": gate, "hypergraph": {"graph": "static"}})
            # in the adaptive gate's matrix sensors have places
            for gate in (
                "attention",
                "lstm",
                "spatial_only",
            )
        ),
    ],
)
def test_renaming_the_sensors_renames_the_forecast(name: str, own: dict[str, Any]) -> None:
    model, batch, order = stirred_model(name, **own), windows(name), torch.tensor([2, 4, 1, 0, 3])
    renamed, content = made(name, graph=graph_in_order(tiny_graph(), order), **own), model.state_dict()
    for held in content:
        if held in OF_SENSORS or held.endswith(OF_EDGES):
            content[held] = content[held][order]
    fixed = renamed.state_dict()
    content |= {held: fixed[held] for held in fixed if any(part in held for part in OF_GRAPH)}
    renamed.load_state_dict(content)
    other = replace(batch, **{held: getattr(batch, held).index_select(2, order) for held in SENSOR_AXIS})
    torch.testing.assert_close(renamed(other).point, model(batch).point[:, :, order], rtol=1e-4, atol=1e-3)


@every_model
@pytest.mark.parametrize("head", ["point", "mixture"])
def test_a_window_is_forecast_alike_alone_and_among_others(name: str, head: str) -> None:
    model, batch = stirred_model(name, choice={"head": head}), windows(name, batch=3)
    second = replace(batch, **{field.name: getattr(batch, field.name)[1:2] for field in fields(batch)})
    torch.testing.assert_close(model(second).point, model(batch).point[1:2], rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize(
    ("name", "history", "own"),
    [
        ("st_mamba", 6, {}),
        ("st_mamba", 48, {}),
        ("stmgt", 6, {}),
        *(("st_sepnet", 6, {"gate": gate}) for gate in ("adaptive", "attention", "lstm")),
        *(("st_sepnet", 6, {"gate": gate}) for gate in ("spatial_only", "temporal_only")),
    ],
)
def test_an_untrained_model_forecasts_the_anchor_mix(name: str, history: int, own: dict[str, Any]) -> None:
    model = made(name, facts={"history": history}, **own)
    z = model.standardize(windows(name, history=history))
    assert model.mix is not None
    assert model.model(z).point.eq(0).all()
    assert torch.equal(model.forecast_standard(z).point, model.mix(z))


@every_model
@pytest.mark.parametrize("spatial", ["ha_gat", "gatv2", "hypergraph", "none"])
@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    "shape",
    [
        {},
        {"history": 48},
        {"channels": 3, "covariates": 2},
        {"channels": 3, "covariates": 0},
        {"lags": 0},
        {"nodes": 1},
        {"history": 1, "horizon": 1},
        {"missing": 1.0},
    ],
    ids=str,
)
def test_every_parameter_gets_a_finite_gradient(
    name: str, shape: dict[str, Any], precision: torch.dtype, spatial: str
) -> None:
    facts = {fact: count for fact, count in shape.items() if fact != "missing"}
    nodes = shape.get("nodes", NODES)
    model = stirred_model(name, graph=tiny_graph(nodes), facts=facts, choice={"spatial": spatial}).train()
    with torch.autocast("cpu", dtype=precision, enabled=precision != torch.float32):
        point = model(windows(name, **shape)).point
    assert point.shape == (2, shape.get("horizon", HORIZON), nodes) and point.dtype == torch.float32
    point.square().sum().backward()
    for held, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), held


@every_model
def test_two_forwards_in_evaluation_are_identical(name: str) -> None:
    model, batch = stirred_model(name, dropout=0.5), windows(name)
    assert torch.equal(model(batch).point, model(batch).point)


@every_model
def test_a_bf16_forecast_is_near_that_in_float32(name: str) -> None:
    model, batch = stirred_model(name), windows(name)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = model(batch).point
    torch.testing.assert_close(rough, model(batch).point, rtol=0.02, atol=0.05 * STD)


@pytest.mark.parametrize(
    ("name", "spatial"),
    [
        ("st_mamba", "ha_gat"),
        ("st_mamba", "gatv2"),
        ("stmgt", "gatv2"),
        ("stmgt", "ha_gat"),
        ("stmgt", "hypergraph"),
        ("st_sepnet", "hypergraph"),
    ],
)
def test_the_correction_can_be_learned(name: str, spatial: str) -> None:
    model = made(name, choice={"spatial": spatial}).train()
    z = model.standardize(windows(name, missing=0.0))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    losses = []
    for _ in range(80):
        optimizer.zero_grad()
        losses.append(absolute_error(model.forecast_standard(z), z))
        losses[-1].backward()
        optimizer.step()
    assert losses[-1] < 0.3 * losses[0]


def largest_and_saved(name: str, nodes: int) -> tuple[int, int]:
    """Numbers of the largest tensor of a step, and of all that is kept for its backward pass."""
    model = made(name, graph=tiny_graph(nodes), facts={"nodes": nodes}).train()
    batch, kept = windows(name, nodes=nodes, batch=1), {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes() // 4
        return tensor

    with LargestTensor() as sizes:
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            loss = model(batch).point.square().sum()
        loss.backward()
    return sizes.numel, sum(kept.values())


@every_model
def test_memory_grows_with_the_sensors_not_with_their_square(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        gates, "JOINT_SENSORS", 0
    )  # up to so many, ST-SepNet's gate has a matrix of all sensors
    (few, few_kept), (many, many_kept) = largest_and_saved(name, 250), largest_and_saved(name, 500)
    assert many <= 2 * few and many < 500 * 500
    assert few_kept < many_kept <= 2.1 * few_kept


@pytest.mark.parametrize(
    ("name", "own"),
    [
        ("st_mamba", {}),
        ("stmgt", {"gatv2": {"edge_dropout": 0.3, "attention_dropout": 0.2}}),
        *(("st_sepnet", {"temporal": temporal}) for temporal in ("linear", "transformer", "st_mamba")),
    ],
)
def test_a_block_computed_again_has_the_same_gradients_to_the_bit(name: str, own: dict[str, Any]) -> None:
    batch, found = windows(name), []
    for again in (False, True):
        model = stirred_model(name, dropout=0.3, **own).train()
        model.set_recompute(again)
        torch.manual_seed(5)
        absolute_error(model.forecast_standard(model.standardize(batch)), batch).backward()
        found.append([parameter.grad for parameter in model.parameters() if parameter.grad is not None])
    assert all(torch.equal(kept, again) for kept, again in zip(*found, strict=True))


@every_model
@pytest.mark.parametrize("spatial", ["ha_gat", "gatv2", "hypergraph", "none"])
def test_a_history_read_in_slices_gives_the_same_forecast_and_gradients(name: str, spatial: str) -> None:
    batch, points, gradients = windows(name), [], []
    for slices in (1, 2, 4, 8):  # of 6 steps: also more slices than steps
        model = stirred_model(name, choice={"spatial": spatial}).train()
        model.set_slices(slices)
        points.append(model(batch).point)
        points[-1].square().sum().backward()
        gradients.append({held: parameter.grad for held, parameter in model.named_parameters()})
    for point, gradient in zip(points[1:], gradients[1:], strict=True):
        torch.testing.assert_close(point, points[0], rtol=1e-5, atol=1e-3)
        torch.testing.assert_close(gradient, gradients[0], rtol=1e-3, atol=1e-2)
