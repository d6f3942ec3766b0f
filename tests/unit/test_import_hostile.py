"""Sources that lie about their size, hold code or objects, or are cut short: one sentence, nothing written."""

from __future__ import annotations

import gzip
import io
import pickle  # noqa: TID251 - the attacks are pickles
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from foreign_files import (
    IDS,
    bring,
    refusal,
    station_line,
    write_basicts,
    write_hdf,
    write_json,
    write_station_day,
)
from headway.commands.importing import import_data
from headway.data.importers import limits, pems_station
from headway.data.importers.formats import FORMATS, Options
from headway.errors import InputError
from worlds import daily_readings, write_raw_world

VALUES = daily_readings(6, 3, 5)


class Canary:
    """Makes a folder when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self) -> Any:
        return Path.mkdir, (Path(self.path),)


def npz(path: Path, members: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def npy(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array, allow_pickle=True)
    return file.getvalue()


def header(shape: tuple[int, ...]) -> bytes:
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": "<f8", "fortran_order": False, "shape": shape})
    return file.getvalue()


def test_an_archive_that_claims_more_than_fits_is_refused_before_it_is_unpacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = npz(tmp_path / "PEMS04.npz", {"data.npy": header((100, 10, 1)) + bytes(8000)})
    monkeypatch.setattr(limits.psutil, "virtual_memory", lambda: type("Memory", (), {"available": 4000}))
    assert "GiB once decoded" in refusal("pems-npz", path)


def test_an_archive_of_another_kind_is_no_data_set(tmp_path: Path) -> None:
    path = npz(tmp_path / "METR-LA.zip", {"node_values.npy": npy(VALUES[..., None])})
    assert "node_values.npy and adj_mat.npy are needed" in refusal("pgt-zip", path)
    npz(path, {"node_values.npy": npy(VALUES), "adj_mat.npy": npy(np.eye(3))})
    assert "must be [time, sensor, channel]" in refusal("pgt-zip", path)
    npz(path, {"node_values.npy": npy(VALUES[..., None]), "adj_mat.npy": npy(np.eye(2))})
    assert "matrix of shape (2, 2)" in refusal("pgt-zip", path)
    npz(path, {"node_values.npy": npy(VALUES[..., None]), "adj_mat.npy": npy(np.eye(3)), "../x": b""})
    assert "names with folders" in refusal("pgt-zip", path)


@pytest.mark.parametrize(
    ("members", "expected"),
    [
        ({"../data.npy": npy(VALUES)}, "names with folders are not admitted"),
        ({"/etc/data.npy": npy(VALUES)}, "names with folders are not admitted"),
        ({"flow.npy": npy(VALUES)}, "has no array 'data'; it has flow"),
        ({"data.npy": header((2**40, 2**20, 1))}, "the file is damaged"),
        ({"data.npy": b"\x93NUMPY"}, "no readable archive of arrays"),
        ({"data.npy": npy(VALUES)}, "data has shape (6, 3)"),
        ({"data.npy": npy(VALUES.astype("S4")[..., None])}, "only numbers are read"),
        ({"data.npy": npy(np.full((2, 2, 1), np.inf))}, "infinite readings: 0 in row 0"),
        ({"data.npy": npy(np.full((2, 0, 1), 1.0))}, "data has shape (2, 0, 1)"),
    ],
)
def test_an_archive_that_is_not_what_it_should_be_is_refused(
    tmp_path: Path, members: dict[str, bytes], expected: str
) -> None:
    assert expected in refusal("pems-npz", npz(tmp_path / "PEMS04.npz", members))


def test_an_array_of_objects_never_runs(tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    array = np.array([[[Canary(canary)]]], dtype=object)
    assert "only numbers are read" in refusal(
        "pems-npz", npz(tmp_path / "PEMS04.npz", {"data.npy": npy(array)})
    )
    np.save(tmp_path / "ca_rn_adj.npy", array, allow_pickle=True)
    write_hdf(tmp_path / "ca_his_2019.h5", VALUES)
    pd.DataFrame({"ID": IDS, "Lat": 1.0, "Lng": 2.0}).to_csv(tmp_path / "ca_meta.csv", index=False)
    assert "only numbers are read" in refusal("largest", tmp_path / "ca_his_2019.h5")
    assert not canary.exists()


def spoil(name: str, value: Any) -> Callable[[Any], None]:
    def change(group: Any) -> None:
        del group[name]
        if value is not None:
            group[name] = value

    return change


def claim_much(group: Any) -> None:
    del group["block0_values"]
    group.create_dataset("block0_values", (2**38, 4), dtype="f8", chunks=(1024, 4))


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (spoil("block0_values", None), "/df has no field block0_values"),
        (spoil("block0_values", VALUES[:4]), "has shape (4, 3)"),
        (spoil("block0_items", np.array(["1", "2", "3"], dtype="S1")), "axis0 lacks 1, 2, 3"),
        (spoil("axis1", np.arange(6)), "axis1, the index, is of kind unknown"),
        (spoil("axis0", np.array([IDS[0]] * 3, dtype="S6")), "columns of the same name"),
        (spoil("block0_values", h5py.SoftLink("/df/axis1")), "no field block0_values"),
        (spoil("block0_values", h5py.ExternalLink("/etc/passwd", "/x")), "no field block0_values"),
        (claim_much, "claims 8796093022208 bytes and stores 0"),
        (lambda group: group.attrs.update({"nblocks": 0}), "no block has the columns"),
        (lambda group: group.attrs.update({"pandas_type": b"frame_table"}), "written with format='table'"),
        (lambda group: group.attrs.update({"pandas_type": b"series"}), "it has no frame"),
        (lambda group: group.file.create_group("b").attrs.update({"pandas_type": b"frame"}), "2 frames: b, df"),
    ],
)  # fmt: skip
def test_a_frame_that_is_not_whole_is_refused(
    tmp_path: Path, change: Callable[[Any], None], expected: str
) -> None:
    assert expected in refusal("metr-la", write_hdf(tmp_path / "metr-la.h5", VALUES, change=change))


def test_pickled_columns_of_a_frame_are_not_read(tmp_path: Path) -> None:
    canary = tmp_path / "canary"

    def pickled(group: Any) -> None:
        del group["block0_values"]
        field = group.create_dataset("block0_values", (1,), dtype=h5py.vlen_dtype(np.uint8))
        field[0] = np.frombuffer(pickle.dumps(Canary(canary)), dtype=np.uint8)

    message = refusal("metr-la", write_hdf(tmp_path / "metr-la.h5", VALUES, change=pickled))
    assert "perhaps pickled objects, which are never read" in message
    assert not canary.exists()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[" * 100_000, "no readable json"),
        ("[1]", "must hold an object"),
        ("{}", "has the keys none"),
        (
            '{"FX": [[1, 2], [3]], "node_ids": {"a": 0, "b": 1}, "edges": []}',
            "1 numbers in row 1, 2 in row 0",
        ),
        ('{"FX": [[1, "2"]], "node_ids": {"a": 0, "b": 1}, "edges": []}', "row 0 holds '2', no number"),
        (
            '{"FX": [[1, 2]], "node_ids": {"a": 0, "b": 7}, "edges": []}',
            "node_ids must give each of 2 columns",
        ),
        ('{"FX": [[1, 2]], "node_ids": {"a": 0, "b": 1}, "edges": [[0, 5]]}', "edge 0 is [0.0, 5.0]"),
        ('{"nodes": [{"y": [1]}], "links": []}', "nodes, item 0 has no bus_stop"),
    ],
)
def test_json_that_is_no_data_set_is_refused(tmp_path: Path, text: str, expected: str) -> None:
    path = tmp_path / "chickenpox.json"
    path.write_text(text)
    assert expected in refusal("pgt-json", path)


def test_a_station_file_that_unpacks_without_end_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pems_station, "MAX_TEXT", 100_000)
    line = station_line("01/01/2023 00:00:00", 1, observed=100, flow="1", speed="2").encode() + b"\n"
    path = tmp_path / "d04.txt.gz"
    path.write_bytes(gzip.compress(line * 2000))
    assert "holds more than" in refusal("pems-station", path)
    path.write_bytes(gzip.compress(line * 20)[:-9])
    assert "damaged or cut short" in refusal("pems-station", path)
    write_station_day(path, ["01/01/2023 00:00:00,1,4"])
    assert "line 1 has 3 fields" in refusal("pems-station", path)
    write_station_day(path, [line.decode().strip().replace("01/01/2023", "2023-01-01")])
    assert "is no station file" in refusal("pems-station", path)


@pytest.mark.parametrize(
    ("about", "expected"),
    [
        ({"shape": [7, 3, 2]}, "has 144 bytes; float32 of shape [7, 3, 2] has 168"),
        ({"shape": [2**40, 2**20, 9]}, "has 144 bytes"),
        ({"shape": "large"}, "it must be [time, node, feature]"),
        ({"feature_description": ["time of day", "day of week"]}, "no feature but the time"),
        ({"feature_description": ["speed"]}, "there are 2 features"),
    ],
)
def test_a_basicts_folder_described_wrongly_is_refused(
    tmp_path: Path, about: dict[str, Any], expected: str
) -> None:
    assert expected in refusal("basicts", write_basicts(tmp_path / "Town", 6, **about), start="2020-01-01")


def sources(folder: Path) -> dict[str, tuple[Path, dict[str, Any]]]:
    """A good source of each format that is one file, and its options."""
    line = station_line("01/01/2023 00:00:00", 1, observed=100, flow="1", speed="2")
    wide = "time,a,b\n" + "".join(f"2024-01-01 00:{minute:02},1,2\n" for minute in range(9))
    (folder / "wide.csv").write_text(wide)
    np.savez_compressed(folder / "PEMS04.npz", data=VALUES[:, :, None])
    frame = pd.DataFrame({"time": pd.date_range("2024-01-01", periods=4), "sensor": "a", "value": 1.0})
    frame.to_parquet(folder / "long.parquet", index=False, write_page_checksum=True)
    document = {"block": [[1, 2], [3, 4]], "edges": [[0, 1]], "weights": [1]}
    arrays = {"node_values.npy": npy(VALUES[..., None]), "adj_mat.npy": npy(np.eye(3))}
    return {
        "wide": (folder / "wide.csv", {}),
        "long": (folder / "long.parquet", {}),
        "metr-la": (write_hdf(folder / "metr-la.h5", VALUES), {}),
        "pems-npz": (folder / "PEMS04.npz", {}),
        "pgt-zip": (npz(folder / "METR-LA.zip", arrays), {}),
        "pgt-json": (write_json(folder / "w.json", document), {"start": "2020-01-01", "step_minutes": 60.0}),
        "pems-station": (write_station_day(folder / "d.txt.gz", [line, line]), {}),
    }


@pytest.mark.parametrize(
    "form", ["wide", "long", "metr-la", "pems-npz", "pgt-json", "pgt-zip", "pems-station"]
)
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_damaged_source_is_imported_whole_or_refused(
    tmp_path: Path, form: str, data: st.DataObject
) -> None:
    source, options = sources(tmp_path)[form]
    content = bytearray(source.read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    source.write_bytes(content[: data.draw(st.integers(len(content) // 2, len(content)))])
    out = tmp_path / "raw"
    try:
        import_data(form, source, "city", out, Options(**options), replace=True)
    except InputError:
        assert not list(out.glob(".*")) if out.exists() else True
        return
    assert (out / "city/series.parquet").is_file()


def test_every_format_has_a_good_source_in_these_tests(tmp_path: Path) -> None:
    for form, (source, options) in sources(tmp_path).items():
        assert form in FORMATS
        bring(form, source, **options)


def test_a_damaged_raw_folder_is_refused(tmp_path: Path) -> None:
    source = write_raw_world(tmp_path / "theirs", steps=50)
    content = bytearray((source / "series.parquet").read_bytes())
    content[len(content) // 4] ^= 255
    (source / "series.parquet").write_bytes(content)
    assert "damaged" in refusal("raw", source)
