"""`predict` of readings that cannot be used: a sentence that says why."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest

import headway
from headway.errors import InputError
from headway.serving.forecaster import Forecaster
from tiny_serving import IDS, Served, serve

NOW = 150  # rows of the table that the tests of shapes and refusals give


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Served:
    return serve(tmp_path_factory.mktemp("global"))


@pytest.fixture(scope="module")
def forecaster(served: Served) -> Forecaster:
    return headway.load(served.model)


def forecast(forecaster: Forecaster, served: Served, readings: Any = None) -> Any:
    """From `readings`, or the first NOW rows, with the further tables the model needs."""
    readings = served.readings[:NOW] if readings is None else readings
    return forecaster.predict(readings, inputs={"flow": served.flow}, covariates=served.rain)


def off_grid(table: Any) -> Any:
    table.loc[NOW - 2, "timestamp"] += pd.Timedelta("7min")
    return table


def silent_since(rows: int) -> Callable[[Any], Any]:
    def change(table: Any) -> Any:
        table.loc[NOW - rows :, list(IDS)] = np.nan
        return table

    return change


REFUSALS: dict[str, tuple[Callable[[Any], Any], str]] = {
    "another step": (
        lambda table: table.assign(timestamp=pd.date_range("2024-01-01", periods=NOW, freq="15min")),
        "the readings are 15 min apart, the model reads steps of 1 h",
    ),
    "rows between steps": (off_grid, "the readings: 1 of 150 timestamps lie between two steps of 1 h"),
    "missing sensors": (
        lambda table: table.drop(columns=["9", "101"]),
        "columns are missing: 101, 9; give what was not measured an empty column",
    ),
    "unknown sensors": (
        lambda table: table.assign(x=1.0, y=2.0),
        "the model does not know the columns x, y; leave them out",
    ),
    "a sensor twice": (
        lambda table: pd.concat([table, table[["9"]]], axis=1),
        "columns are there more than once: 9",
    ),
    "text": (lambda table: table.assign(**{"9": "fast"}), "column 9 is of type str; write numbers"),
    "truth values": (lambda table: table.assign(**{"9": True}), "column 9 is of type bool; write numbers"),
    "infinity": (lambda table: table.assign(**{"9": np.inf}), "infinite readings in column 9"),
    "no timestamp": (
        lambda table: table.drop(columns="timestamp"),
        "there is no column timestamp, and the index is no DatetimeIndex",
    ),
    "times as text": (
        lambda table: table.assign(timestamp=table["timestamp"].astype(str)),
        "column timestamp is of type str; make timestamps of it with pandas.to_datetime",
    ),
    "a time that is none": (
        lambda table: table.assign(timestamp=table["timestamp"].where(table.index != 7)),
        "column timestamp is empty in rows 7",
    ),
    "a time the clocks skip": (
        lambda table: table.assign(timestamp=pd.date_range("2024-03-31 01:00", periods=NOW, freq="h")),
        "local times that Europe/London skips when the clocks go forward: rows 0 (2024-03-31T01:00:00)",
    ),
    "no rows": (lambda table: table[:0], "the readings have no rows"),
    "one row": (
        lambda table: table[-1:],
        "the readings span 1 steps of 1 h, the model reads 4; bring rows from 2024-03-18T02:00:00Z or earlier",
    ),
    "too little history": (lambda table: table[-3:], "the readings span 3 steps of 1 h, the model reads 4"),
    "nothing read": (silent_since(NOW), "the readings are all missing in the 172 steps"),
    "nothing but nulls": (
        lambda table: table.assign(**dict.fromkeys(IDS, -1.0)),
        "empty, null values, or outside the plausible range",
    ),
    "silent for the history": (
        silent_since(4),
        "the readings are all missing in the newest 4 steps, and the model reads 4; the newest reading is of "
        "2024-03-18T01:00:00Z",
    ),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_readings_that_cannot_be_used_are_refused_with_a_sentence(
    forecaster: Forecaster, served: Served, case: str
) -> None:
    change, sentence = REFUSALS[case]
    with pytest.raises(InputError) as refused:
        forecast(forecaster, served, change(served.readings[:NOW].copy()))
    assert sentence in str(refused.value)


def test_one_step_less_than_too_long_a_silence_is_forecast(forecaster: Forecaster, served: Served) -> None:
    table = silent_since(3)(served.readings[:NOW].copy())
    assert np.isfinite(forecast(forecaster, served, table)["forecast"]).all()


def test_all_faults_of_the_columns_come_at_once(forecaster: Forecaster, served: Served) -> None:
    table = served.readings[:NOW].drop(columns="11").assign(x=1.0, **{"9": "fast"})
    with pytest.raises(InputError) as refused:
        forecast(forecaster, served, table)
    assert str(refused.value).splitlines() == [
        "the readings cannot be used:",
        "  - columns are missing: 11; give what was not measured an empty column",
        "  - the model does not know the columns x; leave them out",
        "  - column 9 is of type str; write numbers, and NaN for a missing reading",
    ]


@pytest.mark.parametrize(
    ("further", "sentence"),
    [
        ({}, "the model needs the input flow, needs the covariates rain"),
        ({"inputs": {"flow": None, "mood": None}, "covariates": None}, "the model knows no input mood"),
        (
            {"inputs": {"flow": "9"}, "covariates": None},
            "the input flow cannot be used:\n  - columns are missing: 9",
        ),
        ({"inputs": {"flow": None}, "covariates": "rain"}, "the model needs the covariates rain"),
    ],
)
def test_further_tables_that_do_not_fit_are_refused(
    forecaster: Forecaster, served: Served, further: dict[str, Any], sentence: str
) -> None:
    """None stands for the whole table, a name for the table without this column."""

    def table(whole: Any, without: str | None) -> Any:
        if without == "rain":
            return pd.DataFrame(index=pd.DatetimeIndex(whole["timestamp"]))
        return whole if without is None else whole.drop(columns=without)

    given: dict[str, Any] = {}
    if "inputs" in further:
        given["inputs"] = {name: table(served.flow, without) for name, without in further["inputs"].items()}
    if "covariates" in further:
        given["covariates"] = table(served.rain, further["covariates"])
    with pytest.raises(InputError) as refused:
        forecaster.predict(served.readings[:NOW], **given)
    assert sentence in str(refused.value)


def test_a_further_table_of_another_time_is_refused(forecaster: Forecaster, served: Served) -> None:
    old = served.flow.assign(timestamp=pd.date_range("2020-01-01", periods=len(served.flow), freq="h"))
    with pytest.raises(
        InputError, match="the input flow: nothing was read in the 172 steps up to 2024-03-18"
    ):
        forecaster.predict(served.readings[:NOW], inputs={"flow": old}, covariates=served.rain)
