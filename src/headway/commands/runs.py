"""The runs that lie in .resume: how far each is, what it differs in, whether somebody is training it.

Enters: the store and the records of params.yaml. Leaves: the runs, the newest first; findings for `check`, a table
and the removal of the others for `runs`. Looking at a run does not disturb it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from headway.commands.findings import Finding, note, ok
from headway.models import section_records
from headway.training.checkpoint import STATE, list_checkpoints
from headway.training.identity import IDENTITY, describe
from headway.training.lock import lock_owner, remove_unused
from headway.training.memory import MIB
from headway.training.pretrain_experiment import decisive_sections
from headway.training.resume import KIND
from headway.training.run import last_use

SAME = "nothing"  # what `describe` says of two equal identities
HEADER = ("run", "state", "best error", "size", "in training by", "differs from params.yaml in")


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptRun:
    """A folder of the store.

    Attributes:
        name: stage and the start of the identity's hash.
        state: `step 250 of 1000`, `finished at step 800`, or why it cannot be told.
        best: lowest validation error or loss so far, empty before the first.
        size: bytes. owner: as `lock_owner` says.
        differing: what it differs in from params.yaml, `nothing` for the run of params.yaml itself; empty where
            its identity cannot be read.
    """

    folder: Path
    name: str
    state: str
    best: str
    size: int
    owner: str
    differing: str


def list_runs(store: Path, sections: Mapping[str, Any], manifest: str = "") -> list[KeptRun]:
    """Every run folder, the last used first.

    Args: manifest: of the prepared data, empty where there is none that fits params.yaml.
    """
    present = {"train": _of_training(sections, manifest), "pretrain": _of_pretraining(sections)}
    folders = sorted(path for path in store.glob("*/*") if path.is_dir())
    folders.sort(key=last_use, reverse=True)
    return [_read_run(folder, present) for folder in folders]


def inspect_runs(store: Path, sections: Mapping[str, Any], manifest: str = "") -> list[Finding]:
    """A finding a run; arguments as `list_runs`."""
    runs = list_runs(store, sections, manifest)
    return [_finding(run) for run in runs] or [ok("runs", "none kept")]


def runs_table(runs: Sequence[KeptRun]) -> str:
    """A line a run under a header, and a last line that counts."""
    if not runs:
        return "no run is kept in .resume\n"
    rows = [HEADER, *(_row(run) for run in runs)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEADER))]
    lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
    return "\n".join([*lines, f"{len(runs)} run(s), {_mib(sum(run.size for run in runs))}"]) + "\n"


def prune_runs(runs: Sequence[KeptRun]) -> str:
    """Remove every run that nobody trains, but those of params.yaml. Returns: what was done, a line a run."""
    lines, freed = [], 0
    for run in runs:
        reason = _reason_to_keep(run)
        if not reason and not remove_unused(run.folder):
            reason = "it was taken, or could not be removed"
        freed += 0 if reason else run.size
        what = f"{run.name}, {run.state}, {_mib(run.size)}"
        lines.append(f"kept     {what}: {reason}" if reason else f"removed  {what}")
    return "\n".join([*lines, f"freed {_mib(freed)}"]) + "\n"


def _reason_to_keep(run: KeptRun) -> str:
    if run.owner:
        return f"in training by {run.owner}"
    if run.differing == SAME:
        return "the run of params.yaml"
    if not run.differing and list_checkpoints(run.folder, KIND):
        return f"whose it is cannot be read; rm -r {run.folder} forgets it"
    return ""


def _of_training(sections: Mapping[str, Any], manifest: str) -> dict[str, Any]:
    """The part of a training's identity that params.yaml and the prepared data decide."""
    decisive = {"model": sections["model"], "train": sections["train"].without_length()}
    decisive |= {name: sections[name] for name in section_records(sections["model"])}
    return {"params": _plain(decisive), **({"prepared": {"meta.json": manifest}} if manifest else {})}


def _of_pretraining(sections: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a pretraining's identity that params.yaml decides; the places of the sensors are not compared."""
    return {"params": _plain(decisive_sections(sections))}


def _plain(records: Mapping[str, Any]) -> dict[str, Any]:
    return json.loads(json.dumps({name: asdict(record) for name, record in records.items()}))


def _read_run(folder: Path, present: Mapping[str, Mapping[str, Any]]) -> KeptRun:
    """Args: present: of each stage, what `_differing` compares with."""
    stage = folder.parent.name
    state, best, differing = "no checkpoint yet", "", ""
    try:
        identity = json.loads((folder / IDENTITY).read_text(encoding="utf-8"))
        differing = _differing(identity, present[stage])
        saved = _newest_state(folder)
        if saved:
            state, best = _state(saved, identity["params"][stage]["patience"]), _best(saved)
    except (OSError, ValueError, KeyError, TypeError) as error:
        state = f"cannot be read ({error})"
    return KeptRun(
        folder=folder,
        name=f"{folder.parent.name}/{folder.name[:8]}",
        state=state,
        best=best,
        size=_size(folder),
        owner=lock_owner(folder),
        differing=differing,
    )


def _newest_state(folder: Path) -> dict[str, Any]:
    for path in list_checkpoints(folder, KIND):
        with suppress(OSError, ValueError):  # damaged, or pruned meanwhile: the one before will be used
            return json.loads((path / STATE).read_text(encoding="utf-8"))
    return {}


def _differing(identity: Mapping[str, Any], present: Mapping[str, Any]) -> str:
    same = {key: identity[key] for key in present}
    if "prepared" in same:  # meta.json holds the hashes of the other files
        same["prepared"] = {"meta.json": same["prepared"]["meta.json"]}
    return describe(same, present)


def _state(saved: Mapping[str, Any], patience: int) -> str:
    progress, steps = saved["progress"], saved.get("steps", 0)
    step, tired = progress["step"], patience and progress["epochs_since_best"] >= patience
    if tired or (steps and step >= steps):
        return f"finished at step {step}"
    return f"step {step} of {steps}" if steps else f"step {step}"


def _best(saved: Mapping[str, Any]) -> str:
    return f"{saved['progress']['best_error']:.4g}" if "best_error" in saved["progress"] else ""


def _finding(run: KeptRun) -> Finding:
    text = f"{run.state}, {_mib(run.size)}"
    if run.owner:
        return note(run.name, f"{text}, in training by {run.owner}")
    if run.state.startswith("cannot be read") or not run.differing:
        return note(run.name, text, f"rm -r {run.folder} forgets it")
    if run.differing == SAME:
        return ok(
            run.name, f"{text}; this experiment: `dvc repro` goes on from there, unless the code has changed"
        )
    return ok(run.name, f"{text}; another experiment: {run.differing}")


def _row(run: KeptRun) -> tuple[str, ...]:
    return (run.name, run.state, run.best or "-", _mib(run.size), run.owner or "-", run.differing or "?")


def _mib(size: int) -> str:
    return f"{size / MIB:.1f} MiB"


def _size(folder: Path) -> int:
    size = 0
    for path in folder.rglob("*"):
        with suppress(FileNotFoundError):  # a checkpoint of a run in training, pruned meanwhile
            size += path.stat().st_size if path.is_file() else 0
    return size
