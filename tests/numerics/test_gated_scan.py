"""The inside of a Mamba-2 block as one operator against the same made of plain operations, in float64."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from compiler import needs_compiler
from headway.nn import gated_scan as module
from headway.nn.gated_scan import gated_scan, why_not_in_c
from headway.nn.mamba import _in_chunks
from headway.nn.selective_scan import selective_scan

ROWS, HEADS, WIDTH, STATE = 5, 2, 3, 4
CHANNELS = HEADS * WIDTH + 2 * STATE


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two sequences of seven steps at a time, so that five go through in three blocks."""
    monkeypatch.setattr(module, "BLOCK_STEPS", 14)


def arguments(steps: int, wanted: int, taps: int, rows: int = ROWS) -> tuple[Tensor, ...]:
    """z, mixed, d, taps, bias, A, D, with gradients wanted."""
    random = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=random, dtype=torch.float64)

    made = (
        normal(rows, wanted, HEADS * WIDTH),
        normal(rows, steps, CHANNELS),
        normal(rows, steps, HEADS).exp(),
        normal(CHANNELS, 1, taps),
        normal(CHANNELS),
        -normal(HEADS).exp(),
        normal(HEADS),
    )
    return tuple(argument.requires_grad_() for argument in made)


@pytest.mark.parametrize(
    ("steps", "wanted", "taps"),
    [(7, 7, 4), (7, 1, 4), (7, 3, 2), (1, 1, 4), (2, 2, 4), (7, 7, 1), (20, 1, 3)],
)
def test_values_and_gradients_equal_the_plain_operations(steps: int, wanted: int, taps: int) -> None:
    given = arguments(steps, wanted, taps)
    found, expected = gated_scan(*given), _in_chunks(*given, scan=selective_scan)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)
    weights = torch.randn(found.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    gradients = torch.autograd.grad((found * weights).sum(), given)
    wanted_gradients = torch.autograd.grad((expected * weights).sum(), given)
    for gradient, reference in zip(gradients, wanted_gradients, strict=True):
        torch.testing.assert_close(gradient, reference, rtol=1e-9, atol=1e-9)


def test_what_is_forgotten_within_a_step_does_no_harm() -> None:
    z, mixed, d, *rest = arguments(7, 7, 4)
    given = (z, mixed, (d.detach() + 300).requires_grad_(), *rest)  # decays of e^-300 and less a step
    found, expected = gated_scan(*given), _in_chunks(*given, scan=selective_scan)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)
    gradients, wanted = (torch.autograd.grad(y.square().sum(), given) for y in (found, expected))
    for gradient, reference in zip(gradients, wanted, strict=True):
        assert gradient.isfinite().all()
        torch.testing.assert_close(gradient, reference, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("steps", "wanted"), [(4, 4), (4, 1)])
def test_gradients_equal_finite_differences(steps: int, wanted: int) -> None:
    assert torch.autograd.gradcheck(gated_scan, arguments(steps, wanted, taps=3, rows=2))


def test_the_newest_steps_are_those_of_all_steps() -> None:
    z, *rest = arguments(7, 7, 4)
    torch.testing.assert_close(gated_scan(z[:, -2:], *rest), gated_scan(z, *rest)[:, -2:])


def test_the_size_of_the_blocks_does_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    given = arguments(7, 7, 4)
    in_blocks = torch.autograd.grad(gated_scan(*given).square().sum(), given)
    monkeypatch.setattr(module, "BLOCK_STEPS", 1000)
    at_once = torch.autograd.grad(gated_scan(*given).square().sum(), given)
    for one, other in zip(in_blocks, at_once, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-11, atol=1e-11)


def test_parts_with_foreign_strides_give_the_same() -> None:
    z, mixed, d, *rest = (argument.detach() for argument in arguments(7, 7, 4))
    joined = torch.cat([z, mixed, d], -1).split([z.shape[-1], CHANNELS, HEADS], -1)
    torch.testing.assert_close(gated_scan(*joined, *rest), gated_scan(z, mixed, d, *rest))


def test_gradients_are_the_same_where_autocast_goes_on() -> None:
    given = [x.detach().float().requires_grad_() for x in arguments(7, 7, 4)]
    y = gated_scan(*given).square().sum()
    outside = torch.autograd.grad(y, given, retain_graph=True)
    with torch.autocast("cpu", torch.bfloat16):
        inside = torch.autograd.grad(y, given)
    assert all(torch.equal(one, other) for one, other in zip(outside, inside, strict=True))


def test_only_its_inputs_are_kept_for_the_backward_pass() -> None:
    given, kept = arguments(7, 7, 4), []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x) or x, lambda x: x):
        gated_scan(*given)
    assert {x.data_ptr() for x in kept} == {x.data_ptr() for x in given}


@needs_compiler
@pytest.mark.parametrize(
    ("steps", "wanted", "taps", "rows"),
    [(7, 7, 4, 5), (7, 1, 4, 40), (7, 3, 2, 5), (1, 1, 4, 5), (2, 2, 4, 5), (20, 1, 3, 5), (30, 30, 8, 3)],
)
def test_in_c_values_and_gradients_are_those_of_the_plain_operations_in_float64(
    steps: int, wanted: int, taps: int, rows: int
) -> None:
    assert not why_not_in_c()
    exact = arguments(steps, wanted, taps, rows)
    given = [x.detach().float().requires_grad_() for x in exact]
    found, expected = gated_scan(*given), _in_chunks(*exact, scan=selective_scan)
    assert found.grad_fn is not None and "ScanInC" in type(found.grad_fn).__name__
    torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-4)
    along = torch.randn(found.shape, generator=torch.Generator().manual_seed(1))
    gradients = torch.autograd.grad((found * along).sum(), given)
    references = torch.autograd.grad((expected * along.double()).sum(), exact)
    for gradient, reference in zip(gradients, references, strict=True):
        size = max(1.0, float(reference.abs().max()))
        torch.testing.assert_close(gradient.double(), reference, rtol=1e-4, atol=1e-4 * size)


@needs_compiler
def test_in_c_decays_of_any_size_and_numbers_that_are_none_stay_what_they_are() -> None:
    assert not why_not_in_c()
    z, mixed, d, *rest = (x.detach().float() for x in arguments(7, 7, 4))
    exact = [x.double() for x in (z, mixed, d + 300, *rest)]
    torch.testing.assert_close(
        gated_scan(z, mixed, d + 300, *rest).double(), gated_scan(*exact), rtol=1e-5, atol=1e-5
    )
    mixed[2, 4, 0] = torch.nan
    found = gated_scan(z, mixed, d, *rest)
    assert found[2, 4].isnan().any() and found[2, :4].isfinite().all() and found[3].isfinite().all()


@needs_compiler
def test_in_c_the_number_of_threads_and_what_stands_beside_a_sequence_change_no_bit() -> None:
    assert not why_not_in_c()
    given = [x.detach().float().requires_grad_() for x in arguments(12, 12, 4, rows=70)]
    threads, made = torch.get_num_threads(), []
    try:
        for number in (1, 2, 3):
            torch.set_num_threads(number)
            y = gated_scan(*given)
            made.append([y.detach(), *torch.autograd.grad(y.sin().sum(), given)])
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(one, other) for run in made[1:] for one, other in zip(made[0], run, strict=True))
    alone = gated_scan(*(x[5:6] for x in given[:3]), *given[3:])
    assert torch.equal(alone, made[0][0][5:6])
