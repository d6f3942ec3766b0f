"""GATv2 against its equations on dense matrices, against PyTorch Geometric, and what its docstring promises."""

from __future__ import annotations

import importlib
import importlib.util
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from headway.nn import gatv2
from headway.nn.gatv2 import GATv2, GATv2Params, additive_scores
from headway.nn.neighbor_table import NeighborTable
from headway.types import Graph
from tensor_sizes import LargestTensor
from tiny_model import tiny_graph

BATCH, NODES, TIME, WIDTH, NEIGHBORS, HEADS = 2, 6, 3, 8, 4, 3
PARAMS = GATv2Params(hidden_dim=WIDTH, heads=HEADS, attention_dropout=0.0, edge_dropout=0.0)
assert_close = partial(torch.testing.assert_close, rtol=1e-5, atol=1e-5)


def layer(seed: int = 0, **changes: Any) -> GATv2:
    """A layer whose bias and norm are not at their start."""
    torch.manual_seed(seed)
    made = GATv2(replace(PARAMS, **changes), edge_features=2)
    with torch.no_grad():
        for parameter in (made.bias, made.norm.weight, made.norm.bias):
            parameter += torch.randn_like(parameter)
    return made


def states(nodes: int = NODES, seed: int = 1) -> Tensor:
    return torch.randn(BATCH, nodes, TIME, WIDTH, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def graph() -> Graph:
    return tiny_graph(NODES, NEIGHBORS)


def edges(graph: Graph) -> tuple[Tensor, Tensor, Tensor]:
    """Reader, sensor read, and features of every edge."""
    reader, slot = graph.valid.nonzero(as_tuple=True)
    return reader, graph.neighbors[reader, slot].long(), graph.features[reader, slot]


def dense_layer(m: GATv2, h: Tensor, graph: Graph) -> Tensor:
    """The equations at the head of the module, one graph per (batch, time), with node x node x d arguments."""
    reader, read, features = edges(graph)
    adjacent, feature = torch.zeros(NODES, NODES).bool(), torch.zeros(NODES, NODES, 2)
    adjacent[reader, read], feature[reader, read] = True, features
    x = h.transpose(1, 2)  # batch time node d
    left = m.source(x).unflatten(-1, (m.heads, -1))
    right = m.reader(x).unflatten(-1, (m.heads, -1))
    argument = left[:, :, None] + right[:, :, :, None] + m.edge(feature).unflatten(-1, (m.heads, -1))
    score = (F.leaky_relu(argument, 0.2) * m.attention).sum(-1)  # batch time reader read head
    alpha = torch.where(adjacent.unsqueeze(-1), score, -torch.inf).softmax(3).nan_to_num(0)
    mean = torch.einsum("btijh,btjhd->btid", alpha, left) / m.heads
    return F.layer_norm(x + mean + m.bias, (WIDTH,), m.norm.weight, m.norm.bias).transpose(1, 2)


def gradients(found: Tensor, leaves: list[Tensor]) -> tuple[Tensor, ...]:
    weights = torch.randn(found.shape, generator=torch.Generator().manual_seed(3))
    return torch.autograd.grad((found * weights).sum(), leaves)


@pytest.mark.parametrize("heads", [1, 4])
def test_values_and_gradients_equal_the_equations_on_dense_matrices(graph: Graph, heads: int) -> None:
    m, h = layer(heads=heads), states().requires_grad_()
    found, expected = m(h, NeighborTable(graph)), dense_layer(m, h, graph)
    assert_close(found, expected)
    leaves = [h, *m.parameters()]
    for gradient, wanted in zip(gradients(found, leaves), gradients(expected, leaves), strict=True):
        torch.testing.assert_close(gradient, wanted, rtol=1e-3, atol=1e-4)


@pytest.mark.skipif(
    importlib.util.find_spec("torch_geometric") is None,
    reason="torch_geometric, a peer, is not installed: pip install torch_geometric; the dense reference runs without",
)
@pytest.mark.filterwarnings("ignore")
def test_values_and_gradients_equal_those_of_pytorch_geometric(graph: Graph) -> None:
    pyg = importlib.import_module("torch_geometric.nn")
    m, h = layer(), states().requires_grad_()
    theirs = pyg.GATv2Conv(WIDTH, WIDTH, heads=HEADS, concat=False, edge_dim=2, add_self_loops=False)
    renamed = {"source": "lin_l", "reader": "lin_r", "edge": "lin_edge", "attention": "att"}
    weights = {
        ".".join([renamed.get(name, name), *rest]): p.view(1, HEADS, WIDTH) if name == "attention" else p
        for (name, *rest), p in ((key.split("."), p) for key, p in m.state_dict().items())
        if name != "norm"
    }
    theirs.load_state_dict(weights)
    reader, read, features = edges(graph)
    rows = h.transpose(1, 2).reshape(-1, WIDTH)  # one graph after another
    first = torch.arange(0, len(rows), NODES).unsqueeze(1)
    index = torch.stack([(first + read).flatten(), (first + reader).flatten()])
    messages = theirs(rows, index, features.repeat(len(first), 1)).view(BATCH, TIME, NODES, WIDTH)
    found, expected = m(h, NeighborTable(graph)), m.norm(h + messages.transpose(1, 2))
    assert_close(found, expected)
    ours = [m.attention, m.source.weight, m.reader.weight, m.edge.weight, m.source.bias, h]
    lin = (theirs.lin_l.weight, theirs.lin_r.weight, theirs.lin_edge.weight, theirs.lin_l.bias)
    pairs = zip(gradients(found, ours), gradients(expected, [theirs.att, *lin, h]), strict=True)
    for gradient, wanted in pairs:
        torch.testing.assert_close(gradient, wanted.view_as(gradient), rtol=1e-3, atol=1e-4)


def score_inputs() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    random = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=random, dtype=torch.float64).requires_grad_()

    wide = (BATCH, NODES, TIME, HEADS, 2)
    return draw(*wide), draw(*wide), draw(HEADS * 2, 2), draw(HEADS, 2)


def test_the_gradient_of_the_scores_equals_finite_differences(graph: Graph) -> None:
    features, neighbors = graph.features.double(), graph.neighbors.long()
    assert torch.autograd.gradcheck(
        lambda s, r, w, a: additive_scores(s, r, w, a, features, neighbors), score_inputs()
    )


@pytest.mark.parametrize("numbers", [1, 80, 300, 10**6])
def test_the_size_of_the_chunks_changes_no_bit_of_a_score(
    graph: Graph, monkeypatch: pytest.MonkeyPatch, numbers: int
) -> None:
    inputs, known = score_inputs(), (graph.features.double(), graph.neighbors.long())
    whole = additive_scores(*inputs, *known)
    wanted = gradients(whole, list(inputs))
    monkeypatch.setitem(gatv2.CHUNK, "cpu", numbers)
    chunked = additive_scores(*inputs, *known)
    assert torch.equal(chunked, whole)
    for gradient, reference in zip(gradients(chunked, list(inputs)), wanted, strict=True):
        torch.testing.assert_close(gradient, reference)


def test_the_coefficients_of_a_sensor_with_neighbors_sum_to_one(graph: Graph) -> None:
    alpha = layer().coefficients(states() * 5, NeighborTable(graph))
    assert alpha.shape == (BATCH, NODES, TIME, HEADS, NEIGHBORS)
    assert alpha.masked_select(~graph.valid[None, :, None, None]).eq(0).all()
    total = alpha.sum(-1)
    assert total[:, 0].eq(0).all() and not graph.valid[0].any()
    assert_close(total[:, 1:], torch.ones_like(total[:, 1:]))


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
    assert_close(m(h[:, order], NeighborTable(renamed)), m(h, NeighborTable(graph))[:, order])


def test_a_sensor_without_neighbors_keeps_its_own_state(graph: Graph) -> None:
    m, h = layer(), states()
    found = m(h, NeighborTable(graph))
    assert_close(found[:, 0], m.norm(h[:, 0] + m.bias))
    assert not torch.isclose(found[:, -1], m.norm(h[:, -1] + m.bias)).all()


def test_one_sensor_alone_is_enough() -> None:
    m, h = layer(), states(1)
    assert_close(m(h, NeighborTable(tiny_graph(1, NEIGHBORS))), m.norm(h + m.bias))


def test_what_stands_on_padding_does_not_matter(graph: Graph) -> None:
    m, h = layer(), states().requires_grad_()
    other = replace(graph, features=torch.where(graph.valid.unsqueeze(-1), graph.features, 1e3))
    found, expected = m(h, NeighborTable(other)), m(h, NeighborTable(graph))
    assert_close(found, expected)
    leaves = [h, *m.parameters()]
    for gradient, wanted in zip(gradients(found, leaves), gradients(expected, leaves), strict=True):
        assert_close(gradient, wanted, rtol=1e-4, atol=1e-4)


def test_a_time_step_reads_no_other_time_step_and_no_other_window(graph: Graph) -> None:
    m, h, table = layer(), states(), NeighborTable(graph)
    changed = h.clone()
    changed[1, :, 2] += torch.randn(NODES, WIDTH, generator=torch.Generator().manual_seed(5))
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
    for name, tensor in [("h", h), *m.named_parameters()]:
        assert tensor.grad is not None and tensor.grad.isfinite().all(), name


def test_extreme_scores_stay_finite(graph: Graph) -> None:
    m, h = layer(), (states() * 1e4).requires_grad_()
    found = m(h, NeighborTable(graph))
    found.sum().backward()
    assert found.isfinite().all()
    assert h.grad is not None and h.grad.isfinite().all()


def test_a_dropped_edge_is_gone_at_every_step_of_its_window_and_the_others_take_its_weight() -> None:
    nodes, graph = 40, tiny_graph(40, NEIGHBORS)
    m, table = layer(edge_dropout=0.5), NeighborTable(graph)
    alpha = m.train().coefficients(states(nodes), table)
    valid = graph.valid[None, :, None, None].expand_as(alpha)
    gone = alpha.eq(0) & valid
    assert 0.3 < (gone.sum() / valid.sum()).item() < 0.7
    assert gone.eq(gone[:, :, :1, :1]).all()
    assert (gone[0] != gone[1]).any()
    total = alpha.sum(-1)
    assert_close(total, total.round())
    everything_gone = (gone | ~valid).all(-1)
    assert torch.equal(total.round() == 0, everything_gone)


def test_edges_drop_in_training_only_and_the_same_ones_from_the_same_seed(graph: Graph) -> None:
    m, table = layer(edge_dropout=0.5), NeighborTable(graph)
    assert torch.equal(m.eval()(states(), table), layer()(states(), table))
    drawn = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        drawn.append(m.train()(states(), table))
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])


def test_attention_dropout_acts_in_training_only(graph: Graph) -> None:
    m, table = layer(attention_dropout=0.5), NeighborTable(graph)
    kept = m.eval()(states(), table)
    assert torch.equal(kept, layer()(states(), table))
    assert not torch.allclose(m.train()(states(), table), kept)


def largest(nodes: int, degree: int) -> int:
    m, h = layer(), states(nodes)[:1].clone().requires_grad_()
    table = NeighborTable(tiny_graph(nodes, degree))
    with LargestTensor() as sizes:
        m(h, table).square().sum().backward()
    assert h.grad is not None
    return sizes.numel


def test_the_largest_tensor_grows_with_the_sensors_and_never_holds_a_vector_per_edge_and_head() -> None:
    degree = 15
    few, many = largest(250, degree), largest(500, degree)
    assert many <= 2 * few
    assert 500 * TIME * WIDTH <= many < 500 * 500 * TIME / 8
    assert many < 500 * TIME * degree * HEADS * WIDTH / 7
