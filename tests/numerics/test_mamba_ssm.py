"""Our Mamba-2 block against `mamba_ssm.Mamba2` itself, on the CPU.

The library's scan, norm and convolution run on GPUs alone, so three names are replaced: the scan by the library's
own listing in plain torch, the norm by its formula, the convolution by what the library falls back to. Triton is only
imported there and never run; where it is not installed, something with its names stands in.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from headway.nn.mamba import Mamba2
from headway.nn.selective_scan import CHUNK
from headway.nn.triton_scan import import_part

WIDTH, STATE, ROWS = 64, 16, 5
TO_INSTALL = "mamba-ssm is not installed: `make kernel` installs it without a compiler or a GPU"


class Inert(ModuleType):
    """Every name is a function that gives something inert, or what it was to decorate."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return Inert(name)

    def __call__(self, *given: Any, **_: Any) -> Any:
        return given[0] if len(given) == 1 and callable(given[0]) else Inert(self.__name__)


def names_of_triton() -> dict[str, ModuleType]:
    """What the library's files touch while they are read."""
    triton, language = Inert("triton"), Inert("triton.language")
    given: dict[str, Any] = {
        "__spec__": ModuleSpec("triton", None),
        "__version__": "3.9.0",
        "language": language,
        "Config": lambda kwargs, **others: SimpleNamespace(kwargs=kwargs, **others),
        "autotune": lambda configs, **_: lambda kernel: SimpleNamespace(configs=configs),
    }
    vars(triton).update(given)
    return {"triton": triton, "triton.language": language}


class GatedNorm(nn.Module):
    """`RMSNormGated` of the library with the gate before the norm."""

    def __init__(self, width: int, eps: float, **_: Any) -> None:
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.ones(width)), eps

    def forward(self, x: Tensor, z: Tensor) -> Tensor:
        return F.rms_norm(x * F.silu(z), x.shape[-1:], self.weight, self.eps)


@pytest.fixture(scope="module")
def theirs() -> Iterator[Any]:
    """`mamba_ssm.modules.mamba2` with the three names replaced."""
    if find_spec("mamba_ssm") is None:
        pytest.skip(TO_INSTALL)
    with pytest.MonkeyPatch.context() as patch:
        if find_spec("triton") is None:
            for name, module in names_of_triton().items():
                patch.setitem(sys.modules, name, module)
        with warnings.catch_warnings(action="ignore"):  # where its deterministic mode is on, it advises
            module = import_part("modules.mamba2")
            listing = import_part("modules.ssd_minimal").ssd_minimal_discrete
        patch.setattr(module, "mamba_chunk_scan_combined", chunk_scan_by(listing))
        patch.setattr(module, "RMSNormGated", GatedNorm)
        patch.setattr(module, "causal_conv1d_fn", None)
        yield module
    for name in [name for name in sys.modules if name.split(".")[0] == "mamba_ssm"]:
        del sys.modules[name]  # they hold the stand-in


def chunk_scan_by(listing: Any) -> Any:
    def chunk_scan(
        x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, *, D: Tensor, dt_bias: Tensor, **_: Any
    ) -> Tensor:
        dt, heads = F.softplus(dt + dt_bias), x.shape[2]
        B, C = (part.expand(-1, -1, heads, -1) for part in (B, C))
        y, _ = listing(x * dt.unsqueeze(-1), A * dt, B, C, x.shape[1])
        return y + x * D.unsqueeze(-1)

    return chunk_scan


def their_block(theirs: Any, expand: int, head_dim: int) -> nn.Module:
    return theirs.Mamba2(WIDTH, d_state=STATE, headdim=head_dim, expand=expand, use_mem_eff_path=False)


def our_block(expand: int, head_dim: int) -> Mamba2:
    return Mamba2(WIDTH, expand=expand, head_dim=head_dim, state_dim=STATE, conv_width=4)


def shaken(block: nn.Module) -> nn.Module:
    """Away from the values that blocks start with, such as ones."""
    with torch.no_grad():
        for parameter in block.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return block


@pytest.mark.parametrize(("expand", "head_dim"), [(1, 32), (2, 16)])
@pytest.mark.parametrize("steps", [1, 12, CHUNK, CHUNK + 32])
def test_outputs_and_gradients_equal_those_of_mamba_ssm(
    theirs: Any, expand: int, head_dim: int, steps: int
) -> None:
    torch.manual_seed(0)
    reference = shaken(their_block(theirs, expand, head_dim))
    block = our_block(expand, head_dim)
    block.load_state_dict(reference.state_dict())
    u = torch.randn(ROWS, steps, WIDTH)
    found, expected = (gradients(module, u) for module in (block, reference))
    assert found.keys() == expected.keys()
    for name, tensor in found.items():
        largest = expected[name].abs().max().item()
        atol = 2e-5 * largest or 1e-8  # of one step nothing decays: A_log has no gradient but rounding
        torch.testing.assert_close(tensor, expected[name], rtol=1e-5, atol=atol, msg=name)


def gradients(block: nn.Module, u: Tensor) -> dict[str, Tensor]:
    """The output and the gradient of everything that has one."""
    u = u.clone().requires_grad_()
    out = block(u)
    out.square().mean().backward()
    by_name = {name: p.grad for name, p in block.named_parameters() if p.grad is not None}
    assert u.grad is not None
    return {"output": out.detach(), "input": u.grad, **by_name}


def test_a_state_goes_both_ways(theirs: Any) -> None:
    torch.manual_seed(1)
    block, reference = our_block(2, 16), their_block(theirs, 2, 16)
    shaken(block)
    reference.load_state_dict(block.state_dict())
    again = our_block(2, 16)
    again.load_state_dict(reference.state_dict())
    for name, tensor in again.state_dict().items():
        assert torch.equal(tensor, block.state_dict()[name]), name
    u = torch.randn(ROWS, 12, WIDTH)
    torch.testing.assert_close(again(u), reference(u), rtol=1e-5, atol=1e-5)
