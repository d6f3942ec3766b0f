"""HA-GAT against its equations written out with node x node matrices, and what its docstring promises."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from headway.errors import InputError
from headway.nn.ha_gat import EDGE_RATE, HAGAT, HAGATParams
from headway.nn.neighbor_table import NeighborTable
from headway.types import Graph
from tiny_model import HA_GAT, tiny_graph

BATCH, NODES, TIME, WIDTH, NEIGHBORS = 2, 6, 3, 8, 4
assert_close = partial(torch.testing.assert_close, rtol=1e-5, atol=1e-5)


def layer(seed: int = 0, edges: tuple[int, int] | None = None, **changes: Any) -> HAGAT:
    """A layer whose signs, self weights and norm are not at their start."""
    torch.manual_seed(seed)
    made = HAGAT(replace(HA_GAT, **changes), edge_features=2, edges=edges)
    with torch.no_grad():
        if made.edge_sign:
            made.edge_sign.weight.normal_()
        for parameter in (made.preference, made.self_logit, made.norm.weight, made.norm.bias):
            parameter += torch.randn_like(parameter)
        made.sign_bias.copy_(torch.tensor([-0.3, 0.3])[: made.heads])
    return made


def states(nodes: int = NODES, seed: int = 1) -> Tensor:
    return torch.randn(BATCH, nodes, TIME, WIDTH, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def graph() -> Graph:
    return tiny_graph(NODES, NEIGHBORS)


def dense_edges(graph: Graph) -> tuple[Tensor, Tensor]:
    """adjacent [node, node] and features [node, node, 2]; row i marks what i reads."""
    nodes = len(graph.valid)
    adjacent, features = torch.zeros(nodes, nodes).bool(), torch.zeros(nodes, nodes, 2)
    reader, slot = graph.valid.nonzero(as_tuple=True)
    read = graph.neighbors[reader, slot].long()
    adjacent[reader, read] = True
    features[reader, read] = graph.features[reader, slot]
    return adjacent, features


def dense_layer(m: HAGAT, h: Tensor, graph: Graph) -> Tensor:
    """The six equations at the head of the module, one graph per (batch, time)."""
    adjacent, features = dense_edges(graph)
    h = h.transpose(1, 2)  # batch time node d: graph after graph
    heads = [x.unflatten(-1, (m.heads, -1)).transpose(2, 3) for x in (m.query(h), m.key(h), m.value(h))]
    q, k, v = heads  # batch time head node d_h
    mean = adjacent / adjacent.sum(1, keepdim=True).clamp(min=1)
    neighborhood = mean @ h
    regime = m.regime(torch.relu(m.regime_self(h) + m.regime_mean(neighborhood))).softmax(-1)
    sign = torch.einsum("btic,hcg,btjg->bthij", regime, m.preference, regime) + m.sign_bias[:, None, None]
    if m.edge_sign:
        own = torch.zeros(m.heads, *adjacent.shape)
        reader, slot = graph.valid.nonzero(as_tuple=True)
        own[:, reader, graph.neighbors[reader, slot].long()] = m.edge_sign.weight.unflatten(1, (m.heads, -1))[
            reader, :, slot
        ].T
        sign = sign + EDGE_RATE * own
    score = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1]) + m.edge_bias(features).permute(2, 0, 1)
    alpha = torch.where(adjacent, score, -torch.inf).softmax(-1).nan_to_num(0)
    coefficients = alpha * torch.tanh(sign)
    first = coefficients @ v
    hops = [first, m.hop_weight * (coefficients @ first)][: m.hops]
    joined = torch.cat([hop.transpose(2, 3).flatten(-2) for hop in hops], -1)
    mixed = torch.sigmoid(m.self_logit) * h + joined @ m.out.weight.T
    return F.layer_norm(mixed, (h.shape[-1],), m.norm.weight, m.norm.bias).transpose(1, 2)


@pytest.mark.parametrize("hops", [1, 2])
@pytest.mark.parametrize("heads", [1, 2])
@pytest.mark.parametrize("edges", [None, (NODES, NEIGHBORS)])
def test_values_and_gradients_equal_the_equations_on_dense_matrices(
    graph: Graph, edges: tuple[int, int] | None, heads: int, hops: int
) -> None:
    m, h = layer(heads=heads, hops=hops, edges=edges), states().requires_grad_()
    found, expected = m(h, NeighborTable(graph)), dense_layer(m, h, graph)
    assert_close(found, expected)
    leaves = [h, *(p for name, p in m.named_parameters() if name != "hop_weight" or hops == 2)]
    weights = torch.randn_like(found)
    gradients = torch.autograd.grad((found * weights).sum(), leaves)
    wanted = torch.autograd.grad((expected * weights).sum(), leaves)
    for gradient, reference in zip(gradients, wanted, strict=True):
        torch.testing.assert_close(gradient, reference, rtol=1e-3, atol=1e-4)


def test_the_coefficients_of_a_sensor_sum_to_at_most_one(graph: Graph) -> None:
    m, table = layer(), NeighborTable(graph)
    coefficients = m.coefficients(states() * 5, table).view(BATCH, NODES, TIME, m.heads, NEIGHBORS)
    assert (coefficients < 0).any() and (coefficients > 0).any()
    assert coefficients.abs().sum(-1).max() <= 1 + 1e-6
    assert coefficients[~graph.valid[None, :, None, None].expand_as(coefficients)].eq(0).all()


def test_renaming_the_sensors_renames_the_output(graph: Graph) -> None:
    m, h = layer(), states()
    order = torch.tensor([3, 5, 0, 1, 4, 2])  # new sensor i is old sensor order[i]
    place = torch.empty_like(order)
    place[order] = torch.arange(NODES)
    renamed = Graph(
        neighbors=place[graph.neighbors[order].long()].int(),
        valid=graph.valid[order],
        features=graph.features[order],
    )
    found = m(h[:, order], NeighborTable(renamed))
    assert_close(found, m(h, NeighborTable(graph))[:, order])


def test_a_constant_input_with_positive_signs_gives_a_constant_aggregate() -> None:
    graph = tiny_graph(NODES, NEIGHBORS)
    graph.neighbors[0, 0], graph.valid[0, 0] = 1, True  # now every sensor reads another
    m = HAGAT(HA_GAT, edge_features=2)
    with torch.no_grad():
        m.sign_bias.fill_(50)  # tanh = 1
    h = states()[:1, :1, :1].expand(BATCH, NODES, TIME, WIDTH)
    found = m(h, NeighborTable(graph))
    assert_close(found, found[:1, :1, :1].expand_as(found))
    value = m.value(h[0, 0, 0])  # both hops aggregate the one value there is
    mixed = torch.sigmoid(m.self_logit) * h[0, 0, 0] + m.out(torch.cat([value, m.hop_weight * value]))
    assert_close(found[0, 0, 0], m.norm(mixed))


def test_a_sensor_without_neighbors_keeps_its_own_scaled_state(graph: Graph) -> None:
    m, h = layer(), states()
    assert not graph.valid[0].any()
    found = m(h, NeighborTable(graph))
    assert_close(found[:, 0], m.norm(torch.sigmoid(m.self_logit) * h[:, 0]))
    assert not torch.isclose(found[:, -1], m.norm(torch.sigmoid(m.self_logit) * h[:, -1])).all()


def test_what_stands_on_padding_does_not_matter(graph: Graph) -> None:
    m, h = layer(), states()
    other = Graph(
        neighbors=graph.neighbors,
        valid=graph.valid,
        features=torch.where(graph.valid.unsqueeze(-1), graph.features, 1e3),
    )
    assert_close(m(h, NeighborTable(other)), m(h, NeighborTable(graph)))


def test_a_time_step_reads_no_other_time_step_and_no_other_window(graph: Graph) -> None:
    m, h, table = layer(), states(), NeighborTable(graph)
    changed = h.clone()
    changed[1, :, 2] += 1
    difference = (m(changed, table) - m(h, table)).abs().amax((1, 3))
    assert difference[1, 2] > 1e-3
    difference[1, 2] = 0
    assert difference.max() < 1e-6


def test_gradients_are_finite_under_bf16_autocast(graph: Graph) -> None:
    m, h, table = layer(), states().requires_grad_(), NeighborTable(graph)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = m(h, table)
        assert m.coefficients(h, table).dtype == torch.float32
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, m(h, table), rtol=0.1, atol=0.1)
    found.square().sum().backward()
    assert h.grad is not None and h.grad.isfinite().all()
    for name, parameter in m.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name


def test_extreme_scores_stay_finite(graph: Graph) -> None:
    m, h = layer(), (states() * 1e4).requires_grad_()
    found = m(h, NeighborTable(graph))
    found.sum().backward()
    assert found.isfinite().all()
    assert h.grad is not None and h.grad.isfinite().all()


def test_signs_start_at_ordinary_positive_attention(graph: Graph) -> None:
    m = HAGAT(HA_GAT, edge_features=2)
    coefficients = m.coefficients(states(), NeighborTable(graph)).view(BATCH, NODES, TIME, m.heads, -1)
    total = coefficients.sum(-1)[:, graph.valid.any(1)]
    assert_close(total, torch.full_like(total, 0.9))


def test_edges_that_run_against_their_reader_get_the_other_sign(graph: Graph) -> None:
    torch.manual_seed(0)
    table, against = NeighborTable(graph), graph.valid & (torch.arange(NEIGHBORS) % 2 == 1)
    m = HAGAT(replace(HA_GAT, heads=1, hops=1), edge_features=2, edges=(NODES, NEIGHBORS))
    optimizer = torch.optim.AdamW(m.parameters(), lr=0.02)
    effect = torch.where(against, -1.0, 1.0) * graph.valid / graph.valid.sum(1, keepdim=True).clamp(min=1)
    for step in range(200):
        h = states(seed=step)
        wanted = (effect[None, :, :, None] * h[:, graph.neighbors.long(), :, 0]).sum(2)
        loss = (m(h, table)[..., 1] - wanted).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    coefficients = m.coefficients(states(), table).view(BATCH, NODES, TIME, NEIGHBORS).mean((0, 2))
    signs = (coefficients * torch.where(against, -1.0, 1.0))[graph.valid]
    assert (signs * signs[0] > 0).all(), coefficients


def test_dropout_drops_coefficients_in_training_only(graph: Graph) -> None:
    m, table = layer(attention_dropout=0.5), NeighborTable(graph)
    valid = graph.valid[None, :, None, None].expand(BATCH, -1, TIME, m.heads, -1).flatten(0, 3)
    assert m.eval().coefficients(states(), table)[valid].ne(0).all()
    assert 0.2 < m.train().coefficients(states(), table)[valid].eq(0).float().mean() < 0.8


class LargestTensor(TorchDispatchMode):
    """Remembers how large the largest tensor that any operation made was."""

    def __init__(self) -> None:
        super().__init__()
        self.numel = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        self.numel = max([self.numel, *(x.numel() for x in tree_leaves(made) if isinstance(x, Tensor))])
        return made


def test_nothing_as_large_as_nodes_squared_is_ever_allocated() -> None:
    nodes = 500
    m, h = layer(), states(nodes)[:1, :, :1].clone().requires_grad_()
    table = NeighborTable(tiny_graph(nodes, NEIGHBORS))
    with LargestTensor() as sizes:
        m(h, table).square().sum().backward()
    assert h.grad is not None
    assert nodes * WIDTH <= sizes.numel < nodes * nodes / 10


def test_a_width_that_heads_do_not_divide_is_refused() -> None:
    with pytest.raises(InputError, match=r"ha_gat\.hidden_dim: 7 is no multiple of ha_gat\.heads = 2"):
        HAGATParams(hidden_dim=7, heads=2, regimes=4, hops=2, attention_dropout=0.2)


def test_one_sensor_alone_is_enough() -> None:
    m, h = layer(), states(1)
    found = m(h, NeighborTable(tiny_graph(1, NEIGHBORS)))
    assert_close(found, m.norm(torch.sigmoid(m.self_logit) * h))
