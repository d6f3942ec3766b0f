"""One thread for every test, and one finished project for those that look at DVC.

Tiny tensors are several times slower on two threads, whose sums and first `exp` may vary.
"""

from __future__ import annotations

import pytest
import torch

from dvc_project import Project, new_project

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project whose pipeline has run and whose results are committed and pushed. Do not change it."""
    place = f"Straße nach Süden, {'viel ' * 20}länger als üblich"  # people have such folders
    project = new_project(tmp_path_factory.mktemp("dvc") / place / "project")
    project.dvc("repro")
    project.commit("results")
    project.dvc("push")
    return project
