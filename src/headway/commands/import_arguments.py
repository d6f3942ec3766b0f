"""The arguments of `python -m headway import`. Standard library only: the command line starts without packages."""

from __future__ import annotations

import argparse
from pathlib import Path

from headway.data.importers.formats import FORMATS, Options


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """FORMAT SOURCE --name NAME and what may be said of a source."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.description = "FORMAT is one of\n" + "\n".join(
        f"  {name:<13} {form.source}" for name, form in FORMATS.items()
    )
    parser.add_argument("format", choices=FORMATS, metavar="FORMAT")
    parser.add_argument("source", type=Path, metavar="SOURCE", help="file or folder")
    parser.add_argument("--name", required=True, help="of the data set: the folder in data/raw")
    parser.add_argument("--out", type=Path, default=Path("data/raw"), help="folder of data sets")
    parser.add_argument("--replace", action="store_true", help="overwrite the data set of this name")
    parser.add_argument("--unit", default="", help="of the readings")
    parser.add_argument("--variable", default="", help="name of what is forecast")
    parser.add_argument("--time-zone", default="", help="of times without an offset, e.g. Europe/London")
    parser.add_argument("--null", type=float, help="number that means no reading, e.g. 0")
    parser.add_argument("--step-minutes", type=float, help="length of a step; else the most common one")
    parser.add_argument("--start", default="", help="time of the first row of a source without times")
    parser.add_argument("--sensors", type=Path, help="table of sensor_id, latitude, longitude")
    parser.add_argument("--edges", type=Path, help="list of source, target, distance; or an adjacency")
    parser.add_argument("--distance-unit", default="", choices=("", "m", "km", "mi"), help="in --edges")
    parser.add_argument("--time-column", default="", help="wide, long")
    parser.add_argument("--time-format", default="", help="strptime format; else ISO 8601")
    parser.add_argument("--sensor-column", default="", help="long")
    parser.add_argument("--value-column", default="", help="long, runs: what is forecast")
    parser.add_argument(
        "--also", action="append", default=[], metavar="COLUMN", help="long, runs: a further variable"
    )


def read_options(arguments: argparse.Namespace) -> Options:
    """The options among the arguments."""
    return Options(
        unit=arguments.unit,
        variable=arguments.variable,
        time_zone=arguments.time_zone,
        null=arguments.null,
        step_minutes=arguments.step_minutes,
        start=arguments.start,
        sensors=arguments.sensors,
        edges=arguments.edges,
        distance_unit=arguments.distance_unit,
        time_column=arguments.time_column,
        time_format=arguments.time_format,
        sensor_column=arguments.sensor_column,
        value_column=arguments.value_column,
        also=tuple(arguments.also),
    )
