"""Who reads whom: the fixed-degree neighbour table of a graph, for tensors of a shape.

What flows along its edges (`headway.nn.edges`) is read as rows: the last dimension of a contiguous [batch, node,
time, head, width] tensor, numbered in storage order, so nothing is transposed and nothing N x N exists.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from copy import copy
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Int
from torch import Tensor, nn

from headway.types import Graph

KEPT_SHAPES = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Numbers:
    """Every row and slot written out by number, in storage order.

    Attributes:
        source: row read by slot (r, k), flattened; padding reads r itself.
        starts: first slot of each row, plus the total.
        owner: r of each slot.
        reverse_owner: rows r that read row j, grouped by j.
        reverse_slot: the slot through which they do.
        reverse_starts: first entry of each j, plus the total.
    """

    source: Int[Tensor, " slot"]
    starts: Int[Tensor, " row_plus_one"]
    owner: Int[Tensor, " slot"]
    reverse_owner: Int[Tensor, " edge"]
    reverse_slot: Int[Tensor, " edge"]
    reverse_starts: Int[Tensor, " row_plus_one"]


@dataclass(frozen=True, kw_only=True)
class Rows:
    """The table for tensors of one (batch, time, heads): inner = time * heads rows of a sensor in each window.

    Attributes:
        neighbors: sensors that each sensor reads; padding reads the sensor itself.
        reader: sensors that read sensor j, grouped by j; padding reads nothing.
        column: the column of `neighbors` through which they do.
        first: first entry of each j, plus the total.
    """

    batch: int
    inner: int
    neighbors: Int[Tensor, "node neighbor"]
    reader: Int[Tensor, " edge"]
    column: Int[Tensor, " edge"]
    first: Int[Tensor, " node_plus_one"]

    @cached_property
    def numbers(self) -> Numbers:
        """For operations that take a number for each row and slot: 16 bytes a slot, made when first asked for."""
        return _written_out(self)

    @property
    def shape(self) -> tuple[int, int]:
        """How many rows there are, and how many slots each has."""
        nodes, degree = self.neighbors.shape
        return self.batch * nodes * self.inner, degree


class NeighborTable(nn.Module):
    """A Graph as buffers (saved with the model), and who reads whom per batch shape (made on demand).

    `positions` and `paths` are there where the graph has paths: for operators that read geometry.
    """

    neighbors: Tensor
    valid: Tensor
    features: Tensor
    positions: Tensor
    paths: Tensor

    def __init__(self, graph: Graph) -> None:
        super().__init__()
        inside = (graph.neighbors >= 0) & (graph.neighbors < len(graph.neighbors))
        assert inside.all(), (
            f"neighbors that are no sensors: {graph.neighbors[~inside].unique().tolist()[:5]}"
        )
        self.register_buffer("neighbors", graph.neighbors.long())
        self.register_buffer("valid", graph.valid)
        self.register_buffer("features", graph.features)
        if graph.paths.shape[1]:
            self.register_buffer("positions", graph.positions)
            self.register_buffer("paths", graph.paths)
        # a number, so that a planner can write tables out without reading them
        self.edges = int(graph.valid.sum())
        self._rows: OrderedDict[tuple[int, int, int, torch.device], Rows] = OrderedDict()

    def __getstate__(self) -> dict[str, Any]:
        """What a copy gets: it makes rows of its own, for the shapes it will meet."""
        return {**self.__dict__, "_rows": OrderedDict()}

    def mapped(self, change: Callable[[Tensor], Tensor]) -> NeighborTable:
        """The table with each of its tensors changed, and no rows yet."""
        twin = copy(self)
        twin._buffers = {name: change(buffer) for name, buffer in self.named_buffers()}
        return twin

    def rows(self, batch: int, time: int, heads: int) -> Rows:
        """Those of tensors [batch, node, time, heads, width]; the newest few shapes are kept."""
        key = (batch, time, heads, self.neighbors.device)
        if key not in self._rows:
            reader, column, first = _readers(self.neighbors, self.valid, self.edges)
            self._rows[key] = Rows(
                batch=batch,
                inner=time * heads,
                neighbors=self.neighbors.int(),
                reader=reader,
                column=column,
                first=first,
            )
            if len(self._rows) > KEPT_SHAPES:
                self._rows.popitem(last=False)
        self._rows.move_to_end(key)
        return self._rows[key]


def _readers(neighbors: Tensor, valid: Tensor, edges: int) -> tuple[Tensor, Tensor, Tensor]:
    """Who reads each sensor and through which column, grouped by the sensor read, and where each group begins."""
    nodes, degree = neighbors.shape
    wide = max(1, degree)
    read, slot = torch.sort(torch.where(valid, neighbors, nodes).flatten(), stable=True)
    first = torch.searchsorted(read[:edges], torch.arange(nodes + 1, device=read.device))
    slot = slot[:edges]  # padding is left out
    return (slot // wide).int(), (slot % wide).int(), first.int()


def _written_out(rows: Rows) -> Numbers:
    (nodes, degree), inner, device = rows.neighbors.shape, rows.inner, rows.neighbors.device
    count = rows.batch * nodes * inner
    assert count * degree < 2**31, (
        f"{count} rows of {degree} neighbors overflow int32; use a smaller micro-batch"
    )
    numbers = torch.arange(count + 1, dtype=torch.int32, device=device)
    window = (numbers[: rows.batch] * (nodes * inner)).unsqueeze(1)  # first row of each window
    source = rows.neighbors.unsqueeze(1) * inner + numbers[:inner].unsqueeze(1)  # node inner neighbor
    reader, slot, readers = _reverse(rows)
    return Numbers(
        source=(window + source.flatten()).flatten(),
        starts=numbers * degree,
        owner=numbers[:-1].repeat_interleave(degree),
        reverse_owner=(window + reader).flatten(),
        reverse_slot=(window * degree + slot).flatten(),
        reverse_starts=F.pad(readers.repeat(rows.batch).cumsum(0, dtype=torch.int32), (1, 0)),
    )


def _reverse(rows: Rows) -> tuple[Tensor, Tensor, Tensor]:
    """Of one window: rows that read, grouped by the row they read, their slots, and how many read each row."""
    (nodes, degree), inner, edges = rows.neighbors.shape, rows.inner, len(rows.reader)
    first, device = rows.first.long(), rows.first.device
    count = first.diff()
    sensor = torch.arange(nodes, device=device).repeat_interleave(count * inner, output_size=edges * inner)
    place = torch.arange(edges * inner, device=device) - first[sensor] * inner
    edge = first[sensor] + place % count[sensor]
    row = rows.reader[edge] * inner + place // count[sensor]
    return row.int(), (row * degree + rows.column[edge]).int(), count.repeat_interleave(inner)
