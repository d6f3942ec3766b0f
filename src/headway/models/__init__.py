"""From the choices of params.yaml to a model: two explicit matches, no registry.

`model.name` picks a model file and its section, `model.spatial` an operator, `model.head` a head. The imports
stand inside the cases, so that a stage depends on the chosen files only.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, assert_never

from jaxtyping import Float
from torch import Tensor, nn

from headway.errors import InputError
from headway.models.standardized import Standardized
from headway.nn.anchors import AnchorMix
from headway.nn.embedding import WindowEmbedding
from headway.nn.heads import PointHead, PointParams
from headway.nn.neighbor_table import NeighborTable
from headway.types import Graph

if TYPE_CHECKING:
    from headway.data.prepared import PreparedMeta


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelParams:
    """Section `model` of params.yaml.

    Attributes:
        name: the model, and the section and file of that name.
        spatial: how sensors read each other, likewise.
        head: what is said about each step.
        anchors: forecast a correction to the anchor mix instead of the target itself.
    """

    name: Literal["st_mamba"]
    spatial: Literal["ha_gat", "none"]
    head: Literal["point"]
    anchors: bool


def section_records(choice: ModelParams) -> dict[str, type]:
    """The records of the sections that this choice reads, by section name."""
    records: dict[str, type] = {choice.head: PointParams}
    match choice.name:
        case "st_mamba":
            from headway.models.st_mamba import STMambaParams

            records["st_mamba"] = STMambaParams
        case unknown:
            assert_never(unknown)
    match choice.spatial:
        case "ha_gat":
            from headway.nn.ha_gat import HAGATParams

            records["ha_gat"] = HAGATParams
        case "none":
            from headway.nn.none import NoneParams

            records["none"] = NoneParams
        case unknown:
            assert_never(unknown)
    return records


def build(
    choice: ModelParams,
    sections: Mapping[str, Any],
    meta: PreparedMeta,
    graph: Graph,
    mean: Float[Tensor, "channel ..."],
    std: Float[Tensor, "channel ..."],
) -> Standardized:
    """A model with fresh weights, drawn from torch's global generator.

    Args:
        choice: section `model`. sections: the records named by `section_records`.
        meta: of the prepared data. graph: its sensor graph. mean, std: its scaler.
    Raises: InputError when widths of two sections do not fit each other.
    """
    assert len(graph.neighbors) == meta.sensors, (len(graph.neighbors), meta.sensors)
    width = sections[choice.spatial].hidden_dim
    anchors = 1 + len(meta.context) + bool(meta.trailing)
    match choice.name:
        case "st_mamba":
            from headway.models.st_mamba import STMamba

            own = sections["st_mamba"]
            _check_heads(own.head_dim, own.expand * width, f"st_mamba.expand * {choice.spatial}.hidden_dim")
            model = STMamba(
                own,
                d=width,
                embedding=_embedding(own, width, meta),
                spatial=_spatial(choice, sections, graph.features.shape[-1]),
                head=PointHead(sections[choice.head], width, meta.horizon, anchors),
                table=NeighborTable(graph),
                history=meta.history,
            )
        case unknown:
            assert_never(unknown)
    mix = AnchorMix(meta.sensors, meta.horizon, anchors) if choice.anchors else None
    return Standardized(model, mix, mean, std)


def _check_heads(head_dim: int, inner: int, keys: str) -> None:
    if inner % head_dim:
        raise InputError(f"st_mamba.head_dim: {head_dim} does not divide {keys} = {inner}")


def _embedding(own: Any, width: int, meta: PreparedMeta) -> WindowEmbedding:
    return WindowEmbedding(
        width,
        nodes=meta.sensors,
        channels=len(meta.channels),
        lags=len(meta.context),
        covariates=len(meta.covariates),
        slots_per_day=meta.slots_per_day,
        node=own.node_embedding,
        time_of_day=own.time_of_day_embedding,
        day_of_week=own.day_of_week_embedding,
    )


def _spatial(choice: ModelParams, sections: Mapping[str, Any], edge_features: int) -> Callable[[], nn.Module]:
    match choice.spatial:
        case "ha_gat":
            from headway.nn.ha_gat import HAGAT

            return lambda: HAGAT(sections["ha_gat"], edge_features)
        case "none":
            from headway.nn.none import NoNeighbors

            return lambda: NoNeighbors(sections["none"])
        case unknown:
            assert_never(unknown)
