"""From a trained model to its folder: weights, configuration and card, whole or not at all."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from headway.atomic import replacing_folder
from headway.data.calendar import DAY, HOUR
from headway.data.prepared import Prepared, PreparedMeta
from headway.models.folder import write_model_folder
from headway.serving.model_card import CardFacts, write_model_card
from headway.training.experiment import Trained

LICENSE = "apache-2.0"  # of the weights; the data set's own is stated beside it


def publish(folder: Path, trained: Trained, prepared: Prepared, params: Mapping[str, Any]) -> None:
    """Write the model folder.

    Args: params: the records the training was given.
    """
    with replacing_folder(folder) as draft:
        write_model_folder(draft, trained.model, params["model"], params, prepared, trained.calibrator)
        write_model_card(draft, card_facts(trained, prepared, params))


def card_facts(trained: Trained, prepared: Prepared, params: Mapping[str, Any]) -> CardFacts:
    """What the card says; nothing of it differs between two runs of one experiment."""
    meta, choice, progress = prepared.meta, params["model"], trained.progress
    machine = progress.machine  # that trained, not the one that publishes
    return CardFacts(
        name=choice.name,
        spatial=choice.spatial,
        head=choice.head,
        license=LICENSE,
        dataset=meta.dataset,
        data_license=meta.licence,
        data_source=meta.source,
        prepared_manifest=prepared.manifest,
        variable=meta.variable,
        unit=meta.unit,
        time_zone=meta.time_zone,
        sensors=meta.sensors,
        step_seconds=meta.step_seconds,
        history=meta.history,
        horizon=meta.horizon,
        context=meta.context,
        trailing=meta.trailing,
        inputs=meta.channels[1:],
        covariates=meta.given_covariates(),
        parameters={section: asdict(record) for section, record in params.items()},
        weights=trained.model.parameter_count(),
        seeds={"train": params["train"].seed},
        best_step=progress.best_step,
        best_epoch=progress.best_epoch,
        best_mae=progress.best_error,
        anchor_names=anchor_names(meta) if trained.model.mix is not None else (),
        anchor_weights=_anchor_weights(trained),
        code_digest=trained.identity["code"][:16],
        torch_version=machine["torch"],
        precision=machine["runtime.precision"],
        device_kind=machine["kind"],
        scan_kernel=machine["scan"],
        notes=tuple(progress.notes),
    )


def anchor_names(meta: PreparedMeta) -> tuple[str, ...]:
    """What the anchors are called, in their order."""
    lags = [_span(lag * meta.step_seconds) for lag in meta.context]
    return ("last reading", *(f"{lag} ago" for lag in lags), *(["usual lately"] if meta.trailing else []))


def _anchor_weights(trained: Trained) -> tuple[tuple[float, ...], ...]:
    mix = trained.model.mix
    return tuple(tuple(row) for row in mix.weights().detach().cpu().tolist()) if mix is not None else ()


def _span(seconds: int) -> str:
    days, rest = divmod(seconds, DAY)
    if rest:
        return f"{seconds / HOUR:.4g} h"
    return f"{days // 7} week(s)" if days % 7 == 0 else f"{days} day(s)"
