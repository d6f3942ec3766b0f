"""ST-SepNet: the trend of the network and what the sensors do beside it, made apart and joined by a gate.

    O1 = gain_n curve + shift_n                 curve: one forecast of the average series           [B, H]
    h  = embedding(readings, masks, clock, sensor)                                                  [B, N, L, d]
    for each layer:  h = spatial(h + Dropout(inception(h)))            times, then sensors (its own norm)
    z  = U relu(sum over layers of S h)                                S reads all steps at once    [B, N, d]
    O2 = head(z, window)                                               a correction, in z-units
    forecast = gate(O1, O2)

A gate joins forecasts. Of a distribution it moves the middle, its mean; what the head says of its spread stays.

Source: brief D (ST-SepNet, arXiv 2505.19620), models.md 3c: the spatial branch is MTGNN's with its skip connections,
the temporal branch is trend.py. There the curve is the same for all sensors; gain and shift are this project's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal, assert_never

import torch
from annotated_types import Ge, Interval
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from headway.data.prepared import PreparedMeta
from headway.errors import InputError
from headway.models.backbone import find_recorded, inspect_backbone, open_backbone, record
from headway.models.parts import Parts, check_divides
from headway.nn.dropout import StepDropout
from headway.nn.embedding import WindowEmbedding
from headway.nn.gates import GateName, make_gate
from headway.nn.heads import PointHead
from headway.nn.inception import KERNELS, GatedInception
from headway.nn.neighbor_table import NeighborTable
from headway.nn.prompt import Prompt
from headway.nn.reprogramming import PATCH, LanguageBranch, patches_of
from headway.nn.slices import SpatialBlock
from headway.nn.trend import LinearBranch, MambaBranch, TransformerBranch, Trend
from headway.types import Batch, Forecast, PointForecast


@dataclass(frozen=True, slots=True, kw_only=True)
class STSepNetParams:
    """Section `st_sepnet` of params.yaml.

    Attributes:
        temporal: what reads the average series.
        gate: how both forecasts become one; spatial_only and temporal_only leave the other branch out.
        layers: of the spatial branch; the dilation doubles from one to the next.
        skip_dim: width of what each layer passes on.
        dropout: on the output of each convolution along time.
        sensor_curve: a gain and a shift of the curve for every sensor.
        node_embedding, time_of_day_embedding, day_of_week_embedding: what the spatial branch knows.
        trend_dim, trend_layers, trend_heads: of the transformer and of Mamba-2.
        backbone: folder of a language model. backbone_source: its name on the Hugging Face Hub, @revision.
        backbone_layers: the first so many of its layers; 0: all.
        prototypes: mixtures of its words that patches are made of.
        features: numbers read of each patch's last state.
        lora_rank: of the trained maps beside its linear layers; 0: none.
        statistics: tell it the window's statistics, not only the data set and the task.
    """

    temporal: Literal["llm", "st_mamba", "transformer", "linear"]
    gate: GateName
    layers: Annotated[int, Ge(1)]
    skip_dim: Annotated[int, Ge(1)]
    dropout: Annotated[float, Interval(ge=0, lt=1)]
    sensor_curve: bool
    node_embedding: bool
    time_of_day_embedding: bool
    day_of_week_embedding: bool
    trend_dim: Annotated[int, Ge(1)]
    trend_layers: Annotated[int, Ge(1)]
    trend_heads: Annotated[int, Ge(1)]
    backbone: str
    backbone_source: str
    backbone_layers: Annotated[int, Ge(0)]
    prototypes: Annotated[int, Ge(1)]
    features: Annotated[int, Ge(1)]
    lora_rank: Annotated[int, Ge(0)]
    statistics: bool

    def __post_init__(self) -> None:
        if self.trend_dim % self.trend_heads:
            raise InputError(
                f"st_sepnet.trend_heads: {self.trend_heads} does not divide st_sepnet.trend_dim = {self.trend_dim}"
            )


class STSepNet(nn.Module):
    """The whole model in z-units.

    Args:
        params: section `st_sepnet`.
        d: width of the spatial branch's stream.
        embedding: Batch -> h; made by `headway.models.build`.
        spatial: makes one spatial operator, (h, table) -> h.
        head: (state, batch) -> Forecast.
        table: the sensor graph.
        meta: of the prepared data.
    """

    def __init__(
        self,
        params: STSepNetParams,
        *,
        d: int,
        embedding: WindowEmbedding,
        spatial: Callable[[], nn.Module],
        head: nn.Module,
        table: NeighborTable,
        meta: PreparedMeta,
    ) -> None:
        super().__init__()
        self.table = table
        space, time = params.gate != "temporal_only", params.gate != "spatial_only"
        self.space = Space(params, d, embedding, spatial, head, meta.history) if space else None
        self.trend = make_trend(params, meta) if time else None
        own = time and params.sensor_curve
        self.gain = nn.Parameter(torch.ones(meta.sensors)) if own else None
        self.shift = nn.Parameter(torch.zeros(meta.sensors)) if own else None
        self.gate = make_gate(params.gate, meta.sensors)
        self.recompute = False  # set by the planner: keep the input of each layer only

    def forward(self, batch: Batch) -> Forecast:
        recompute = self.recompute and torch.is_grad_enabled()
        if self.space is None:
            return PointForecast(point=self.curves(batch, recompute))
        said = self.space(batch, self.table, recompute)
        if self.gate is None:
            return said
        curves = self.curves(batch, recompute)
        if isinstance(said, PointForecast):
            return PointForecast(point=self.gate(curves, said.point))
        middle = said.mean()
        return said.shifted(self.gate(curves, middle) - middle)

    def curves(self, batch: Batch, recompute: bool) -> Float[Tensor, "batch horizon node"]:
        """O1: the curve as each sensor sees it."""
        assert self.trend is not None
        trend = partial(checkpoint, self.trend, use_reentrant=False) if recompute else self.trend
        curve = trend(batch).unsqueeze(-1)
        if self.gain is None or self.shift is None:
            return curve.expand(-1, -1, batch.target.shape[-1])
        return curve * self.gain + self.shift


def assemble(params: STSepNetParams, parts: Parts) -> STSepNet:
    """The model with fresh weights.

    Raises: InputError where widths do not fit, or the gate and the head.
    """
    check_divides(f"the {len(KERNELS)} kernels of st_sepnet", len(KERNELS), parts.width, parts.width_key)
    if params.gate == "temporal_only" and not isinstance(parts.head, PointHead):
        raise InputError("st_sepnet.gate: temporal_only says one number a step; set model.head: point")
    embedding = parts.embedding(
        covariates=len(parts.meta.covariates),
        node=params.node_embedding,
        time_of_day=params.time_of_day_embedding,
        day_of_week=params.day_of_week_embedding,
    )
    return STSepNet(
        params,
        d=parts.width,
        embedding=embedding,
        spatial=parts.spatial,
        head=parts.head,
        table=parts.table,
        meta=parts.meta,
    )


class Space(nn.Module):
    """The spatial branch: O2."""

    def __init__(
        self,
        params: STSepNetParams,
        d: int,
        embedding: WindowEmbedding,
        spatial: Callable[[], nn.Module],
        head: nn.Module,
        history: int,
    ) -> None:
        super().__init__()
        self.embedding = embedding
        self.skip = nn.Linear(history * d, params.skip_dim)
        self.layers = nn.ModuleList(
            Layer(params, d, 2**number, spatial(), history) for number in range(params.layers)
        )
        self.state = nn.Linear(params.skip_dim, d)
        self.head = head

    def forward(self, batch: Batch, table: NeighborTable, recompute: bool) -> Forecast:
        h = self.embedding(batch)
        skipped = self.skip(h.flatten(2)).float()
        for layer in self.layers:
            if recompute:  # draws the same dropout the second time
                h, more = checkpoint(layer, h, table, use_reentrant=False)
            else:
                h, more = layer(h, table)
            skipped = skipped + more
        return self.head(self.state(torch.relu(skipped)).float(), batch)


class Layer(SpatialBlock):
    """Each sensor reads its own past, then its neighbours at each time."""

    def __init__(
        self, params: STSepNetParams, d: int, dilation: int, spatial: nn.Module, history: int
    ) -> None:
        super().__init__(spatial)
        self.temporal = GatedInception(d, dilation)
        self.dropout = StepDropout(params.dropout)
        self.skip = nn.Linear(history * d, params.skip_dim)

    def forward(
        self, h: Float[Tensor, "batch node time d"], table: NeighborTable
    ) -> tuple[Float[Tensor, "batch node time d"], Float[Tensor, "batch node skip"]]:
        h = self.over_sensors(h + self.dropout(self.temporal(h)), table)
        return h, self.skip(h.flatten(2)).float()


def backbone_record(params: STSepNetParams) -> dict[str, Any]:
    """What is to be known of the language model; empty where none is read."""
    if params.temporal != "llm" or params.gate == "spatial_only":
        return {}
    inspect_backbone(Path(params.backbone), params.backbone_source)
    return record(Path(params.backbone), params.backbone_source)


def with_backbone(params: STSepNetParams, recorded: Mapping[str, Any], beside: Path) -> STSepNetParams:
    """The section with the folder where the recorded language model is found."""
    return replace(params, backbone=str(find_recorded(recorded, Path(params.backbone), beside)))


def make_language_branch(params: STSepNetParams, meta: PreparedMeta) -> LanguageBranch:
    """A frozen language model that reads patches of the average series after a prompt."""
    if meta.history < PATCH:
        raise InputError(
            f"st_sepnet.temporal: llm reads patches of {PATCH} steps; set windows.history to as many"
        )
    folder = Path(params.backbone)
    reader, tokens = open_backbone(folder, params.backbone_source, params.backbone_layers, params.lora_rank)
    prompt = Prompt(
        meta.description or describe(meta),
        tokens,
        reader.words(),
        history=meta.history,
        horizon=meta.horizon,
        slots_per_day=meta.slots_per_day,
        knows_weeks=meta.knows_weeks(),
        statistics=params.statistics,
    )
    said = prompt(torch.zeros(1, meta.history), torch.zeros(1, meta.history, 2, dtype=torch.int64)).shape[1]
    if said + patches_of(meta.history) > reader.limit:
        raise InputError(
            f"{folder} reads {reader.limit} tokens, the prompt has {said}: shorten `description` in dataset.yaml"
        )
    if params.features > reader.words().shape[1]:
        raise InputError(f"st_sepnet.features: {params.features}, but {folder} has {reader.words().shape[1]}")
    return LanguageBranch(reader, prompt, params.prototypes, params.features)


def describe(meta: PreparedMeta) -> str:
    """Of a data set whose dataset.yaml has no description."""
    minutes = f"{meta.step_seconds / 60:g}"
    return f"{meta.variable} in {meta.unit} of {meta.sensors} sensors, a reading every {minutes} minutes."


def make_trend(params: STSepNetParams, meta: PreparedMeta) -> Trend:
    """The temporal branch: what reads the average series, and its map to a curve."""
    variables, width = 1 + meta.beside(), params.trend_dim
    size = width, params.trend_layers, params.trend_heads
    match params.temporal:
        case "linear":
            branch, width = LinearBranch(), meta.history * variables
        case "transformer":
            branch = TransformerBranch(variables, meta.history, *size)
        case "st_mamba":
            branch = MambaBranch(variables, *size)
        case "llm":
            branch, width = make_language_branch(params, meta), patches_of(meta.history) * params.features
        case unknown:
            assert_never(unknown)
    return Trend(
        branch,
        width,
        horizon=meta.horizon,
        anchors=1 + meta.beside(),
        slots_per_day=meta.slots_per_day,
        knows_weeks=meta.knows_weeks(),
    )
