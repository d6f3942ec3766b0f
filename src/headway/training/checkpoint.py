"""Checkpoints that survive a kill at any instant: no pickle, checksummed, atomic.

A checkpoint is a folder holding `tensors.safetensors`, `state.json` (plain numbers) and, written last,
`manifest.json` (bytes and SHA-256 of both). It is written under a temporary name in the same folder, flushed
to the disk and renamed, so that a name without `.tmp-` is a whole checkpoint. safetensors notices truncation
but not a flipped bit; the manifest notices both.
"""

from __future__ import annotations

import errno
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
from headway.training.memory import MIB

SCHEMA = 1
CORRUPT = ".corrupt"
TENSORS, STATE, MANIFEST = "tensors.safetensors", "state.json", "manifest.json"
FREE_SPACE_FACTOR = 2.2  # the new checkpoint beside the old one, and some room

log = logging.getLogger(__name__)


class CheckpointError(Stopped):
    """A checkpoint cannot be written or trusted; the message says which and what helps."""


class OtherSchema(CheckpointError):
    """A whole checkpoint of another version of headway."""


def save_checkpoint(folder: Path, name: str, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> Path:
    """Write checkpoint `folder/name`, whole or not at all; on a full disk once more without the older ones.

    A whole checkpoint of that name is kept: a name holds a step, and a step has one content.

    Raises: CheckpointError naming what is needed and what is free; the last good checkpoint is kept.
    """
    try:
        return _save(folder, name, tensors, state)
    except CheckpointError as error:
        if not _make_room(folder, name.rpartition("-")[0]):
            raise
        log.warning("%s; trying again without the older checkpoints", error)
        return _save(folder, name, tensors, state)


def _save(folder: Path, name: str, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> Path:
    target, temporary = folder / name, folder / f".tmp-{name}"
    needed = int(sum(tensor.nbytes for tensor in tensors.values()) * FREE_SPACE_FACTOR)
    try:
        if target.exists() and _is_whole(target):
            return target
        clear_leftovers(folder)
        if _free(folder) < needed:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        temporary.mkdir()
        _write(temporary, tensors, state)
        temporary.rename(target)
        _flush(folder)
    except (OSError, RuntimeError, SafetensorError) as error:  # a full disk arrives as any of these
        shutil.rmtree(temporary, ignore_errors=True)
        raise CheckpointError(
            f"could not write {target} ({error}): it needs {needed / MIB:.1f} MiB and {_free(folder) / MIB:.1f} MiB "
            "are free; `dvc repro` continues from the last checkpoint"
        ) from error
    return target


def _write(folder: Path, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
    """The files of a checkpoint, on the disk when this returns."""
    save_file({key: tensor.detach().contiguous().cpu() for key, tensor in tensors.items()}, folder / TENSORS)
    (folder / STATE).write_text(json.dumps({"schema": SCHEMA, **state}, allow_nan=False))
    manifest = {part: _fingerprint(folder / part) for part in (TENSORS, STATE)}
    (folder / MANIFEST).write_text(json.dumps(manifest))
    for part in (TENSORS, STATE, MANIFEST):
        _flush(folder / part)
    _flush(folder)


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
    schema = state.pop("schema", 0)
    if schema != SCHEMA:
        raise OtherSchema(
            f"{path} is of schema {schema} and this headway reads {SCHEMA}: continue it with the version that wrote "
            "it, or set runtime.resume: never in params.yaml to start over"
        )
    return tensors, state


def list_checkpoints(folder: Path, prefix: str) -> list[Path]:
    """Checkpoints of a kind, newest step first."""
    found = [path for path in folder.glob(f"{prefix}-*") if path.suffix != CORRUPT]
    return sorted(found, key=lambda path: path.name, reverse=True)


def load_newest(folder: Path, prefix: str) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """The newest checkpoint that is whole; damaged ones are set aside as `*.corrupt` and reported.

    Raises: CheckpointError when there are checkpoints and none can be used: that is never a fresh start.
    """
    candidates = list_checkpoints(folder, prefix)
    for path in candidates:
        try:
            return load_checkpoint(path)
        except OtherSchema:
            raise
        except CheckpointError as error:
            log.warning("%s; trying the one before", error)
            _set_aside(path)
    if candidates or list(folder.glob(f"{prefix}-*{CORRUPT}")):
        raise CheckpointError(
            f"no checkpoint in {folder} can be used; to start over, set runtime.resume: never in params.yaml"
        )
    return None


def prune_checkpoints(folder: Path, prefix: str, keep: int) -> None:
    """Remove all but the newest `keep` checkpoints of a kind; one that cannot be removed is only reported."""
    for path in list_checkpoints(folder, prefix)[keep:]:
        _remove(path)


def clear_leftovers(folder: Path) -> None:
    """Remove what a killed save or removal left behind."""
    for path in folder.glob(".tmp-*"):
        shutil.rmtree(path, ignore_errors=True)


def _make_room(folder: Path, prefix: str) -> bool:
    """Remove all checkpoints of a kind but the newest whole one. Returns: whether there was anything to remove.

    Without a whole one nothing is removed: what is left of a run must be seen at the next start.
    """
    good = next((path for path in list_checkpoints(folder, prefix) if _is_whole(path)), None)
    others = [path for path in folder.glob(f"{prefix}-*") if path != good]
    if good is None or not others:
        return False
    for path in others:
        _remove(path)
    return True


def _is_whole(path: Path) -> bool:
    """Whether a checkpoint is what was written; a damaged one is set aside."""
    try:
        load_checkpoint(path)
    except OtherSchema:
        return True
    except CheckpointError as error:
        log.warning("%s", error)
        _set_aside(path)
        return False
    return True


def _set_aside(path: Path) -> None:
    """Rename a damaged checkpoint; one of the same step that was set aside earlier gives way."""
    aside = path.with_name(path.name + CORRUPT)
    try:
        shutil.rmtree(aside, ignore_errors=True)
        path.rename(aside)
    except OSError as error:
        log.warning("could not rename %s: %s", path, error)


def _remove(path: Path) -> None:
    """Renamed first: a removal that is cut short must not look like a damaged checkpoint."""
    try:
        shutil.rmtree(path.rename(path.with_name(f".tmp-gone-{path.name}")))
    except OSError as error:
        log.warning("could not remove %s: %s", path, error)


def _free(folder: Path) -> int:
    """Bytes free where the folder is, or was."""
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free


def _fingerprint(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        return {"bytes": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
