"""`windows.target` and `windows.inputs`: which file is forecast, and which is read beside it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from headway.data.prepare import prepare
from headway.data.prepared import Prepared, open_prepared
from headway.errors import InputError
from worlds import daily_readings, preprocess_params, windows_params, write_raw_world

SPEED, FLOW = daily_readings(200, 3, 60), daily_readings(200, 3, 60, seed=1)
FACTS = {"unit": "km/h", "variable": "speed", "maximum": 70.0}


def world(folder: Path, **further: np.ndarray) -> Path:
    variables = {"flow": FLOW, **further}
    ids = ("a", "b", "c")
    return write_raw_world(folder / "raw", ids=ids, readings=SPEED.copy(), variables=variables, facts=FACTS)


def prepared(raw: Path, **windows: Any) -> Prepared:
    prepare(raw, raw.parent / "prepared", preprocess_params(), windows_params(**windows))
    return open_prepared(raw.parent / "prepared")


@pytest.mark.parametrize("target", ["auto", "speed"])
def test_the_main_variable_is_the_target_by_default_and_by_name(tmp_path: Path, target: str) -> None:
    found = prepared(world(tmp_path), target=target)
    assert (found.meta.channels, found.meta.unit) == (("speed",), "km/h")
    np.testing.assert_array_equal(found.observed[..., 0], SPEED <= 70)


def test_another_variable_is_the_target_by_its_name_and_the_main_one_its_input(tmp_path: Path) -> None:
    found = prepared(world(tmp_path), target="flow", inputs=("speed",))
    assert (found.meta.channels, found.meta.variable, found.meta.unit) == (("flow", "speed"), "flow", "units")
    np.testing.assert_array_equal(found.values[..., 0], FLOW)  # the bounds of the speed do not touch it
    np.testing.assert_array_equal(found.observed[..., 1], SPEED <= 70)
    assert [bounds.maximum for bounds in found.meta.bounds] == [None, 70.0]


def test_what_looks_wrong_in_another_target_is_mended_in_its_own_table(tmp_path: Path) -> None:
    flow = FLOW.copy()
    flow[10, 0], flow[100:130, 1] = -4, 0
    raw = world(tmp_path, flow=flow)
    report = prepare(raw, tmp_path / "prepared", preprocess_params(), windows_params(target="flow"))
    assert report["worth_a_look"] == [
        "30 readings in days of nothing but 0, make them NaN in series_flow.parquet if they mean none: b",
        "1 readings below 0, make them NaN in series_flow.parquet if there cannot be any: a",
    ]


def test_all_faults_of_target_and_inputs_are_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        prepared(world(tmp_path), target="../x", inputs=("wind", "flow", "flow"))
    said = str(caught.value)
    assert "windows.target: no variable '../x'; there are: speed, flow" in said
    assert "windows.inputs: no variable 'wind'; there are: flow" in said
    assert "windows.inputs: flow is listed twice" in said


def test_the_target_is_no_input(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"windows.inputs: flow is the target, which is read anyway"):
        prepared(world(tmp_path), target="flow", inputs=("flow",))


def test_sensors_are_those_of_the_target(tmp_path: Path) -> None:
    raw = world(tmp_path)
    (raw / "series_flow.parquet").unlink()
    write_raw_world(tmp_path / "other", ids=("a", "b", "x"), readings=FLOW)
    (tmp_path / "other/series.parquet").rename(raw / "series_flow.parquet")
    with pytest.raises(InputError, match=r"sensors in series_flow.parquet, not in sensors.parquet: x"):
        prepared(raw, target="flow")
