"""A model folder: all that is needed to forecast with a trained model, and nothing that could run code.

model.safetensors   weights, the sensor graph included
config.json         which model, its sections of params.yaml, what the prepared arrays meant
scaler.json         mean and std of each channel and covariate
climatology.npy     the training climatology, float32 [time of week, sensor]: the forecast where nothing is known
sensors.parquet     the sensors, in the order of the weights
calibration.json    how intervals are widened or narrowed; only of a model that says a distribution
README.md           the model card (headway.serving.model_card)

Of a model that reads a language model, config.json has its origin and the SHA-256 of its files. They are not copied:
they are read where training read them, or from `backbone/` in this folder.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from pydantic import TypeAdapter, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from headway.data.prepared import Prepared, PreparedMeta
from headway.errors import InputError
from headway.models import ModelParams, build, find_outside_files, outside_files, section_records
from headway.models.calibration import Calibrator
from headway.models.standardized import OutputSpace, Standardized
from headway.types import Graph

SCHEMA = 1
CALIBRATION = "calibration.json"
BACKBONE = "backbone"  # where a language model may lie when it is not where it was in training
MEND = "run `dvc repro train`, or fetch the whole folder again with `dvc pull` or `dvc get`"


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFolder:
    """A model as read from its folder.

    Attributes:
        model: in evaluation mode, physical units in and out.
        meta: of the data it was trained on, without file hashes.
        sensors: rows in the order of the nodes.
        climatology: training mean of each time of week, as in the prepared folder.
        covariate_scale: mean and deviation of each covariate.
        prepared_manifest: which state of the prepared data that was.
        calibrator: there if, and only if, the model says a distribution.
    """

    model: Standardized
    meta: PreparedMeta
    sensors: pd.DataFrame
    climatology: Float[np.ndarray, "time_of_week node"]
    covariate_scale: tuple[Float[np.ndarray, " covariate"], Float[np.ndarray, " covariate"]]
    prepared_manifest: str
    calibrator: Calibrator | None

    def require(self, prepared: Prepared) -> None:
        """Raise InputError, all differences at once, where this data is not what the model reads."""
        ours, theirs = asdict(self.meta), asdict(prepared.meta)
        time = ("step_seconds", "history", "horizon", "context", "trailing", "trailing_days")
        keys = ("channels", "covariates", "unit", *time)
        problems = [
            f"{key}: the model has {ours[key]}, the data {theirs[key]}"
            for key in keys
            if ours[key] != theirs[key]
        ]
        if self.sensors["sensor_id"].tolist() != prepared.sensors["sensor_id"].tolist():
            problems.append("the sensors are not those the model was trained on")
        if problems:
            raise InputError.from_problems("this model cannot forecast this data; run `dvc repro`:", problems)


def write_model_folder(
    folder: Path,
    model: Standardized,
    choice: ModelParams,
    sections: Mapping[str, Any],
    prepared: Prepared,
    calibrator: Calibrator | None,
) -> None:
    """Write everything but the card into an existing folder.

    Args: sections: the records named by `section_records(choice)`.
    """
    tensors = {name: tensor.detach().contiguous().cpu() for name, tensor in model.state_dict().items()}
    (folder / "model.safetensors").write_bytes(save(tensors))  # save_file would make it private (0600)
    config = {
        "schema": SCHEMA,
        "output_space": model.output_space,
        "model": asdict(choice),
        "sections": {name: asdict(sections[name]) for name in section_records(choice)},
        "meta": asdict(replace(prepared.meta, files={})),
        "prepared_manifest": prepared.manifest,
    }
    outside = outside_files(choice, sections)
    if outside:
        config["outside"] = outside
    (folder / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    scaler = {name: prepared.scaler[name].tolist() for name in sorted(prepared.scaler)}
    (folder / "scaler.json").write_text(json.dumps(scaler) + "\n")
    np.save(folder / "climatology.npy", prepared.climatology)
    if calibrator is not None:
        calibrator.write(folder / CALIBRATION)
    prepared.sensors.to_parquet(folder / "sensors.parquet", index=False, write_page_checksum=True)


def read_model_folder(folder: Path, device: torch.device | str = "cpu") -> ModelFolder:
    """Build the model a folder describes and load its weights.

    Raises: InputError naming the file that is absent, damaged or of another version.
    """
    try:
        config = json.loads((folder / "config.json").read_text())
        scaler = json.loads((folder / "scaler.json").read_text())
        sensors = pd.read_parquet(folder / "sensors.parquet", page_checksum_verification=True)
        climatology = np.load(folder / "climatology.npy")
        tensors = load_file(folder / "model.safetensors")
    except (OSError, ValueError, SafetensorError) as error:
        raise InputError(f"{folder} is not a whole model folder ({error}); {MEND}") from None
    if config.get("schema") != SCHEMA:
        raise InputError(f"{folder} was written by another version of headway; {MEND}")
    choice, sections, meta, space = _read_config(config, folder / "config.json")
    if config.get("outside"):
        sections = find_outside_files(choice, sections, config["outside"], folder / BACKBONE)
    if climatology.shape != (7 * meta.slots_per_day, meta.sensors):
        raise InputError(
            f"{folder / 'climatology.npy'} is of another model: shape {climatology.shape}; {MEND}"
        )
    tables = ("neighbors", "valid", "features", "positions", "paths")
    parts = {name: tensors[f"model.table.{name}"] for name in tables if f"model.table.{name}" in tensors}
    mean, std = (torch.tensor(scaler[name]) for name in ("mean", "std"))
    model = build(choice, sections, meta, Graph(**parts), mean, std)
    model.output_space = space
    _load_weights(model, tensors, folder)
    distribution = choice.head == "mixture"
    return ModelFolder(
        model=model.to(device).eval(),
        meta=meta,
        sensors=sensors,
        climatology=climatology,
        covariate_scale=(_float32(scaler["covariate_mean"]), _float32(scaler["covariate_std"])),
        prepared_manifest=config["prepared_manifest"],
        calibrator=Calibrator.read(folder / CALIBRATION, meta.sensors, meta.horizon)
        if distribution
        else None,
    )


def _load_weights(model: Standardized, tensors: Mapping[str, Tensor], folder: Path) -> None:
    try:
        model.load_state_dict(tensors)
    except RuntimeError:  # which lists every name and shape
        raise InputError(f"{folder} holds other weights than this version of headway has; {MEND}") from None


def _read_config(
    config: Mapping[str, Any], path: Path
) -> tuple[ModelParams, dict[str, Any], PreparedMeta, OutputSpace]:
    """What config.json says, checked: the choice of parts, their sections, the data, the space of the outputs."""
    try:
        choice = _record(ModelParams, config["model"])
        records = section_records(choice)
        sections = {name: _record(record, config["sections"][name]) for name, record in records.items()}
        space = _record(OutputSpace, config["output_space"])
        if space == "raw" and choice.anchors:
            raise KeyError("output_space: anchors are mixed in standardized units")
        return choice, sections, _record(PreparedMeta, config["meta"]), space
    except (KeyError, ValidationError) as error:
        raise InputError(f"{path} cannot be used ({error}); {MEND}") from None


def _float32(numbers: Any) -> np.ndarray:
    return np.asarray(numbers, np.float32)


def _record(record: Any, content: Any) -> Any:
    return TypeAdapter(record).validate_json(json.dumps(content), strict=True, extra="forbid")
