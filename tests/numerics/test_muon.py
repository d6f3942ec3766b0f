"""Muon against a singular value decomposition and torch's own; with AdamW as one optimizer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from headway.training.muon import Muon, orthogonal
from headway.training.optimizer import MATRIX_SHARE, make_optimizer, set_rate, state_bytes

SHAPES = [(8, 8), (24, 7), (5, 32)]


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("size", [1e-4, 1.0, 1e6])
def test_a_step_is_turned_to_the_directions_of_its_decomposition(shape: tuple[int, int], size: float) -> None:
    matrix = drawn(*shape)
    left, _, right = torch.linalg.svd(matrix, full_matrices=False)
    singular = left.T @ orthogonal(size * matrix) @ right.T
    torch.testing.assert_close(singular, torch.diag(singular.diagonal()), rtol=0, atol=1e-4)
    assert (singular.diagonal() > 0.3).all() and (singular.diagonal() < 1.3).all()


def test_a_gradient_of_nothing_turns_to_nothing() -> None:
    assert not orthogonal(torch.zeros(3, 4)).any()


@pytest.mark.parametrize("shape", SHAPES)
def test_five_updates_are_those_of_torch_up_to_its_bfloat16(shape: tuple[int, int]) -> None:
    ours, theirs = nn.Parameter(drawn(*shape)), nn.Parameter(drawn(*shape))
    start = ours.detach().clone()
    one = Muon([{"params": [ours]}], 0.01, 0.1)
    other = torch.optim.Muon([theirs], lr=0.01, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
    for step in range(5):
        ours.grad = drawn(*shape, seed=step + 1)
        theirs.grad = ours.grad.clone()
        one.step()
        other.step()
    moved = (theirs - start).norm()
    assert (ours - theirs).norm() < 0.02 * moved and moved > 0.01


def test_an_update_is_as_long_as_that_of_adamw_usually_is() -> None:
    weight = nn.Parameter(torch.zeros(48, 16))
    optimizer = Muon([{"params": [weight]}], 0.01, 0.0)
    weight.grad = drawn(48, 16)
    optimizer.step()
    assert weight.square().mean().sqrt().item() == pytest.approx(0.2 * 0.01, rel=0.2)


class Network(nn.Module):
    """A table, a stack of vectors, two maps with biases, one of them frozen."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.stack = nn.Embedding(5, 4), nn.Parameter(drawn(3, 4))
        self.map, self.frozen = nn.Linear(4, 6), nn.Linear(6, 2)
        self.frozen.requires_grad_(False)

    def forward(self, index: Tensor) -> Tensor:
        return self.frozen(self.map(self.table(index) + self.stack[0])).square().sum()


def trained(make: Callable[[nn.Module], Any], steps: int, network: Network) -> Any:
    optimizer = make(network)
    for step in range(steps):
        optimizer.zero_grad()
        network(torch.tensor([step % 5])).backward()
        optimizer.step()
    return optimizer


def test_maps_are_turned_and_all_else_is_not() -> None:
    optimizer = make_optimizer(Network(), 0.01, 0.1)
    muon, adamw = optimizer.parts
    assert [tuple(weight.shape) for group in muon.param_groups for weight in group["params"]] == [(6, 4)]
    shapes = {
        group["weight_decay"]: [tuple(weight.shape) for weight in group["params"]]
        for group in adamw.param_groups
    }
    assert shapes == {0.1: [(3, 4)], 0.0: [(5, 4), (6,)]}
    set_rate(optimizer, 0.5)
    assert [group["lr"] for group in muon.param_groups] == [0.5 * MATRIX_SHARE]
    assert [group["lr"] for group in adamw.param_groups] == [0.5, 0.5]


def test_moments_that_were_saved_continue_to_the_same_bits() -> None:
    torch.manual_seed(0)
    whole, halves = Network(), Network()
    halves.load_state_dict(whole.state_dict())
    make: Any = lambda network: make_optimizer(network, 0.01, 0.1)  # noqa: E731
    trained(make, 6, whole)
    saved = trained(make, 3, halves).state_dict()

    def resumed(network: nn.Module) -> Any:
        optimizer = make_optimizer(network, 0.5, 0.1)  # another rate than what was saved
        optimizer.load_state_dict(saved)
        return optimizer

    continued = Network()
    continued.load_state_dict(halves.state_dict())
    optimizer = resumed(continued)
    for step in range(3, 6):
        optimizer.zero_grad()
        continued(torch.tensor([step % 5])).backward()
        optimizer.step()
    for name, tensor in whole.state_dict().items():
        assert torch.equal(continued.state_dict()[name], tensor), name


def test_the_plan_knows_to_the_byte_what_the_optimizer_keeps() -> None:
    network = Network()
    optimizer = trained(lambda network: make_optimizer(network, 0.01, 0.1), 1, network)
    kept = sum(moment.nbytes for moments in optimizer.state.values() for moment in moments.values())
    assert kept == state_bytes(network) == 4 * 6 * 4 + 2 * 4 * (5 * 4 + 3 * 4 + 6) + 3 * 4


def test_an_overflow_of_half_precision_leaves_out_both_parts() -> None:
    network = Network()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    optimizer, scaler = make_optimizer(network, 0.01, 0.1), torch.amp.GradScaler("cpu", init_scale=8.0)
    scaler.scale(network(torch.tensor([1]))).backward()
    assert network.table.weight.grad is not None
    network.table.weight.grad[0, 0] = torch.inf  # of AdamW's part alone
    scaler.step(optimizer)
    scaler.update()
    assert scaler.get_scale() == 4.0
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, before[name]), name
