"""The foreign formats there are, and what may be said of a source when it is imported. Standard library only.

Leaves: `FORMATS`, for the command line and for the dispatch in `__init__`; `Options`, the wishes of one import.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path

FACTS = ("unit", "variable", "time_zone", "null", "step_minutes")  # of dataset.yaml; any format takes them
TABLE = ("sensors", "edges", "distance_unit", "time_column", "time_format")


@dataclass(frozen=True, slots=True, kw_only=True)
class Format:
    """A format: what its source is, and the options that it takes beside FACTS."""

    source: str
    options: tuple[str, ...]


FORMATS = {
    "wide": Format(source="CSV or Parquet: a time column, then a column a sensor", options=TABLE),
    "long": Format(
        source="CSV or Parquet: a row a reading, with time, sensor and value",
        options=(*TABLE, "sensor_column", "value_column", "also"),
    ),
    "runs": Format(
        source="CSV or Parquet: a row a run and road segment, with speed and weather",
        options=("value_column", "also"),
    ),
    "metr-la": Format(
        source="METR-LA, PEMS-BAY, PeMS: HDF5 written by pandas",
        options=("sensors", "edges", "distance_unit"),
    ),
    "pems-npz": Format(
        source="PEMS03, PEMS04, PEMS07, PEMS08: .npz of [time, sensor, channel]",
        options=("sensors", "edges", "distance_unit", "start"),
    ),
    "pemsd7": Format(source="PeMSD7(M): V_228.csv", options=("sensors", "edges", "distance_unit", "start")),
    "largest": Format(source="LargeST: an .h5 file, or a folder of them", options=("sensors", "edges")),
    "pgt-json": Format(
        source="PyTorch Geometric Temporal: chickenpox, windmill or montevideo_bus json", options=("start",)
    ),
    "pgt-zip": Format(
        source="PyTorch Geometric Temporal: METR-LA.zip or PEMS-BAY.zip", options=("start", "sensors")
    ),
    "basicts": Format(
        source="BasicTS: a folder with desc.json and data.dat, or meta.json and *_data.npy",
        options=("start",),
    ),
    "st-sepnet": Format(
        source="ST-SepNet: a folder with inflow.csv, outflow.csv and adj.csv", options=("sensors",)
    ),
    "pems-station": Format(
        source="Caltrans PeMS: a station_5min .txt or .txt.gz file, or a folder of them",
        options=("sensors", "edges", "distance_unit"),
    ),
    "raw": Format(source="a folder of our own contract", options=()),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What the user said of the source; "" and None where nothing was said.

    Attributes:
        null: the number that means "no reading".
        start: time of the first row, ISO 8601, for formats without times.
        sensors, edges: further files: positions of the sensors, the graph.
        distance_unit: of the distances in `edges`: m, km or mi.
        also: further variables, for formats whose rows hold several.
    """

    unit: str = ""
    variable: str = ""
    time_zone: str = ""
    null: float | None = None
    step_minutes: float | None = None
    start: str = ""
    sensors: Path | None = None
    edges: Path | None = None
    distance_unit: str = ""
    time_column: str = ""
    time_format: str = ""
    sensor_column: str = ""
    value_column: str = ""
    also: tuple[str, ...] = ()

    def given(self) -> list[str]:
        """Names of the options that were given."""
        return [field.name for field in fields(self) if getattr(self, field.name) not in ("", None, ())]
