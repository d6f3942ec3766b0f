"""Projects to look at and to change."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from dvc_project import Project, new_project


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project whose pipeline has run and whose results are committed and pushed. Do not change it."""
    project = new_project(tmp_path_factory.mktemp("dvc") / "work" / "project")
    project.dvc("repro")
    project.commit("results")
    project.dvc("push")
    return project


@pytest.fixture
def project(finished: Project, tmp_path: Path) -> Project:
    """A copy of the finished project, to change."""
    folder = tmp_path / "work" / "project"
    shutil.copytree(finished.folder, folder, symlinks=True)
    return Project(folder)
