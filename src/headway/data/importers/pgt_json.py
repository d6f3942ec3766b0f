"""Format pgt-json: the json files of PyTorch Geometric Temporal, told apart by their keys.

- chickenpox: `FX` [week][county], `node_ids` name -> number, `edges` [[from, to]]
- windmill: `block` [hour][turbine], `edges` [[from, to]], `weights`
- montevideo_bus: `nodes` [{bus_stop, lon, lat, y: [hour]}], `links` [{source, target, weight}], weights in meters

None has times; windmill's first hour is not published, so it needs `--start`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from headway.data.facts import DatasetFacts
from headway.data.importers.formats import Options
from headway.data.importers.imported import Imported, numbered, regular_times, sensor_table, state_facts
from headway.data.importers.known import compare_bytes, recognize
from headway.data.importers.limits import MAX_JSON, require_file, require_memory
from headway.data.parquet import listing
from headway.errors import InputError


def read_pgt_json(source: Path, options: Options) -> Imported:
    """Readings and graph.

    Raises: InputError for text that is no json, unknown keys, ragged lists, edges to nowhere.
    """
    document = load_json(source)
    if {"FX", "node_ids", "edges"} <= document.keys():
        readings, sensors, edges = _chickenpox(source, document)
    elif {"block", "edges", "weights"} <= document.keys():
        readings, sensors, edges = _windmill(source, document)
    elif {"nodes", "links"} <= document.keys():
        readings, sensors, edges = _montevideo(source, document)
    else:
        raise InputError(
            f"{source} has the keys {listing(document) or 'none'}; known are FX, node_ids, edges (chickenpox), "
            "block, edges, weights (windmill) and nodes, links (montevideo_bus)"
        )
    known, sentence = recognize(source, (len(readings), readings.shape[1]))
    stated = known.facts if known else DatasetFacts()
    facts = state_facts(stated, options, source.name)
    if facts.step_minutes is None:
        raise InputError(f"{source}: its step is not known; say --step-minutes")
    start = options.start or (known.start if known else "")
    times = regular_times(start, len(readings), facts.step_minutes, facts.time_zone or "UTC")
    return Imported(
        times=times,
        readings={options.variable or facts.variable: readings},
        sensors=sensors,
        edges=edges,
        facts=facts,
        remarks=tuple(remark for remark in (sentence, compare_bytes(source)) if remark),
    )


def load_json(path: Path) -> dict[str, Any]:
    """A json object.

    Raises: InputError for other content, too much of it, and nesting without end.
    """
    size = require_file(path).stat().st_size
    if size > MAX_JSON:
        raise InputError(f"{path} has {size} bytes; at most {MAX_JSON} of json are read")
    require_memory(8 * size, path)
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is no readable json, perhaps truncated: {error}") from None
    if not isinstance(document, dict):
        raise InputError(f"{path} must hold an object, found {type(document).__name__}")
    return document


def number_table(path: Path, name: str, rows: Any) -> np.ndarray:
    """A list of equally long lists of numbers, [row, column], null = missing.

    Raises: InputError naming the first row or cell that is something else.
    """
    if not isinstance(rows, list) or not rows or not all(isinstance(row, list) for row in rows):
        raise InputError(f"{path}: {name} must be a list of lists of numbers")
    width = len(rows[0])
    ragged = [number for number, row in enumerate(rows) if len(row) != width]
    if ragged or not width:
        number = ragged[0] if ragged else 0
        raise InputError(f"{path}: {name} has {len(rows[number])} numbers in row {number}, {width} in row 0")
    for number, row in enumerate(rows):
        wrong = [cell for cell in row if cell is not None and type(cell) not in (int, float)]
        if wrong:
            raise InputError(f"{path}: {name}, row {number} holds {str(wrong[0])[:40]!r}, no number")
    return np.array(rows, dtype=np.float64)


def _chickenpox(path: Path, document: dict[str, Any]) -> tuple[np.ndarray, pd.DataFrame, pd.DataFrame]:
    readings = number_table(path, "FX", document["FX"])
    numbers = document["node_ids"]
    if not isinstance(numbers, dict) or sorted(map(str, numbers.values())) != sorted(
        numbered(readings.shape[1])
    ):
        raise InputError(f"{path}: node_ids must give each of {readings.shape[1]} columns of FX a name")
    ids = [str(name) for name, _ in sorted(numbers.items(), key=lambda item: int(item[1]))]
    pairs = number_table(path, "edges", document["edges"])
    return readings, sensor_table(ids), _edges(path, pairs, ids, np.ones(len(pairs)))


def _windmill(path: Path, document: dict[str, Any]) -> tuple[np.ndarray, pd.DataFrame, pd.DataFrame]:
    readings = number_table(path, "block", document["block"])
    ids = numbered(readings.shape[1])
    weights = number_table(path, "weights", [document["weights"]])[0]
    return (
        readings,
        sensor_table(ids),
        _edges(path, number_table(path, "edges", document["edges"]), ids, weights),
    )


def _montevideo(path: Path, document: dict[str, Any]) -> tuple[np.ndarray, pd.DataFrame, pd.DataFrame]:
    nodes, links = document["nodes"], document["links"]
    for name, items in (("nodes", nodes), ("links", links)):
        if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
            raise InputError(f"{path}: {name} must be a list of objects")
    wanted = {"nodes": ("bus_stop", "y"), "links": ("source", "target", "weight")}
    for name, items in (("nodes", nodes), ("links", links)):
        for number, item in enumerate(items):
            absent = [key for key in wanted[name] if key not in item]
            if absent:
                raise InputError(
                    f"{path}: {name}, item {number} has no {listing(absent)}; it has {listing(item)}"
                )
    readings = number_table(path, "nodes.y", [node["y"] for node in nodes]).T
    sensors = sensor_table([str(node["bus_stop"]) for node in nodes])
    for column, key in (("easting_m", "lon"), ("northing_m", "lat")):  # UTM zone 21S, not degrees
        sensors[column] = [
            float(node[key]) if type(node.get(key)) in (int, float) else np.nan for node in nodes
        ]
    edges = pd.DataFrame(
        {
            "source": [str(link["source"]) for link in links],
            "target": [str(link["target"]) for link in links],
            "distance_m": number_table(path, "links.weight", [[link["weight"] for link in links]])[0],
        }
    )
    return readings, sensors, edges


def _edges(path: Path, pairs: np.ndarray, ids: Sequence[str], weights: np.ndarray) -> pd.DataFrame:
    if pairs.shape[1] != 2 or len(weights) != len(pairs):
        raise InputError(f"{path}: {len(pairs)} edges of {pairs.shape[1]} ends and {len(weights)} weights")
    wrong = np.flatnonzero(~np.isin(pairs, np.arange(len(ids))).all(axis=1))
    if len(wrong):
        raise InputError(
            f"{path}: edge {wrong[0]} is {pairs[wrong[0]].tolist()}; sensors are numbered 0 to {len(ids) - 1}"
        )
    ends, names = pairs.astype(np.int64), np.array(ids, dtype=object)
    edges = pd.DataFrame({"source": names[ends[:, 0]], "target": names[ends[:, 1]], "weight": weights})
    return edges.loc[edges["source"] != edges["target"]].reset_index(drop=True)
