"""From the choices of params.yaml to a model: two explicit matches, no registry.

`model.name` picks a model file and its section, `model.spatial` an operator, `model.head` a head. The imports
stand inside the cases, so that a stage depends on the chosen files only.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, assert_never

from annotated_types import Interval
from jaxtyping import Float
from torch import Tensor, nn

from headway.models.parts import Parts
from headway.models.standardized import Standardized
from headway.nn.anchors import AnchorMix
from headway.nn.heads import MixtureHead, MixtureParams, PointHead, PointParams
from headway.nn.neighbor_table import NeighborTable
from headway.objectives.forecast_loss import absolute_error, mixture_loss
from headway.types import Batch, Forecast, Graph

if TYPE_CHECKING:
    from headway.data.prepared import PreparedMeta


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelParams:
    """Section `model` of params.yaml.

    Attributes:
        name: the model, and the section and file of that name.
        spatial: how sensors read each other, likewise.
        head: what is said about each step: a number, or a distribution.
        anchors: forecast a correction to the anchor mix instead of the target itself.
        sensor_dropout: share of the sensors of a window that training leaves without readings.
    """

    name: Literal["st_mamba", "stmgt", "st_sepnet"]
    spatial: Literal["ha_gat", "gatv2", "hypergraph", "sgmp", "none"]
    head: Literal["point", "mixture"]
    anchors: bool
    sensor_dropout: Annotated[float, Interval(ge=0, lt=1)]


def section_records(choice: ModelParams) -> dict[str, type]:
    """The records of the sections that this choice reads, by section name."""
    return {
        choice.head: PointParams if choice.head == "point" else MixtureParams,
        choice.name: _model_record(choice),
        choice.spatial: _operator_record(choice),
    }


def _model_record(choice: ModelParams) -> type:
    match choice.name:
        case "st_mamba":
            from headway.models.st_mamba import STMambaParams

            return STMambaParams
        case "stmgt":
            from headway.models.stmgt import STMGTParams

            return STMGTParams
        case "st_sepnet":
            from headway.models.st_sepnet import STSepNetParams

            return STSepNetParams
        case unknown:
            assert_never(unknown)


def _operator_record(choice: ModelParams) -> type:
    match choice.spatial:
        case "ha_gat":
            from headway.nn.ha_gat import HAGATParams

            return HAGATParams
        case "gatv2":
            from headway.nn.gatv2 import GATv2Params

            return GATv2Params
        case "hypergraph":
            from headway.nn.hypergraph import HypergraphParams

            return HypergraphParams
        case "sgmp":
            from headway.nn.sgmp import SGMPParams

            return SGMPParams
        case "none":
            from headway.nn.none import NoneParams

            return NoneParams
        case unknown:
            assert_never(unknown)


def outside_files(choice: ModelParams, sections: Mapping[str, Any]) -> dict[str, Any]:
    """What a model reads beside its own folder, with the hashes of all files: a language model, or nothing."""
    match choice.name:
        case "st_sepnet":
            from headway.models.st_sepnet import backbone_record

            return backbone_record(sections["st_sepnet"])
        case _:
            return {}


def find_outside_files(
    choice: ModelParams, sections: Mapping[str, Any], recorded: Mapping[str, Any], beside: Path
) -> dict[str, Any]:
    """The sections with the place where the recorded files are; `beside` is looked at too.

    Raises: InputError naming what is missing or changed.
    """
    match choice.name:
        case "st_sepnet":
            from headway.models.st_sepnet import with_backbone

            return {**sections, "st_sepnet": with_backbone(sections["st_sepnet"], recorded, beside)}
        case _:
            return dict(sections)


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
    anchors = 1 + meta.beside()
    readings = meta.history * (len(meta.channels) + meta.beside()) + meta.horizon * anchors
    head, loss = _head(sections[choice.head], width, meta.horizon, readings)
    parts = Parts(
        width=width,
        width_key=f"{choice.spatial}.hidden_dim",
        spatial=_spatial(choice, sections, graph),
        head=head,
        table=NeighborTable(graph),
        meta=meta,
    )
    model = _network(choice, sections[choice.name], parts)
    mix = AnchorMix(meta.sensors, meta.horizon, anchors) if choice.anchors else None
    dropped = choice.sensor_dropout
    return Standardized(model, mix, mean, std, loss, sensor_dropout=dropped, context=meta.context)


def _network(choice: ModelParams, own: Any, parts: Parts) -> nn.Module:
    """The model in z-units, from its section and its parts."""
    match choice.name:
        case "st_mamba":
            from headway.models.st_mamba import assemble

            return assemble(own, parts)
        case "stmgt":
            from headway.models.stmgt import assemble

            return assemble(own, parts)
        case "st_sepnet":
            from headway.models.st_sepnet import assemble

            return assemble(own, parts)
        case unknown:
            assert_never(unknown)


def _head(
    params: PointParams | MixtureParams, width: int, horizon: int, readings: int
) -> tuple[nn.Module, Callable[[Forecast, Batch], Tensor]]:
    """The head, and the loss that its forecasts are trained by."""
    match params:
        case PointParams():
            return PointHead(params, width, horizon, readings), absolute_error
        case MixtureParams():
            loss = partial(
                mixture_loss,
                mean_square=params.mean_square,
                spread=params.spread,
                entropy=params.entropy,
            )
            return MixtureHead(params, width, horizon, readings), loss
        case unknown:
            assert_never(unknown)


def _spatial(choice: ModelParams, sections: Mapping[str, Any], graph: Graph) -> Callable[[], nn.Module]:
    edge_features = graph.features.shape[-1]
    match choice.spatial:
        case "ha_gat":
            from headway.nn.ha_gat import HAGAT

            sensors, neighbors = graph.neighbors.shape
            return lambda: HAGAT(sections["ha_gat"], edge_features, edges=(sensors, neighbors))
        case "gatv2":
            from headway.nn.gatv2 import GATv2

            return lambda: GATv2(sections["gatv2"], edge_features)
        case "hypergraph":
            from headway.nn.hypergraph import Hypergraph

            return lambda: Hypergraph(sections["hypergraph"], graph)
        case "sgmp":
            from headway.nn.sgmp import SGMP

            return lambda: SGMP(sections["sgmp"], graph)
        case "none":
            from headway.nn.none import NoNeighbors

            return lambda: NoNeighbors(sections["none"])
        case unknown:
            assert_never(unknown)
