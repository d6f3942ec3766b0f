"""What is left of a forecast when sensors fall silent: of theirs, and of the others'.

    python benchmarks/outages.py --project DIR [--project DIR ...] [--share 0.1 0.3] [--draws 3] [--stride 7]
        [--json FILE]

Each DIR is a project in which the train stage has run, such as benchmarks/accuracy.py leaves. A share of its sensors
is silenced over the whole test split, drawn anew each time: `lately`, so that their history is gone and what lies
before it is not, and `long`, so that nothing of them is left. Compared, on the same windows: the error of the others
with and without the silence, and the error of the silent beside that of the climatology, the mean of training
readings at this time of week, and of the model that still hears them. The stride shares no factor with the steps of
a day.

JSON: {project: [{"share", "silent", "others", "beside_climatology", "beside_heard"}]}, means over draws.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from headway.data.prepared import open_prepared
from headway.data.windows import Windows
from headway.models.folder import read_model_folder
from headway.models.standardized import Standardized
from headway.nn.sensor_dropout import without_readings
from headway.types import Batch

AT_ONCE = 32  # windows
Silence = Literal["lately", "long"]


def main() -> None:
    arguments = parse_arguments()
    found: dict[str, list[dict[str, Any]]] = {}
    for project in arguments.project:
        found[str(project)] = list(rows(project, arguments))
        sys.stdout.write(table(project, found[str(project)]))
        if arguments.json:
            arguments.json.write_text(json.dumps(found, indent=1) + "\n")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--project", type=Path, action="append", required=True, help="where a model is trained"
    )
    parser.add_argument("--share", type=float, nargs="+", default=[0.1, 0.3], help="of the sensors, silenced")
    parser.add_argument("--draws", type=int, default=3, help="of silent sensors")
    parser.add_argument("--stride", type=int, default=7, help="every so many test windows one is looked at")
    parser.add_argument("--json", type=Path, help="file to write the figures to")
    return parser.parse_args()


def rows(project: Path, arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """One for each share and kind of silence: means over draws."""
    prepared = open_prepared(project / "data/prepared")
    model, windows = read_model_folder(project / "models/train").model.eval(), Windows(prepared)
    origins = np.arange(*prepared.meta.splits["test"])[:: arguments.stride]
    for share in arguments.share:
        for silence in get_args(Silence):
            ratios = []
            for draw in range(arguments.draws):
                drawn = np.random.default_rng([draw, round(1000 * share)]).random(prepared.meta.sensors)
                ratios.append(compare(model, windows, origins, torch.from_numpy(drawn < share), silence))
            yield {"share": share, "silent": silence} | {
                name: float(np.mean([ratio[name] for ratio in ratios])) for name in ratios[0]
            }


@torch.no_grad()
def compare(
    model: Standardized, windows: Windows, origins: np.ndarray, silent: Tensor, silence: Silence
) -> dict[str, float]:
    """Ratios of summed absolute errors of these windows, with these sensors silent."""
    context = windows.context
    before = others = gone = climatology = heard = 0.0
    for first in range(0, len(origins), AT_ONCE):
        batch = windows.gather(origins[first : first + AT_ONCE])
        z, chosen = model.standardize(batch), silent.expand(len(batch.origin), -1)
        long = chosen if silence == "long" else torch.zeros_like(chosen)
        whole, without = said(model, z), said(model, without_readings(z, context, lately=chosen, long=long))
        before += error(whole, batch, ~silent)
        others += error(without, batch, ~silent)
        gone += error(without, batch, silent)
        climatology += error(batch.fallback, batch, silent)
        heard += error(whole, batch, silent)
    return {
        "others": others / before - 1,
        "beside_climatology": gone / climatology,
        "beside_heard": gone / heard,
    }


def said(model: Standardized, z: Batch) -> Tensor:
    """The forecast in the target's unit, of a batch in z-units."""
    return model.to_physical(model.forecast_standard(z)).point


def error(point: Tensor, batch: Batch, sensors: Tensor) -> float:
    """Summed absolute error over observed targets of these sensors."""
    counted = batch.target_observed & sensors
    return torch.where(counted, (point - batch.target).abs(), 0.0).double().sum().item()


def table(project: Path, found: list[dict[str, Any]]) -> str:
    """Markdown."""
    lines = [
        f"\n### {project.resolve().name}\n",
        "| silent | since | error of the others | of the silent beside climatology | beside being heard |",
        "|---:|:---|---:|---:|---:|",
    ]
    lines += [
        f"| {row['share']:.0%} | {row['silent']} | {row['others']:+.2%} | {row['beside_climatology']:.3f} "
        f"| {row['beside_heard']:.2f} |"
        for row in found
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
