"""From the choices of params.yaml to a model: two explicit matches, no registry.

`model.name` picks a model file and its section, `model.spatial` an operator, `model.head` a head. The imports
stand inside the cases, so that a stage depends on the chosen files only.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, assert_never

from jaxtyping import Float
from torch import Tensor, nn

from headway.errors import InputError
from headway.models.standardized import Standardized
from headway.nn.anchors import AnchorMix
from headway.nn.embedding import WindowEmbedding
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
    """

    name: Literal["st_mamba", "stmgt", "st_sepnet"]
    spatial: Literal["ha_gat", "gatv2", "hypergraph", "sgmp", "none"]
    head: Literal["point", "mixture"]
    anchors: bool


def section_records(choice: ModelParams) -> dict[str, type]:
    """The records of the sections that this choice reads, by section name."""
    records: dict[str, type] = {choice.head: PointParams if choice.head == "point" else MixtureParams}
    match choice.name:
        case "st_mamba":
            from headway.models.st_mamba import STMambaParams

            records["st_mamba"] = STMambaParams
        case "stmgt":
            from headway.models.stmgt import STMGTParams

            records["stmgt"] = STMGTParams
        case "st_sepnet":
            from headway.models.st_sepnet import STSepNetParams

            records["st_sepnet"] = STSepNetParams
        case unknown:
            assert_never(unknown)
    match choice.spatial:
        case "ha_gat":
            from headway.nn.ha_gat import HAGATParams

            records["ha_gat"] = HAGATParams
        case "gatv2":
            from headway.nn.gatv2 import GATv2Params

            records["gatv2"] = GATv2Params
        case "hypergraph":
            from headway.nn.hypergraph import HypergraphParams

            records["hypergraph"] = HypergraphParams
        case "sgmp":
            from headway.nn.sgmp import SGMPParams

            records["sgmp"] = SGMPParams
        case "none":
            from headway.nn.none import NoneParams

            records["none"] = NoneParams
        case unknown:
            assert_never(unknown)
    return records


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
    anchors = 1 + len(meta.context) + bool(meta.trailing)
    head, loss = _head(sections[choice.head], width, meta.horizon, anchors)
    model = _network(choice, sections, meta, graph, head)
    mix = AnchorMix(meta.sensors, meta.horizon, anchors) if choice.anchors else None
    return Standardized(model, mix, mean, std, loss)


def _network(
    choice: ModelParams, sections: Mapping[str, Any], meta: PreparedMeta, graph: Graph, head: nn.Module
) -> nn.Module:
    """The model in z-units, with its operator and head."""
    own, width, covariates = sections[choice.name], sections[choice.spatial].hidden_dim, len(meta.covariates)
    spatial, table = _spatial(choice, sections, graph), NeighborTable(graph)
    match choice.name:
        case "st_mamba":
            from headway.models.st_mamba import STMamba

            inner, keys = own.expand * width, f"st_mamba.expand * {choice.spatial}.hidden_dim"
            _check_divides("st_mamba.head_dim", own.head_dim, inner, keys)
            who_and_when = (own.node_embedding, own.time_of_day_embedding, own.day_of_week_embedding)
            return STMamba(
                own,
                d=width,
                embedding=_embedding(width, meta, covariates, *who_and_when),
                spatial=spatial,
                head=head,
                table=table,
                history=meta.history,
            )
        case "stmgt":
            from headway.models.stmgt import STMGT

            slots = own.clock == "slots"
            _check_divides("stmgt.heads", own.heads, width, f"{choice.spatial}.hidden_dim")
            return STMGT(
                own,
                d=width,
                embedding=_embedding(width, meta, 0, own.node_embedding, slots, slots),
                spatial=spatial,
                head=head,
                table=table,
                history=meta.history,
                covariates=covariates,
                slots_per_day=meta.slots_per_day,
            )
        case "st_sepnet":
            from headway.models.st_sepnet import STSepNet
            from headway.nn.inception import KERNELS

            kernels = f"the {len(KERNELS)} kernels of st_sepnet"
            _check_divides(kernels, len(KERNELS), width, f"{choice.spatial}.hidden_dim")
            if own.gate == "temporal_only" and choice.head != "point":
                raise InputError(
                    "st_sepnet.gate: temporal_only says one number a step; set model.head: point"
                )
            who_and_when = (own.node_embedding, own.time_of_day_embedding, own.day_of_week_embedding)
            return STSepNet(
                own,
                d=width,
                embedding=_embedding(width, meta, covariates, *who_and_when),
                spatial=spatial,
                head=head,
                table=table,
                meta=meta,
            )
        case unknown:
            assert_never(unknown)


def _check_divides(key: str, part: int, whole: int, keys: str) -> None:
    if whole % part:
        raise InputError(f"{key}: {part} does not divide {keys} = {whole}")


def _embedding(
    width: int, meta: PreparedMeta, covariates: int, node: bool, time_of_day: bool, day_of_week: bool
) -> WindowEmbedding:
    return WindowEmbedding(
        width,
        nodes=meta.sensors,
        channels=len(meta.channels),
        lags=len(meta.context),
        covariates=covariates,
        slots_per_day=meta.slots_per_day,
        node=node,
        time_of_day=time_of_day,
        day_of_week=day_of_week,
    )


def _head(
    params: PointParams | MixtureParams, width: int, horizon: int, anchors: int
) -> tuple[nn.Module, Callable[[Forecast, Batch], Tensor]]:
    """The head, and the loss that its forecasts are trained by."""
    match params:
        case PointParams():
            return PointHead(params, width, horizon, anchors), absolute_error
        case MixtureParams():
            loss = partial(
                mixture_loss,
                mean_square=params.mean_square,
                spread=params.spread,
                entropy=params.entropy,
            )
            return MixtureHead(params, width, horizon, anchors), loss
        case unknown:
            assert_never(unknown)


def _spatial(choice: ModelParams, sections: Mapping[str, Any], graph: Graph) -> Callable[[], nn.Module]:
    edge_features = graph.features.shape[-1]
    match choice.spatial:
        case "ha_gat":
            from headway.nn.ha_gat import HAGAT

            return lambda: HAGAT(sections["ha_gat"], edge_features)
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
