"""The ablation's rows still say something about the code and params.yaml as they are."""

from __future__ import annotations

import json
import sys

import pytest
from ruamel.yaml import YAML

from project_params import ROOT

sys.path.insert(0, str(ROOT / "benchmarks"))

import ablation
import accuracy

PARAMS = YAML(typ="safe").load((ROOT / "params.yaml").read_text())


@pytest.mark.parametrize("name", [name for name, row in ablation.ROWS.items() if row.edit])
def test_the_line_a_row_edits_is_in_the_code_once(name: str) -> None:
    edit = ablation.ROWS[name].edit
    assert edit is not None
    code = (ROOT / edit.file).read_text()
    assert code.count(edit.old) == 1
    compile(code.replace(edit.old, edit.new), edit.file, "exec")


@pytest.mark.parametrize("name", list(ablation.ROWS))
def test_every_key_of_a_row_differs_from_params_yaml(name: str) -> None:
    for key, value in ablation.ROWS[name].changes.items():
        section, _, last = key.partition(".")
        assert key == "gatv2.hidden_dim" or PARAMS[section][last] != value  # the width is that of HA-GAT


def test_scores_are_read_from_finished_experiments_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def experiment(name: str, mae: float | None) -> dict[str, object]:
        done = {
            "metrics/evaluate/metrics.json": {"data": {"mae": mae, "rmse": 2.0}},
            "metrics/train/metrics.json": {"data": {"weights": 7}},
        }
        return {"name": name, "revs": [{"data": {"metrics": done} if mae else None}]}

    shown = [
        {"experiments": None},
        {
            "experiments": [
                experiment("k4-seed1", 3.0),
                experiment("params-seed0", 1.0),
                experiment("k4-seed0", None),
            ]
        },
    ]
    monkeypatch.setattr(ablation, "dvc", lambda project, *arguments: json.dumps(shown))
    scores = ablation.read_experiments(ROOT)
    assert {experiment: row["mae"] for experiment, row in scores.items()} == {
        ("k4", 1): 3.0,
        ("params", 0): 1.0,
    }


def test_a_change_may_name_the_data_set_it_is_for() -> None:
    texts = ["preprocess.scaling=global", "flows:preprocess.scaling=per_sensor", "windows.context=[1d, 2w]"]
    changes = dict(accuracy.split_change(text) for text in texts)
    for_all = {"preprocess.scaling": "global", "windows.context": ["1d", "2w"]}
    assert accuracy.changes_for("speeds", changes) == for_all
    assert accuracy.changes_for("flows", changes) == {**for_all, "preprocess.scaling": "per_sensor"}
    assert [accuracy.split_steps(text) for text in ("4000", "a:b:870")] == [("", 4000), ("a:b", 870)]
