"""The Mamba-2 block against the same block written as one step after the other, in float64."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from headway.nn import mamba
from headway.nn.gated_scan import gated_scan
from headway.nn.mamba import DT_FLOOR, DT_MAX, Mamba2

ROWS, LENGTH, WIDTH = 3, 7, 6


def block(conv_width: int = 4, expand: int = 2) -> Mamba2:
    torch.manual_seed(0)
    return Mamba2(WIDTH, expand=expand, head_dim=3, state_dim=5, conv_width=conv_width)


def sequences(length: int = LENGTH) -> Tensor:
    return torch.randn(ROWS, length, WIDTH, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def one_step_after_the_other(m: Mamba2, u: Tensor) -> Tensor:
    """What `Mamba2.step` of the library does: a window of inputs for the convolution, a state a head."""
    taps = m.conv1d.weight.squeeze(1)  # channel tap
    window = torch.zeros(len(u), *taps.shape, dtype=u.dtype)
    state = torch.zeros(len(u), m.h, m.p, m.n, dtype=u.dtype)
    outputs = []
    for step in u.unbind(1):
        projected = m.in_proj.weight @ step.unsqueeze(-1)
        z, mixed, dt = projected.squeeze(-1).split([m.d_in, m.d_in + 2 * m.n, m.h], -1)
        window = torch.cat([window[..., 1:], mixed.unsqueeze(-1)], -1)
        assert m.conv1d.bias is not None
        mixed = F.silu((window * taps).sum(-1) + m.conv1d.bias)
        x, B, C = mixed.split([m.d_in, m.n, m.n], -1)
        x = x.view(len(u), m.h, m.p)
        dt = torch.log1p(torch.exp(dt + m.dt_bias))
        decay = torch.exp(dt * -torch.exp(m.A_log))
        state = decay[..., None, None] * state + dt[..., None, None] * x[..., None] * B[:, None, None]
        y = (state * C[:, None, None]).sum(-1) + m.D[:, None] * x
        y = y.flatten(1) * F.silu(z)
        y = y / (y.square().mean(-1, keepdim=True) + 1e-5).sqrt() * m.norm.weight
        outputs.append(y @ m.out_proj.weight.T)
    return torch.stack(outputs, 1)


@pytest.mark.parametrize("conv_width", [1, 2, 4])
@pytest.mark.parametrize("length", [1, 3, LENGTH])
def test_values_and_gradients_equal_the_block_run_step_by_step(
    monkeypatch: pytest.MonkeyPatch, conv_width: int, length: int
) -> None:
    # the block computes its scan in float32; here in float64
    monkeypatch.setattr(Tensor, "float", Tensor.double)
    m, u = block(conv_width).double(), sequences(length).requires_grad_()
    with torch.no_grad():
        for parameter in m.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    found, expected = m(u), one_step_after_the_other(m, u)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
    leaves = [u, *m.parameters()]
    gradients = torch.autograd.grad(found.square().sum(), leaves)
    wanted = torch.autograd.grad(expected.square().sum(), leaves)
    for gradient, reference in zip(gradients, wanted, strict=True):
        torch.testing.assert_close(gradient, reference, rtol=1e-8, atol=1e-8)


def test_names_and_shapes_are_those_of_mamba_ssm() -> None:
    m = Mamba2(64, expand=2, head_dim=16, state_dim=16, conv_width=4)
    assert {name: tuple(tensor.shape) for name, tensor in m.state_dict().items()} == {
        "in_proj.weight": (296, 64),
        "conv1d.weight": (160, 1, 4),
        "conv1d.bias": (160,),
        "dt_bias": (8,),
        "A_log": (8,),
        "D": (8,),
        "norm.weight": (128,),
        "out_proj.weight": (64, 128),
    }


def test_parameters_start_as_those_of_mamba_ssm() -> None:
    m = Mamba2(64, expand=2, head_dim=2, state_dim=4, conv_width=4)
    dt = F.softplus(m.dt_bias)
    assert dt.min() >= DT_FLOOR and dt.max() <= DT_MAX * 1.001
    rates = m.A_log.exp()
    assert rates.min() >= 1 and rates.max() <= 16
    assert m.D.eq(1).all() and m.norm.weight.eq(1).all()


def test_a_later_step_never_changes_an_earlier_output() -> None:
    m, u = block(), sequences().float()
    before = m(u)
    changed = u.clone()
    changed[:, 4:] += 1
    after = m(changed)
    torch.testing.assert_close(before[:, :4], after[:, :4], rtol=0, atol=1e-6)
    assert (before[:, 4:] - after[:, 4:]).abs().amax((1, 2)).min() > 1e-3


def test_the_newest_steps_are_the_end_of_all_of_them() -> None:
    m, u = block(), sequences().float()
    for wanted in (1, 3):
        torch.testing.assert_close(m.newest(u, u[:, -wanted:]), m(u)[:, -wanted:], rtol=1e-5, atol=1e-6)


def test_every_row_is_its_own_sequence() -> None:
    m, u = block(), sequences().float()
    together = m(u)
    apart = torch.cat([m(row.unsqueeze(0)) for row in u])
    torch.testing.assert_close(together, apart, rtol=1e-5, atol=1e-6)


def test_a_view_with_foreign_strides_gives_the_same_numbers() -> None:
    m, u = block(), sequences().float()
    foreign = u.transpose(0, 2).contiguous().transpose(0, 2)
    assert not foreign.is_contiguous()
    torch.testing.assert_close(m(foreign), m(u), rtol=1e-5, atol=1e-6)


def test_under_bf16_autocast_the_scan_runs_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    def watched(*given: Any) -> Tensor:
        assert not torch.is_autocast_enabled("cpu")
        assert {argument.dtype for argument in given} == {torch.float32}
        return gated_scan(*given)

    monkeypatch.setattr(mamba, "gated_scan", watched)
    m, u = block(), sequences().float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = m(u)
    found.float().square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in m.parameters())
    torch.testing.assert_close(found.float(), m(u), rtol=0.1, atol=0.05)


def test_heads_that_do_not_fill_the_width_are_refused() -> None:
    with pytest.raises(AssertionError, match="heads of width 5 do not fill 12"):
        Mamba2(6, expand=2, head_dim=5, state_dim=4, conv_width=4)
