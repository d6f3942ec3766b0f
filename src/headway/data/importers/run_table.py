"""Format runs: a table with a row a run and road segment: run_id, time, two nodes or an edge, speed, weather.

A sensor is a segment, "a>b" from node a to node b; its place is its middle. Segments are joined where one ends and
the next begins, by the distance between their middles. Weather columns become covariates, a row a run.

The table is read as one array; selecting a run's rows again for every batch is what makes it slow elsewhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa

from headway.data.facts import DatasetFacts
from headway.data.importers.civil import settle_clock
from headway.data.importers.formats import Options
from headway.data.importers.imported import Imported, sensor_table, state_facts
from headway.data.importers.limits import require_memory
from headway.data.importers.pivot import Layout, lay_out, spread
from headway.data.importers.tables import (
    TIME_NAMES,
    column_names,
    encode_text,
    find_column,
    read_columns,
    read_times,
)
from headway.data.parquet import TIME, listing
from headway.errors import InputError

WEATHER = (
    "temperature_c",
    "wind_speed_kmh",
    "precipitation_mm",
    "humidity",
    "humidity_percent",
    "weather_code",
)
COORDINATES = ("lat_a", "lon_a", "lat_b", "lon_b")
RUN_FORM = "run_%Y%m%d_%H%M%S"


def read_runs(source: Path, options: Options) -> Imported:
    """The target is `--value-column`, speed_kmh by default; `--also` names further variables.

    Raises: InputError for absent columns, rows without a run or segment, values that are no numbers.
    """
    names = column_names(source)
    run = find_column(source, names, "", ("run_id", "run"), "a column run_id")
    ends = _segment_columns(source, names)
    value = find_column(source, names, options.value_column, ("speed_kmh", "speed"), "--value-column")
    for name in options.also:
        find_column(source, names, name, (), "--also")
    time = [name for name in names if name.lower() in TIME_NAMES][:1]
    place = [name for name in (*COORDINATES, "distance_km") if name in names]
    weather = [name for name in WEATHER if name in names and name not in options.also]
    numbers = list(dict.fromkeys([value, *options.also, *place, *weather]))
    table = read_columns(source, [run, *ends, *time], numbers, pa.float64())
    when, form = (time[0], "") if time else (run, RUN_FORM)
    times = read_times(source, table[when], when, form)
    sides = [encode_text(source, table[end], end, "no segment") for end in ends]
    labels = [np.array(texts, dtype=object)[codes] for codes, texts in sides]
    codes, segments = pd.factorize(labels[0] if len(labels) == 1 else labels[0] + ">" + labels[1], sort=True)
    ids = [str(segment) for segment in segments]
    times = settle_clock(source, times, codes, options.time_zone, when)
    layout = lay_out(times, np.asarray(codes, dtype=np.int64), len(ids))
    require_memory(4 * len(layout.times) * len(ids) * (1 + len(options.also)), source)
    first = np.unique(codes, return_index=True)[1]
    sensors = _sensors(ids, labels, first, {name: table[name].to_numpy()[first] for name in place})
    covariates, remarks = _covariates(layout, {name: table[name].to_numpy() for name in weather})
    if layout.duplicates:
        remarks.append(f"{layout.duplicates} readings of a segment at a time that has one already; kept")
    return Imported(
        times=layout.times,
        readings={name: spread(layout, table[name].to_numpy()) for name in (value, *options.also)},
        sensors=sensors,
        edges=_edges(sensors),
        covariates=covariates,
        facts=state_facts(DatasetFacts(unit=_unit(value), variable=value), options, source.name),
        remarks=tuple(remarks),
    )


def _segment_columns(source: Path, names: Sequence[str]) -> list[str]:
    for ends in (("node_a_id", "node_b_id"), ("edge",), ("edge_id",), ("segment_id",)):
        if all(end in names for end in ends):
            return list(ends)
    raise InputError(f"{source} needs node_a_id and node_b_id, or edge; its columns are {listing(names)}")


def _sensors(
    ids: list[str], labels: list[np.ndarray], first: np.ndarray, known: dict[str, np.ndarray]
) -> pd.DataFrame:
    """Segments with their ends, their middle and their length, as far as the table tells."""
    sensors = sensor_table(ids)
    if len(labels) == 2:
        sensors["node_a_id"], sensors["node_b_id"] = labels[0][first], labels[1][first]
    if set(COORDINATES) <= set(known):
        sensors["latitude"] = (known["lat_a"] + known["lat_b"]) / 2
        sensors["longitude"] = (known["lon_a"] + known["lon_b"]) / 2
    if "distance_km" in known:
        sensors["length_m"] = 1000 * known["distance_km"]
    return sensors


def _edges(sensors: pd.DataFrame) -> pd.DataFrame | None:
    """Segment to segment, where one ends and the next begins and does not lead straight back."""
    if not {"node_a_id", "length_m"} <= set(sensors.columns):
        return None
    following = sensors.merge(sensors, left_on="node_b_id", right_on="node_a_id", suffixes=("", "_next"))
    following = following[following["node_b_id_next"] != following["node_a_id"]]
    return pd.DataFrame(
        {
            "source": following["sensor_id"],
            "target": following["sensor_id_next"],
            "distance_m": (following["length_m"] + following["length_m_next"]) / 2,
        }
    ).reset_index(drop=True)


def _covariates(layout: Layout, weather: dict[str, np.ndarray]) -> tuple[pd.DataFrame | None, list[str]]:
    """Weather of each time: the mean of what its rows say."""
    if not weather:
        return None, []
    groups = pd.DataFrame(weather, dtype=float).groupby(layout.times[layout.row])
    spans = np.asarray(pd.DataFrame(groups.max()) - pd.DataFrame(groups.min()), dtype=float)
    differing = [name for name, span in zip(weather, spans.T, strict=True) if (span > 0).any()]
    remarks = (
        [f"weather that differs within a run, its mean taken: {listing(differing)}"] if differing else []
    )
    table = pd.DataFrame(groups.mean()).astype(np.float32).rename_axis(TIME).reset_index()
    return table, remarks


def _unit(value: str) -> str:
    return "km/h" if value.endswith("kmh") else ""
