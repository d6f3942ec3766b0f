"""Pickles: arrays, lists, dicts, text and numbers come out; anything else is refused before it runs."""

from __future__ import annotations

import os
import pickle  # noqa: TID251 - the attacks are pickles
import zlib
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foreign_files import IDS, write_adjacency
from headway.data.importers.graph_files import read_edges
from headway.data.importers.plain_pickle import read_plain_pickle
from headway.errors import InputError

MATRIX = np.array([[1, 0.5, 0], [0, 1, 0.25], [0, 0, 1]], dtype=np.float32)
PLAIN = [IDS, {"a": 0}, MATRIX, 1.5, None, True, np.float64(2.5), np.array(["x", "yz"]), MATRIX.T, 2**70]


class Attack:
    """Runs a call when it is unpickled."""

    def __init__(self, call: Any, *arguments: object) -> None:
        self.made_by = (call, arguments)

    def __reduce__(self) -> Any:
        return self.made_by


@pytest.mark.parametrize("protocol", range(6))
def test_plain_data_come_out_as_they_went_in(tmp_path: Path, protocol: int) -> None:
    path = tmp_path / "x.pkl"
    path.write_bytes(pickle.dumps(PLAIN, protocol=protocol))
    for found, expected in zip(read_plain_pickle(path), PLAIN, strict=True):
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("protocol", [0, 2, 5])
def test_an_adjacency_becomes_edges_without_self_loops(tmp_path: Path, protocol: int) -> None:
    edges, remarks = read_edges(write_adjacency(tmp_path / "adj_mx.pkl", MATRIX, protocol), IDS[:2], "")
    assert edges.to_numpy().tolist() == [[IDS[0], IDS[1], 0.5]]
    assert remarks == ["adj_mx.pkl: 1 edges of sensors without readings left out"]


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("call", [os.system, eval, exec, os.mkdir, open, np.load, np.ndarray, getattr])
def test_a_pickle_that_calls_something_is_refused_and_the_canary_stays_away(
    tmp_path: Path, protocol: int, call: Any
) -> None:
    canary, path = tmp_path / "canary", tmp_path / "x.pkl"
    path.write_bytes(pickle.dumps([IDS, {}, Attack(call, str(canary))], protocol=protocol))
    with pytest.raises(InputError, match="nothing of the file was run"):
        read_plain_pickle(path)
    assert not canary.exists()


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (pickle.dumps(np.array([1, "a", None], dtype=object)), "an array of type 'O8'"),
        (pickle.dumps(OrderedDict(a=1)), "collections.OrderedDict"),
        (pickle.dumps({1, 2}), "the instruction EMPTY_SET"),
        (pickle.dumps(zlib.crc32), "zlib.crc32"),
        (b"cnumpy\nndarray\n.", "an object of type type"),
        (b"cnumpy\nndarray\n(I99999999999\ntR.", "an array is made in an unknown way"),
        (b"cnumpy\ndtype\n(S'f8'\ntR}b.", "no readable pickle"),
        (b"(i__main__\nX\n.", "the instruction INST"),
        (b"\x80\x04P1\n.", "the instruction PERSID"),
        (b"\x82\x01.", "the instruction EXT1"),
        (b"r\xff\xff\xff\x7f.", "no readable pickle"),
        (b"\x80\x04\x8e\xff\xff\xff\xff\xff\xff\xff\x0f.", "no readable pickle"),
        (b"\x80\x04\x96\xff\xff\xff\xff\xff\xff\xff\x0f.", "no readable pickle"),
        (b"]" + b"2a" * 3, "the instruction DUP"),
        (b"", "no readable pickle"),
        (b"not a pickle", "no readable pickle"),
    ],
)
def test_what_is_not_plain_is_refused(tmp_path: Path, content: bytes, expected: str) -> None:
    path = tmp_path / "x.pkl"
    path.write_bytes(content)
    with pytest.raises(InputError) as caught:
        read_plain_pickle(path)
    assert expected in str(caught.value)


def test_an_array_whose_parts_do_not_fit_is_refused(tmp_path: Path) -> None:
    content = pickle.dumps(MATRIX, protocol=2)
    assert content.count(b"K\x03K\x03\x86") == 1  # its shape, 3 x 3
    path = tmp_path / "x.pkl"
    path.write_bytes(content.replace(b"K\x03K\x03\x86", b"K\x03K\xff\x86"))
    with pytest.raises(InputError, match=r"shape \(3, 255\) with 36 bytes"):
        read_plain_pickle(path)


def test_lists_of_lists_of_one_list_take_no_time(tmp_path: Path) -> None:
    nested: list[Any] = []
    for _ in range(100):  # 10^100 leaves, were each walked
        nested = [nested] * 10
    path = tmp_path / "x.pkl"
    path.write_bytes(pickle.dumps(nested))
    assert len(read_plain_pickle(path)) == 10


@settings(max_examples=200, deadline=None)
@given(cut=st.integers(0, 400), flip=st.integers(0, 400), to=st.integers(0, 255))
def test_a_damaged_pickle_is_refused_or_plain(
    tmp_path_factory: pytest.TempPathFactory, cut: int, flip: int, to: int
) -> None:
    content = bytearray(pickle.dumps([IDS, {"a": 0}, MATRIX], protocol=2))
    content[flip % len(content)] = to
    path = tmp_path_factory.getbasetemp() / "damaged.pkl"
    path.write_bytes(content[: len(content) - cut % 3])
    try:
        read_plain_pickle(path)
    except InputError:
        return


@pytest.mark.parametrize(
    ("matrix", "expected"),
    [
        (np.ones((2, 3)), "matrix of shape (2, 3); 3 sensors need 3 x 3"),
        (np.full((3, 3), np.nan), "row 0, column 0 is nan"),
        (-np.ones((3, 3)), "row 0, column 0 is -1.0"),
    ],
)
def test_a_matrix_that_is_no_adjacency_is_refused(tmp_path: Path, matrix: np.ndarray, expected: str) -> None:
    with pytest.raises(InputError) as caught:
        read_edges(write_adjacency(tmp_path / "adj_mx.pkl", matrix), IDS, "")
    assert expected in str(caught.value)
