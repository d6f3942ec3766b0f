"""The quadratic form of the selective scan against the recurrence it stands for, step by step in float64."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from headway.nn.selective_scan import selective_scan

ROWS, HEADS, WIDTH, STATE = 3, 2, 4, 5
Arguments = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]


def arguments(length: int) -> Arguments:
    """u, dt, A, B, C, D in float64, with gradients wanted."""
    random = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=random, dtype=torch.float64)

    return (
        normal(ROWS, length, HEADS, WIDTH).requires_grad_(),
        normal(ROWS, length, HEADS).exp().requires_grad_(),
        (-normal(HEADS).exp()).requires_grad_(),
        normal(ROWS, length, STATE).requires_grad_(),
        normal(ROWS, length, STATE).requires_grad_(),
        normal(HEADS).requires_grad_(),
    )


def step_by_step(u: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor) -> Tensor:
    state = torch.zeros(ROWS, HEADS, STATE, WIDTH, dtype=u.dtype)
    outputs = []
    for t in range(u.shape[1]):
        decay = torch.exp(dt[:, t] * A)[..., None, None]
        added = dt[:, t, :, None, None] * B[:, t, None, :, None] * u[:, t, :, None, :]
        state = decay * state + added
        outputs.append((C[:, t, None, :, None] * state).sum(2) + D[:, None] * u[:, t])
    return torch.stack(outputs, 1)


@pytest.mark.parametrize(("length", "chunk"), [(1, 4), (4, 4), (7, 16), (9, 4), (12, 5), (12, 1)])
def test_values_and_gradients_equal_the_loop_whatever_the_chunk(length: int, chunk: int) -> None:
    given = arguments(length)
    found, expected = selective_scan(*given, chunk=chunk), step_by_step(*given)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)
    weights = torch.randn(found.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    gradients = torch.autograd.grad((found * weights).sum(), given)
    wanted = torch.autograd.grad((expected * weights).sum(), given)
    for gradient, reference in zip(gradients, wanted, strict=True):
        torch.testing.assert_close(gradient, reference, rtol=1e-9, atol=1e-9)


def test_the_default_chunk_passes_the_state_on() -> None:
    given = arguments(150)
    torch.testing.assert_close(selective_scan(*given), step_by_step(*given), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("chunk", [3, 64])
def test_a_later_step_never_changes_an_earlier_output(chunk: int) -> None:
    u, dt, A, B, C, D = (argument.detach() for argument in arguments(10))
    before = selective_scan(u, dt, A, B, C, D, chunk=chunk)
    u, dt, B, C = (argument.clone() for argument in (u, dt, B, C))
    for argument in (u, dt, B, C):
        argument[:, 6:] += 1
    after = selective_scan(u, dt, A, B, C, D, chunk=chunk)
    assert torch.equal(before[:, :6], after[:, :6])
    assert not torch.isclose(before[:, 6:], after[:, 6:]).any()


def test_strong_decay_forgets_without_overflow_in_float32() -> None:
    u, dt, A, B, C, D = (argument.detach().float() for argument in arguments(40))
    dt, A = dt + 20, A * 50  # exponents of thousands: their difference decides, never a product of exps
    found = selective_scan(u, dt, A, B, C, D, chunk=16)
    now = dt.unsqueeze(-1) * (B * C).sum(-1)[..., None, None] * u + D[:, None] * u
    torch.testing.assert_close(found, now, rtol=1e-4, atol=1e-3)


def test_float32_stays_near_float64_at_ordinary_step_sizes() -> None:
    u, dt, A, B, C, D = (argument.detach() for argument in arguments(64))
    exact = selective_scan(u, 0.1 * dt, A, B, C, D)
    single = selective_scan(u.float(), 0.1 * dt.float(), A.float(), B.float(), C.float(), D.float())
    torch.testing.assert_close(single.double(), exact, rtol=1e-4, atol=1e-4)
