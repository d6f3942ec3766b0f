"""`predict` of readings at uneven times, by a model whose training data were rounded to a grid, and by another."""

from __future__ import annotations

import shutil
from typing import Any

import numpy as np
import pandas as pd
import pytest

import headway
from headway.errors import InputError
from headway.serving.forecaster import Forecaster
from tiny_serving import Served, serve

NOW = 150  # rows given; the model reads 4 steps of 1 h


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Served:
    return serve(tmp_path_factory.mktemp("uneven"))


@pytest.fixture(scope="module")
def rounding(served: Served, tmp_path_factory: pytest.TempPathFactory) -> Forecaster:
    model = tmp_path_factory.mktemp("rounding") / "model"
    shutil.copytree(served.model, model)
    text = (model / "config.json").read_text()
    (model / "config.json").write_text(text.replace('"off_grid": "error"', '"off_grid": "round"'))
    return headway.load(model)


def forecast(forecaster: Forecaster, served: Served, readings: Any) -> pd.DataFrame:
    return forecaster.predict(readings, inputs={"flow": served.flow}, covariates=served.rain)


def refused(forecaster: Forecaster, served: Served, readings: Any) -> str:
    with pytest.raises(InputError) as caught:
        forecast(forecaster, served, readings)
    return str(caught.value)


def every(served: Served, hours: int) -> Any:
    """Rows so far apart, up to the same newest one."""
    newest = served.readings["timestamp"][NOW - 1]
    times = newest - pd.to_timedelta(hours * np.arange(NOW // hours)[::-1], unit="h")
    return served.readings[: len(times)].assign(timestamp=times)


def drifting(served: Served) -> Any:
    """Rows ever further apart, so that no two differences are the same, and one that was sent again after 41 s."""
    table = served.readings[30:60].reset_index(drop=True)
    table["timestamp"] += pd.to_timedelta(3 * np.cumsum(np.arange(30)), unit="s")
    again = table[20:21].assign(timestamp=table["timestamp"][20] + pd.Timedelta("41s"))
    return pd.concat([table, again]).sort_values("timestamp", ignore_index=True)


def test_rows_mostly_further_apart_than_a_step_are_read_where_training_rounded_them(
    served: Served, rounding: Forecaster
) -> None:
    assert np.isfinite(forecast(rounding, served, every(served, 2))["forecast"]).all()


def test_a_row_sent_again_does_not_decide_the_step(served: Served, rounding: Forecaster) -> None:
    assert np.isfinite(forecast(rounding, served, drifting(served))["forecast"]).all()


def test_where_training_had_a_grid_the_rows_off_it_are_named_and_not_the_row_sent_again(
    served: Served,
) -> None:
    message = refused(headway.load(served.model), served, drifting(served))
    assert "of 31 timestamps lie between two steps of 1 h" in message


@pytest.mark.parametrize("hours", [6, 24])
def test_rows_that_leave_most_of_the_history_unobserved_are_refused(
    served: Served, rounding: Forecaster, hours: int
) -> None:
    assert refused(rounding, served, every(served, hours)) == (
        f"the readings are mostly {'6 h' if hours == 6 else '1 d'} apart, the model reads 4 steps of 1 h: with rows "
        "at 1 of the newest 4, most of the history would be unobserved; bring rows of its step"
    )


def test_rows_far_beyond_a_step_are_told_so_and_not_to_mend_dataset_yaml(
    served: Served, rounding: Forecaster
) -> None:
    times = pd.date_range("2023-01-01", periods=20, freq="7D")  # sparser than any grid may be
    assert "are mostly 1 w apart" in refused(rounding, served, served.readings[:20].assign(timestamp=times))


def test_an_outage_in_rows_of_the_right_step_is_no_other_step(served: Served, rounding: Forecaster) -> None:
    outage = served.readings[:NOW].drop(index=[NOW - 4, NOW - 3, NOW - 2])
    assert np.isfinite(forecast(rounding, served, outage)["forecast"]).all()
