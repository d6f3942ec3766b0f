"""The model card: README.md of a model folder, for people and for model hubs.

Enter: plain facts. Leaves: Markdown with YAML front matter. It holds no date, duration, host or path:
the same training writes the same card.
Glossary: anchor = a reading one could forecast with by hand (the last one, yesterday's, ...), whose learned
weight the card shows; step = optimizer step; digest = the start of a SHA-256.
"""

from __future__ import annotations

import io
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from headway.atomic import write_text
from headway.data.calendar import DAY
from headway.evaluation.horizons import horizon_minutes


@dataclass(frozen=True, slots=True, kw_only=True)
class CardFacts:
    """What the training stage knows when it is done.

    Attributes:
        name, spatial, head: as in section `model` of params.yaml.
        license: of the weights, an SPDX identifier.
        dataset, variable, unit, time_zone: as in PreparedMeta.
        data_license, data_source: as in the data set's dataset.yaml; empty where it says nothing.
        prepared_manifest: SHA-256 of the prepared data.
        sensors, step_seconds, history, horizon: the windows.
        context, trailing: lags in steps.
        inputs, covariates: names of what it reads beside the target.
        parameters: sections of params.yaml the training depended on.
        weights: trained numbers.
        seeds: by what they seed.
        best_step, best_epoch: of the weights kept. best_mae: their validation error, in the unit.
        anchor_names, anchor_weights: columns and rows (a row a horizon step) of the learned mix; both empty
            where the model has none.
        code_digest, torch_version, precision, device_kind, scan_kernel: how it was trained.
        notes: further sentences, such as that a run was continued across a change of code.
    """

    name: str
    spatial: str
    head: str
    license: str
    dataset: str
    data_license: str
    data_source: str
    prepared_manifest: str
    variable: str
    unit: str
    time_zone: str
    sensors: int
    step_seconds: int
    history: int
    horizon: int
    context: tuple[int, ...]
    trailing: tuple[int, ...]
    inputs: tuple[str, ...]
    covariates: tuple[str, ...]
    parameters: Mapping[str, Any]
    weights: int
    seeds: Mapping[str, int]
    best_step: int
    best_epoch: int
    best_mae: float
    anchor_names: tuple[str, ...]
    anchor_weights: tuple[tuple[float, ...], ...]
    code_digest: str
    torch_version: str
    precision: str
    device_kind: str
    scan_kernel: str
    notes: tuple[str, ...] = ()


def write_model_card(folder: Path, facts: CardFacts) -> None:
    """Write README.md of a model folder."""
    write_text(folder / "README.md", model_card(facts))


def model_card(facts: CardFacts) -> str:
    """The card as Markdown."""
    sections = [
        f"---\n{_yaml(_front_matter(facts))}---",
        f"# {facts.name} with {facts.spatial} on {facts.dataset}",
        _summary(facts),
        f"## Facts\n\n{_fact_table(facts)}",
        f"## Use\n\n{_use(facts)}",
        f"## Limits\n\n{_bullets(_limits(facts))}",
        f"## What the forecast is a correction to\n\n{_anchor_table(facts)}",
        f"## Parameters\n\n```yaml\n{_yaml(facts.parameters)}```",
    ]
    return "\n\n".join(sections) + "\n"


def _front_matter(facts: CardFacts) -> dict[str, Any]:
    return {
        "license": facts.license,
        "library_name": "headway",
        "pipeline_tag": "time-series-forecasting",
        "tags": ["time-series-forecasting", "traffic", "spatio-temporal", facts.name, facts.spatial],
        "datasets": [facts.dataset],
    }


def _summary(facts: CardFacts) -> str:
    ahead = horizon_minutes(facts.horizon, facts.step_seconds)
    text = (
        f"Forecasts the {facts.variable} ({facts.unit}) of {facts.sensors} road sensors for the next "
        f"{facts.horizon} steps ({ahead} minutes) from the last {facts.history}. Trained by the DVC pipeline "
        f"`headway`; its error on the test split, beside that of naive forecasts, is in `metrics/evaluate`."
    )
    return "\n\n".join([text, *facts.notes])


def _fact_table(facts: CardFacts) -> str:
    rows = {
        "data set": facts.dataset,
        "data source": facts.data_source or "not stated",
        "data license": facts.data_license or "not stated",
        "prepared data (SHA-256)": f"`{facts.prepared_manifest}`",
        "variable, unit": f"{facts.variable}, {facts.unit}",
        "time zone": facts.time_zone,
        "sensors": facts.sensors,
        "step": f"{facts.step_seconds} s",
        "history, horizon": f"{facts.history}, {facts.horizon} steps",
        "context lags": _steps(facts.context),
        "trailing climatology": _steps(facts.trailing),
        "model, spatial operator, head": f"{facts.name}, {facts.spatial}, {facts.head}",
        "trained weights": f"{facts.weights:,}",
        "seeds": ", ".join(f"{name} {seed}" for name, seed in facts.seeds.items()),
        "weights kept": f"step {facts.best_step}, epoch {facts.best_epoch}",
        "validation MAE": f"{facts.best_mae:.6g} {facts.unit}",
        "code (digest)": f"`{facts.code_digest}`",
        "torch": facts.torch_version,
        "precision, device": f"{facts.precision}, {facts.device_kind}",
        "scan kernel": facts.scan_kernel,
    }
    lines = [f"| {name} | {_cell(value)} |" for name, value in rows.items()]
    return "\n".join(["| | |", "|---|---|", *lines])


def _use(facts: CardFacts) -> str:
    named = ", ".join(f'"{name}": {re.sub(r"[^A-Za-z0-9_]", "_", name)}' for name in facts.inputs)
    inputs, covariates = f"inputs={{{named}}}", "covariates=covariates"
    given = ["readings", *([inputs] if facts.inputs else []), *([covariates] if facts.covariates else [])]
    options = [f"--input {name}={name}.parquet" for name in facts.inputs]
    options += ["--covariates covariates.parquet"] if facts.covariates else []
    return f"""With this folder and the package `headway`, from a table of recent readings: a column `timestamp`, then
one column a sensor, empty where nothing was read ({facts.unit} in, {facts.unit} out).

```python
import headway

forecasts = headway.load("path/to/this/folder").predict({", ".join(given)})
```

or in a shell:

```
python -m headway predict path/to/this/folder {" ".join(["recent.parquet", *options])} --out forecasts.parquet
```

At least the last {facts.history} steps are needed; `docs/serving.md` of the project says more."""


def _limits(facts: CardFacts) -> list[str]:
    ahead = horizon_minutes(facts.horizon, facts.step_seconds)
    limits = [
        "New sensors are refused: the model has learned who each of its sensors is.",
        f"No forecasts beyond the horizon of {ahead} minutes.",
        f"Readings must be {facts.variable} in {facts.unit}; another unit is not noticed.",
        "What training never saw, such as a closed road or a new one, is not foreseen.",
    ]
    if facts.head == "point":
        limits.append("One number a step, without a statement of its uncertainty.")
    else:
        limits.append(
            "Its intervals, from `q0.025` to `q0.975`, are calibrated on validation data; in another season they may "
            "hold more or less than they promise, unless `recalibrate` follows it."
        )
    if facts.context or facts.trailing:
        days = max(*facts.context, *facts.trailing, 0) * facts.step_seconds / DAY
        limits.append(f"It reads up to {days:.4g} days back; given fewer, it makes do and is less exact.")
    return limits


def _anchor_table(facts: CardFacts) -> str:
    if not facts.anchor_names:
        return "Nothing: the model forecasts without anchors."
    assert len(facts.anchor_weights) == facts.horizon, (len(facts.anchor_weights), facts.horizon)
    lines = [
        "Learned weights of the anchor mix, where all anchors are observed, for the average sensor.",
        "",
        f"| minutes ahead | {' | '.join(_cell(name) for name in facts.anchor_names)} |",
        f"|---:|{'---:|' * len(facts.anchor_names)}",
    ]
    for step, weights in enumerate(facts.anchor_weights, start=1):
        shares = " | ".join(f"{weight:.3f}" for weight in weights)
        lines.append(f"| {horizon_minutes(step, facts.step_seconds)} | {shares} |")
    return "\n".join(lines)


def _bullets(sentences: list[str]) -> str:
    return "\n".join(f"- {sentence}" for sentence in sentences)


def _steps(lags: tuple[int, ...]) -> str:
    return f"{', '.join(map(str, lags))} steps" if lags else "none"


def _cell(value: object) -> str:
    # one line, and no bar that would end the cell: names of data sets are the user's
    return " ".join(str(value).split()).replace("|", "\\|")


def _yaml(content: Mapping[str, Any]) -> str:
    text = io.StringIO()
    writer = YAML(pure=True)  # keeps the order of params.yaml
    writer.width = 4096
    writer.dump(_plain(content), text)
    return text.getvalue()


def _plain(value: Any) -> Any:
    """Mappings and tuples as the dicts and lists YAML has."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value
