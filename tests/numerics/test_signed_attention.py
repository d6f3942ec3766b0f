"""Signed attention against its equations written plainly, and what it keeps."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from headway.nn.neighbor_table import NeighborTable, edge_dot, weighted_sum
from headway.nn.signed_attention import Edges, signed_attention, signed_coefficients
from tiny_model import tiny_graph

BATCH, NODES, TIME, HEADS, WIDTH, NEIGHBORS = 2, 5, 3, 2, 4, 3
STATE, SLOTS = HEADS * WIDTH, HEADS * NEIGHBORS


@pytest.fixture
def table() -> NeighborTable:
    return NeighborTable(tiny_graph(NODES, NEIGHBORS))


def given(table: NeighborTable, hops: int, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    """h, W_q, W_k, W_v, bias, agreement and the maps out; all with a gradient."""
    random = torch.Generator().manual_seed(0)
    shapes = [(BATCH, NODES, TIME, STATE), *3 * [(STATE, STATE)], (NODES, SLOTS), (BATCH, NODES, TIME, SLOTS)]
    drawn = [
        torch.randn(shape, generator=random, dtype=dtype) for shape in [*shapes, *hops * [(STATE, STATE)]]
    ]
    return [part.requires_grad_() for part in drawn]


def dropped(table: NeighborTable, dtype: torch.dtype = torch.float64) -> Tensor:
    """What dropout keeps of the edges that are there, scaled."""
    kept = torch.rand(BATCH, NODES, 1, SLOTS, generator=torch.Generator().manual_seed(1)) > 0.3
    return kept.to(dtype) / 0.7 * table.valid.repeat(1, HEADS)[None, :, None]


def ours(table: NeighborTable, parts: list[Tensor]) -> Tensor:
    h, query, key, value, bias, agreement, *out = parts
    padded = bias.masked_fill(~table.valid.repeat(1, HEADS), torch.finfo(bias.dtype).min / 2)
    edges = Edges(bias=padded, agreement=agreement, keep=dropped(table, h.dtype))
    return signed_attention(h, (query, key, value), out, edges, table.rows(BATCH, TIME, HEADS))


def plain(table: NeighborTable, parts: list[Tensor]) -> Tensor:
    h, query, key, value, bias, agreement, *out = parts
    rows = table.rows(BATCH, TIME, HEADS)
    q, k, v = ((h @ weight.t()).reshape(-1, WIDTH) for weight in (query, key, value))
    scores = edge_dot(q, k, rows).view(BATCH, NODES, TIME, HEADS, NEIGHBORS) / WIDTH**0.5
    raised = scores + bias.view(1, NODES, 1, HEADS, NEIGHBORS)
    raised = raised.masked_fill(~table.valid[None, :, None, None], torch.finfo(bias.dtype).min / 2)
    w = (raised.softmax(-1).flatten(-2) * agreement.tanh() * dropped(table, bias.dtype)).view(-1, NEIGHBORS)
    said = torch.zeros_like(h)
    for weight in out:
        v = weighted_sum(v, w, rows)
        said = said + v.view_as(h) @ weight.t()
    return said


@pytest.mark.parametrize("hops", [1, 2, 3])
def test_values_and_gradients_equal_the_equations(table: NeighborTable, hops: int) -> None:
    parts = given(table, hops)
    found, expected = ours(table, parts), plain(table, parts)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    gradients, wanted = (torch.autograd.grad(said.square().sum(), parts) for said in (found, expected))
    for one, other in zip(gradients, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("hops", [1, 2])
def test_gradients_equal_finite_differences(table: NeighborTable, hops: int) -> None:
    assert torch.autograd.gradcheck(lambda *parts: ours(table, list(parts)), given(table, hops))


def test_it_keeps_the_state_and_two_numbers_of_each_edge(table: NeighborTable) -> None:
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.numel()
        return tensor

    parts = [part.detach().requires_grad_() for part in given(table, 2, torch.float32)]
    h, query, key, value, bias, agreement, *out = parts
    edges = Edges(bias=bias, agreement=agreement, keep=dropped(table, h.dtype))
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        signed_attention(h, (query, key, value), out, edges, table.rows(BATCH, TIME, HEADS))
    rows = BATCH * NODES * TIME
    weights = sum(part.numel() for part in (query, key, value, *out))
    assert sum(kept.values()) == rows * (STATE + 2 * SLOTS) + weights + edges.keep.numel()


def test_under_autocast_maps_are_rounded_and_all_else_is_not(table: NeighborTable) -> None:
    parts = given(table, 2, torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        found = ours(table, parts)
    expected = plain(table, parts)
    assert found.dtype == torch.float32
    gradients, wanted = (torch.autograd.grad(said.sum(), parts) for said in (found, expected))
    for one, other in [(found, expected), *zip(gradients, wanted, strict=True)]:
        assert one.dtype == torch.float32 and not torch.equal(one, other)
        assert float((one - other).detach().norm() / other.detach().norm()) < 0.05


def test_coefficients_are_those_the_attention_sums_by(table: NeighborTable) -> None:
    h, query, key, value, bias, agreement, *_ = given(table, 1)
    padded = bias.masked_fill(~table.valid.repeat(1, HEADS), torch.finfo(bias.dtype).min / 2)
    edges = Edges(bias=padded, agreement=agreement, keep=dropped(table))
    rows, identity = table.rows(BATCH, TIME, HEADS), torch.eye(STATE, dtype=h.dtype)
    w = signed_coefficients(h, query, key, edges, rows)
    v = (h @ value.t()).reshape(-1, WIDTH)
    said = signed_attention(h, (query, key, value), [identity], edges, rows)
    torch.testing.assert_close(said, weighted_sum(v, w, rows).view_as(h), rtol=1e-12, atol=1e-12)
