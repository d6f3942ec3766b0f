"""The model card says what it was told, in a form that hubs and people read."""

from __future__ import annotations

import ast
from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from headway.__main__ import _parser
from headway.serving.model_card import CardFacts, model_card, write_model_card

FACTS = CardFacts(
    name="st_mamba",
    spatial="ha_gat",
    head="point",
    license="apache-2.0",
    dataset="simulated",
    data_license="",
    data_source="https://example.org/data | mirror",
    prepared_manifest="ab" * 32,
    variable="speed",
    unit="km/h",
    time_zone="Europe/Zurich",
    sensors=64,
    step_seconds=300,
    history=12,
    horizon=2,
    context=(288, 2016),
    trailing=(2016, 4032),
    inputs=(),
    covariates=(),
    parameters={"windows": {"history": 12, "context": ("1d", "1w")}, "train": {"lr": 1e-5, "seed": 0}},
    weights=123456,
    seeds={"train": 0},
    best_step=700,
    best_epoch=7,
    best_mae=2.3456789,
    anchor_names=("last value", "1d", "1w", "usual"),
    anchor_weights=((0.7, 0.1, 0.1, 0.1), (0.4, 0.2, 0.2, 0.2)),
    code_digest="0123abcd",
    torch_version="2.13.0",
    precision="fp32",
    device_kind="cpu",
    scan_kernel="reference",
)


def test_the_front_matter_is_yaml_a_hub_reads() -> None:
    _, front, _ = model_card(replace(FACTS, dataset="yes: [no")).split("---\n", 2)
    found = YAML(typ="safe").load(front)
    assert found["license"] == "apache-2.0"
    assert found["library_name"] == "headway"
    assert found["datasets"] == ["yes: [no"]
    assert {"time-series-forecasting", "traffic"} <= set(found["tags"])


def test_the_parameters_can_be_read_back_in_their_order() -> None:
    block = model_card(FACTS).split("```yaml\n")[1].split("```")[0]
    found = YAML(typ="safe").load(block)
    assert found == {"windows": {"history": 12, "context": ["1d", "1w"]}, "train": {"lr": 1e-5, "seed": 0}}
    assert block.index("windows") < block.index("train")


@pytest.mark.parametrize(
    "sentence",
    [
        "| trained weights | 123,456 |",
        "| weights kept | step 700, epoch 7 |",
        "| validation MAE | 2.34568 km/h |",
        "| data license | not stated |",
        "| data source | https://example.org/data \\| mirror |",
        "| context lags | 288, 2016 steps |",
        "| 5 | 0.700 | 0.100 | 0.100 | 0.100 |",
        "| 10 | 0.400 | 0.200 | 0.200 | 0.200 |",
        "New sensors are refused",
        "No forecasts beyond the horizon of 10 minutes.",
        "It reads up to 14 days back",
    ],
)
def test_the_card_says_what_it_was_told(sentence: str) -> None:
    assert sentence in model_card(FACTS)


def test_the_use_section_shows_python_that_parses_and_a_command_that_is_understood() -> None:
    for inputs, covariates in product([(), ("flow", "mean-speed")], [(), ("rain",)]):
        use = (
            model_card(replace(FACTS, inputs=inputs, covariates=covariates))
            .split("## Use")[1]
            .split("## ")[0]
        )
        code = use.split("```python\n")[1].split("```")[0]
        ast.parse(code)
        assert "headway.load(" in code
        assert all(f'"{name}": ' in code for name in inputs)
        assert ("covariates=" in code) == bool(covariates)
        command = use.split("python -m headway ")[1].splitlines()[0]
        chosen = _parser().parse_args(command.split())
        assert chosen.model == Path("path/to/this/folder")
        assert len(chosen.input) == len(inputs)
        assert (chosen.covariates is not None) == bool(covariates)


def test_a_model_without_anchors_or_context_says_so() -> None:
    card = model_card(replace(FACTS, anchor_names=(), anchor_weights=(), context=(), trailing=()))
    assert "forecasts without anchors" in card
    assert "days back" not in card
    assert "| context lags | none |" in card


@pytest.mark.parametrize(
    ("head", "said"), [("point", "without a statement of its uncertainty"), ("mixture", "`q0.975`")]
)
def test_the_limits_say_how_far_intervals_can_be_trusted(head: str, said: str) -> None:
    assert said in model_card(replace(FACTS, head=head)).partition("## Limits")[2]


def test_a_note_such_as_a_change_of_code_is_told_at_the_top() -> None:
    card = model_card(replace(FACTS, notes=("Continued across a change of code.",)))
    assert card.index("Continued across") < card.index("## Facts")


def test_the_same_facts_write_the_same_bytes_and_nothing_else(tmp_path: Path) -> None:
    write_model_card(tmp_path, FACTS)
    first = (tmp_path / "README.md").read_bytes()
    write_model_card(tmp_path, FACTS)
    assert (tmp_path / "README.md").read_bytes() == first
    assert [path.name for path in tmp_path.iterdir()] == ["README.md"]
