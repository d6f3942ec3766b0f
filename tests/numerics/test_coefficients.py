"""Signed coefficients of edges and their gradients, in C and as torch's operations, against the equations."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from compiler import needs_compiler
from headway.nn import native
from headway.nn.coefficients import LANES, MOST, coefficients, weigh_, weigh_back, why_not_in_c

BATCH, NODES, TIME, HEADS = 3, 4, 5, 2


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What has been asked of C, which has been tried."""
    why_not_in_c()
    found, call = [], native.call

    def told(name: str, *given: object) -> None:
        found.append(name)
        call(name, *given)  # pyright: ignore[reportArgumentType]

    monkeypatch.setattr(native, "call", told)
    return found


def drawn(
    neighbors: int, kept_windows: int = BATCH, time: int = TIME, dtype: torch.dtype = torch.float32
) -> list[Tensor]:
    """Scores, agreement, bias, usual agreement, what is kept and the gradient of w."""
    random = torch.Generator().manual_seed(neighbors)
    of_edges, of_slots = (BATCH, NODES, time, HEADS, neighbors), (NODES, HEADS, neighbors)
    kept = torch.rand(kept_windows, NODES, 1, HEADS, neighbors, generator=random) > 0.3
    parts = [
        torch.randn(shape, generator=random, dtype=dtype)
        for shape in (of_edges, of_edges, of_slots, of_slots, of_edges)
    ]
    return [*parts[:4], kept.to(dtype) / 0.7, parts[4]]


def made(given: list[Tensor]) -> list[Tensor]:
    """alpha, sign, w and the four gradients."""
    scores, agreement, bias, usual, keep, grad = (part.clone() for part in given)
    weigh_(scores, agreement, bias, usual)
    w = coefficients(scores, agreement, keep)
    return [scores, agreement, w, *weigh_back(grad, scores, agreement, keep)]


def expected(given: list[Tensor]) -> list[Tensor]:
    """The same by the equations, in float64, and autograd."""
    scores, agreement, bias, usual, keep, grad = (part.double() for part in given)
    parts = [part.requires_grad_() for part in (scores, agreement, bias, usual)]
    alpha = (scores + bias.unsqueeze(1)).softmax(-1)
    sign = (agreement + usual.unsqueeze(1)).tanh()
    w = keep * alpha * sign
    return [part.detach() for part in (alpha, sign, w, *torch.autograd.grad(w, parts, grad))]


def pairs(given: list[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
    yield from zip(made(given), expected(given), strict=True)


@pytest.mark.parametrize("kept_windows", [1, BATCH])
@pytest.mark.parametrize("neighbors", [1, 2, 15])
def test_they_are_those_of_the_equations(neighbors: int, kept_windows: int) -> None:
    for found, plain in pairs(drawn(neighbors, kept_windows, dtype=torch.float64)):
        torch.testing.assert_close(found, plain, rtol=1e-12, atol=1e-12)


@needs_compiler
@pytest.mark.parametrize("kept_windows", [1, BATCH])
@pytest.mark.parametrize("neighbors", [1, 2, 3, 8, 15, 16, 17, 31, 33])
def test_in_c_they_are_those_of_the_equations(neighbors: int, kept_windows: int, asked: list[str]) -> None:
    assert not why_not_in_c()
    for found, plain in pairs(drawn(neighbors, kept_windows)):
        torch.testing.assert_close(found.double(), plain, rtol=1e-5, atol=1e-6)
    assert asked == ["weigh", "coefficients", "weigh_back"]


@needs_compiler
def test_in_c_and_without_it_scores_far_apart_and_padding_give_zeros_and_no_nan() -> None:
    given = drawn(15)
    scores, _, bias, *_ = given
    bias[..., 9:] = torch.finfo(torch.float32).min / 2  # padding
    bias[1] = torch.finfo(torch.float32).min / 2  # of a sensor without any neighbor
    scores[..., 3] = 200
    for found, plain in pairs(given):
        torch.testing.assert_close(found.double(), plain, rtol=1e-5, atol=1e-6)
    with native.planned_for("cuda"):
        without = made(given)
    for one, other in zip(made(given), without, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)
    alpha = made(given)[0]
    assert torch.equal(alpha[:, 0] != 0, (torch.arange(15) == 3).expand_as(alpha[:, 0]))
    torch.testing.assert_close(alpha[:, 1, ..., 4:], torch.full_like(alpha[:, 1, ..., 4:], 1 / 15))


@needs_compiler
@pytest.mark.parametrize(
    ("place", "wrong"), [(0, torch.nan), (7, torch.nan), (14, torch.nan), (7, torch.inf), (..., -torch.inf)]
)
def test_a_score_that_is_no_number_makes_its_row_none_and_no_other(
    place: Any, wrong: float, asked: list[str]
) -> None:
    given = drawn(15)
    given[0][1, 2, 3, 1][place] = wrong
    rows = torch.zeros(BATCH, NODES, TIME, HEADS, dtype=torch.bool)
    rows[1, 2, 3, 1] = True
    alpha, sign, w, of_scores, *_ = made(given)
    assert asked == ["weigh", "coefficients", "weigh_back"]
    for found in (alpha, w, of_scores):
        assert torch.equal(found.isnan(), rows.unsqueeze(-1).expand_as(found))
    assert not sign.isnan().any()


@needs_compiler
def test_the_number_of_threads_changes_no_bit() -> None:
    threads, results = torch.get_num_threads(), []
    try:
        for count in (1, 2, 5):
            torch.set_num_threads(count)
            results.append(made(drawn(15)))
    finally:
        torch.set_num_threads(threads)
    for others in results[1:]:
        assert all(torch.equal(one, other) for one, other in zip(results[0], others, strict=True))


@needs_compiler
def test_other_precisions_and_sensors_of_too_many_edges_are_left_to_torch(asked: list[str]) -> None:
    made(drawn(2, dtype=torch.float64))
    with native.planned_for("cuda"):
        made(drawn(2))
    made(drawn(1, time=MOST // HEADS // LANES + 1))
    made(drawn(17, time=MOST // HEADS // (2 * LANES) + 1))
    assert not asked
    made(drawn(17, time=MOST // HEADS // (2 * LANES)))
    assert asked == ["weigh", "coefficients", "weigh_back"]
