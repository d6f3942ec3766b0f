"""Whatever table comes: it is used, or refused with a sentence, and nothing half-written is left."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import headway
from headway.commands.importing import import_data
from headway.commands.predict import read_file
from headway.data.importers.formats import Options
from headway.data.prepare import prepare
from headway.data.prepared import open_prepared
from headway.errors import InputError
from headway.serving.forecaster import Forecaster
from tiny_serving import IDS, Served, serve
from worlds import preprocess_params, windows_params

ROWS = st.one_of(st.integers(0, 5), st.integers(60, 70))
HOURS = pd.date_range("2024-03-30 20:00", periods=200, freq="h")
CELLS = st.one_of(
    st.floats(width=32, allow_nan=True, allow_infinity=True),
    st.sampled_from([0.0, -1.0, 900.0, 1e300, 60.0, 61.5]),
    st.integers(-5, 2**40),
    st.sampled_from(["", "nan", "x", "60", "=1+1", "1;2", None, True]),
)
NAMES = st.one_of(
    st.sampled_from([*IDS, "timestamp", "", "=cmd", "<b>", "série", "a\nb", "../x"]), st.text(max_size=6)
)
FUZZ = settings(
    max_examples=120,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
    derandomize=True,
)


@st.composite
def times(draw: st.DrawFn, rows: int) -> Any:
    """A time column: regular, or with something wrong with it."""
    start = draw(st.integers(0, len(HOURS) - rows - 1))
    stamps = pd.Series(HOURS[start : start + rows])
    match draw(
        st.sampled_from(
            [*["regular"] * 9, "zone", "shuffled", "holes", "twice", "text", "numbers", "stray", "mixed"]
        )
    ):
        case "zone":
            return stamps.dt.tz_localize("UTC")
        case "shuffled":
            return stamps.sample(frac=1, random_state=draw(st.integers(0, 9))).reset_index(drop=True)
        case "holes":
            return stamps.mask(
                pd.Series(draw(st.lists(st.booleans(), min_size=rows, max_size=rows)), dtype=bool)
            )
        case "twice":
            return stamps.mask(pd.Series(np.arange(rows) % 3 == 1), stamps.shift(1))
        case "text":
            return stamps.astype(str)
        case "numbers":
            return pd.Series(np.arange(rows) + draw(st.integers(-(2**40), 2**60)))
        case "stray":
            return stamps + pd.to_timedelta(
                draw(st.lists(st.integers(0, 10**7), min_size=rows, max_size=rows)), unit="s"
            )
        case "mixed":
            return pd.Series(
                [draw(st.sampled_from(["2024-01-01", "2024-01-01T00:00Z", "soon", ""])) for _ in range(rows)]
            )
        case _:
            return stamps


@st.composite
def tables(draw: st.DrawFn, form: str = "wide") -> pd.DataFrame:
    """Columns of anything under names of anything; often nearly, or all of, what is wanted."""
    rows = draw(ROWS)
    usual = {"wide": list(IDS), "long": ["sensor", "value"], "runs": ["edge", "run_id", "speed_kmh"]}[form]
    names = usual if draw(st.integers(0, 3)) else draw(st.lists(NAMES, max_size=6))
    clean = {name: pd.Series(np.linspace(20, 90, rows), dtype=np.float32) for name in names}
    for name in {"sensor", "edge", "run_id"} & set(names):
        clean[name] = pd.Series([f"{name}{row % 3}" for row in range(rows)], dtype=object)
    columns = [clean[name] if draw(st.integers(0, 4)) else draw(anything(rows)) for name in names]
    frame = pd.concat(columns, axis=1) if columns else pd.DataFrame(index=range(rows))
    frame.columns = pd.Index(names)
    if draw(st.integers(0, 9)):
        frame.insert(0, "timestamp", draw(times(rows)), allow_duplicates=True)
    return frame


@st.composite
def anything(draw: st.DrawFn, rows: int) -> pd.Series:
    cells = pd.Series(draw(st.lists(CELLS, min_size=rows, max_size=rows)), dtype=object)
    return cells.infer_objects() if draw(st.booleans()) else cells


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Served:
    return serve(tmp_path_factory.mktemp("fuzz"))


@pytest.fixture(scope="module")
def forecaster(served: Served) -> Forecaster:
    return headway.load(served.model)


@FUZZ
@given(readings=tables(), further=tables(), rain=tables(), which=st.integers(0, 3))
def test_a_frame_is_forecast_from_or_refused(
    readings: pd.DataFrame,
    further: pd.DataFrame,
    rain: pd.DataFrame,
    which: int,
    forecaster: Forecaster,
    served: Served,
) -> None:
    now = 150
    tables = [served.readings[:now], served.flow[:now], served.rain]
    tables = [
        new if which in (number, 3) else old
        for number, (old, new) in enumerate(zip(tables, (readings, further, rain), strict=True))
    ]
    before = [table.copy() for table in tables]
    try:
        found = forecaster.predict(tables[0], inputs={"flow": tables[1]}, covariates=tables[2])
    except InputError as error:
        assert str(error).strip() and "Traceback" not in str(error)
    else:
        assert np.isfinite(found["forecast"]).all() and len(found) == 3 * len(IDS)
    for table, old in zip(tables, before, strict=True):
        pd.testing.assert_frame_equal(table, old)


@FUZZ
@given(
    data=st.data(), kind=st.sampled_from(["csv", "parquet"]), form=st.sampled_from(["wide", "long", "runs"])
)
def test_a_table_is_imported_whole_or_refused(data: st.DataObject, kind: str, form: str) -> None:
    table = data.draw(tables(form))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        source, out = folder / f"table.{kind}", folder / "raw"
        if not written(table, source):
            return
        try:
            import_data(form, source, "city", out, Options(), replace=False)
        except InputError as error:
            assert str(error).strip()
            assert not out.exists() or not list(out.iterdir()), "something was left behind"
            return
        try:
            prepare(
                out / "city",
                folder / "prepared",
                preprocess_params(off_grid="round", unusable_sensors="keep"),
                windows_params(),
            )
        except InputError as error:
            assert str(error).strip() and not (folder / "prepared").exists()
        else:
            assert np.isfinite(open_prepared(folder / "prepared").values).all()


@FUZZ
@given(table=tables(), kind=st.sampled_from(["csv", "parquet"]))
def test_a_file_of_recent_readings_is_read_or_refused(table: pd.DataFrame, kind: str) -> None:
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / f"recent.{kind}"
        if written(table, path):
            try:
                read_file(path, IDS)
            except InputError as error:
                assert str(path) in str(error)


def written(table: pd.DataFrame, path: Path) -> bool:
    """Whether the table could be written: Parquet does not take every mixture."""
    if path.suffix == ".csv":
        table.to_csv(path, index=False)
        return True
    try:
        table.to_parquet(path)
    except (pa.ArrowException, ValueError, OverflowError, TypeError):
        return False
    return True
