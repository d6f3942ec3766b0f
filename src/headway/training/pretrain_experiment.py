"""One pretraining: from parameters and the geometry of prepared data to models/pretrain, in a run that can be
interrupted.

    models/pretrain/transfer.safetensors   what training takes over; empty with transfer: none, and without a method
                    encoder.safetensors    the whole encoder
                    config.json            what it was made by, its losses
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from safetensors.torch import save
from torch import Tensor

from headway.atomic import replacing_folder, write_text
from headway.data.prepared import Prepared
from headway.nn.sgmp import angles_of
from headway.nn.tree_encoder import TreeEncoder
from headway.training.identity import code_digest
from headway.training.ladder import memory_may_run_out
from headway.training.memory import choose_allocator, keep_heap
from headway.training.plan import resolve_budget
from headway.training.precision import Precision, resolve_device, resolve_precision
from headway.training.pretraining import PretrainParams, pretrain
from headway.training.run import Run
from headway.training.runtime import RuntimeParams
from headway.training.state import Progress
from headway.training.transfer import write_nothing, write_transfer
from headway.training.tree_batches import FEATURES, to_device
from headway.training.tree_plan import TreePlanner, batch_of
from headway.training.tree_sources import TreeSource, road_trees

TRANSFER = "transfer.safetensors"

log = logging.getLogger(__name__)


def run_pretraining(
    prepared: Prepared,
    params: Mapping[str, Any],
    runtime: RuntimeParams,
    script: Path,
    out: Path,
    curves: Path,
) -> None:
    """Pretrain, or continue what an earlier call with the same identity began, and write `out`.

    Args:
        params: records of `pretrain` and of the operators' sections. script: the stage, part of the identity.
    Raises: InputError without the places of the sensors; as `pretrain`.
    """
    own = params["pretrain"]
    if own.method == "none":
        skip(out, curves)
        return
    choose_allocator(runtime.allocator)
    device = resolve_device(runtime.device)
    precision = resolve_precision(runtime.precision, device)
    if runtime.threads:
        torch.set_num_threads(runtime.threads)
    keep_heap()
    source = road_trees(prepared, params["sgmp"].paths_per_sensor, own.tree, own.seed)
    encoder = make_encoder(params, source, attributes=0).to(device)
    runtime = replace(plan_memory(encoder, source, own, runtime, precision), precision=precision.name)
    with (
        Run("pretrain", identity(prepared, params, script), runtime) as run,
        memory_may_run_out(run, device),
    ):
        progress = pretrain(encoder, source, own, run, precision, curves)
    publish(out, encoder, sensor_embedding(encoder, source, own), params, progress)


def skip(out: Path, curves: Path) -> None:
    """What the stage leaves without a method: a marker, and curves without a point."""
    with replacing_folder(out) as draft:
        write_nothing(draft / TRANSFER)
    write_text(curves / "metrics.json", "{}\n")
    write_text(curves / "plots/metrics/val/loss.tsv", "step\tloss\n")


def make_encoder(params: Mapping[str, Any], source: TreeSource, attributes: int) -> TreeEncoder:
    """Fresh weights, drawn from the seed. `attributes`: of each node, beside its geometry."""
    own = params["pretrain"]
    torch.manual_seed(own.seed)
    return TreeEncoder(
        params[own.encoder],
        features=FEATURES + attributes,
        interactions=own.interactions,
        angles=angles_of(source.scale.planar),
        bins=own.bins,
    )


def plan_memory(
    encoder: TreeEncoder,
    source: TreeSource,
    params: PretrainParams,
    runtime: RuntimeParams,
    precision: Precision,
) -> RuntimeParams:
    """With `micro_batch: 0`, let the planner choose it, and whether messages are computed again."""
    if runtime.micro_batch:
        return runtime
    device = next(encoder.parameters()).device
    plan = TreePlanner(encoder, source, params, precision).plan(resolve_budget(runtime.memory_budget, device))
    log.info(plan.describe())
    encoder.set_recompute(plan.recompute)
    return replace(runtime, micro_batch=plan.micro_batch)


@torch.no_grad()
def sensor_embedding(
    encoder: TreeEncoder, source: TreeSource, params: PretrainParams
) -> Float[Tensor, "node d"]:
    """h of each sensor: the mean over the validation trees, of which each spans the network."""
    encoder.eval()
    device = next(encoder.parameters()).device
    kept = source.validation(params.validation_trees)
    found = []
    for tree, seed in zip(kept.trees, kept.seeds, strict=True):
        batch = to_device(batch_of(replace(kept, trees=[tree], seeds=[seed]), source.scale, params), device)
        found.append(encoder.encode(batch.features, batch.around))
    return torch.stack(found).mean(0)


def publish(
    out: Path,
    encoder: TreeEncoder,
    sensors: Float[Tensor, "node d"],
    params: Mapping[str, Any],
    progress: Progress,
) -> None:
    """Write the folder, whole or not at all."""
    own = params["pretrain"]
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in encoder.state_dict().items()}
    config = {name: asdict(params[name]) for name in ("pretrain", own.encoder)}
    config |= {"best": progress.curve[progress.best_epoch - 1], "notes": progress.notes}
    with replacing_folder(out) as draft:
        (draft / "encoder.safetensors").write_bytes(save(tensors))
        write_text(draft / "config.json", json.dumps(config, indent=2, sort_keys=True) + "\n")
        if own.transfer == "none":
            write_nothing(draft / TRANSFER)
        else:
            write_transfer(draft / TRANSFER, own.transfer, own.encoder, encoder.layers, sensors)


def decisive_sections(params: Mapping[str, Any]) -> dict[str, Any]:
    """The records that decide the result, with what does not decide it, such as what is transferred, taken out."""
    own = params["pretrain"]
    decisive = {"pretrain": replace(own, transfer="none"), own.encoder: params[own.encoder]}
    if own.encoder != "sgmp":
        # of it only the paths that say the scale are read
        decisive["sgmp"] = replace(params["sgmp"], hidden_dim=2)
    return decisive


def identity(prepared: Prepared, params: Mapping[str, Any], script: Path) -> dict[str, Any]:
    """What decides the result, as JSON. Of the data only their geometry does."""
    decisive = decisive_sections(params)
    return {
        "params": {section: asdict(record) for section, record in decisive.items()},
        "prepared": {"geometry": prepared.meta.files["geometry.safetensors"]["sha256"]},
        "code": code_digest("headway", script),
        "torch": torch.__version__.split(".")[0],
    }
