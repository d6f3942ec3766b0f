"""Checkpoints that survive a kill at any instant: no pickle, checksummed, atomic.

A checkpoint is a folder holding `tensors.safetensors`, `state.json` (plain numbers) and, written last,
`manifest.json` (bytes and SHA-256 of both). It is written under a temporary name in the same folder, flushed
to the disk and renamed, so that a name without `.tmp-` is a whole checkpoint. safetensors notices truncation
but not a flipped bit; the manifest notices both.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from headway.errors import Stopped

SCHEMA = 1
TENSORS, STATE, MANIFEST = "tensors.safetensors", "state.json", "manifest.json"
FREE_SPACE_FACTOR = 2.2  # the new checkpoint beside the old one, and some room

log = logging.getLogger(__name__)


class CheckpointError(Stopped):
    """A checkpoint cannot be written or trusted; the message says which and what helps."""


def save_checkpoint(folder: Path, name: str, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> Path:
    """Write checkpoint `folder/name`, whole or not at all.

    A checkpoint of that name that is already there is kept: a name holds a step, and a step has one content.

    Raises: CheckpointError when there is no room, after clearing what earlier crashes left.
    """
    target = folder / name
    if target.exists():
        return target
    clear_leftovers(folder)
    _require_space(folder, sum(tensor.nbytes for tensor in tensors.values()))
    temporary = folder / f".tmp-{name}"
    try:
        temporary.mkdir()
        save_file(
            {key: tensor.detach().contiguous().cpu() for key, tensor in tensors.items()}, temporary / TENSORS
        )
        (temporary / STATE).write_text(json.dumps({"schema": SCHEMA, **state}, allow_nan=False))
        manifest = {part: _fingerprint(temporary / part) for part in (TENSORS, STATE)}
        (temporary / MANIFEST).write_text(json.dumps(manifest))
        for part in (TENSORS, STATE, MANIFEST):
            _flush(temporary / part)
        _flush(temporary)
        temporary.rename(target)
        _flush(folder)
    except (OSError, RuntimeError, SafetensorError) as error:  # a full disk arrives as any of these
        shutil.rmtree(temporary, ignore_errors=True)
        free = shutil.disk_usage(folder).free
        raise CheckpointError(
            f"could not write {target} ({error}); {free / 2**20:.0f} MiB are free"
        ) from error
    return target


def load_checkpoint(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and state of one checkpoint, verified against its manifest.

    Raises: CheckpointError naming what is wrong.
    """
    try:
        manifest = json.loads((path / MANIFEST).read_text())
        for part in (TENSORS, STATE):
            if _fingerprint(path / part) != manifest[part]:
                raise CheckpointError(f"{path / part} is damaged: it is not what was written")
        state = json.loads((path / STATE).read_text())
        tensors = load_file(path / TENSORS)
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise CheckpointError(f"{path} is not a whole checkpoint: {error}") from error
    if state.pop("schema") != SCHEMA:
        raise CheckpointError(f"{path} was written by another version of headway; set runtime.resume: never")
    return tensors, state


def list_checkpoints(folder: Path, prefix: str) -> list[Path]:
    """Checkpoints of a kind, newest step first."""
    found = [path for path in folder.glob(f"{prefix}-*") if path.suffix != ".corrupt"]
    return sorted(found, key=lambda path: path.name, reverse=True)


def load_newest(folder: Path, prefix: str) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """The newest checkpoint that is whole; damaged ones are set aside as `*.corrupt` and reported.

    Raises: CheckpointError when there are checkpoints and none can be used: that is never a fresh start.
    """
    candidates = list_checkpoints(folder, prefix)
    for path in candidates:
        try:
            return load_checkpoint(path)
        except CheckpointError as error:
            log.warning("%s; trying the one before", error)
            path.rename(path.with_name(path.name + ".corrupt"))
    if candidates or list(folder.glob(f"{prefix}-*.corrupt")):
        raise CheckpointError(
            f"no checkpoint in {folder} can be used; to start over, set runtime.resume: never in params.yaml"
        )
    return None


def prune_checkpoints(folder: Path, prefix: str, keep: int) -> None:
    """Remove all but the newest `keep` checkpoints of a kind."""
    for path in list_checkpoints(folder, prefix)[keep:]:
        shutil.rmtree(path)


def clear_leftovers(folder: Path) -> None:
    """Remove what a killed save left behind."""
    for path in folder.glob(".tmp-*"):
        shutil.rmtree(path)


def _require_space(folder: Path, size: int) -> None:
    free, needed = shutil.disk_usage(folder).free, int(size * FREE_SPACE_FACTOR)
    if free < needed:
        raise CheckpointError(
            f"{folder} has {free / 2**20:.0f} MiB free and a checkpoint needs {needed / 2**20:.0f} MiB; "
            "free some space and run `dvc repro` again: it continues from the last checkpoint"
        )


def _fingerprint(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        return {"bytes": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
