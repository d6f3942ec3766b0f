"""A hypergraph is chosen again as a function of the step: a run that was killed ends with the same bits (fault 1)."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from interrupt import train_until

from headway.data.prepared import Prepared
from headway.models.standardized import Standardized
from headway.nn.hypergraph import Hyperedges
from tiny_model import HYPERGRAPH
from tiny_run import SECTIONS, results, train_params, train_tiny

# The tiny course has 12 steps with a checkpoint after each second one: rebuilt at 0, 5 and 10.
OPERATOR: dict[str, Any] = {
    **SECTIONS,
    "model": replace(SECTIONS["model"], spatial="hypergraph"),
    "hypergraph": replace(HYPERGRAPH, rebuild_steps=5, mixing="gated"),
}


COURSE = train_params(lr=0.2)  # so that places move and other members are chosen


@pytest.mark.parametrize("step", [3, 5, 6, 11])
def test_fault_01_a_kill_before_or_after_a_rebuild_changes_no_bit(
    step: int, prepared: Prepared, project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train_until(step, project, prepared, sections=OPERATOR, train=COURSE)
    train_tiny(project, prepared, sections=OPERATOR, train=COURSE)
    again = tmp_path / "again"
    again.mkdir()
    monkeypatch.chdir(again)
    monkeypatch.setenv("DVC_ROOT", str(again))
    train_tiny(again, prepared, sections=OPERATOR, train=COURSE)
    assert results(again) == results(project)


def test_smaller_pieces_and_recomputation_choose_the_members_at_the_same_steps(
    prepared: Prepared, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps, rebuilt, changed = [0], list[list[int]](), list[bool]()
    begin, rebuild = Standardized.begin_step, Hyperedges.rebuild

    def begin_step(model: Standardized, step: int) -> None:
        steps[0] = step
        model.set_recompute(len(rebuilt) == 3)
        begin(model, step)

    def counted(part: Hyperedges) -> None:
        before = part.members.clone()
        rebuild(part)
        rebuilt[-1].append(steps[0])
        changed.append(not torch.equal(before, part.members))

    monkeypatch.setattr(Standardized, "begin_step", begin_step)
    monkeypatch.setattr(Hyperedges, "rebuild", counted)
    for micro_batch in (16, 4, 16):  # the third one computes activations again
        rebuilt.append([])
        steps[0] = -1  # the members of a fresh model
        options = {"sections": OPERATOR, "train": COURSE, "micro_batch": micro_batch}
        train_tiny(project, prepared, resume="never", **options)
    assert rebuilt == 3 * [[-1, 0, 5, 10]]
    assert any(changed)
