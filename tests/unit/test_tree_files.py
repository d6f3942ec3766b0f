"""Trees that are no roads: read with their labels, thinned, refused with a sentence."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from headway.data.tree_files import read_trees
from headway.errors import InputError
from headway.graph.thinning import thin_tree
from headway.graph.tree import make_tree


def a_y(points: int = 10) -> pd.DataFrame:
    """A stem and two arms of `points` each, and a twig of one point."""
    stem = [(node - 1, 0.0, float(node), 0.0) for node in range(points)]
    arms = []
    for side in (-1.0, 1.0):
        first = points + len(arms)
        arms += [
            (points - 1 if step == 1 else first + step - 2, side * step, points - 1.0 + step, 0.0)
            for step in range(1, points + 1)
        ]
    rows = [*stem, *arms, (3, 0.1, 3.0, 0.0)]
    table = pd.DataFrame(rows, columns=["parent", "x", "y", "z"])
    return table.assign(node=np.arange(len(rows)), radius=0.5, tree=0)


def write(folder: Path, nodes: pd.DataFrame, names: tuple[int, ...] = (0,)) -> Path:
    pd.DataFrame({"tree": list(names), "label": "y"}).to_parquet(
        folder / "trees.parquet", write_page_checksum=True
    )
    nodes.to_parquet(folder / "nodes.parquet", write_page_checksum=True)
    return folder


def test_a_tree_is_thinned_to_where_its_branches_go(tmp_path: Path) -> None:
    (found,) = read_trees(write(tmp_path, a_y()), 6)
    tree = found.tree
    assert found.label == "y" and (tree.parent == -1).sum() == 1 and len(tree) < 14
    assert sorted(tree.children())[-1] == 2, "the fork is there"
    ends = tree.positions[tree.children() == 0]
    assert {tuple(end) for end in ends} == {(-10.0, 19.0, 0.0), (10.0, 19.0, 0.0)}, "the arms, and no twig"
    assert tree.reach.max() == pytest.approx(9 + 10 * np.sqrt(2)), "nothing of a straight way is lost"
    assert tree.attributes == pytest.approx(np.log(0.5) * np.ones((len(tree), 1)))


def test_a_thinned_tree_keeps_who_is_whose_ancestor() -> None:
    random = np.random.default_rng(0)
    parent = np.array([-1, *(max(0, node - 1 - random.integers(4)) for node in range(1, 80))])
    whole = make_tree(parent, np.cumsum(random.normal(size=(80, 3)), axis=0))
    thin = thin_tree(whole, 20)
    place = {tuple(point): node for node, point in enumerate(whole.positions)}
    old = np.array([place[tuple(point)] for point in thin.positions])
    a, b = (each.ravel() for each in np.meshgrid(np.arange(len(thin)), np.arange(len(thin))))
    assert 5 < len(thin) < 80
    assert (thin.is_ancestor(a, b) == whole.is_ancestor(old[a], old[b])).all()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"parent": 99}, "a parent that is no node"),
        ({"x": np.nan}, "no place"),
        ({"node": 5}, "not 0, 1"),
        ({"parent": np.append(np.arange(1, 31), 0)}, "circle"),
    ],
)
def test_a_broken_tree_is_refused_by_name(change: dict[str, object], said: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="tree 0") as caught:
        read_trees(write(tmp_path, a_y().assign(**change)), 6)
    assert said in str(caught.value)


def test_absent_columns_and_trees_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nodes\.parquet has no column radius"):
        read_trees(write(tmp_path, a_y().drop(columns="radius")), 6)
    with pytest.raises(InputError, match="no node of the trees 7"):
        read_trees(write(tmp_path, a_y(), (0, 7)), 6)
