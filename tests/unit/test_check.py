"""`python -m headway check` finds what would stop or spoil a run, all of it at once."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from ruamel.yaml import YAML

from headway.__main__ import main
from headway.commands import data_checks
from headway.commands.checks import inspect_project
from headway.commands.data_checks import inspect_data, inspect_prepared
from headway.commands.findings import Finding, note, ok, problem, table
from headway.commands.sections import read_sections
from headway.data.prepare import prepare
from headway.errors import InputError
from headway.params import load_document
from project_params import ROOT, sections_of
from worlds import daily_readings, write_raw_world


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A root with nothing but params.yaml and requirements.txt."""
    for name in ("params.yaml", "requirements.txt"):
        shutil.copy(ROOT / name, tmp_path / name)
    return tmp_path


def edit(project: Path, changes: dict[str, Any]) -> None:
    """Set keys such as `train.lr` in params.yaml; None removes the key."""
    document = load_document(project / "params.yaml")
    for place, value in changes.items():
        *sections, key = place.split(".")
        body = document
        for section in sections:
            body = body[section]
        if value is None:
            del body[key]
        else:
            body[key] = value
    with (project / "params.yaml").open("w") as file:
        YAML(typ="safe", pure=True).dump(document, file)


def described(findings: list[Finding], status: str) -> str:
    return "\n".join(f"{finding.name}: {finding.found}" for finding in findings if finding.status == status)


# --- params.yaml --------------------------------------------------------------------------------------------


def test_the_params_of_this_repository_have_no_problem(project: Path) -> None:
    groups = inspect_project(project)
    assert [
        finding for findings in groups.values() for finding in findings if finding.status == "problem"
    ] == []


def test_all_problems_of_params_come_at_once_a_line_each(project: Path) -> None:
    edit(
        project,
        {"train.lr": "fast", "ha_gat.heads": 4, "preprocess.purge": None, "evaluate.plot": True, "moon": 1},
    )
    found = described(inspect_project(project)["params.yaml"], "problem").splitlines()
    keys = [line.split(": ")[0] for line in found]
    assert sorted(keys) == ["evaluate.plot", "ha_gat.heads", "moon", "preprocess.purge", "train.lr"]


def test_a_refusal_of_a_record_names_its_key_once(project: Path) -> None:
    edit(project, {"runtime.memory_budget": "4 Gb", "ha_gat.hidden_dim": 33})
    with pytest.raises(InputError) as refused:
        read_sections(project / "params.yaml")
    assert "  - runtime.memory_budget: '4 Gb' is no amount of memory: write 4GB" in str(refused.value)
    assert "  - ha_gat.hidden_dim: 33 is no multiple of ha_gat.heads = 2" in str(refused.value)


def test_a_data_set_may_be_named_by_a_date(project: Path) -> None:
    page = (project / "params.yaml").read_text().replace("dataset: simulated", "dataset: 2024-01-05")
    (project / "params.yaml").write_text(page)
    assert read_sections(project / "params.yaml")["dataset"] == "2024-01-05"


def test_a_file_that_is_no_yaml_is_one_problem(project: Path) -> None:
    (project / "params.yaml").write_text("train: [1, 2\nmodel: }")
    (found,) = inspect_project(project)["params.yaml"]
    assert found.status == "problem" and "not readable YAML" in found.found


@pytest.mark.parametrize("name", ["", "..", "a/b", "/etc"])
def test_a_data_set_is_named_by_a_folder_not_by_a_path(project: Path, name: str) -> None:
    edit(project, {"dataset": name})
    with pytest.raises(InputError, match="is not the name of a folder in data/raw"):
        read_sections(project / "params.yaml")


def test_the_heads_of_the_state_space_must_fill_its_width(project: Path) -> None:
    edit(project, {"st_mamba.head_dim": 24, "st_mamba.expand": 1, "ha_gat.hidden_dim": 64})
    with pytest.raises(
        InputError, match=r"head_dim: 24 must divide 64, which is st_mamba.expand x ha_gat.hidden"
    ):
        read_sections(project / "params.yaml")


def test_the_heads_of_stmgt_must_divide_the_width_of_its_operator(project: Path) -> None:
    edit(project, {"model.name": "stmgt", "model.spatial": "gatv2", "stmgt.heads": 5, "gatv2.hidden_dim": 64})
    with pytest.raises(InputError, match=r"stmgt.heads: 5 must divide 64, which is gatv2.hidden_dim"):
        read_sections(project / "params.yaml")


# --- data ---------------------------------------------------------------------------------------------------


def test_a_data_set_that_the_first_stage_makes_need_not_be_there(project: Path) -> None:
    sections = sections_of(simulate={"days": 21, "step_minutes": 5, "sensors": 30})
    findings, sizes = inspect_data(sections, project)
    assert described(findings, "ok") == "simulated: 6048 steps of 5 min, 30 sensors, made by the first stage"
    assert sizes is not None and sizes.sensors == 30


def test_a_data_set_that_is_nowhere_is_a_problem(project: Path) -> None:
    edit(project, {"dataset": "city"})
    groups = inspect_project(project)
    assert "city: no such data set" in described(groups["data"], "problem")
    assert "guard rails" not in groups


def test_a_data_set_that_was_not_pulled_names_the_command(project: Path) -> None:
    (project / "data/raw").mkdir(parents=True)
    (project / "data/raw/city.dvc").touch()
    findings, _ = inspect_data(sections_of("city"), project)
    assert [finding.help for finding in findings] == ["dvc pull data/raw/city.dvc"]


def test_every_fault_of_a_raw_folder_is_a_line(project: Path) -> None:
    folder = write_raw_world(project / "data/raw/city", facts={"unit": "km/h"})
    (folder / "dataset.yaml").write_text("color: red\ntime_zone: 5\n")
    findings, sizes = inspect_data(sections_of("city"), project)
    assert sizes is None and len(findings) == 2
    assert "dataset.yaml: color: unknown key" in described(findings, "problem")


def test_a_lag_that_would_read_the_future_is_found_before_a_run(project: Path) -> None:
    write_raw_world(project / "data/raw/city", step_minutes=60, steps=600)
    sections = sections_of("city", windows={"context": ("6h",), "horizon": 12})
    findings, _ = inspect_data(sections, project)
    assert "6h is 6 steps, shorter than the horizon of 12" in described(findings, "problem")


def test_a_lag_that_the_data_are_too_short_for_is_a_note(project: Path) -> None:
    write_raw_world(project / "data/raw/city", step_minutes=60, steps=400)
    findings, _ = inspect_data(sections_of("city"), project)
    assert "context: windows.context: 1w will be switched off: training covers 11." in described(
        findings, "note"
    )


def test_rows_that_preprocess_will_refuse_are_found_in_every_file_before_a_run(project: Path) -> None:
    times = pd.date_range("2024-01-01", periods=600, freq="h").to_numpy().copy()
    times[17] += np.timedelta64(70, "s")
    readings = daily_readings(600, 4, 60)
    folder = write_raw_world(
        project / "data/raw/city",
        timestamps=times,
        variables={"flow": readings},
        covariates={"rain": readings[:, 0]},
    )
    further = {"inputs": ("flow",), "covariates": ("rain",)}
    findings, sizes = inspect_data(sections_of("city", windows=further), project)
    assert sizes is not None and not described(findings, "ok")
    for line, name in zip(
        described(findings, "problem").splitlines(),
        ("series.parquet", "series_flow.parquet", "covariates.parquet"),
        strict=True,
    ):
        assert line.startswith(f"city: {folder / name}: 1 of 600 timestamps are off the grid of 3600 s")
        assert "row 17 (2024-01-01T17:01:10Z); set preprocess.off_grid: round" in line
    rounded = sections_of("city", windows=further, preprocess={"off_grid": "round"})
    assert not described(inspect_data(rounded, project)[0], "problem")


@pytest.mark.parametrize("rule", ["error", "drop", "keep"])
def test_silent_and_constant_sensors_are_found_before_a_run(project: Path, rule: str) -> None:
    readings = daily_readings(600, 5, 60)
    readings[:, 1], readings[:, 2], readings[:300, 3], readings[300:, 3] = np.nan, 7, 0, np.nan
    readings[:500, 4] = 9  # constant for a while
    write_raw_world(project / "data/raw/city", readings=readings, sensors=5, facts={"null_value": 0})
    findings, _ = inspect_data(sections_of("city", preprocess={"unusable_sensors": rule}), project)
    found = [finding for finding in findings if finding.name == "sensors"]
    assert {finding.status for finding in found} == {"problem" if rule == "error" else "note"}
    assert [finding.found.split(" (")[0] for finding in found] == [
        "series.parquet, no reading: b, d",
        "series.parquet, one value only in the training rows: c",
    ]
    assert all(
        ("preprocess.unusable_sensors: drop" in finding.help) == (rule == "error") for finding in found
    )


def test_of_readings_that_differ_no_column_is_read(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_raw_world(project / "data/raw/city", step_minutes=60, steps=600)
    monkeypatch.setattr(data_checks, "read_readings", pytest.fail)
    assert described(inspect_data(sections_of("city"), project)[0], "ok")


def test_prepared_data_of_other_parameters_are_a_note(project: Path) -> None:
    raw = write_raw_world(project / "data/raw/city", step_minutes=60, steps=600)
    sections = sections_of("city", preprocess={"max_neighbors": 3})
    prepare(raw, project / "data/prepared", sections["preprocess"], sections["windows"])
    findings, prepared = inspect_prepared(sections, project)
    assert prepared is not None and described(findings, "ok").startswith(
        "prepared: 4 sensors, windows: train "
    )
    changed = sections | {"windows": replace(sections["windows"], history=24, trailing_weeks=0)}
    findings, prepared = inspect_prepared(changed, project)
    assert prepared is None
    assert (
        described(findings, "note") == "prepared: made with another windows.history, windows.trailing_weeks"
    )


def test_damaged_prepared_data_are_a_problem(project: Path) -> None:
    raw = write_raw_world(project / "data/raw/city", step_minutes=60, steps=600)
    sections = sections_of()
    prepare(raw, project / "data/prepared", sections["preprocess"], sections["windows"])
    (project / "data/prepared/values.npy").write_bytes(b"")
    findings, _ = inspect_prepared(sections, project)
    assert "values.npy has 0 bytes" in described(findings, "problem")


# --- the table ----------------------------------------------------------------------------------------------


def test_the_table_has_a_line_a_finding_and_counts_them() -> None:
    text = table({"one": [ok("a", "fine")], "two": [note("long name", "so", "do"), problem("b", "bad")]})
    assert text.splitlines() == [
        "one",
        "  ok       a          fine",
        "",
        "two",
        "  note     long name  so; do",
        "  problem  b          bad",
        "",
        "1 problem, 1 note",
    ]


def test_the_command_leaves_with_one_when_there_is_a_problem(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(project)
    (project / "requirements.txt").write_text("")
    assert main(["check"]) == 0
    assert "no problems" in capsys.readouterr().out
    edit(project, {"train.epochs": 0})
    assert main(["check"]) == 1
    assert "train.epochs" in capsys.readouterr().out


def test_a_language_model_that_is_not_there_is_a_problem_of_the_model(project: Path) -> None:
    edit(
        project,
        {
            "model.name": "st_sepnet",
            "windows.history": 48,
            "st_sepnet.temporal": "llm",
            "st_sepnet.backbone": "data/backbones/bert",
            "st_sepnet.backbone_source": "google-bert/bert-base-uncased",
        },
    )
    (found,) = inspect_project(project)["guard rails"]
    assert found.status == "problem"
    assert "no such folder" in found.found and "hf download google-bert/bert-base-uncased" in found.found
