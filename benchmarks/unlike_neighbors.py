"""A planted world of unlike neighbors: what a sensor shows follows some neighbors, and runs against the others.

    python benchmarks/unlike_neighbors.py FOLDER [--kinds 4] [--sensors 64] [--days 28] [--seed 0] [--json FILE]
    python benchmarks/ablation.py --data FOLDER --work WORK --rows no_graph,no_signs

Sensors stand on a ring, each of one of a few kinds by chance. With the three sensors on either side,

    x_i(t) = s_i(t) + sum_j a_ij x_j(t - 30 min)        a_ij > 0 where both are of one kind, else < 0
    s_i(t) = 0.92 s_i(t - 5 min) + noise                strong at every third sensor, weak at the others

so nearly all that happens to a sensor has been seen at its neighbors half an hour ago, and their mean says nothing of
it. The script writes the readings as a raw folder and prints the least possible error, that of a forecast that knows
the rule; `ablation.py` says what HA-GAT makes of it.

JSON: {"known", "persistence", "against"}: two mean absolute errors of the test split, the share of a_ij below 0.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Float
from project_copy import log

from headway.atomic import replacing_folder
from headway.data.simulate import START, sensor_names

STEP_MINUTES, DELAY, HORIZON = 5, 6, 12  # the latter two in steps
SIDE = 3  # neighbors on either side
GAIN = 0.95  # spectral radius of a: what comes back after a delay
KEPT = 0.92
STRONG, WEAK, STRONG_SHARE = 10.0, 2.0, 1 / 3
LEVEL = 100.0
SETTLED = 1000  # steps until the start is forgotten
FACTS = {
    "unit": "none",
    "variable": "reading",
    "time_zone": "UTC",
    "split": "7-1-2",
    "step_minutes": STEP_MINUTES,
    "source": "planted by headway",
    "licence": "CC0-1.0",
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="to write, as a raw data set")
    parser.add_argument("--kinds", type=int, default=4)
    parser.add_argument("--sensors", type=int, default=64)
    parser.add_argument("--days", type=int, default=28)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="file to write the errors to")
    arguments = parser.parse_args()
    random = np.random.default_rng(arguments.seed)
    influence = draw_influence(random, arguments.sensors, arguments.kinds)
    readings, sources = unfold(random, influence, arguments.days * 24 * 60 // STEP_MINUTES)
    write_raw(arguments.folder, readings, influence)
    errors = {
        **least_errors(readings, sources, influence),
        "against": float((influence < 0).sum() / (influence != 0).sum()),
    }
    log(
        f"{arguments.folder}: {len(influence)} sensors of {arguments.kinds} kinds, {errors['against']:.0%} of the "
        f"neighbors run against; MAE of who knows the rule {errors['known']:.3f}, "
        f"of persistence {errors['persistence']:.3f}"
    )
    if arguments.json:
        arguments.json.write_text(json.dumps(errors, indent=1) + "\n")


def draw_influence(random: np.random.Generator, sensors: int, kinds: int) -> Float[np.ndarray, "node node"]:
    """a: row i has what reaches sensor i."""
    kind = random.integers(0, kinds, sensors)
    influence = np.zeros((sensors, sensors))
    for step in (*range(-SIDE, 0), *range(1, SIDE + 1)):
        near = (np.arange(sensors) + step) % sensors
        influence[np.arange(sensors), near] = np.where(kind == kind[near], 1.0, -1.0)
    return influence * (GAIN / np.abs(np.linalg.eigvals(influence)).max())


def unfold(
    random: np.random.Generator, influence: Float[np.ndarray, "node node"], steps: int
) -> tuple[Float[np.ndarray, "step node"], Float[np.ndarray, "step node"]]:
    """Readings less their level, and the sources in them."""
    sensors = len(influence)
    strength = np.where(random.random(sensors) < STRONG_SHARE, STRONG, WEAK) * np.sqrt(1 - KEPT**2)
    sources, readings = np.zeros((2, SETTLED + steps, sensors))
    for now in range(DELAY, SETTLED + steps):
        sources[now] = KEPT * sources[now - 1] + strength * random.standard_normal(sensors)
        readings[now] = sources[now] + influence @ readings[now - DELAY]
    return readings[SETTLED:], sources[SETTLED:]


def least_errors(
    readings: Float[np.ndarray, "step node"],
    sources: Float[np.ndarray, "step node"],
    influence: Float[np.ndarray, "node node"],
) -> dict[str, float]:
    """Mean absolute errors over the horizon, on the last fifth of the steps."""
    origins = np.arange(int(0.8 * len(readings)), len(readings) - HORIZON)
    seen = {-back: readings[origins - back] for back in range(DELAY)}
    known, persistence = [], []
    for ahead in range(1, HORIZON + 1):
        seen[ahead] = KEPT**ahead * sources[origins] + seen[ahead - DELAY] @ influence.T
        known.append(np.abs(readings[origins + ahead] - seen[ahead]).mean())
        persistence.append(np.abs(readings[origins + ahead] - readings[origins]).mean())
    return {"known": float(np.mean(known)), "persistence": float(np.mean(persistence))}


def write_raw(
    folder: Path, readings: Float[np.ndarray, "step node"], influence: Float[np.ndarray, "node node"]
) -> None:
    """series.parquet, sensors.parquet, edges.parquet, dataset.yaml."""
    names = sensor_names(len(influence))
    times = START + np.arange(len(readings)) * np.timedelta64(STEP_MINUTES, "m")
    columns = {
        name: (LEVEL + column).astype(np.float32) for name, column in zip(names, readings.T, strict=True)
    }
    reader, read = np.nonzero(influence)
    apart = np.abs(reader - read)
    meters = 1000.0 * np.minimum(apart, len(names) - apart)
    edges = {
        "source": [names[at] for at in read],
        "target": [names[at] for at in reader],
        "distance_m": meters,
    }
    with replacing_folder(folder) as draft:
        pq.write_table(pa.table({"timestamp": times, **columns}), draft / "series.parquet")
        pq.write_table(pa.table({"sensor_id": names}), draft / "sensors.parquet")
        pq.write_table(pa.table(edges), draft / "edges.parquet")
        (draft / "dataset.yaml").write_text("".join(f"{key}: {fact}\n" for key, fact in FACTS.items()))


if __name__ == "__main__":
    main()
