"""Which sensors belong together: the members of hyperedges, and the pairs of a directed graph.

Enters: places of the sensors in a learned space, or a road graph. Leaves: index tables. Distances are made in blocks
of rows, so nothing sensors x sensors is ever whole; choosing indices has no gradient.

Glossary: hyperedge e = a set of sensors; order q = how many; members [edge, q] lists them, the sensor the hyperedge
was made around first; present is False where a member is missing, and everywhere in a hyperedge that repeats an
earlier one; points [node, dimension] are the places.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from headway.types import Graph

BLOCK = 2**22  # distances held at once
WEIGHT = 1  # column of an edge's features


def nearest_members(
    points: Float[Tensor, "node dimension"], order: int
) -> tuple[Int[Tensor, "node {order}"], Bool[Tensor, "node {order}"]]:
    """Members of the hyperedge around each sensor: itself and the order - 1 nearest, and which are present."""
    nodes, others = len(points), min(order, len(points)) - 1
    around = [torch.arange(nodes, device=points.device).unsqueeze(1)]
    if others:
        around.append(torch.cat([_nearest(points, rows, others) for rows in _blocks(points)]))
    return _padded(torch.cat(around, 1), torch.ones(nodes, others + 1, dtype=torch.bool), order)


def road_members(
    graph: Graph, order: int
) -> tuple[Int[Tensor, "node {order}"], Bool[Tensor, "node {order}"], Float[Tensor, "node {order}"]]:
    """Members, which are present, and weights: a sensor (weight 1) and its order - 1 heaviest neighbors."""
    weight = torch.where(graph.valid, graph.features[..., WEIGHT].float(), -1.0)
    kept = min(order - 1, weight.shape[1])
    weight, slot = weight.topk(kept, 1)
    own = torch.arange(len(weight), device=weight.device).unsqueeze(1)
    members = torch.cat([own, graph.neighbors.long().gather(1, slot)], 1)
    present = torch.cat([torch.ones_like(own, dtype=torch.bool), graph.valid.gather(1, slot)], 1)
    members, present = _padded(members, present, order)
    heavy = torch.nn.functional.pad(weight, (1, order - 1 - kept), value=1.0)
    return members, present, heavy * present


def strongest_pairs(
    source: Float[Tensor, "node dimension"], target: Float[Tensor, "node dimension"], count: int
) -> Int[Tensor, "node {count}"]:
    """The sensors that each one reads: of largest source_i . target_j - target_i . source_j; itself as padding."""
    nodes, kept = len(source), min(count, len(source) - 1)
    own = torch.arange(nodes, device=source.device).unsqueeze(1)
    chosen = [own[:, :0]]
    if kept:
        rows = [_strongest(source, target, part, kept) for part in _blocks(source)]
        chosen.append(torch.cat(rows))
    return torch.cat([*chosen, own.expand(-1, count - kept)], 1)


def _nearest(points: Tensor, rows: slice, count: int) -> Tensor:
    distance = torch.cdist(points[rows], points, compute_mode="donot_use_mm_for_euclid_dist")
    distance[_itself(distance, rows)] = torch.inf
    return distance.topk(count, 1, largest=False).indices


def _strongest(source: Tensor, target: Tensor, rows: slice, count: int) -> Tensor:
    score = source[rows] @ target.T - target[rows] @ source.T
    score[_itself(score, rows)] = -torch.inf
    return score.topk(count, 1).indices


def _itself(block: Tensor, rows: slice) -> tuple[Tensor, Tensor]:
    place = torch.arange(len(block), device=block.device)
    return place, place + rows.start


def _blocks(points: Tensor) -> list[slice]:
    height = max(1, BLOCK // len(points))
    return [slice(first, min(first + height, len(points))) for first in range(0, len(points), height)]


def _padded(members: Tensor, present: Tensor, order: int) -> tuple[Tensor, Tensor]:
    """To `order` columns, padding with the first member; sets that were there before are not present."""
    missing = order - members.shape[1]
    members = torch.cat([members, members[:, :1].expand(-1, missing)], 1)
    present = torch.nn.functional.pad(present.to(members.device), (0, missing))
    return members, present & _first_of_its_kind(torch.where(present, members, -1)).unsqueeze(1)


def _first_of_its_kind(members: Tensor) -> Bool[Tensor, " edge"]:
    """Whether no earlier row is the same set."""
    kind = members.sort(1).values.unique(dim=0, return_inverse=True)[1]
    earlier = kind.sort(stable=True)
    again = torch.zeros_like(kind, dtype=torch.bool)
    again[earlier.indices[1:]] = earlier.values[1:] == earlier.values[:-1]
    return ~again
