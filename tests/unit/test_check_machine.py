"""`python -m headway check` of the environment and the machine."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from headway.commands import environment, hardware
from headway.commands.environment import inspect_environment
from headway.commands.findings import Finding
from headway.commands.hardware import GIB, dvc_cache, inspect_hardware
from project_params import sections_of


def described(findings: list[Finding], status: str) -> str:
    return "\n".join(f"{finding.name}: {finding.found}" for finding in findings if finding.status == status)


# --- environment and machine --------------------------------------------------------------------------------


def test_a_build_of_the_pinned_torch_is_the_pinned_torch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "requirements.txt").write_text("torch==2.13.0\n# a comment\npandas==3.1.1   # why\n")
    monkeypatch.setattr(environment, "version", {"torch": "2.13.0+cu130", "pandas": "3.1.1"}.__getitem__)
    assert {finding.status for finding in inspect_environment(tmp_path / "requirements.txt")} == {"ok"}


def test_another_torch_is_a_problem_and_another_package_a_note(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "requirements.txt").write_text("torch==2.13.0\npandas==3.1.1\nno-such-package==1\n")
    versions = {"torch": "2.12.0", "pandas": "3.0.0"}

    def version(name: str) -> str:
        if name not in versions:
            raise environment.PackageNotFoundError(name)
        return versions[name]

    monkeypatch.setattr(environment, "version", version)
    findings = inspect_environment(tmp_path / "requirements.txt")
    assert described(findings, "problem").splitlines() == [
        "torch: 2.12.0, requirements.txt says 2.13.0",
        "no-such-package: not installed",
    ]
    assert described(findings, "note") == "pandas: 3.0.0, requirements.txt says 3.1.1"
    assert "0 of 3" in described(findings, "ok")


def test_an_old_python_is_a_problem() -> None:
    assert environment._python((3, 10, 4)).status == "problem"
    assert environment._python((3, 11, 0)).status == "ok"


def test_a_gpu_that_is_asked_for_and_absent_is_a_problem(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hardware, "gpu_bytes", lambda: None)
    findings = inspect_hardware(sections_of(runtime={"device": "cuda"})["runtime"], tmp_path)
    assert described(findings, "problem").startswith("GPU: none that torch can use")


def test_a_gpu_that_this_torch_cannot_use_is_a_note(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware, "gpu_bytes", lambda: None)
    monkeypatch.setattr(hardware.shutil, "which", lambda name: f"/usr/bin/{name}")
    assert "nvidia-smi is here" in described(inspect_hardware(None, tmp_path), "note")


@pytest.mark.parametrize(
    ("compute", "precision", "status", "found"),
    [
        (8, "auto", "ok", "auto is bf16 on this cuda"),
        (7, "auto", "note", "which only emulates it"),
        (8, "fp32", "note", "twice the memory"),
    ],
)
def test_the_precision_of_a_gpu_is_judged_by_what_the_gpu_has(
    compute: int, precision: str, status: str, found: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda *_, **__: True)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (3 * GIB, 4 * GIB))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "a small GPU")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (compute, 0))
    runtime = sections_of(runtime={"device": "auto", "precision": precision})["runtime"]
    gpu, arithmetic, *_ = inspect_hardware(runtime, tmp_path)
    assert (gpu.status, gpu.found) == ("ok", "a small GPU, 4.0 GiB, 3.0 free")
    assert arithmetic.status == status and found in arithmetic.found


def test_half_precision_on_a_processor_is_a_note(tmp_path: Path) -> None:
    runtime = sections_of(runtime={"device": "cpu", "precision": "bf16", "threads": 10_000})["runtime"]
    assert described(inspect_hardware(runtime, tmp_path), "note").count("\n") >= 1  # and the threads are one


def test_a_full_disk_is_a_problem_where_runs_and_outputs_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hardware.shutil, "disk_usage", lambda path: SimpleNamespace(free=2**20))
    found = described(inspect_hardware(None, tmp_path), "problem")
    assert "disk, .resume: 0.0 GiB free" in found and "disk, DVC cache" in found


def test_the_cache_is_where_the_configuration_of_dvc_says(tmp_path: Path) -> None:
    assert dvc_cache(tmp_path) == tmp_path / ".dvc/cache"
    (tmp_path / ".dvc").mkdir()
    (tmp_path / ".dvc/config").write_text("[core]\n    remote = storage\n[cache]\n    dir = /large/disk\n")
    assert dvc_cache(tmp_path) == Path("/large/disk")
