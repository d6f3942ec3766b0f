"""Sums and dots along edges against dense matrices, their gradients against autograd of a plain gather."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from headway.nn.edges import neighbor_mean, neighbor_mean_back, sampled_dot, weighted_sum
from headway.nn.neighbor_table import KEPT_SHAPES, NeighborTable, Rows
from headway.types import Graph
from tiny_model import tiny_graph

BATCH, NODES, TIME, HEADS, WIDTH, NEIGHBORS = 2, 5, 3, 2, 4, 3


@pytest.fixture
def table() -> NeighborTable:
    return NeighborTable(tiny_graph(NODES, NEIGHBORS))


def numbered(table: NeighborTable) -> Rows:
    return table.rows(BATCH, TIME, HEADS)


def operands(
    dtype: torch.dtype = torch.float64, rows: int = BATCH * NODES * TIME * HEADS
) -> tuple[Tensor, Tensor, Tensor]:
    """q, v [row, width] and w [row, neighbor]; rows count (batch, node, time, head)."""
    random = torch.Generator().manual_seed(0)
    q, v = (torch.randn(rows, WIDTH, generator=random, dtype=dtype, requires_grad=True) for _ in range(2))
    w = torch.randn(rows, NEIGHBORS, generator=random, dtype=dtype)
    return q, v, w


def padding_mask(table: NeighborTable) -> Tensor:
    return table.valid.view(1, NODES, 1, 1, -1).expand(BATCH, -1, TIME, HEADS, -1).reshape(-1, NEIGHBORS)


def reader_matrix(table: NeighborTable, w: Tensor) -> Tensor:
    """The weights as [row, row], zero where nothing is read: what must never be needed in earnest."""
    weights = w.view(BATCH, NODES, TIME, HEADS, NEIGHBORS)
    reads = torch.eye(NODES, dtype=w.dtype)[table.neighbors] * table.valid.unsqueeze(-1)  # node neighbor node
    same = [torch.eye(count, dtype=w.dtype) for count in (BATCH, TIME, HEADS)]
    dense = torch.einsum("bnthk,nkm,bc,ts,hg->bnthcmsg", weights, reads, *same)
    rows = BATCH * NODES * TIME * HEADS
    return dense.reshape(rows, rows)


def plain_sum(v: Tensor, w: Tensor, rows: Rows) -> Tensor:
    return (w.unsqueeze(-1) * v[rows.numbers.source.long()].view(*w.shape, -1)).sum(1)


def plain_dot(q: Tensor, v: Tensor, rows: Rows) -> Tensor:
    return (q.unsqueeze(1) * v[rows.numbers.source.long()].view(len(q), -1, q.shape[-1])).sum(-1)


def test_weighted_sum_equals_a_dense_product(table: NeighborTable) -> None:
    _, v, w = operands()
    w = w * padding_mask(table)
    found = weighted_sum(v, w, numbered(table))
    torch.testing.assert_close(found, reader_matrix(table, w) @ v, rtol=1e-12, atol=1e-12)


def test_a_sampled_dot_equals_a_dense_product(table: NeighborTable, arithmetic: str) -> None:
    q, v, _ = (x.detach() for x in operands())
    valid = padding_mask(table)
    spread = reader_matrix(table, sampled_dot(q, v, numbered(table)) * valid)
    dense = (q @ v.T) * reader_matrix(table, valid.double())
    torch.testing.assert_close(spread, dense, rtol=1e-12, atol=1e-12)


def test_gradients_equal_finite_differences(table: NeighborTable, arithmetic: str) -> None:
    _, v, w = operands(rows=NODES)
    rows, valid = table.rows(1, 1, 1), table.valid
    w.requires_grad_()
    assert torch.autograd.gradcheck(lambda v, w: weighted_sum(v, w * valid, rows), (v, w))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_values_and_gradients_equal_a_gather(
    table: NeighborTable, arithmetic: str, dtype: torch.dtype
) -> None:
    q, v, w = operands(dtype)
    rows, valid = numbered(table), padding_mask(table)
    w.requires_grad_()
    close = 1e-5 if dtype == torch.float32 else 1e-12
    dots = sampled_dot(q.detach(), v.detach(), rows)
    torch.testing.assert_close(dots, plain_dot(q, v, rows).detach(), rtol=close, atol=close)
    found = weighted_sum(v, dots * w * valid, rows)
    expected = plain_sum(v, dots * w * valid, rows)
    torch.testing.assert_close(found, expected, rtol=close, atol=close)
    gradients = torch.autograd.grad(found.square().sum(), (v, w))
    wanted = torch.autograd.grad(expected.square().sum(), (v, w))
    for gradient, reference in zip(gradients, wanted, strict=True):
        torch.testing.assert_close(gradient, reference, rtol=10 * close, atol=close)


@pytest.mark.parametrize("width", [1, 8, 12])
def test_dots_of_any_width_equal_a_gather(table: NeighborTable, arithmetic: str, width: int) -> None:
    random, rows = torch.Generator().manual_seed(0), numbered(table)
    count = BATCH * NODES * TIME * HEADS
    q, v = (torch.randn(count, width, generator=random, dtype=torch.float64) for _ in range(2))
    torch.testing.assert_close(sampled_dot(q, v, rows), plain_dot(q, v, rows), rtol=1e-12, atol=1e-12)


def test_a_mean_over_neighbors_and_its_gradient_equal_those_of_shares(table: NeighborTable) -> None:
    random = torch.Generator().manual_seed(0)
    v = torch.randn(BATCH, NODES, TIME, WIDTH, generator=random, dtype=torch.float64, requires_grad=True)
    shares = (table.valid / table.valid.sum(1, keepdim=True).clamp(min=1)).double()
    found = neighbor_mean(v.detach(), table)
    expected = torch.einsum("nk,bnktw->bntw", shares, v[:, table.neighbors])
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    (gradient,) = torch.autograd.grad(expected.square().sum(), v)
    torch.testing.assert_close(neighbor_mean_back(2 * found, table), gradient, rtol=1e-12, atol=1e-12)


def test_operands_with_foreign_strides_give_the_same(table: NeighborTable, arithmetic: str) -> None:
    q, v, w = (x.detach() for x in operands())
    rows = numbered(table)

    def transposed(x: Tensor) -> Tensor:
        return x.T.contiguous().T

    assert torch.equal(sampled_dot(transposed(q), transposed(v), rows), sampled_dot(q, v, rows))
    assert torch.equal(weighted_sum(transposed(v), transposed(w), rows), weighted_sum(v, w, rows))


def test_the_same_input_gives_the_same_bits_twice(table: NeighborTable) -> None:
    def once() -> tuple[Tensor, ...]:
        q, v, w = operands(torch.float32)
        rows, w = NeighborTable(tiny_graph(NODES, NEIGHBORS)).rows(BATCH, TIME, HEADS), w.requires_grad_()
        out = weighted_sum(v, w * padding_mask(table), rows)
        with torch.no_grad():
            dots = sampled_dot(q, v, rows)
        return dots, out, *torch.autograd.grad(out.square().sum(), (v, w))

    assert all(torch.equal(one, two) for one, two in zip(once(), once(), strict=True))


def test_padding_reads_its_own_row_and_gives_nothing_back(table: NeighborTable) -> None:
    rows, valid = numbered(table), padding_mask(table)
    own = torch.arange(len(valid)).unsqueeze(1).expand_as(valid)
    assert torch.equal(rows.numbers.source.view_as(valid)[~valid], own[~valid].int())
    assert len(rows.numbers.reverse_slot) == int(valid.sum())
    assert valid.flatten()[rows.numbers.reverse_slot.long()].all()


def test_a_table_without_any_neighbor_sums_to_zero(arithmetic: str) -> None:
    for width in (0, 2):
        nodes = torch.arange(3).unsqueeze(1).expand(-1, width).contiguous()
        graph = Graph(neighbors=nodes, valid=torch.zeros(3, width).bool(), features=torch.zeros(3, width, 2))
        rows = NeighborTable(graph).rows(1, 2, 1)
        v = torch.randn(6, 4, requires_grad=True)
        scores = sampled_dot(v.detach(), v.detach(), rows)
        assert scores.shape == (6, width)
        out = weighted_sum(v, scores * 0, rows)
        assert torch.equal(out, torch.zeros(6, 4))
        (gradient,) = torch.autograd.grad(out.sum(), v)
        assert torch.equal(gradient, torch.zeros(6, 4))


@pytest.mark.parametrize("wrong", [-1, NODES, 10**7])
def test_a_neighbor_that_is_no_sensor_is_refused_on_padding_too(wrong: int) -> None:
    graph = tiny_graph(NODES, NEIGHBORS)
    graph.neighbors[~graph.valid] = wrong
    assert not graph.valid.all()
    with pytest.raises(AssertionError, match=f"no sensors: .{wrong}"):
        NeighborTable(graph)


def test_second_derivatives_are_refused_not_lost(table: NeighborTable) -> None:
    _, v, w = operands()
    found = weighted_sum(v, w.requires_grad_(), numbered(table)).square().sum()
    (gradient,) = torch.autograd.grad(found, v, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


def test_row_numbers_are_made_once_a_shape_and_few_are_kept(table: NeighborTable) -> None:
    assert table.rows(1, 2, 1) is table.rows(1, 2, 1)
    for batch in range(1, KEPT_SHAPES + 3):
        table.rows(batch, 1, 1)
    assert len(table._rows) == KEPT_SHAPES


def test_row_numbers_made_in_inference_serve_a_later_training_step(table: NeighborTable) -> None:
    with torch.inference_mode():
        assert numbered(table).numbers is numbered(table).numbers
    _, v, w = operands()
    weighted_sum(v, w.requires_grad_() * padding_mask(table), numbered(table)).sum().backward()
    assert v.grad is not None and w.grad is not None


def test_more_rows_than_the_index_can_count_are_refused(table: NeighborTable) -> None:
    with pytest.raises(AssertionError, match="use a smaller micro-batch"):
        table.rows(2**26, TIME, HEADS).numbers  # noqa: B018
