"""The hypergraph operator against dense matrices."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from headway.errors import InputError
from headway.graph import hypergraph as search
from headway.graph.hypergraph import nearest_members, road_members, strongest_pairs
from headway.nn.hypergraph import Hyperedges, Hypergraph, PairsOfGraph
from headway.nn.hypergraph_conv import HyperedgeConv, MixProp, member_dots, to_edges, to_nodes
from headway.nn.neighbor_table import NeighborTable
from tensor_sizes import LargestTensor
from tiny_hypergraph import made_operator, with_weights
from tiny_model import NODES, stirred, tiny_graph

TABLE = NeighborTable(tiny_graph())


def readings(nodes: int = NODES, batch: int = 2, time: int = 3, d: int = 8, seed: int = 0) -> Tensor:
    return torch.randn(batch, nodes, time, d, generator=torch.Generator().manual_seed(seed))


def only_part(operator: Hypergraph) -> nn.Module:
    (part,) = operator.orders
    return part


def matrix(weights: Tensor, members: Tensor, nodes: int) -> Tensor:
    """Incidence [edge, node] as a dense matrix."""
    dense = torch.zeros(len(members), nodes)
    for edge, row in enumerate(members.tolist()):
        for slot, node in enumerate(row):
            dense[edge, node] += weights[edge, slot]
    return dense


# --- which sensors belong together --------------------------------------------------------------------------


@pytest.mark.parametrize("block", [1, 7, 2**22])
def test_the_members_are_the_nearest_however_the_search_is_cut(
    block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search, "BLOCK", block)
    points = torch.randn(9, 4, generator=torch.Generator().manual_seed(1))
    members, _ = nearest_members(points, 4)
    distance = (points.unsqueeze(1) - points).norm(dim=-1)
    for node in range(9):
        assert members[node, 0] == node
        assert set(members[node].tolist()) == set(distance[node].argsort()[:4].tolist())
    pairs = strongest_pairs(points, points.flip(0), 3)
    score = points @ points.flip(0).T - points.flip(0) @ points.T
    score.fill_diagonal_(-torch.inf)
    assert torch.equal(pairs.sort(1).values, score.topk(3, 1).indices.sort(1).values)


def test_sets_of_the_same_sensors_are_one_hyperedge() -> None:
    members, present = nearest_members(torch.tensor([[0.0], [1.0], [5.0], [6.0]]), 2)
    assert members.tolist() == [[0, 1], [1, 0], [2, 3], [3, 2]]
    assert present.tolist() == [[True, True], [False, False], [True, True], [False, False]]


def test_more_members_than_sensors_are_padding() -> None:
    members, present = nearest_members(torch.randn(2, 3), 4)
    assert members.shape == (2, 4) and present[0].tolist() == [True, True, False, False]
    assert strongest_pairs(torch.randn(1, 3), torch.randn(1, 3), 2).tolist() == [[0, 0]]


def test_the_hyperedges_of_roads_join_the_heaviest_neighbors() -> None:
    graph = with_weights(tiny_graph())
    members, present, weights = road_members(graph, 3)
    for node in range(NODES):
        heavy = graph.features[node, :, 1].masked_fill(~graph.valid[node], -1).topk(2)
        known = [int(graph.neighbors[node, slot]) for slot in heavy.indices if graph.valid[node, slot]]
        assert members[node].tolist()[: 1 + len(known)] == [node, *known]
    assert present[0].tolist() == [True, False, False], "a sensor without neighbors is alone"
    assert weights[~present].eq(0).all() and weights[present].gt(0).all()


def test_the_search_never_holds_sensors_by_sensors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "BLOCK", 2**12)
    nodes = 400
    operator = made_operator(tiny_graph(nodes), orders=(2, 3, 4))
    x = readings(nodes, batch=1, time=2)
    with LargestTensor() as sizes:
        operator.begin_step(0)
        operator(x, TABLE).square().sum().backward()
    assert sizes.numel < nodes * nodes / 4


# --- arithmetic ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rows", [1, 4])
def test_the_sums_are_those_of_a_dense_matrix_and_so_are_their_gradients(rows: int) -> None:
    random = torch.Generator().manual_seed(0)
    members = torch.randint(6, (5, 3), generator=random)
    x = torch.randn(6, 4, 2, generator=random, dtype=torch.float64, requires_grad=True)
    edges = torch.randn(5, 4, 2, generator=random, dtype=torch.float64, requires_grad=True)
    weights = torch.rand(5, 3, rows, generator=random, dtype=torch.float64, requires_grad=True)
    dense = torch.nn.functional.one_hot(members, 6).double()  # edge member node
    expected = torch.einsum("ekr,ekn,nrd->erd", weights.expand(-1, -1, 4), dense, x)
    torch.testing.assert_close(to_edges(x, weights, members), expected)
    expected = torch.einsum("ekr,ekn,erd->nrd", weights.expand(-1, -1, 4), dense, edges)
    torch.testing.assert_close(to_nodes(edges, weights, members, 6), expected)
    assert torch.autograd.gradcheck(lambda x, weights: to_edges(x, weights, members), (x, weights))
    assert torch.autograd.gradcheck(
        lambda edges, weights: to_nodes(edges, weights, members, 6), (edges, weights)
    )
    assert torch.autograd.gradcheck(lambda edges, x: member_dots(edges, x, members), (edges, x))


def test_a_convolution_is_its_equation_with_dense_matrices() -> None:
    operator = made_operator(orders=(3,))
    part = only_part(operator)
    assert isinstance(part, Hyperedges)
    x = readings()[0]  # node row d
    incidence = matrix(part.weights(), part.members, NODES)
    conv = part.conv
    edges = torch.einsum("en,nrd->erd", incidence, conv.inward(x))
    edges = conv.outward(torch.relu(edges))
    expected = torch.einsum("en,erd->nrd", incidence, edges) / incidence.sum(0).view(-1, 1, 1)
    torch.testing.assert_close(part(x), expected, rtol=1e-4, atol=1e-5)


def test_attention_weighs_the_members_of_a_hyperedge() -> None:
    part = only_part(made_operator(orders=(3,), kind="hgat"))
    assert isinstance(part, Hyperedges)
    x, conv, weights = readings()[0], part.conv, part.weights()
    assert conv.query is not None and conv.key is not None
    expected = torch.zeros(len(part.members), *x.shape[1:])
    for edge in range(len(part.members)):
        slots = [slot for slot in range(3) if part.present[edge, slot]]
        if not slots:
            continue
        nodes = part.members[edge, slots]
        middle = conv.key((weights[edge, slots].view(-1, 1, 1) * x[nodes]).sum(0))
        scores = (conv.query(x[nodes]) * middle).sum(-1) / 8**0.5 + weights[edge, slots].log().unsqueeze(1)
        inward = (scores.softmax(0).unsqueeze(-1) * conv.inward(x[nodes])).sum(0)
        expected[edge] = conv.outward(torch.relu(inward))
    incidence = matrix(weights, part.members, NODES)
    expected = torch.einsum("en,erd->nrd", incidence, expected) / incidence.sum(0).view(-1, 1, 1)
    torch.testing.assert_close(part(x), expected, rtol=1e-4, atol=1e-5)


def test_hsage_joins_what_is_read_with_the_sensor_itself() -> None:
    torch.manual_seed(0)
    sage, plain = HyperedgeConv(8, "hsage"), HyperedgeConv(8, "hgcn")
    plain.load_state_dict(sage.state_dict(), strict=False)
    members, present, weights = road_members(with_weights(tiny_graph()), 3)
    x = readings()[0]
    assert sage.own is not None and sage.combine is not None
    expected = sage.combine(torch.cat([plain(x, members, present, weights), sage.own(x)], -1))
    torch.testing.assert_close(sage(x, members, present, weights), expected)


def test_mixprop_is_its_equation_with_a_dense_matrix() -> None:
    part = only_part(made_operator(orders=(2,)))
    assert isinstance(part, PairsOfGraph) and isinstance(part.conv, MixProp)
    x, identity = readings()[0], torch.eye(NODES)
    adjacency = matrix(part.weights(), part.neighbors, NODES)
    expected = torch.zeros(())
    for graph, linear in ((adjacency, part.conv.along), (adjacency.T, part.conv.against)):
        step = (graph + identity) / (graph + identity).sum(1, keepdim=True)
        hops = [x]
        for _ in range(2):
            hops.append(0.05 * x + 0.95 * torch.einsum("ij,jrd->ird", step, hops[-1]))
        expected = expected + linear(torch.cat(hops, -1))
    torch.testing.assert_close(part(x), expected, rtol=1e-4, atol=1e-5)


def test_order_two_is_the_pairwise_operator_of_nearest_neighbors() -> None:
    part = only_part(made_operator(orders=(2,), pairs="edges"))
    assert isinstance(part, Hyperedges) and part.places is not None
    x, conv, points = readings()[0], part.conv, part.places()
    distance = (points.unsqueeze(1) - points).square().mean(-1).fill_diagonal_(torch.inf)
    nearest = {frozenset((node, int(distance[node].argmin()))) for node in range(NODES)}
    heard: dict[int, list[Tensor]] = {node: [] for node in range(NODES)}
    for one, other in (tuple(pair) for pair in nearest):  # both stand as far from their middle
        message = conv.outward(torch.relu((conv.inward(x[one]) + conv.inward(x[other])) / 2))
        heard[one].append(message)
        heard[other].append(message)
    expected = torch.stack([torch.stack(heard[node]).mean(0) for node in range(NODES)])
    torch.testing.assert_close(part(x), expected, rtol=1e-4, atol=1e-5)


def test_order_one_reads_no_other_sensor() -> None:
    operator, x = made_operator(orders=(1,)), readings()
    other = x.clone()
    other[:, 1:] += 1
    assert torch.equal(operator(other, TABLE)[:, 0], operator(x, TABLE)[:, 0])


# --- mixing the orders --------------------------------------------------------------------------------------


def test_a_share_of_one_makes_the_parameters_of_the_other_order_irrelevant() -> None:
    operator, x = made_operator(mixing="fixed", shares=(1.0, 0.0)), readings()
    before = operator(x, TABLE)
    stirred(operator.orders[1])
    assert torch.equal(operator(x, TABLE), before)
    stirred(operator.orders[0])
    assert not torch.equal(operator(x, TABLE), before)


def test_half_and_half_is_the_mean_of_the_orders() -> None:
    operator, x = made_operator(mixing="fixed"), readings()
    rows = x.transpose(0, 1).flatten(1, 2)
    mean = (operator.orders[0](rows) + operator.orders[1](rows)) / 2
    expected = operator.norm(x + mean.unflatten(1, (2, 3)).transpose(0, 1))
    torch.testing.assert_close(operator(x, TABLE), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("mixing", ["learned", "gated"])
def test_shares_that_learn_start_where_they_were_told(mixing: str) -> None:
    operator = made_operator(mixing=mixing, shares=(0.2, 0.8))
    rows = readings().transpose(0, 1).flatten(1, 2)
    mean = operator.gamma(0 * rows).reshape(-1, 2).mean(0)
    torch.testing.assert_close(mean, torch.tensor([0.2, 0.8]))
    spread = operator.gamma(rows).reshape(-1, 2).std(0, correction=0)
    assert bool(spread.max() > 0.01) is (mixing == "gated"), "each sensor and step has its own"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"orders": (2, 2)}, "names an order twice"),
        ({"shares": (1.0,)}, "a share for each"),
        ({"shares": (0.7, 0.7)}, "sum to 1"),
        ({"shares": (1.0, 0.0), "mixing": "gated"}, "can only be fixed"),
    ],
)
def test_orders_and_shares_that_do_not_fit_are_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        made_operator(**changes)
