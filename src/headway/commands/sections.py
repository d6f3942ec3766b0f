"""All of params.yaml: every section, the record it becomes, and what two sections must agree on.

Enters: the path of params.yaml. Leaves: section name -> record. A stage reads only the sections it needs;
this is for the commands that judge the whole file, `check` and `preset`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from headway.data.prepare import PreprocessParams
from headway.data.simulate import SimulateParams
from headway.data.split import WindowsParams
from headway.errors import InputError
from headway.evaluation.report import EvaluateParams
from headway.models import ModelParams
from headway.models.st_mamba import STMambaParams
from headway.models.st_sepnet import STSepNetParams
from headway.models.stmgt import STMGTParams
from headway.nn.gatv2 import GATv2Params
from headway.nn.ha_gat import HAGATParams
from headway.nn.heads import MixtureParams, PointParams
from headway.nn.hypergraph import HypergraphParams
from headway.nn.inception import KERNELS
from headway.nn.none import NoneParams
from headway.nn.sgmp import SGMPParams
from headway.params import load_document, read_params
from headway.training.course import TrainParams
from headway.training.pretraining import PretrainParams
from headway.training.runtime import RuntimeParams

BULLET = "  - "  # of InputError.from_problems
RECORDS: dict[str, Any] = {
    "dataset": str,
    "simulate": SimulateParams,
    "preprocess": PreprocessParams,
    "windows": WindowsParams,
    "model": ModelParams,
    "st_mamba": STMambaParams,
    "stmgt": STMGTParams,
    "st_sepnet": STSepNetParams,
    "ha_gat": HAGATParams,
    "gatv2": GATv2Params,
    "hypergraph": HypergraphParams,
    "sgmp": SGMPParams,
    "none": NoneParams,
    "point": PointParams,
    "mixture": MixtureParams,
    "pretrain": PretrainParams,
    "train": TrainParams,
    "evaluate": EvaluateParams,
    "runtime": RuntimeParams,
}


def read_sections(path: Path | str) -> dict[str, Any]:
    """Every section of the file, chosen by `model` or not, as its record.

    Raises: InputError listing all missing, extra, mistyped, out-of-range and contradictory keys and sections.
    """
    problems = [f"{section}: unknown section" for section in load_document(path) if section not in RECORDS]
    sections: dict[str, Any] = {}
    try:
        sections = read_params(path, RECORDS)
    except InputError as error:
        problems += heading_and_problems(error)[1]
    else:
        problems += _contradictions(sections)
    if problems:
        raise InputError.from_problems(f"{path} has {len(problems)} problem(s):", problems)
    return sections


def heading_and_problems(error: InputError) -> tuple[str, list[str]]:
    """An error taken apart again; a single sentence is a heading without problems."""
    lines = str(error).splitlines()
    problems = [line.removeprefix(BULLET) for line in lines if line.startswith(BULLET)]
    return " ".join(line.strip() for line in lines if not line.startswith(BULLET)), problems


def _contradictions(sections: dict[str, Any]) -> list[str]:
    """What each section alone allows and the chosen model cannot be built from."""
    problems = []
    dataset, operator = sections["dataset"], sections["model"].spatial
    if dataset in ("", "..") or Path(dataset).name != dataset:
        problems.append(f"dataset: {dataset!r} is not the name of a folder in data/raw")
    width = sections[operator].hidden_dim
    match sections["model"].name:
        case "stmgt":
            key, heads, inner, what = "stmgt.heads", sections["stmgt"].heads, width, f"{operator}.hidden_dim"
        case "st_sepnet":
            key, heads, inner, what = (
                "the kernels of st_sepnet",
                len(KERNELS),
                width,
                f"{operator}.hidden_dim",
            )
            if sections["st_sepnet"].gate == "temporal_only" and sections["model"].head != "point":
                problems.append("st_sepnet.gate: temporal_only says one number a step; set model.head: point")
        case _:
            own = sections["st_mamba"]
            key, heads, inner = "st_mamba.head_dim", own.head_dim, own.expand * width
            what = f"st_mamba.expand x {operator}.hidden_dim"
    if inner % heads:
        problems.append(f"{key}: {heads} must divide {inner}, which is {what}")
    return problems
