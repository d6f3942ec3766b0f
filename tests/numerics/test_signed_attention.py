"""Signed attention against its equations written plainly, and what it keeps."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from headway.nn.neighbor_table import NeighborTable
from headway.nn.signed_attention import Weights, signed_attention, signed_coefficients
from tiny_model import tiny_graph

BATCH, NODES, TIME, HEADS, WIDTH, NEIGHBORS, REGIMES, HALF = 2, 5, 3, 2, 4, 3, 3, 6
STATE, SLOTS = HEADS * WIDTH, HEADS * NEIGHBORS


@pytest.fixture
def table() -> NeighborTable:
    return NeighborTable(tiny_graph(NODES, NEIGHBORS)).double()


def given(hops: int, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    """h and the weights, one after the other; all with a gradient."""
    shapes = [
        *[(BATCH, NODES, TIME, STATE), (STATE,), *3 * [(STATE, STATE)], (hops, STATE, STATE)],
        *2 * [(NODES, SLOTS)],
        *[(HALF, STATE), (HALF,), (HALF, STATE), (REGIMES, HALF), (REGIMES,), (HEADS, REGIMES, REGIMES)],
    ]
    random = torch.Generator().manual_seed(0)
    drawn = [torch.randn(shape, generator=random, dtype=dtype) for shape in shapes]
    return [part.requires_grad_() for part in drawn]


def dropped(table: NeighborTable, dtype: torch.dtype = torch.float64) -> Tensor:
    """What dropout keeps of the edges that are there, scaled."""
    random = torch.Generator().manual_seed(1)
    kept = torch.rand(BATCH, NODES, 1, HEADS, NEIGHBORS, generator=random) > 0.3
    return kept.to(dtype) / 0.7 * table.valid[None, :, None, None]


def padded(table: NeighborTable, weights: Weights) -> Weights:
    lowest = torch.finfo(weights.bias.dtype).min / 2
    return weights._replace(bias=weights.bias.masked_fill(~table.valid.repeat(1, HEADS), lowest))


def ours(table: NeighborTable, parts: list[Tensor]) -> Tensor:
    h, *weights = parts
    return signed_attention(h, padded(table, Weights.of(weights)), dropped(table, h.dtype), table)


def near(table: NeighborTable, x: Tensor) -> Tensor:
    """What the neighbors of each sensor have: [batch, node, neighbor, time, ...]."""
    return x[:, table.neighbors]


def plain(table: NeighborTable, parts: list[Tensor]) -> Tensor:
    """The equations at the heads of both modules."""
    h, weights = parts[0], padded(table, Weights.of(parts[1:]))
    w = plain_coefficients(table, h, weights)
    said, reached = weights.loop * h, (h @ weights.value.t()).unflatten(-1, (HEADS, WIDTH))
    for weight in weights.out:
        reached = torch.einsum("bnthk,bnkthw->bnthw", w, near(table, reached))
        said = said + reached.flatten(-2) @ weight.t()
    return said


def plain_coefficients(table: NeighborTable, h: Tensor, weights: Weights) -> Tensor:
    regimes, edges = weights.regimes, (NODES, 1, HEADS, NEIGHBORS)
    shares = table.valid / table.valid.sum(1, keepdim=True).clamp(min=1)
    mean = torch.einsum("nk,bnktd->bntd", shares.to(h.dtype), near(table, h))
    hidden = torch.relu(h @ regimes.own.t() + regimes.own_bias + mean @ regimes.mean.t())
    p = (hidden @ regimes.regime.t() + regimes.regime_bias).softmax(-1)
    agreement = torch.einsum("bntc,hcg,bnktg->bnthk", p, regimes.preference, near(table, p))
    q, k = ((h @ weight.t()).unflatten(-1, (HEADS, WIDTH)) for weight in (weights.query, weights.key))
    scores = torch.einsum("bnthw,bnkthw->bnthk", q, near(table, k)) + weights.bias.view(edges)
    sign = torch.tanh(agreement + weights.usual.view(edges))
    return scores.softmax(-1) * sign * dropped(table, h.dtype)


@pytest.mark.usefixtures("arithmetic")
@pytest.mark.parametrize("hops", [1, 2, 3])
def test_values_and_gradients_equal_the_equations(table: NeighborTable, hops: int) -> None:
    parts = given(hops)
    found, expected = ours(table, parts), plain(table, parts)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    gradients, wanted = (torch.autograd.grad(said.square().sum(), parts) for said in (found, expected))
    for one, other in zip(gradients, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("hops", [1, 2])
def test_gradients_equal_finite_differences(table: NeighborTable, hops: int) -> None:
    assert torch.autograd.gradcheck(lambda *parts: ours(table, list(parts)), given(hops))


def test_it_keeps_the_state_a_hidden_layer_and_two_numbers_of_each_edge(table: NeighborTable) -> None:
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.numel()
        return tensor

    h, *weights = given(2, torch.float32)
    dropout = dropped(table, h.dtype)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        signed_attention(h, Weights.of(weights), dropout, table)
    rows = BATCH * NODES * TIME
    constant = sum(part.numel() for part in weights) + dropout.numel()
    assert sum(kept.values()) == rows * (STATE + HALF + 2 * SLOTS) + constant


def test_under_autocast_maps_are_rounded_and_all_else_is_not(table: NeighborTable) -> None:
    parts = given(2, torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        found = ours(table, parts)
    expected = plain(table, parts)
    assert found.dtype == torch.float32
    gradients, wanted = (torch.autograd.grad(said.square().sum(), parts) for said in (found, expected))
    for one, other in [(found, expected), *zip(gradients, wanted, strict=True)]:
        assert one.dtype == torch.float32 and not torch.equal(one, other)
        assert float((one - other).detach().norm() / other.detach().norm()) < 0.05


@pytest.mark.parametrize("forward_too", [False, True])
def test_gradients_are_the_same_where_autocast_goes_on(table: NeighborTable, forward_too: bool) -> None:
    parts = given(2, torch.float32)
    with torch.autocast("cpu", torch.bfloat16, enabled=forward_too):
        said = ours(table, parts).square().sum()
    outside = torch.autograd.grad(said, parts, retain_graph=True)
    with torch.autocast("cpu", torch.bfloat16):
        inside = torch.autograd.grad(said, parts)
    assert all(torch.equal(one, other) for one, other in zip(outside, inside, strict=True))


def test_states_with_foreign_strides_give_the_same(table: NeighborTable) -> None:
    h, *weights = given(2)
    foreign = [h.detach().transpose(1, 2).contiguous().transpose(1, 2).requires_grad_(), *weights]
    found, expected = ours(table, foreign), ours(table, [h, *weights])
    assert torch.equal(found, expected)
    gradients = torch.autograd.grad(found.square().sum(), foreign)
    wanted = torch.autograd.grad(expected.square().sum(), [h, *weights])
    assert all(torch.equal(one, other) for one, other in zip(gradients, wanted, strict=True))


def test_coefficients_are_those_the_attention_sums_by(table: NeighborTable) -> None:
    h, *weights = given(1)
    found = signed_coefficients(h, padded(table, Weights.of(weights)), dropped(table), table)
    expected = plain_coefficients(table, h, padded(table, Weights.of(weights)))
    torch.testing.assert_close(found, expected.flatten(0, 3), rtol=1e-12, atol=1e-12)


def test_scores_of_any_size_give_finite_gradients(table: NeighborTable) -> None:
    h, *weights = given(2)
    parts = [(h.detach() * 1e4).requires_grad_(), *weights]
    gradients, wanted = (torch.autograd.grad(of(table, parts).sum(), parts) for of in (ours, plain))
    for one, other in zip(gradients, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-7, atol=1e-7)
