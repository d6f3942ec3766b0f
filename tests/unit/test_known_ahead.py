"""Covariates whose future is known, and holidays: read ahead in preprocess, and in the same way from new rows."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import headway
from headway.data.holidays import PIN, holiday_flags
from headway.data.prepare import prepare
from headway.data.prepared import Prepared, open_prepared
from headway.errors import InputError
from tiny_serving import Served, serve
from worlds import preprocess_params, windows_params, write_raw_world, write_series

STEPS, HORIZON, DAY = 200, 3, 86_400


def prepared(raw: Path, **windows: Any) -> Prepared:
    prepare(raw, raw.parent / "prepared", preprocess_params(), windows_params(**windows))
    return open_prepared(raw.parent / "prepared")


def world(folder: Path, further_rows: int = 0) -> tuple[Path, np.ndarray]:
    """A raw folder whose covariate `rain` goes on for some rows after the readings."""
    raw = write_raw_world(folder / "raw", steps=STEPS)
    rain = np.random.default_rng(0).random(STEPS + further_rows)
    times = pd.date_range("2024-01-01", periods=len(rain), freq="h")
    write_series(raw / "covariates.parquet", times, {"rain": rain})
    return raw, rain


def test_a_covariate_known_ahead_is_read_a_horizon_early(tmp_path: Path) -> None:
    raw, rain = world(tmp_path, further_rows=HORIZON)
    found = prepared(raw, covariates=("rain",), future_covariates=("rain",))
    training = rain[: found.meta.training_rows].astype(np.float32)
    expected = (rain - training.mean()) / training.std()
    np.testing.assert_allclose(found.covariates[:, 0], expected[:STEPS], atol=1e-5)
    np.testing.assert_allclose(found.covariates[:, 1], expected[HORIZON:], atol=1e-5)
    assert found.meta.covariates == ("rain", "rain ahead")
    assert found.meta.past_covariates() == found.meta.given_covariates() == ("rain",)


def test_a_future_that_the_file_does_not_hold_is_the_mean(tmp_path: Path) -> None:
    found = prepared(world(tmp_path)[0], future_covariates=("rain",))
    assert (found.covariates[-HORIZON:] == 0).all() and (found.covariates[:-HORIZON] != 0).all()


def test_a_history_shorter_than_the_horizon_cannot_hold_what_is_ahead(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"last 3 steps .* windows.history has 2: lengthen it"):
        prepared(world(tmp_path)[0], history=2, future_covariates=("rain",))


def test_a_future_covariate_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=r"windows.future_covariates: no column 'snow' in covariates.parquet"
    ):
        prepared(world(tmp_path)[0], future_covariates=("snow",))


def test_a_holiday_is_a_civil_day_of_its_place() -> None:
    midnight = int(np.datetime64("2024-07-04T04:00", "s").astype(np.int64))  # in New York
    time = np.array([midnight - 1, midnight, midnight + DAY - 1, midnight + DAY], dtype=np.int64)
    assert holiday_flags(time, "America/New_York", "US").tolist() == [0, 1, 1, 0]
    assert holiday_flags(time, "America/New_York", "GB-ENG").tolist() == [0, 0, 0, 0]


@pytest.mark.parametrize(
    ("place", "said"), [("XX", "'XX' is no country"), ("GB-XX", "GB has no region 'XX'; there are: ENG,")]
)
def test_an_unknown_place_is_refused(tmp_path: Path, place: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        prepared(world(tmp_path)[0], holidays=place)


def test_without_the_library_the_command_that_installs_it_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "holidays", None)
    with pytest.raises(InputError, match=r"US needs the library holidays: pip install holidays=="):
        prepared(world(tmp_path)[0], holidays="US")


def test_holidays_that_training_never_sees_are_refused(tmp_path: Path) -> None:
    raw = write_raw_world(tmp_path / "raw", start="2024-04-02")  # the next holiday is in May
    with pytest.raises(InputError, match=r"no holiday of GB-ENG lies in the 139 training steps"):
        prepared(raw, holidays="GB-ENG")


def test_the_pin_that_the_message_names_is_the_tested_one() -> None:
    assert PIN in (Path(__file__).parents[2] / "requirements.txt").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Served:
    """A model of the flow, which reads the speed, the rain to come and the holidays of Hawaii (26 March)."""
    keys = {"target": "flow", "inputs": ("speed",), "covariates": (), "future_covariates": ("rain",)}
    return serve(tmp_path_factory.mktemp("ahead"), holidays="US-HI", **keys)


def test_another_target_with_what_is_known_ahead_is_forecast_to_the_bits_of_the_evaluation(
    served: Served,
) -> None:
    forecaster, compared = headway.load(served.model), 0
    for origin, expected in served.predictions().groupby("origin"):
        past = np.asarray(served.utc <= origin)
        found = forecaster.predict(
            served.flow[past], inputs={"speed": served.readings[past]}, covariates=served.rain
        )
        if served.utc[past][-1] == origin:  # not in a gap
            assert found["forecast"].to_numpy().tobytes() == expected["forecast"].to_numpy().tobytes()
            compared += 1
    assert compared > 30 and found.attrs["variable"] == "flow"


def test_the_main_variable_keeps_its_rules_as_an_input(served: Served) -> None:
    values, observed = served.prepared.values[..., 1], served.prepared.observed[..., 1]
    assert served.prepared.meta.channels == ("flow", "speed")
    assert values[observed].min() >= 0 and values[observed].max() < 300  # -1 is null, 900 implausible


def test_a_forecast_without_what_is_to_come_is_refused(served: Served) -> None:
    past = np.asarray(served.utc <= served.utc[150])
    rain = served.rain[: 150 // 3]
    with pytest.raises(InputError, match=r"rain: no value between .* the model reads them ahead"):
        headway.load(served.model).predict(
            served.flow[past], inputs={"speed": served.readings[past]}, covariates=rain
        )
