"""The ablation grid of ST-SepNet: every row is a change of params.yaml that its sections accept."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from headway.commands.sections import read_sections
from project_params import ROOT

sys.path.insert(0, str(ROOT / "benchmarks"))

import hypergraph_order
import project_copy
import sepnet_ablation

GRIDS = [
    *((sepnet_ablation.BASE, name, changes) for name, changes in sepnet_ablation.ROWS.items()),
    *((hypergraph_order.BASE, name, changes) for name, changes in hypergraph_order.ROWS.items()),
]


@pytest.mark.parametrize(("base", "name", "changes"), GRIDS, ids=[name for _, name, _ in GRIDS])
def test_a_row_leads_to_valid_params(
    base: dict[str, Any], name: str, changes: dict[str, Any], tmp_path: Path
) -> None:
    project_copy.write_params(tmp_path, base | changes)
    read_sections(tmp_path / "params.yaml")
    assert name in sepnet_ablation.TITLES | hypergraph_order.TITLES


def test_the_queue_holds_every_row() -> None:
    lines = sepnet_ablation.queued().splitlines()
    assert len(lines) == len(sepnet_ablation.ROWS) + 1
    assert (
        "-S 'hypergraph.orders=[3]' -S 'hypergraph.shares=[1.0]'"
        in lines[list(sepnet_ablation.ROWS).index("order_3")]
    )


def test_a_full_model_that_does_not_beat_a_branch_is_told() -> None:
    def run(mae: float) -> dict[str, Any]:
        return {"headway": {"all": {"mae": mae, "rmse": mae}}}

    rows = {"full": [run(2.0)], "space_only": [run(1.9)], "trend_only": [run(3.0)]}
    assert sepnet_ablation.verdict(rows) == [
        "\nNot better than: without the trend (brief D: without language model)."
    ]
    assert "beats each" in sepnet_ablation.verdict(rows | {"space_only": [run(2.1)]})[0]


def test_orders_differ_by_more_than_seeds_do_or_it_is_said() -> None:
    def runs(*maes: float) -> list[dict[str, float]]:
        return [{"fourth": mae, "others": 1.0} for mae in maes]

    clear = {"order_2": runs(3.0, 3.1), "order_3": runs(2.0, 2.1)}
    assert "order 3 beats order 2" in hypergraph_order.verdict("planted", clear)
    close = {"order_2": runs(3.0, 3.4), "order_3": runs(2.9, 3.2)}
    assert "order 3 does not beat order 2" in hypergraph_order.verdict("planted", close)
