"""Sums and dots in C, of every kind of width and number of neighbors, against plain ones in float64."""

from __future__ import annotations

import pytest
import torch
from jaxtyping import TypeCheckError
from torch import Tensor

from compiler import needs_compiler
from headway.nn import edges_in_c, native
from headway.nn.edges import bag, bag_and_dot, reverse_bag, sampled_dot, why_not_in_c
from headway.nn.neighbor_table import NeighborTable, Rows
from headway.types import Graph

pytestmark = needs_compiler
BATCH, NODES, TIME = 2, 7, 3
COUNT = BATCH * NODES * TIME


@pytest.fixture(autouse=True)
def in_c(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What has been asked of C."""
    assert not why_not_in_c()
    asked, call = [], native.call

    def told(name: str, *given: object) -> None:
        asked.append(name)
        call(name, *given)  # pyright: ignore[reportArgumentType]

    monkeypatch.setattr(native, "call", told)
    return asked


def table_of(neighbors: int) -> Rows:
    random = torch.Generator().manual_seed(neighbors)
    valid = torch.rand(NODES, neighbors, generator=random) < 0.7
    reads = torch.randint(NODES, (NODES, neighbors), generator=random)
    reads = torch.where(valid, reads, torch.arange(NODES).unsqueeze(1))
    graph = Graph(neighbors=reads, valid=valid, features=torch.zeros(NODES, neighbors, 0))
    return NeighborTable(graph).rows(BATCH, TIME, 1)


def operands(width: int, neighbors: int) -> tuple[Tensor, Tensor, Tensor]:
    random = torch.Generator().manual_seed(width)
    shapes = (COUNT, width), (COUNT, width), (COUNT, neighbors)
    q, v, w = (torch.randn(shape, generator=random, dtype=torch.float32) for shape in shapes)
    return q, v, w


@pytest.mark.parametrize("width", [1, 3, 4, 5, 8, 12, 15, 16, 17, 20, 24, 31, 32, 33, 40, 48, 64, 100])
@pytest.mark.parametrize("neighbors", [1, 3, 15, 16, 17, 33])
def test_they_are_those_of_gathered_rows_in_float64(width: int, neighbors: int, in_c: list[str]) -> None:
    rows, (q, v, w) = table_of(neighbors), operands(width, neighbors)
    gathered = v.double()[rows.numbers.source.long()].view(COUNT, neighbors, width)
    slot = rows.numbers.reverse_slot.long()
    sent = w.double().flatten()[slot].unsqueeze(1) * v.double()[rows.numbers.reverse_owner.long()]
    back = torch.zeros(COUNT, width, dtype=torch.float64).index_add_(
        0, rows.numbers.source.long()[slot], sent
    )
    dots = (q.double().unsqueeze(1) * gathered).sum(2)
    sums = (w.double().unsqueeze(2) * gathered).sum(1)
    found = sampled_dot(q, v, rows), bag(v, w, rows), reverse_bag(v, w, rows), *bag_and_dot(v, w, q, rows)
    assert in_c == ["sampled_dot", "bag", "reverse_bag", "bag_and_dot"]
    assert torch.equal(found[0], found[4]) and torch.equal(found[1], found[3])
    for ours, plain in zip(found, (dots, sums, back, sums, dots), strict=True):
        torch.testing.assert_close(ours.double(), plain, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("width", [4, 32])
def test_numbers_that_are_none_stay_in_the_rows_that_read_them(width: int) -> None:
    rows, (q, v, w) = table_of(5), operands(width, 5)
    v[11] = torch.nan
    reads = (rows.numbers.source == 11).view(COUNT, 5)
    assert torch.equal(sampled_dot(q, v, rows).isnan(), reads)
    assert torch.equal(bag(v, w, rows).isnan().any(1), reads.any(1))


def test_the_number_of_threads_changes_no_bit() -> None:
    rows, (q, v, w) = table_of(15), operands(32, 15)
    threads, made = torch.get_num_threads(), []
    try:
        for count in (1, 2, 5):
            torch.set_num_threads(count)
            made.append((*bag_and_dot(v, w, q, rows), reverse_bag(v, w, rows)))
    finally:
        torch.set_num_threads(threads)
    assert all(
        torch.equal(one, other) for others in made[1:] for one, other in zip(made[0], others, strict=True)
    )


def test_operands_with_foreign_strides_give_the_same() -> None:
    rows, given = table_of(15), operands(32, 15)
    q, v, w = (x.T.contiguous().T for x in given)
    assert torch.equal(reverse_bag(v, w, rows), reverse_bag(given[1], given[2], rows))
    for one, two in zip(
        bag_and_dot(v, w, q, rows), bag_and_dot(given[1], given[2], given[0], rows), strict=True
    ):
        assert torch.equal(one, two)


def test_a_table_of_other_rows_is_not_read() -> None:
    rows, (q, v, w) = table_of(15), operands(32, 15)
    for wrong in ((v[:-1], w[:-1]), (v[:-1], w), (v, w[:-1]), (v, w[:, :-1])):
        with pytest.raises((AssertionError, TypeCheckError)):
            edges_in_c.bag(*wrong, rows)
    with pytest.raises(AssertionError, match="rows of another shape"):
        edges_in_c._sizes(rows, w, v, q[:, 1:])
    with pytest.raises(AssertionError, match="not float32"):
        edges_in_c._sizes(rows, w, v.int())


def test_other_precisions_and_tables_without_edges_are_left_to_torch(in_c: list[str]) -> None:
    _, v, w = operands(8, 15)
    bag(v.double(), w.double(), table_of(15))
    with native.planned_for("cuda"):
        bag(v, w, table_of(15))
    assert torch.equal(bag(v, w[:, :0], table_of(0)), torch.zeros_like(v))
    assert not in_c
