"""Every key of the sections that training depends on acts: another value, another curve of errors.

A configuration that is read and not used is how results come to be reported for settings that never ran.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest

from headway.data.prepare import prepare
from headway.data.prepared import open_prepared
from headway.nn.none import NoneParams
from headway.training.experiment import run_experiment
from tiny_run import MIXTURE, RUNTIME, SECTIONS, STAGE, train_params
from tiny_stmgt import PARAMS as STMGT
from worlds import preprocess_params, windows_params, write_raw_world

Curve = list[dict[str, float]]
Changes = dict[str, dict[str, Any]]

# section.key -> the value it is changed to
OTHER: Changes = {
    "model": {"name": "stmgt", "spatial": "none", "head": "mixture", "anchors": False, "sensor_dropout": 0.5},
    "st_mamba": {
        "layers": 2,
        "expand": 2,
        "head_dim": 2,
        "state_dim": 4,
        "conv_width": 3,
        "dropout": 0.6,
        "node_embedding": False,
        "time_of_day_embedding": False,
        "day_of_week_embedding": False,
        "multi_scale": True,
    },
    "ha_gat": {"hidden_dim": 16, "heads": 1, "regimes": 3, "hops": 1, "attention_dropout": 0.6},
    "point": {"hidden_dim": 16, "layers": 2, "dropout": 0.6},
    "mixture": {
        "hidden_dim": 16,
        "layers": 2,
        "dropout": 0.6,
        "components": 2,
        "smallest": 0.5,
        "largest": 2.0,
        "mean_square": 0.0,
        "spread": 0.5,
        "entropy": 0.5,
    },
    "train": {
        "seed": 1,
        "batch_size": 8,
        "order": "partitioned",
        "partitions": 3,
        "epochs": 1,
        "epoch_steps": 3,
        "max_steps": 3,
        "patience": 1,
        "validation_windows": 2,
        "lr": 0.02,
        "schedule": "cosine",
        "warmup_steps": 6,
        "milestones": (2,),
        "decay": 0.1,
        "weight_decay": 0.5,
        "clip_norm": 0.05,
        "anchor_pull": 1.0,
    },
}
# what must be so for a key to matter
GROUND: dict[str, Changes] = {
    "train.partitions": {"train": {"order": "partitioned"}},
    "train.patience": {"train": {"lr": 0.3, "epochs": 8, "epoch_steps": 1}},
    "train.milestones": {"train": {"schedule": "multistep", "milestones": (1,)}},
    "train.decay": {"train": {"schedule": "multistep", "milestones": (1,)}},
}
KEYS = [f"{section}.{key}" for section, values in OTHER.items() for key in values]


TRAIN = train_params(validation_windows=8, batch_size=4, epoch_steps=2)
RECORDS = {
    **SECTIONS,
    "mixture": MIXTURE["mixture"],
    "none": NoneParams(hidden_dim=8),
    "stmgt": STMGT,
    "train": TRAIN,
}


class Trainings:
    """Trains a tiny experiment; the same one only once."""

    def __init__(self, folder: Path) -> None:
        """A history of 48, for the streams of several scales."""
        self.folder = folder
        write_raw_world(folder / "raw", steps=700)
        windows = windows_params(context=("1d",), history=48)
        prepare(folder / "raw", folder / "prepared", preprocess_params(), windows)
        self.prepared = open_prepared(folder / "prepared")
        self.found: dict[str, Curve] = {}

    def curve(self, changes: Changes) -> Curve:
        """Errors, rates and gradient norms by epoch."""
        if (name := repr(changes)) not in self.found:
            records: Any = {key: replace(record, **changes.get(key, {})) for key, record in RECORDS.items()}
            runtime = replace(RUNTIME, checkpoint_steps=1000, micro_batch=4)
            done = run_experiment(self.prepared, records, runtime, STAGE, self.folder / "curves")
            self.found[name] = done.progress.curve
        return self.found[name]


@pytest.fixture(scope="module")
def trainings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trainings]:
    folder = tmp_path_factory.mktemp("keys")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        yield Trainings(folder)


@pytest.mark.parametrize("name", KEYS)
def test_a_key_acts(name: str, trainings: Trainings) -> None:
    section, key = name.split(".")
    ground = {"model": {"head": "mixture"}} if section == "mixture" else GROUND.get(name, {})
    changed = ground | {section: ground.get(section, {}) | {key: OTHER[section][key]}}
    assert trainings.curve(changed) != trainings.curve(ground)


def test_no_key_is_left_out() -> None:
    """STMGT's and GATv2's are changed in tests/numerics/test_stmgt_keys.py."""
    for section, values in OTHER.items():
        assert set(values) == {field.name for field in fields(RECORDS[section])}
    assert {*OTHER, "none", "stmgt"} == set(RECORDS)
