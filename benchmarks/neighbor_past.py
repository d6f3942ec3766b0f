"""What the neighbors' newest readings tell, and what their earlier ones tell beside them: what Mamba could be for.

    python benchmarks/neighbor_past.py --prepared DIR [--prepared DIR ...] [--json FILE]

Each DIR is a prepared folder (`data/prepared`). For every sensor three linear forecasts of half an hour ahead are
fitted by least squares to the first four fifths of the training rows, and their squared errors on the last fifth
compared:

    own       from the sensor's own last 12 readings
    newest    and the newest reading of each neighbor
    past      and the 11 before it

All readings are deviations from what is usual at the time, 0 where there is none. Told is by how much `newest` is
below `own`, and `past` below `newest`, over all sensors.

JSON: {data set: {"own", "newest", "past": mean squared errors, in variances of each sensor}}.
"""

from __future__ import annotations

import json

import numpy as np
from edge_effects import parse_arguments, steps_ahead, training_deviations
from jaxtyping import Float
from project_copy import log

from headway.data.prepared import Prepared, open_prepared

STEPS = 12
FITTED = 0.8  # of the training rows
RIDGE = 1e-3  # of the number of rows: a sensor that is always as usual has no variance


def main() -> None:
    arguments = parse_arguments(__doc__)
    found: dict[str, dict[str, float]] = {}
    log("| data set | own | newest | past | newest below own | past below newest |")
    log("|---|---:|---:|---:|---:|---:|")
    for folder in arguments.prepared:
        prepared = open_prepared(folder, verify=False)
        own, newest, past = errors(prepared)
        found[prepared.meta.dataset] = {"own": own, "newest": newest, "past": past}
        log(
            f"| {prepared.meta.dataset} | {own:.4f} | {newest:.4f} | {past:.4f} "
            f"| {1 - newest / own:.2%} | {1 - past / newest:.2%} |"
        )
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=1) + "\n")


def errors(prepared: Prepared) -> tuple[float, float, float]:
    """Mean squared error of the three, over all sensors that have neighbors and readings."""
    deviations, ahead = training_deviations(prepared), steps_ahead(prepared)
    known, targets = np.nan_to_num(deviations[:-ahead]), deviations[STEPS - 1 + ahead :]
    windows = np.lib.stride_tricks.sliding_window_view(known, STEPS, axis=0)  # row node step
    found = []
    for sensor in np.flatnonzero(prepared.valid.any(axis=1) & ~np.isnan(targets).all(axis=0)):
        read = prepared.neighbors[sensor, prepared.valid[sensor]]
        own, beside, target = windows[:, sensor], windows[:, read], targets[:, sensor]
        newest = np.concatenate([own, beside[..., -1]], axis=1)
        past = np.concatenate([own, beside.reshape(len(beside), -1)], axis=1)
        found.append([squared_error(features, target) for features in (own, newest, past)])
    own, newest, past = np.mean(found, axis=0).tolist()
    return own, newest, past


def squared_error(features: Float[np.ndarray, "row feature"], target: Float[np.ndarray, " row"]) -> float:
    """On the last rows, of the linear map that is best on the first."""
    there = ~np.isnan(target)
    x, y = features[there], target[there]
    fitted = int(FITTED * len(y))
    seen = x[:fitted]
    weights = np.linalg.solve(
        seen.T @ seen + RIDGE * max(1, fitted) * np.eye(x.shape[1]), seen.T @ y[:fitted]
    )
    return float(np.square(y[fitted:] - x[fitted:] @ weights).mean())


if __name__ == "__main__":
    main()
