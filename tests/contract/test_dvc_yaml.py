"""dvc.yaml says what is true of the code: what a stage imports, which parameters it reads, what it writes."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import product
from typing import get_args, get_type_hints

import pytest
from imports import ROOT, imported_files
from ruamel.yaml import YAML

from headway.models import ModelParams

PIPELINE = YAML(typ="safe").load((ROOT / "dvc.yaml").read_text())
PARAMS = YAML(typ="safe").load((ROOT / "params.yaml").read_text())
STAGES = list(PIPELINE["stages"])
# Listed whichever model is chosen: a template of DVC can name a file, it cannot leave one out.
FOR_ST_MAMBA = {
    f"src/headway/nn/{name}"
    for name in (
        *(
            "exponentials.h",
            "gated_scan.py",
            "mamba.py",
            "native.py",
            "scan_in_c.c",
            "scan_in_c.py",
            "selective_scan.py",
        ),
        "triton_scan.py",
    )
}
FOR_ST_SEPNET = {
    f"src/headway/{name}.py"
    for name in ("models/backbone", "nn/gates", "nn/inception", "nn/prompt", "nn/reprogramming", "nn/trend")
}
FOR_HA_GAT = {
    f"src/headway/nn/{name}"
    for name in (
        *("coefficients.py", "coefficients_in_c.c", "coefficients_in_c.py", "products.py", "regimes.py"),
        "signed_attention.py",
    )
}
FOR_NEIGHBORS = {f"src/headway/nn/{name}" for name in ("edges.py", "edges_in_c.c", "edges_in_c.py")}
FOR_HYPERGRAPH = {"src/headway/graph/hypergraph.py", "src/headway/nn/hypergraph_conv.py"}


def choices() -> Iterator[dict[str, str]]:
    """Every model with every operator and head."""
    options = {
        "name": ("st_mamba", "stmgt", "st_sepnet"),
        "spatial": ("ha_gat", "gatv2", "hypergraph", "sgmp", "none"),
        "head": ("point", "mixture"),
    }
    for values in product(*options.values()):
        yield dict(zip(options, values, strict=True))


def resolve(text: str, choice: dict[str, str]) -> str:
    """`${model.name}` and the like, as DVC fills them in."""
    return re.sub(r"\$\{model\.(\w+)\}", lambda found: choice[found[1]], text)


def dependencies(stage: str, choice: dict[str, str]) -> list[str]:
    return [
        resolve(path, choice)
        for path in PIPELINE["stages"][stage]["deps"]
        if path.endswith((".py", ".c", ".h"))
    ]


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("choice", choices(), ids=lambda choice: "-".join(choice.values()))
def test_a_stage_depends_on_the_files_it_imports_and_on_no_other(stage: str, choice: dict[str, str]) -> None:
    listed = dependencies(stage, choice)
    needed = imported_files(ROOT / "stages" / f"{stage}.py", choice)
    assert sorted(set(listed)) == sorted(listed), "listed twice"
    assert needed <= set(listed)
    left_out = set() if choice["name"] in ("st_mamba", "st_sepnet") else FOR_ST_MAMBA
    left_out = left_out | (set() if choice["name"] == "st_sepnet" else FOR_ST_SEPNET)
    left_out = left_out | (set() if choice["spatial"] == "ha_gat" else FOR_HA_GAT)
    left_out = left_out | (set() if choice["spatial"] in ("ha_gat", "gatv2") else FOR_NEIGHBORS)
    left_out = left_out | (set() if choice["spatial"] == "hypergraph" else FOR_HYPERGRAPH)
    assert set(listed) - needed <= left_out


def test_the_choices_of_this_test_are_those_of_the_model_section() -> None:
    hints = get_type_hints(ModelParams)
    for name in ("name", "spatial", "head"):
        assert {choice[name] for choice in choices()} == set(get_args(hints[name]))


def test_no_stage_depends_on_the_runtime_section() -> None:
    for stage in PIPELINE["stages"].values():
        assert "runtime" not in stage["params"]


def test_every_section_but_runtime_belongs_to_a_stage() -> None:
    used = {
        resolve(name.strip(), dict(PARAMS["model"]))
        for stage in PIPELINE["stages"].values()
        for name in stage["params"]
    }
    operators = {
        "none",
        "ha_gat",
        "gatv2",
        "hypergraph",
        "sgmp",
        "st_mamba",
        "stmgt",
        "st_sepnet",
        "point",
        "mixture",
    }
    assert set(PARAMS) - {"runtime"} - operators <= used


def test_training_depends_on_the_folder_of_the_language_model_and_no_stage_makes_it() -> None:
    stages = PIPELINE["stages"]
    assert "${st_sepnet.backbone}" in stages["train"]["deps"]
    assert not any("backbone" in str(stage.get("outs", [])) for stage in stages.values())
    assert (ROOT / PARAMS["st_sepnet"]["backbone"]).is_file(), (
        "a dependency must be there, also when none is read"
    )


def test_metrics_and_plots_are_in_git_and_other_outputs_in_the_cache() -> None:
    for stage in PIPELINE["stages"].values():
        for entry in [*stage.get("metrics", []), *stage.get("plots", [])]:
            assert isinstance(entry, dict), f"{entry} must say cache: false"
            assert next(iter(entry.values()))["cache"] is False
        assert all(isinstance(out, str) for out in stage.get("outs", []))
