"""A model and what it must know of its data, from the sizes of the data alone.

Enters: the records of params.yaml, a number of sensors, a step. Leaves: the model that training would build, with
fresh weights, and the description of such a data set. No reading is needed, so a plan can be made before there is
any.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch

from headway.data.calendar import DAY, WEEK
from headway.data.prepared import PreparedMeta
from headway.data.rules import Rules
from headway.data.split import WindowsParams
from headway.models import build
from headway.models.standardized import Standardized
from headway.types import Graph

EDGE_FEATURES = 2


def model_of_size(
    sections: Mapping[str, Any], sensors: int, step_seconds: int
) -> tuple[Standardized, PreparedMeta]:
    """The chosen model for so many sensors, each with as many neighbors as are allowed.

    Args: sections: every section of params.yaml. sensors, step_seconds: of the data.
    """
    meta = _meta(sections["windows"], sensors, step_seconds)
    graph = _graph(sensors, sections["preprocess"].max_neighbors)
    if sections["model"].spatial == "sgmp":
        graph = _with_paths(graph, sections["sgmp"].paths_per_sensor)
    ones = torch.ones(len(meta.channels))
    with torch.random.fork_rng(devices=[]):
        return build(sections["model"], sections, meta, graph, 0 * ones, ones), meta


def _meta(windows: WindowsParams, sensors: int, step_seconds: int) -> PreparedMeta:
    """A data set of these sizes; what no model reads is left empty."""
    return PreparedMeta(
        dataset="",
        variable="",
        unit="",
        source="",
        licence="",
        time_zone="UTC",
        steps=0,
        sensors=sensors,
        channels=("", *windows.inputs),
        covariates=windows.covariate_columns(),
        future_covariates=(),
        holidays="",
        step_seconds=step_seconds,
        slots_per_day=-(-DAY // step_seconds),
        history=windows.history,
        horizon=windows.horizon,
        context=tuple(range(len(windows.context))),
        trailing=(1,) if windows.trailing_weeks else (),
        trailing_days=(),
        splits={},
        training_rows=-(-2 * WEEK // step_seconds),  # enough to know the days of the week
        scaling="global",
        rules=Rules(duplicates="mean", off_grid="error", stuck_steps=0),
        bounds=(),
        covariate_steps=1,
        files={},
    )


def _graph(sensors: int, most: int) -> Graph:
    """Every sensor reads the next ones: the full table, which is the largest. One alone reads nobody."""
    degree = max(1, min(most, sensors - 1))
    neighbors = (torch.arange(sensors)[:, None] + torch.arange(1, degree + 1)) % sensors
    return Graph(
        neighbors=neighbors.int(),
        valid=torch.full_like(neighbors, sensors > 1, dtype=torch.bool),
        features=torch.zeros(sensors, degree, EDGE_FEATURES),
    )


def _with_paths(graph: Graph, per_sensor: int) -> Graph:
    """As many paths of each sensor as are read, over places on a circle."""
    sensors = len(graph.neighbors)
    round_about = 2 * torch.pi * torch.arange(sensors) / sensors
    first = torch.arange(sensors).repeat_interleave(per_sensor)
    paths = (first + torch.arange(4)[:, None]) % sensors
    positions = torch.stack([round_about.cos(), round_about.sin(), 0 * round_about], 1)
    return replace(graph, positions=positions, paths=paths.int())
