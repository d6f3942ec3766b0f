"""SGMP: messages over third-order paths i -> j -> k -> p that know distances and angles.

Glossary: path = four nodes, three links; d1, d2, d3 = lengths of its links; unit = median link, in which they are
given; e = p_j - p_i, f = p_k - p_j, g = p_p - p_j.

    theta1, theta2 = angle(e, f), angle(e, g)                       angle(a, b) = atan2(|a x b|, a . b)
    phi            = +-angle(n1, n2), - where (n1 x n2) . e < 0     n1 = e x f, n2 = e x g; off the plane only
    psi1, psi2     = the same angles with their sign, in (-pi, pi]  in the plane, where phi is 0 or pi
    G(x)           = exp(-(x - c)^2 / (2 D^2))                      centers c, D apart; for angles round the circle
    m1, m2, m3     = MLP(G(d1)), MLP(G(d2); G(theta1)), MLP(G(d3); G(theta2); G(phi))
    message        = MLP_7H->4H->2H->H [x_i; x_j; x_k; x_p; m1; m2; m3]
    out_i          = x_i + LayerNorm(mean of the messages of i's paths)

Distances, angles and torsion do not change when all is turned or moved; a reflection changes the sign of psi and phi
and nothing else. Source: Zhang & Zhao (2021), SGMP; turns, periodic smearing and the mean are ours (the sum explodes
with the number of paths).

The 7H-wide concatenation is never made: its linear map is the sum of four maps of nodes, gathered, and one of the
geometry; the last map is linear and follows the mean. With `recompute` paths go in chunks of `CHUNK` numbers, each of
them computed again in the backward pass. Sums over the paths of a node, and their gradients, have a fixed order.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Any

import torch
import torch.nn.functional as F
from annotated_types import Ge
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from headway.nn.native import device_of
from headway.nn.neighbor_table import NeighborTable
from headway.types import Graph

CHUNK = {"cpu": 2**21, "cuda": 2**25}  # numbers of the widest tensor of a chunk
ENDS = 4  # nodes of a path
FARTHEST = 0.995  # quantile of the links that distance centers reach to
LEAST_REACH = 1.5  # units


@dataclass(frozen=True, slots=True, kw_only=True)
class SGMPParams:
    """Section `sgmp` of params.yaml.

    Attributes:
        hidden_dim: width H of nodes and messages.
        distance_centers, angle_centers: of the Gaussians that a distance and an angle are spread over.
        paths_per_sensor: of those that preprocess keeps, how many a model reads.
    """

    hidden_dim: Annotated[int, Ge(2)]
    distance_centers: Annotated[int, Ge(2)]
    angle_centers: Annotated[int, Ge(3)]
    paths_per_sensor: Annotated[int, Ge(1)]


@dataclass(frozen=True, slots=True, kw_only=True)
class PathSet:
    """Paths with their geometry; the paths of a node lie together, and every node has at least one.

    Attributes:
        nodes: i, j, k, p. starts: first path of each node, plus their number.
        distances: d1, d2, d3 in units. angles: psi1, psi2 in the plane, else theta1, theta2, phi.
        reach: where the last distance center stands.
    """

    nodes: Int[Tensor, "4 path"]
    starts: tuple[int, ...]
    distances: Float[Tensor, "path 3"]
    angles: Float[Tensor, "path angle"]
    reach: float


def make_paths(
    nodes: Int[Tensor, "4 path"],
    starts: tuple[int, ...],
    positions: Float[Tensor, "node 3"],
    *,
    planar: bool,
    unit: float,
    reach: float,
) -> PathSet:
    """Paths over these positions. `planar`: all z are equal. `unit`: median link."""
    distances, angles = path_geometry(positions / unit, nodes, planar=planar)
    return PathSet(nodes=nodes.long(), starts=starts, distances=distances, angles=angles, reach=reach)


def path_geometry(
    positions: Float[Tensor, "node 3"], nodes: Int[Tensor, "4 path"], *, planar: bool
) -> tuple[Float[Tensor, "path 3"], Float[Tensor, "path angle"]]:
    """Distances and angles of each path; 0 where a link has no length."""
    first, second, third, last = positions[nodes.long()]
    e, f, g = second - first, third - second, last - second
    distances = torch.stack([e, f, last - third]).norm(dim=-1).T
    if planar:
        return distances, torch.stack([signed_turn(e, f), signed_turn(e, g)], -1)
    n1, n2 = torch.linalg.cross(e, f), torch.linalg.cross(e, g)
    # a flat path has no side, but it has a torsion: 0 or pi
    side = torch.where((torch.linalg.cross(n1, n2) * e).sum(-1) < 0, -1.0, 1.0).to(e.dtype)
    return distances, torch.stack([bend(e, f), bend(e, g), bend(n1, n2) * side], -1)


def bend(a: Float[Tensor, "path 3"], b: Float[Tensor, "path 3"]) -> Float[Tensor, " path"]:
    """Angle between two directions, in [0, pi]."""
    return torch.atan2(torch.linalg.cross(a, b).norm(dim=-1), (a * b).sum(-1))


def signed_turn(a: Float[Tensor, "path 3"], b: Float[Tensor, "path 3"]) -> Float[Tensor, " path"]:
    """From direction a to direction b in the plane, in (-pi, pi]; left is positive."""
    return torch.atan2(a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0], (a * b).sum(-1))


def smear_distance(x: Float[Tensor, " path"], centers: int, reach: float) -> Float[Tensor, "path center"]:
    """Gaussians on [0, reach], as wide as they are apart."""
    at = torch.linspace(0, reach, centers, device=x.device)
    width = reach / (centers - 1)
    return torch.exp(-0.5 * ((x[:, None] - at) / width).square())


def smear_angle(x: Float[Tensor, " path"], centers: int) -> Float[Tensor, "path center"]:
    """Gaussians round the circle, as wide as they are apart."""
    width = 2 * math.pi / centers
    at = width * torch.arange(centers, device=x.device)
    away = torch.remainder(x[:, None] - at + math.pi, 2 * math.pi) - math.pi
    return torch.exp(-0.5 * (away / width).square())


class Interaction(nn.Module):
    """One round of messages. `angles`: 2 in the plane, else 3."""

    def __init__(self, params: SGMPParams, angles: int) -> None:
        super().__init__()
        width = params.hidden_dim
        self.distance_centers, self.angle_centers = params.distance_centers, params.angle_centers
        of_angles = [0, 1, angles - 1]
        self.links = nn.ModuleList(
            _mlp(params.distance_centers + count * params.angle_centers, width) for count in of_angles
        )
        self.join = nn.Linear((ENDS + 3) * width, 4 * width)
        self.inner = nn.Linear(4 * width, 2 * width)
        self.last = nn.Linear(2 * width, width)
        self.norm = nn.LayerNorm(width)
        self.recompute = False

    def forward(self, x: Float[Tensor, "node sample d"], paths: PathSet) -> Float[Tensor, "node sample d"]:
        width = x.shape[-1]
        ends = torch.cat(self.join.weight[:, : ENDS * width].split(width, 1))  # (end 4d) d
        said = [part.flatten(1) for part in F.linear(x, ends).chunk(ENDS, -1)]
        if torch.is_grad_enabled() and not self.recompute:
            means = self._means(0, len(x), paths, *said)
        else:
            kept: dict[str, Any] = {"use_reentrant": False, "preserve_rng_state": False}
            cuts = [(*cut, paths, *said) for cut in _cuts(paths.starts, said[0])]
            means = torch.cat([checkpoint(self._means, *cut, **kept) for cut in cuts])
        return x + self.norm(self.last(means.unflatten(1, (x.shape[1], -1))).float())

    def geometry(
        self, distances: Float[Tensor, "path 3"], angles: Float[Tensor, "path angle"], reach: float
    ) -> Float[Tensor, "path wide"]:
        """m1, m2 and m3 side by side."""
        far = [smear_distance(d, self.distance_centers, reach) for d in distances.unbind(1)]
        turned = [smear_angle(angle, self.angle_centers) for angle in angles.unbind(1)]
        read = [far[0], torch.cat([far[1], turned[0]], 1), torch.cat([far[2], *turned[1:]], 1)]
        return torch.cat([link(part) for link, part in zip(self.links, read, strict=True)], 1)

    def _means(self, begin: int, end: int, paths: PathSet, *said: Tensor) -> Float[Tensor, "node wide"]:
        """Mean over the paths of nodes begin .. end - 1, before the last map."""
        first, last = paths.starts[begin], paths.starts[end]
        chosen = slice(first, last)
        geometry = self.geometry(paths.distances[chosen], paths.angles[chosen], paths.reach)
        width = self.last.out_features
        wide = F.linear(geometry, self.join.weight[:, ENDS * width :], self.join.bias)
        samples = said[0].shape[1] // wide.shape[1]
        nodes = paths.nodes[:, chosen]
        rows = wide.repeat(1, samples)
        for end_of_path, part in zip(nodes, said, strict=True):
            rows = rows + _Gather.apply(part, end_of_path)
        hidden = torch.relu(rows).unflatten(1, (samples, -1))
        hidden = torch.relu(self.inner(hidden)).flatten(1)
        return _Mean.apply(hidden, nodes[0] - begin, end - begin)


class SGMP(nn.Module):
    """The operator of a model: one interaction over the same paths at each window and step."""

    def __init__(self, params: SGMPParams, graph: Graph) -> None:
        super().__init__()
        assert graph.paths.shape[1], "the graph of a model with sgmp has paths"
        self.planar = is_planar(graph.positions)
        self.unit, self.reach = link_scale(graph.positions, graph.paths)
        self.starts = path_starts(graph.paths, len(graph.neighbors))
        self.interaction = Interaction(params, angles_of(self.planar))
        self.interaction.recompute = True  # a path says 4 d numbers at each window and step

    def forward(
        self, h: Float[Tensor, "batch node time d"], table: NeighborTable
    ) -> Float[Tensor, "batch node time d"]:
        paths = make_paths(
            table.paths, self.starts, table.positions, planar=self.planar, unit=self.unit, reach=self.reach
        )
        x = h.transpose(0, 1)  # node first: a row is all that is said of a node
        out = self.interaction(x.flatten(1, 2), paths).unflatten(1, x.shape[1:3])
        return out.transpose(0, 1).contiguous()


def is_planar(positions: Float[Tensor, "node 3"]) -> bool:
    """Whether all lie in one horizontal plane."""
    return bool((positions[:, 2] == positions[:1, 2]).all())


def angles_of(planar: bool) -> int:
    """How many angles a path has: two turns in the plane, else two bends and a torsion."""
    return 2 if planar else 3


def link_scale(positions: Float[Tensor, "node 3"], paths: Int[Tensor, "4 path"]) -> tuple[float, float]:
    """Median first link of the paths, and how many of it the distance centers reach to."""
    i, j = paths[:2].long()
    lengths = (positions[j] - positions[i]).norm(dim=-1).double()
    lengths = lengths[lengths > 0].sort().values
    if not len(lengths):
        return 1.0, LEAST_REACH
    unit = float(lengths[len(lengths) // 2])
    return unit, max(LEAST_REACH, float(lengths[int(FARTHEST * (len(lengths) - 1))]) / unit)


def path_starts(paths: Int[Tensor, "4 path"], nodes: int) -> tuple[int, ...]:
    """First path of each node, plus their number; paths of a node lie together."""
    return tuple(torch.searchsorted(paths[0].long().contiguous(), torch.arange(nodes + 1)).tolist())


def _mlp(inputs: int, width: int) -> nn.Module:
    return nn.Sequential(nn.Linear(inputs, width), nn.ReLU(), nn.Linear(width, width))


def _cuts(starts: tuple[int, ...], widest: Tensor) -> list[tuple[int, int]]:
    """Runs of nodes whose paths are at most a chunk; a node with more is a run of its own."""
    most = max(1, CHUNK[device_of(widest)] // widest.shape[1])
    cuts, begin = [], 0
    for node in range(1, len(starts)):
        if node == len(starts) - 1 or starts[node + 1] - starts[begin] > most:
            cuts.append((begin, node))
            begin = node
    return cuts


class _Gather(torch.autograd.Function):
    """Rows by index; the gradient is a sum in the order of the index."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, index: Tensor) -> Tensor:
        ctx.save_for_backward(index)
        ctx.rows = len(rows)
        return rows.index_select(0, index)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (index,) = ctx.saved_tensors
        return _sums(grads[0], index, ctx.rows), None


class _Mean(torch.autograd.Function):
    """Mean of the rows of each owner; owners are sorted and each has a row."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, owner: Tensor, owners: int) -> Tensor:
        first = torch.searchsorted(owner, torch.arange(owners + 1, device=owner.device))
        share = 1 / first.diff().float()
        ctx.save_for_backward(owner, share)
        return _sums(rows, owner, owners) * share[:, None].to(rows.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        owner, share = ctx.saved_tensors
        return (grads[0] * share[:, None].to(grads[0].dtype)).index_select(0, owner), None, None


def _sums(rows: Tensor, owner: Tensor, owners: int) -> Tensor:
    """Sum of the rows of each owner, in float32, in the order of the rows."""
    sorted_owner, order = owner.sort(stable=True)
    first = torch.searchsorted(sorted_owner, torch.arange(owners, device=owner.device))
    return torch.embedding_bag(rows.float(), order, first, False, 0)[0].to(rows.dtype)
