"""Geometric trees that are no roads: neurons, rivers, vessels.

Enters: a folder with trees.parquet (`tree`, `label`) and nodes.parquet (`tree`, `node`, `parent`, `x`, `y`,
`z`, `radius`; `node` counts from 0 within a tree, `parent` is -1 at a root). Leaves: trees with their labels,
thinned to the points that say where a branch goes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from headway.data.parquet import listing, read_parquet
from headway.errors import InputError
from headway.graph.thinning import thin_tree
from headway.graph.tree import Tree, make_tree

COLUMNS = {
    "trees.parquet": ("tree", "label"),
    "nodes.parquet": ("tree", "node", "parent", "x", "y", "z", "radius"),
}
SMALLEST_RADIUS = 1e-3  # of the unit of the file; its logarithm is an attribute


@dataclass(frozen=True, slots=True, kw_only=True)
class LabeledTree:
    """A tree and what it is called."""

    tree: Tree
    label: str


def read_trees(folder: Path, points: int) -> list[LabeledTree]:
    """Every tree of a folder, in the order of trees.parquet, thinned to about so many points and its branches.

    Raises: InputError naming file, column or tree.
    """
    tables = {name: _read(folder / name, columns) for name, columns in COLUMNS.items()}
    of_tree = dict(iter(tables["nodes.parquet"].groupby("tree")))
    listed = tables["trees.parquet"]
    absent = [str(tree) for tree in listed["tree"] if tree not in of_tree]
    if absent:
        raise InputError(f"{folder / 'nodes.parquet'} has no node of the trees {listing(absent)}")
    return [
        LabeledTree(tree=_tree(of_tree[tree], folder, points), label=str(label))
        for tree, label in zip(listed["tree"], listed["label"], strict=True)
    ]


def _read(path: Path, columns: tuple[str, ...]) -> pd.DataFrame:
    table: pd.DataFrame = read_parquet(path).to_pandas(ignore_metadata=True)
    absent = [name for name in columns if name not in table]
    if absent:
        raise InputError(f"{path} has no column {listing(absent)}; its columns are {listing(table.columns)}")
    return table


def _tree(rows: pd.DataFrame, folder: Path, points: int) -> Tree:
    rows = rows.sort_values("node")
    parent = rows["parent"].to_numpy(dtype=np.int64)
    name = f"{folder / 'nodes.parquet'}: tree {rows['tree'].iloc[0]}"
    positions, radius = rows[["x", "y", "z"]].to_numpy(dtype=float), rows["radius"].to_numpy(dtype=float)
    whole = (rows["node"].to_numpy() == np.arange(len(rows))).all() and bool(np.isfinite(positions).all())
    if not whole or (parent < -1).any() or (parent >= len(rows)).any():
        raise InputError(f"{name} has nodes that are not 0, 1, ..., a parent that is no node, or no place")
    thickness = np.log(np.maximum(np.nan_to_num(radius), SMALLEST_RADIUS))
    try:
        return thin_tree(make_tree(parent, positions, attributes=thickness[:, None]), points)
    except ValueError as error:
        raise InputError(f"{name}: {error}") from None
