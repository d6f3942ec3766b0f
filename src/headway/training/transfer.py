"""What pretraining hands to training: one file, empty where nothing is to be handed over.

Enters: a pretrained encoder and what it says of each sensor, or nothing. Leaves: transfer.safetensors; from it,
a model some of whose weights were learned from geometry.

    every model with sensor identities    identity_v = W h_v        h_v: its leading parts, as many as fit
    operator sgmp, encoder sgmp           the interactions of its rounds, one after another
    operator ha_gat, encoder ha_gat       the edge biases of its rounds, likewise

`freeze` leaves what was handed over as it is, `finetune` goes on at SHARE of the learning rate.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from headway.atomic import write_bytes
from headway.errors import InputError

SENSORS, LAYER, TOLD = "sensors", "layers.", "transfer"
IDENTITIES = "embedding.node.weight"  # what a table of sensors is called, in whichever part of a model
SHARE = 0.1  # of the learning rate, for what is finetuned
PARTS = {
    "sgmp": "interaction.",
    "ha_gat": "edge_bias.",
}  # of an operator's weights, by its name: what is handed over


@dataclass(frozen=True, slots=True, kw_only=True)
class Transfer:
    """What was read.

    Attributes:
        mode: none | freeze | finetune. encoder: sgmp | ha_gat. digest: of the file; "" for nothing at all.
        tensors: `sensors`, h of each of them; `layers.<round>.<weight>` of the encoder.
    """

    mode: str = "none"
    encoder: str = ""
    digest: str = ""
    tensors: Mapping[str, Tensor] = field(default_factory=dict)


def write_transfer(
    path: Path, mode: str, encoder: str, layers: nn.ModuleList, sensors: Float[Tensor, "node d"]
) -> None:
    """Write what a model may take over."""
    tensors = {
        f"{LAYER}{name}": tensor.detach().cpu().contiguous() for name, tensor in layers.state_dict().items()
    }
    tensors[SENSORS] = sensors.detach().cpu().contiguous()
    # one entry: of several the order would change from run to run
    write_bytes(path, save(tensors, {TOLD: f"{mode} {encoder}"}))


def write_nothing(path: Path) -> None:
    """Write that there is nothing to take over: the same bytes whatever was, or was not, pretrained."""
    write_bytes(path, save({}, {TOLD: "none"}))


def read_transfer(path: Path) -> Transfer:
    """Read what pretraining left. Raises: InputError where it is absent or damaged."""
    try:
        with safe_open(path, "pt") as file:
            told, tensors = file.metadata() or {}, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
    except (OSError, SafetensorError) as error:
        raise InputError(f"{path} cannot be read ({error}); run `dvc repro pretrain`") from None
    if not tensors:
        return Transfer()
    mode, encoder = told[TOLD].split()
    return Transfer(mode=mode, encoder=encoder, digest=digest, tensors=tensors)


def apply_transfer(model: nn.Module, spatial: str, transfer: Transfer) -> frozenset[str]:
    """Put what was pretrained into a fresh model.

    Args: spatial: `model.spatial`.
    Returns: names of the weights that are to go on at SHARE of the rate. With `freeze` none do: they are fixed.
    Raises: InputError where the file is of other sensors or another width, or nothing in it fits this model.
    """
    if transfer.mode == "none":
        return frozenset()
    given = _identities(model, transfer) | _operators(model, spatial, transfer)
    if not given:
        raise InputError(
            f"pretrain.transfer: {transfer.mode}: a model with spatial {spatial} that embeds no sensors takes "
            f"nothing over from an encoder {transfer.encoder}; set it to none, or model.spatial: {transfer.encoder}"
        )
    weights = dict(model.named_parameters())
    for name, tensor in given.items():
        if weights[name].shape != tensor.shape:
            raise InputError(
                f"models/pretrain is of another network or width: {name} is {tuple(weights[name].shape)} here and "
                f"{tuple(tensor.shape)} there; run `dvc repro pretrain`"
            )
        with torch.no_grad():
            weights[name].copy_(tensor)
        weights[name].requires_grad_(transfer.mode == "finetune")
    return frozenset(given) if transfer.mode == "finetune" else frozenset()


def _identities(model: nn.Module, transfer: Transfer) -> dict[str, Tensor]:
    """h of the sensors as their identities: its leading parts, standardized, as many as an identity is wide."""
    tables = {name: weight for name, weight in model.named_parameters() if name.endswith(IDENTITIES)}
    if not tables:
        return {}
    ((name, table),) = tables.items()
    known = transfer.tensors[SENSORS].double()
    centered = known - known.mean(0)
    left, strength, _ = torch.linalg.svd(centered, full_matrices=False)
    parts = left * strength
    parts = parts * torch.where(parts.sum(0) < 0, -1, 1)  # of the two signs of a part one is chosen for good
    width = table.shape[1]
    padded = torch.zeros(len(known), width, dtype=torch.float64)
    taken = min(width, parts.shape[1])
    padded[:, :taken] = parts[:, :taken]
    return {name: (padded / padded.square().mean().sqrt().clamp(min=1e-9)).float()}


def _operators(model: nn.Module, spatial: str, transfer: Transfer) -> dict[str, Tensor]:
    """Weights of the model's operators from the encoder's rounds, in their order, begun again when there are more."""
    if spatial != transfer.encoder:
        return {}
    part = PARTS[spatial]
    own = [name for name, _ in model.named_parameters() if f"spatial.{part}" in name]
    blocks = list(dict.fromkeys(name.partition(f"spatial.{part}")[0] for name in own))
    rounds = 1 + max(int(name.split(".")[1]) for name in transfer.tensors if name.startswith(LAYER))
    found = {}
    for name in own:
        block, _, weight = name.partition(f"spatial.{part}")
        inner = weight if spatial == "sgmp" else part + weight
        found[name] = transfer.tensors[f"{LAYER}{blocks.index(block) % rounds}.{inner}"]
    return found
