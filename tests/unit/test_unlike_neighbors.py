"""The planted world of unlike neighbors: its rule is in the readings, and its signs and its delay are found again."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from headway.data.prepare import prepare
from headway.data.prepared import open_prepared
from project_params import ROOT
from worlds import preprocess_params, windows_params

sys.path.insert(0, str(ROOT / "benchmarks"))

import edge_effects
import neighbor_past
import unlike_neighbors
from unlike_neighbors import DELAY, KEPT


def test_a_reading_is_its_source_and_what_its_neighbors_showed_before() -> None:
    random = np.random.default_rng(0)
    influence = unlike_neighbors.draw_influence(random, sensors=12, kinds=2)
    readings, sources = unlike_neighbors.unfold(random, influence, steps=400)
    np.testing.assert_allclose(readings[DELAY:], sources[DELAY:] + readings[:-DELAY] @ influence.T)
    kept = (sources[1:] * sources[:-1]).sum() / (sources[:-1] ** 2).sum()
    assert abs(kept - KEPT) < 0.03


def test_the_world_can_be_prepared_and_its_signs_and_its_delay_are_found_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw, told = tmp_path / "unlike", tmp_path / "told.json"
    command = ["unlike_neighbors.py", str(raw), "--sensors", "16", "--days", "15", "--json", str(told)]
    monkeypatch.setattr(sys, "argv", command)
    unlike_neighbors.main()
    errors = json.loads(told.read_text())
    assert 0 < errors["known"] < 0.9 * errors["persistence"]
    prepare(raw, tmp_path / "prepared", preprocess_params(max_neighbors=8), windows_params())
    prepared = open_prepared(tmp_path / "prepared")
    effects = edge_effects.edge_effects(prepared)
    assert len(effects) == 16 * 2 * unlike_neighbors.SIDE
    assert abs((effects < 0).mean() - errors["against"]) < 0.15
    own, newest, past = neighbor_past.errors(prepared)
    assert own > newest > past
