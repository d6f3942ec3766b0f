"""The inside of a Mamba-2 block as one operator: convolution, SiLU, scan, gate and norm, with its own gradient.

    c = causal depthwise conv(mixed)        x, B, C = split(silu(c))
    M_ts = exp(sum_{r=s+1..t} d_r A) (C_t . B_s) d_s + D [t = s]            for s <= t, else 0
    y = M x                                 out = g / rms(g)   with g = y * silu(z)

`M` is the matrix of `headway.nn.selective_scan` with the step size and the skip D folded in, so that one product
does all. As single operations this is most of a block's time and memory: each passes over tensors larger than the
cache, and nearly all of them are kept. Here the gradient computes them anew from z, mixed and d, which are all that
is kept. On a CPU with a C compiler `headway.nn.scan_in_c` does so a sequence at a time; elsewhere torch's operations
do, on a few sequences at a time while they are in the cache. Sums run in a fixed order.

Glossary: r sequences, l steps, q the newest steps that are wanted (q <= l), h heads of width p, d = h p, n state
width, c = d + 2 n channels that the convolution mixes, w its taps. All of one floating type, float32 in use.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from headway.nn import native
from headway.nn.scan_in_c import ScanInC, problem

# e^-40 is nothing beside the 1 of the newest step, less than a float64 tells; what it is multiplied with stays
# within the range of float32, outside of which exp and all arithmetic are slow
FORGOTTEN = -40.0
EPS = 1e-5  # under the root of the norm, as in mamba_ssm
BLOCK_STEPS = 5000  # sequences times steps that go through together on a CPU: 1.3 MB of the widest tensors


def gated_scan(
    z: Float[Tensor, "r q d"],
    mixed: Float[Tensor, "r l c"],
    d: Float[Tensor, "r l h"],
    taps: Float[Tensor, "c 1 w"],
    bias: Float[Tensor, " c"],
    A: Float[Tensor, " h"],
    D: Float[Tensor, " h"],
) -> Float[Tensor, "r q d"]:
    """The normalized outputs of the newest q steps, before the weight of the norm.

    Args:
        z, mixed: parts of the input projection. d: step sizes. taps, bias: of the convolution, the newest step's tap
            last. A: decay rates, negative. D: weight of the skip.
    """
    given = z, mixed, d, taps, bias, A, D
    in_c = native.reads(*given) and not why_not_in_c()
    return ScanInC.apply(*given) if in_c else _GatedScan.apply(*given)


def why_not_in_c() -> str:
    """Why the scan of a CPU does not run in C; empty where it does."""
    return problem(_GatedScan)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Constants:
    """What all sequences share. Steps and channels are one dimension, and bias and taps are written out for it: loops
    of l c elements instead of c."""

    taps: list[Float[Tensor, " _"]]  # of each lag, for the channels of the steps that look back so far
    bias: Float[Tensor, " step_channel"]
    A: Float[Tensor, "h 1 1"]
    D: Float[Tensor, "h 1 1"]
    past: Float[Tensor, "q l"]  # 1 where a step is not after the one that reads it


@dataclass(frozen=True, slots=True, kw_only=True)
class _Block:
    """What a few sequences hold on their way; heads are apart."""

    conv: Float[Tensor, "r l c"]
    x: tuple[Float[Tensor, "r l p"], ...]
    B: Float[Tensor, "r l n"]
    C: Float[Tensor, "r q n"]
    d: Float[Tensor, "h r 1 l"]
    decay: Float[Tensor, "h r q l"]
    scores: Float[Tensor, "r q l"]
    M: Float[Tensor, "h r q l"]
    y: Float[Tensor, "r q d"]
    gate: Float[Tensor, "r q d"]
    gated: Float[Tensor, "r q d"]
    scale: Float[Tensor, "r q 1"]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Sums:
    """Gradients of the constants, to which each block adds its own."""

    taps: Float[Tensor, "w l c"]
    bias: Float[Tensor, "l c"]
    A: Float[Tensor, " h"]
    D: Float[Tensor, " h"]


class _GatedScan(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, z: Tensor, mixed: Tensor, d: Tensor, *given: Tensor) -> Tensor:
        ctx.save_for_backward(z, mixed, d, *given)
        constants = _written_out(z.shape[1], mixed.shape[1], *given)
        out = torch.empty_like(z, memory_format=torch.contiguous_format)
        with torch.autocast(mixed.device.type, enabled=False):
            for rows in _blocks(mixed):
                block = _run(z[rows], mixed[rows], d[rows], constants)
                torch.mul(block.gated, block.scale, out=out[rows])
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, ...]:
        z, mixed, d, *given = ctx.saved_tensors
        constants = _written_out(z.shape[1], mixed.shape[1], *given)
        grad_parts = [torch.empty_like(x, memory_format=torch.contiguous_format) for x in (z, mixed, d)]
        sums = _no_sums(mixed.shape[1], *given)
        with torch.autocast(mixed.device.type, enabled=False):
            for rows in _blocks(mixed):
                parts = [x[rows] for x in (z, mixed, d)]
                _run_back(grads[0][rows], parts, constants, [x[rows] for x in grad_parts], sums)
        grad_taps = sums.taps.sum(1).flip(0).t().unsqueeze(1)
        return *grad_parts, grad_taps, sums.bias.sum(0), sums.A, sums.D


def _blocks(mixed: Tensor) -> list[slice]:
    """Few sequences at a time on a CPU; on a GPU, whose memory is fast and whose launches cost, all at once."""
    rows, steps, _ = mixed.shape
    size = rows if native.device_of(mixed) == "cuda" else max(1, BLOCK_STEPS // steps)
    return [slice(first, first + size) for first in range(0, rows, size)]


def _written_out(wanted: int, steps: int, taps: Tensor, bias: Tensor, A: Tensor, D: Tensor) -> _Constants:
    lags = range(min(taps.shape[-1], steps))
    return _Constants(
        taps=[taps[:, 0, -1 - lag].repeat(steps - lag) for lag in lags],
        bias=bias.repeat(steps),
        A=A.view(-1, 1, 1),
        D=D.view(-1, 1, 1),
        past=bias.new_ones(wanted, steps).tril_(steps - wanted),
    )


def _no_sums(steps: int, taps: Tensor, bias: Tensor, A: Tensor, D: Tensor) -> _Sums:
    return _Sums(
        taps=bias.new_zeros(taps.shape[-1], steps, len(bias)),
        bias=bias.new_zeros(steps, len(bias)),
        A=torch.zeros_like(A),
        D=torch.zeros_like(D),
    )


def _run(z: Tensor, mixed: Tensor, d: Tensor, constants: _Constants) -> _Block:
    heads, (wanted, width), steps = len(constants.D), z.shape[1:], mixed.shape[1]
    state = (mixed.shape[2] - width) // 2
    conv = _convolve(mixed, constants)
    *x, B, C = F.silu(conv).split([width // heads] * heads + [state, state], -1)
    d = d.permute(2, 0, 1).contiguous()  # h r l
    total = torch.cumsum(d * constants.A, -1)
    # A difference decides, never a product of exponentials. Those of the future are > 0; scores leave them out.
    decay = (total[:, :, -wanted:, None] - total.unsqueeze(2)).clamp_(FORGOTTEN, 0).exp_()
    d, C = d.unsqueeze(2), C[:, -wanted:]
    scores = torch.bmm(C, B.transpose(1, 2)).mul_(constants.past)
    M = (decay * d).mul_(scores)
    M.diagonal(steps - wanted, 2, 3).add_(constants.D)
    y = torch.cat([_product(of_head, part) for of_head, part in zip(M, x, strict=True)], -1)
    gate = F.silu(z)
    gated = y * gate
    scale = torch.linalg.vector_norm(gated, dim=-1, keepdim=True).square_().div_(width).add_(EPS).rsqrt_()
    return _Block(
        conv=conv,
        x=tuple(x),
        B=B,
        C=C,
        d=d,
        decay=decay,
        scores=scores,
        M=M,
        y=y,
        gate=gate,
        gated=gated,
        scale=scale,
    )


def _run_back(
    grad: Tensor, parts: list[Tensor], constants: _Constants, grad_parts: list[Tensor], sums: _Sums
) -> None:
    """Write the gradients of z, mixed and d; add those of the constants to what other blocks gave."""
    (z, mixed, d), (grad_z, grad_mixed, grad_d) = parts, grad_parts
    block = _run(z, mixed, d, constants)
    grad_y = _gate_back(grad, z, block, grad_z)
    grad_silu, of_heads = _scan_back(grad_y, block, constants, sums)
    grad_conv = torch.ops.aten.silu_backward(grad_silu, block.conv)
    _convolve_back(grad_conv, mixed, constants, grad_mixed, sums)
    grad_d.copy_(of_heads.permute(1, 2, 0))


def _gate_back(grad: Tensor, z: Tensor, block: _Block, grad_z: Tensor) -> Float[Tensor, "r q d"]:
    """Through norm and gate: writes the gradient of z, returns that of y."""
    normed = block.gated * block.scale
    along = (grad * normed).mean(-1, keepdim=True)
    grad_g = torch.addcmul(grad, normed, along, value=-1).mul_(block.scale)
    torch.ops.aten.silu_backward.grad_input(grad_g * block.y, z, grad_input=grad_z)
    return grad_g.mul_(block.gate)


def _scan_back(
    grad_y: Tensor, block: _Block, constants: _Constants, sums: _Sums
) -> tuple[Float[Tensor, "r l c"], Float[Tensor, "h r l"]]:
    """Through y = M x and the making of M: the gradients of silu(conv) and of d."""
    (wanted, steps), d = block.M.shape[2:], block.d
    of_heads = grad_y.split(block.x[0].shape[-1], -1)
    grad_x = [_product(M.transpose(1, 2), of_head) for M, of_head in zip(block.M, of_heads, strict=True)]
    grad_M = torch.empty_like(block.M)
    for into, of_head, x in zip(grad_M, of_heads, block.x, strict=True):
        torch.bmm(of_head, x.transpose(1, 2), out=into)
    sums.D.add_(grad_M.diagonal(steps - wanted, 2, 3).sum((1, 2)))
    by_decay = grad_M.mul_(block.decay)
    grad_scores = (by_decay * d).sum(0).mul_(constants.past)
    grad_B = _product(grad_scores.transpose(1, 2), block.C)
    grad_C = F.pad(_product(grad_scores, block.B), (0, 0, steps - wanted, 0))
    by_scores = by_decay.mul_(block.scores)  # gradient of decay * d; 0 in the future from here on
    grad_d = by_scores.sum(2)  # h r l
    # of the sums of decays: each segment is a later one less an earlier one
    grad_total = -grad_d * d.squeeze(2)
    grad_total[:, :, -wanted:] += (by_scores @ d.transpose(2, 3)).squeeze(-1)
    grad_rate = grad_total.flip(-1).cumsum(-1).flip(-1)  # of d A
    sums.A.add_((grad_rate * d.squeeze(2)).sum((1, 2)))
    return torch.cat([*grad_x, grad_B, grad_C], -1), grad_d.addcmul_(grad_rate, constants.A)


def _product(a: Float[Tensor, "r i k"], b: Float[Tensor, "r k j"]) -> Float[Tensor, "r i j"]:
    """a b. A single step is read by elements: torch takes three to thirty times as long for so small a product."""
    if a.shape[1] == 1:
        return (a.transpose(1, 2) * b).sum(1, keepdim=True)
    return a * b if a.shape[2] == 1 else torch.bmm(a, b)


def _convolve(x: Float[Tensor, "r l c"], constants: _Constants) -> Float[Tensor, "r l c"]:
    """Causal depthwise convolution: a multiply-add a tap. What lies before the first step is 0."""
    flat = x.reshape(len(x), -1)
    out = torch.addcmul(constants.bias, flat, constants.taps[0])
    for tap in constants.taps[1:]:
        out[:, -len(tap) :].addcmul_(flat[:, : len(tap)], tap)
    return out.view_as(x)


def _convolve_back(
    grad: Float[Tensor, "r l c"],
    x: Float[Tensor, "r l c"],
    constants: _Constants,
    grad_x: Tensor,
    sums: _Sums,
) -> None:
    sums.bias.add_(grad.sum(0))
    grad, x, grad_x = grad.flatten(1), x.reshape(len(x), -1), grad_x.view(len(x), -1)
    for tap, of_taps in zip(constants.taps, sums.taps.flatten(1), strict=False):
        later, earlier = grad[:, -len(tap) :], slice(0, len(tap))
        if len(tap) == grad.shape[1]:
            torch.mul(later, tap, out=grad_x)
        else:
            grad_x[:, earlier].addcmul_(later, tap)
        of_taps[-len(tap) :].add_((later * x[:, earlier]).sum(0))
