"""Third-order messages: their geometry, their arithmetic against the plain form, and their gradients."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from headway.graph.paths import third_order_paths, with_fallback
from headway.nn import sgmp
from headway.nn.neighbor_table import NeighborTable
from headway.nn.sgmp import (
    SGMP,
    Interaction,
    PathSet,
    SGMPParams,
    angles_of,
    is_planar,
    link_scale,
    make_paths,
    path_geometry,
    path_starts,
    smear_angle,
    smear_distance,
)
from headway.types import Graph

NODES, WIDTH, SAMPLES = 12, 6, 3
PARAMS = SGMPParams(hidden_dim=WIDTH, distance_centers=5, angle_centers=4, paths_per_sensor=9)


def places(*, planar: bool, seed: int = 0) -> Tensor:
    positions = torch.randn(NODES, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return positions * torch.tensor([1.0, 1, 0 if planar else 1], dtype=torch.float64)


def nearest_paths(positions: Tensor, per_node: int = 9) -> Tensor:
    """Paths over the three nearest of each node."""
    near = torch.cdist(positions, positions).argsort(1)[:, 1:4]
    links = torch.stack([torch.arange(NODES).repeat_interleave(3), near.flatten()]).numpy()
    return torch.from_numpy(with_fallback(third_order_paths(links, NODES, per_node=per_node), NODES))


def path_set(positions: Tensor, nodes: Tensor) -> PathSet:
    unit, reach = link_scale(positions, nodes)
    starts = path_starts(nodes, NODES)
    return make_paths(nodes, starts, positions.float(), planar=is_planar(positions), unit=unit, reach=reach)


def turned(positions: Tensor, *, planar: bool) -> Tensor:
    """Rotated and moved."""
    angle = torch.tensor(0.7, dtype=torch.float64)
    about_z = torch.tensor([[angle.cos(), -angle.sin(), 0], [angle.sin(), angle.cos(), 0], [0, 0, 1]])
    about_x = torch.tensor([[1, 0, 0], [0, angle.cos(), -angle.sin()], [0, angle.sin(), angle.cos()]])
    turn = about_z.double() if planar else about_z.double() @ about_x.double()
    return positions @ turn.T + torch.tensor([3.0, -2.0, 0 if planar else 5], dtype=torch.float64)


@pytest.mark.parametrize("planar", [True, False])
def test_geometry_does_not_change_when_all_is_turned_and_moved(planar: bool) -> None:
    positions = places(planar=planar)
    nodes = nearest_paths(positions)
    before = path_geometry(positions, nodes, planar=planar)
    after = path_geometry(turned(positions, planar=planar), nodes, planar=planar)
    for one, other in zip(before, after, strict=True):
        torch.testing.assert_close(one, other)


def test_a_reflection_flips_the_turns_and_nothing_else() -> None:
    positions = places(planar=True)
    nodes = nearest_paths(positions)
    distances, turns = path_geometry(positions, nodes, planar=True)
    mirrored = path_geometry(positions * torch.tensor([-1.0, 1, 1]), nodes, planar=True)
    torch.testing.assert_close(mirrored[0], distances)
    torch.testing.assert_close(mirrored[1], -turns)


def test_a_reflection_flips_the_torsion_off_the_plane_and_no_bend() -> None:
    positions = places(planar=False)
    nodes = nearest_paths(positions)
    distances, angles = path_geometry(positions, nodes, planar=False)
    mirrored = path_geometry(positions * torch.tensor([-1.0, 1, 1]), nodes, planar=False)
    torch.testing.assert_close(mirrored[0], distances)
    torch.testing.assert_close(mirrored[1], angles * torch.tensor([1.0, 1, -1]))


@pytest.mark.parametrize("planar", [True, False])
def test_no_feature_is_constant(planar: bool) -> None:
    positions = places(planar=planar)
    distances, angles = path_geometry(positions, nearest_paths(positions), planar=planar)
    assert distances.var(0).min() > 0.01 and angles.var(0).min() > 0.1
    assert angles.shape[1] == angles_of(planar) and is_planar(positions) == planar


def test_torsion_on_the_plane_would_tell_two_sides_apart_and_no_more_which_is_why_turns_replace_it() -> None:
    positions = places(planar=True)
    nodes = nearest_paths(positions)
    torsion = path_geometry(positions, nodes, planar=False)[1][:, 2]
    turns = path_geometry(positions, nodes, planar=True)[1]
    across = turns[:, 0].sign() != turns[:, 1].sign()
    assert 0 < across.sum() < len(across)
    torch.testing.assert_close(torsion, math.pi * across.double(), rtol=0, atol=1e-12)


def test_a_flat_path_in_space_has_the_torsion_of_one_that_is_all_but_flat() -> None:
    zigzag = torch.tensor([[0.0, 0, 0], [1, 0, 0], [1, 1, 0], [3, -1, 0]], dtype=torch.float64)
    found = []
    for height in (0.0, 1e-9):
        lifted = zigzag + height * torch.tensor([[0.0], [0], [0], [1]], dtype=torch.float64)
        found.append(path_geometry(lifted, torch.arange(4)[:, None], planar=False)[1][0, 2].abs().item())
    assert found == pytest.approx([math.pi] * 2)


def test_known_angles_of_a_known_path() -> None:
    corner = torch.tensor([[0.0, 0, 0], [2, 0, 0], [2, 1, 0], [2, 1, 3]])
    nodes = torch.arange(4)[:, None]
    distances, (turns,) = path_geometry(corner * torch.tensor([1.0, 1, 0]), nodes, planar=True)
    assert distances.tolist() == [[2, 1, 0]] and turns.tolist() == pytest.approx([math.pi / 2] * 2)
    distances, (angles,) = path_geometry(corner, nodes, planar=False)
    assert distances.tolist() == [[2, 1, 3]]
    assert angles.tolist() == pytest.approx([math.pi / 2, math.pi / 2, math.atan2(3, 1)])


def test_a_smeared_angle_is_round_and_a_smeared_distance_covers_its_range() -> None:
    at = torch.tensor([-math.pi, math.pi, 0.3])
    one, other, _ = smear_angle(at, 8)
    torch.testing.assert_close(one, other)
    everywhere = torch.linspace(0, 4, 100)
    assert smear_distance(everywhere, 6, 4.0).amax(1).min() > 0.85, "no distance falls between centers"
    assert smear_angle(torch.linspace(-3.14, 3.14, 100), 8).amax(1).min() > 0.85


def plain(layer: Interaction, x: Tensor, paths: PathSet) -> Tensor:
    """The layer as its equations say it: concatenate, map, average, node by node."""
    m = layer.geometry(paths.distances, paths.angles, paths.reach)
    said = []
    for path, geometry in zip(paths.nodes.T, m, strict=True):
        ends = x[path].transpose(0, 1).flatten(1)  # sample (end d)
        joined = torch.cat([ends, geometry.expand(len(ends), -1)], 1)
        said.append(layer.last(torch.relu(layer.inner(torch.relu(layer.join(joined))))))
    means = [
        torch.stack(said[first:last]).mean(0)
        for first, last in zip(paths.starts, paths.starts[1:], strict=False)
    ]
    return x + layer.norm(torch.stack(means))


@pytest.mark.parametrize("planar", [True, False])
@pytest.mark.parametrize("recompute", [True, False])
def test_the_layer_is_the_plain_form_of_its_equations(
    planar: bool, recompute: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sgmp.CHUNK, "cpu", 40 * WIDTH * SAMPLES)
    torch.manual_seed(0)
    positions = places(planar=planar)
    paths = path_set(positions, nearest_paths(positions))
    layer = Interaction(PARAMS, angles_of(planar))
    layer.recompute = recompute
    x = torch.randn(NODES, SAMPLES, WIDTH, requires_grad=True)
    ours, theirs = layer(x, paths), plain(layer, x, paths)
    torch.testing.assert_close(ours, theirs)
    weight = torch.randn_like(ours)
    parts = [x, *layer.parameters()]
    for one, other in zip(
        torch.autograd.grad((ours * weight).sum(), parts),
        torch.autograd.grad((theirs * weight).sum(), parts),
        strict=True,
    ):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def saved_bytes(layer: nn.Module, x: Tensor, paths: PathSet) -> int:
    """Of the tensors that the forward pass keeps, each storage once."""
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        layer(x, paths)
    return sum(kept.values())


def test_chunks_keep_a_fraction_of_what_the_whole_keeps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sgmp.CHUNK, "cpu", 40 * WIDTH * 64)
    positions = places(planar=True)
    paths = path_set(positions, nearest_paths(positions))
    layer, x = Interaction(PARAMS, 2), torch.randn(NODES, 64, WIDTH, requires_grad=True)
    whole = saved_bytes(layer, x, paths)
    layer.recompute = True
    assert saved_bytes(layer, x, paths) < whole / 2


def test_a_node_without_paths_hears_itself_and_stays_finite() -> None:
    nodes = torch.from_numpy(with_fallback(torch.zeros(4, 0, dtype=torch.int32).numpy(), NODES))
    positions = places(planar=True)
    x = torch.randn(NODES, 1, WIDTH, requires_grad=True)
    out = Interaction(PARAMS, 2)(x, path_set(positions, nodes))
    out.sum().backward()
    assert (
        nodes.shape == (4, NODES) and out.isfinite().all() and x.grad is not None and x.grad.isfinite().all()
    )


def test_the_operator_does_for_each_window_and_step_what_it_does_for_one() -> None:
    torch.manual_seed(0)
    positions = places(planar=True).float()
    neighbors = torch.zeros(NODES, 1, dtype=torch.int32)
    graph = Graph(
        neighbors=neighbors,
        valid=torch.zeros(NODES, 1, dtype=torch.bool),
        features=torch.zeros(NODES, 1, 2),
        positions=positions,
        paths=nearest_paths(positions.double()).int(),
    )
    operator, table = SGMP(PARAMS, graph), NeighborTable(graph)
    h = torch.randn(2, NODES, 4, WIDTH)
    whole = operator(h, table)
    torch.testing.assert_close(operator(h[1:, :, 2:3], table), whole[1:, :, 2:3])
    assert whole.shape == h.shape and set(table.state_dict()) >= {"positions", "paths"}
