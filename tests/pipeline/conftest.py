"""A project to change."""

from __future__ import annotations

from pathlib import Path

import pytest

from dvc_project import Project


@pytest.fixture
def project(finished: Project, tmp_path: Path) -> Project:
    """A copy of the finished project, to change."""
    return finished.copy(tmp_path / "work" / "project")
