"""The runs that lie in .resume: how far each is, what it differs in, whether somebody is training it.

Enters: the store and the records of params.yaml. Leaves: findings, the newest run first. Nothing is written.
"""

from __future__ import annotations

import fcntl
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from headway.commands.findings import Finding, note, ok
from headway.models import section_records
from headway.training.checkpoint import STATE, list_checkpoints
from headway.training.resume import KIND
from headway.training.run import describe

MIB = 2**20


def inspect_runs(store: Path, sections: Mapping[str, Any], manifest: str = "") -> list[Finding]:
    """A finding a run folder.

    Args: manifest: of the prepared data, empty where there is none that fits params.yaml.
    """
    folders = [path.parent for path in store.glob("*/*/identity.json")]
    if not folders:
        return [ok("runs", "none kept")]
    present = _present(sections, manifest)
    return [_describe(folder, present) for folder in sorted(folders, key=_last_use, reverse=True)]


def lock_owner(folder: Path) -> str:
    """Who trains this run now, as `pid 12 on host, since ...`; empty when nobody does."""
    try:
        file = (folder / "lock").open("r", encoding="utf-8")
    except FileNotFoundError:
        return ""
    with file:
        try:
            fcntl.lockf(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            return file.read().strip().rstrip(",") or "another process"
    return ""


def _present(sections: Mapping[str, Any], manifest: str) -> dict[str, Any]:
    """The part of a run's identity that params.yaml and the prepared data decide."""
    decisive = {"model": sections["model"], "train": sections["train"].without_length()}
    decisive |= {name: sections[name] for name in section_records(sections["model"])}
    plain = json.loads(json.dumps({name: asdict(record) for name, record in decisive.items()}))
    return {"params": plain, **({"prepared": manifest} if manifest else {})}


def _describe(folder: Path, present: Mapping[str, Any]) -> Finding:
    name = f"{folder.parent.name}/{folder.name[:8]}"
    try:
        identity = json.loads((folder / "identity.json").read_text(encoding="utf-8"))
        progress = _progress(folder)
    except (OSError, ValueError, KeyError) as error:
        return note(name, f"cannot be read ({error})", f"rm -r {folder} forgets it")
    owner = lock_owner(folder)
    text = f"{progress}, {_size(folder) / MIB:.0f} MiB"
    if owner:
        return note(name, f"{text}, in training by {owner}")
    same = {key: identity.get(key) for key in present}
    differing = describe(same, present)
    if differing == "nothing":
        return ok(
            name, f"{text}; this experiment: `dvc repro` goes on from there, unless the code has changed"
        )
    return ok(name, f"{text}; another experiment: {differing}")


def _progress(folder: Path) -> str:
    checkpoints = list_checkpoints(folder, KIND)
    if not checkpoints:
        return "no checkpoint yet"
    progress = json.loads((checkpoints[0] / STATE).read_text(encoding="utf-8"))["progress"]
    return f"step {progress['step']}, {len(progress['curve'])} epoch(s)"


def _last_use(folder: Path) -> int:
    path = folder / "sequence"
    return int(path.read_text()) if path.exists() else 0


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
