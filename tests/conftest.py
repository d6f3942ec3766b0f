"""One thread for every test, trainings without what is slow, and one finished project for those that look at DVC.

Tiny tensors are several times slower on two threads, whose sums and first `exp` may vary.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import cache

import pytest
import torch

from dvc_project import Project, new_project
from headway.training import experiment

torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def quick_trainings() -> Iterator[None]:
    """What takes most of a tiny training and is looked at elsewhere: reading the code again and again, dvclive's
    search for a repository, waiting for the disk. Stages that DVC runs do all of it."""
    with pytest.MonkeyPatch.context() as context:
        context.setattr(experiment, "code_digest", cache(experiment.code_digest))
        context.setattr("dvclive.live.get_dvc_repo", lambda: None)
        context.setattr(os, "fsync", lambda _: None)
        yield


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project whose pipeline has run and whose results are committed and pushed. Do not change it."""
    place = f"Straße nach Süden, {'viel ' * 20}länger als üblich"  # people have such folders
    project = new_project(tmp_path_factory.mktemp("dvc") / place / "project")
    project.dvc("repro")
    project.commit("results")
    project.dvc("push")
    return project
