"""What learns and what stands still in the hypergraph operator."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from headway.nn.hypergraph import Hyperedges, Hypergraph
from headway.nn.hypergraph_conv import to_edges
from headway.nn.neighbor_table import NeighborTable
from tiny_hypergraph import made_operator
from tiny_model import NODES, stirred, tiny_graph

TABLE = NeighborTable(tiny_graph())


def readings(nodes: int = NODES, batch: int = 2, time: int = 3, d: int = 8, seed: int = 0) -> Tensor:
    return torch.randn(batch, nodes, time, d, generator=torch.Generator().manual_seed(seed))


# --- learning -----------------------------------------------------------------------------------------------


def only_part(operator: Hypergraph) -> nn.Module:
    (part,) = operator.orders
    return part


ALL_KINDS = [
    {"kind": kind, "graph": graph, "mixing": mixing, "pairs": pairs}
    for kind, graph, mixing, pairs in (
        ("hgcn", "adaptive", "learned", "mixprop"),
        ("hgat", "adaptive", "gated", "edges"),
        ("hsage", "mixed", "learned", "mixprop"),
        ("hgat", "static", "gated", "mixprop"),
        ("hgcn", "mixed", "fixed", "edges"),
    )
]


@pytest.mark.parametrize("changes", ALL_KINDS, ids=lambda changes: "-".join(changes.values()))
@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_every_weight_is_saved_gets_a_gradient_and_changes_in_training(
    changes: dict[str, Any], precision: torch.dtype
) -> None:
    operator, x = made_operator(orders=(1, 2, 3, 4), **changes).train(), readings()
    target = readings(seed=1)
    saved = set(operator.state_dict())
    before = {name: parameter.detach().clone() for name, parameter in operator.named_parameters()}
    optimizer = torch.optim.AdamW(operator.parameters(), lr=0.01, weight_decay=0.0)
    for step in range(4):
        operator.begin_step(step)
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype=precision, enabled=precision != torch.float32):
            out = operator(x, TABLE)
        (out - target).square().sum().backward()
        optimizer.step()
    for name, parameter in operator.named_parameters():
        assert name in saved
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name
        assert not torch.equal(parameter, before[name]), name


def test_two_forwards_in_evaluation_are_identical() -> None:
    operator, x = made_operator(), readings()
    assert torch.equal(operator(x, TABLE), operator(x, TABLE))


def test_members_are_chosen_again_every_so_many_steps_and_by_nothing_else() -> None:
    operator, x = made_operator(rebuild_steps=3).train(), readings()
    part = operator.orders[1]
    assert isinstance(part, Hyperedges)
    found = part.members.clone()
    for parameter in part.places.parameters() if part.places else ():
        nn.init.normal_(parameter, generator=torch.Generator().manual_seed(3))
    for step in (1, 2, 4):
        operator.begin_step(step)
        operator(x, TABLE).sum().backward()
        operator.eval()(x, TABLE)
    assert torch.equal(part.members, found)
    operator.begin_step(3)
    assert not torch.equal(part.members, found)


def test_members_are_saved_and_not_chosen_by_loading() -> None:
    trained, fresh, x = made_operator(), made_operator(), readings()
    stirred(trained)  # the places moved, the members did not
    fresh.load_state_dict(trained.state_dict())
    assert torch.equal(fresh(x, TABLE), trained(x, TABLE))
    trained.begin_step(0)
    assert {"orders.0.neighbors", "orders.1.members", "orders.1.present"} <= set(trained.state_dict())
    fresh.load_state_dict(trained.state_dict())
    assert torch.equal(fresh(x, TABLE), trained(x, TABLE))


def test_sensors_that_help_each_other_move_together() -> None:
    """The soft incidence learns: a member that spoils its hyperedge loses weight."""
    torch.manual_seed(0)
    operator = made_operator(orders=(3,), rebuild_steps=10)
    part = only_part(operator)
    assert isinstance(part, Hyperedges)
    spoiler = int(part.members[0, 2])
    x = torch.ones(NODES, 4, 8)
    x[spoiler] = -1
    for parameter in part.conv.parameters():
        parameter.requires_grad_(False)
    optimizer = torch.optim.Adam(part.parameters(), lr=0.01)
    before = part.weights()[0, 2].item()
    for _ in range(20):
        optimizer.zero_grad()
        (to_edges(x, part.weights().unsqueeze(-1), part.members)[0] - 1).square().sum().backward()
        optimizer.step()
    assert part.weights()[0, 2].item() < 0.7 * before
