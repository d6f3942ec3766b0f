"""A tiny experiment that trains in a fraction of a second, to be interrupted and compared bit by bit."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

from headway.data.prepare import prepare
from headway.data.prepared import Prepared, open_prepared
from headway.models import ModelParams
from headway.models.st_mamba import STMambaParams
from headway.nn.ha_gat import HAGATParams
from headway.nn.heads import MixtureParams, PointParams
from headway.serving.publish import publish
from headway.training.course import TrainParams
from headway.training.experiment import Trained, run_experiment
from headway.training.runtime import RuntimeParams
from headway.training.seat import Seat
from worlds import preprocess_params, windows_params, write_raw_world

STAGE = Path(__file__).resolve().parent.parent / "stages" / "train.py"

TRAIN = TrainParams(
    seed=0,
    batch_size=16,
    order="shuffled",
    partitions=1,
    epochs=3,
    epoch_steps=4,
    max_steps=0,
    patience=0,
    validation_windows=0,
    lr=0.01,
    schedule="constant",
    warmup_steps=2,
    milestones=(),
    decay=0.5,
    weight_decay=0.01,
    clip_norm=1.0,
    anchor_pull=0.01,
)
RUNTIME = RuntimeParams(
    device="cpu",
    precision="fp32",
    micro_batch=8,
    memory_budget="auto",
    data="memmap",
    allocator="default",
    threads=1,
    cluster="none",
    workers=0,
    interface="auto",
    rank_timeout=30.0,
    checkpoint_steps=2,
    checkpoint_minutes=0.0,
    max_hours=0.0,
    resume="auto",
    keep_runs=5,
)
SECTIONS: dict[str, Any] = {
    "model": ModelParams(name="st_mamba", spatial="ha_gat", head="point", anchors=True, sensor_dropout=0.0),
    "st_mamba": STMambaParams(
        layers=1,
        expand=1,
        head_dim=4,
        state_dim=2,
        conv_width=2,
        dropout=0.2,
        node_embedding=True,
        time_of_day_embedding=True,
        day_of_week_embedding=True,
        multi_scale=False,
    ),
    "ha_gat": HAGATParams(hidden_dim=8, heads=2, regimes=2, hops=2, attention_dropout=0.2),
    "point": PointParams(hidden_dim=8, layers=1, dropout=0.0),
}
MIXTURE: dict[str, Any] = {
    **SECTIONS,
    "model": replace(SECTIONS["model"], head="mixture"),
    "mixture": MixtureParams(
        hidden_dim=8,
        layers=1,
        dropout=0.0,
        components=3,
        smallest=0.05,
        largest=10.0,
        mean_square=0.4,
        spread=0.01,
        entropy=0.001,
    ),
}


def tiny_data(folder: Path, context: tuple[str, ...] = ("12h",), **raw: Any) -> Prepared:
    """Four sensors, 200 hours, prepared in `folder`; they are too few for a lag of a day."""
    write_raw_world(folder / "raw", **raw)
    prepare(folder / "raw", folder / "prepared", preprocess_params(), windows_params(context=context))
    return open_prepared(folder / "prepared")


def train_params(**changes: Any) -> TrainParams:
    """A valid section `train` with some values changed."""
    return replace(TRAIN, **changes)


def train_tiny(
    project: Path,
    prepared: Prepared,
    *,
    train: TrainParams = TRAIN,
    sections: dict[str, Any] | None = None,
    seat: Seat | None = None,
    **runtime: Any,
) -> Trained:
    """Run the experiment in `project`, which must be the current folder, and publish the model; rank 0 does."""
    params = {**(sections or SECTIONS), "train": train}
    curves, models = project / "metrics/train", project / "models/train"
    trained = run_experiment(prepared, params, replace(RUNTIME, **runtime), STAGE, curves, seat=seat)
    if seat is None or seat.rank == 0:
        publish(models, trained, prepared, params)
    return trained


def results(project: Path) -> dict[str, str]:
    """SHA-256 of every file that a training leaves, by its path."""
    return {
        path.relative_to(project).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for folder in ("models", "metrics")
        for path in sorted((project / folder).rglob("*"))
        if path.is_file()
    }
