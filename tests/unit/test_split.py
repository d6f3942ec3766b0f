"""Splits by time with the counts the literature uses, and lags that never read the future."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headway.data.calendar import DAY, WEEK
from headway.data.split import describe_seconds, resolve_lags, split_origins
from headway.errors import InputError
from worlds import windows_params


@pytest.mark.parametrize(
    ("steps", "ratio", "counts"),
    [
        pytest.param(34_272, "7-1-2", (23_974, 3_425, 6_850), id="METR-LA"),
        pytest.param(52_116, "7-1-2", (36_465, 5_209, 10_419), id="PEMS-BAY"),
        pytest.param(26_208, "6-2-2", (15_711, 5_237, 5_237), id="PEMS03"),
        pytest.param(16_992, "6-2-2", (10_181, 3_394, 3_394), id="PEMS04"),
        pytest.param(28_224, "6-2-2", (16_921, 5_640, 5_640), id="PEMS07"),
        pytest.param(17_856, "6-2-2", (10_700, 3_567, 3_566), id="PEMS08"),
    ],
)
def test_window_counts_are_those_of_the_benchmarks(steps: int, ratio: str, counts: tuple[int, ...]) -> None:
    splits = split_origins(steps, 12, 12, ratio, False)  # type: ignore[arg-type]
    assert tuple(last - first for first, last in splits.values()) == counts


@given(st.integers(1, 20), st.integers(1, 20), st.integers(0, 400), st.sampled_from(["7-1-2", "6-2-2"]))
def test_splits_cover_every_window_once_in_time_order(
    history: int, horizon: int, more: int, ratio: str
) -> None:
    steps = 11 * history + horizon + 20 + more
    splits = split_origins(steps, history, horizon, ratio, False)  # type: ignore[arg-type]
    assert splits["train"][0] == history
    assert splits["train"][1] == splits["validation"][0]
    assert splits["validation"][1] == splits["test"][0]
    assert splits["test"][1] == steps - horizon + 1


@given(st.integers(1, 12), st.integers(1, 12), st.integers(0, 300))
def test_purged_splits_share_no_step(history: int, horizon: int, more: int) -> None:
    splits = split_origins(30 * (history + horizon) + more, history, horizon, "7-1-2", True)
    for before, after in (("train", "validation"), ("validation", "test")):
        last_target = splits[before][1] - 1 + horizon - 1
        first_history = splits[after][0] - history
        assert first_history == last_target + 1


def test_a_series_shorter_than_one_window_is_refused_with_the_arithmetic() -> None:
    with pytest.raises(InputError, match=r"20 steps, fewer than one window of 12 \+ 12"):
        split_origins(20, 12, 12, "7-1-2", False)


def test_a_history_longer_than_a_split_is_refused_with_the_arithmetic() -> None:
    with pytest.raises(
        InputError,
        match=r"100 steps make 70 windows.*train 49, validation 7, test 14.*longer than "
        r"validation and test",
    ):
        split_origins(100, 24, 7, "7-1-2", False)


def test_purging_away_a_split_is_refused() -> None:
    with pytest.raises(
        InputError, match=r"with 23 purged at each border into train 140, validation 0, test 17"
    ):
        split_origins(223, 12, 12, "7-1-2", True)


def test_lags_are_steps_in_the_order_of_the_params() -> None:
    windows = windows_params(horizon=12, context=("1w", "12h", "1d", "90min"), trailing_weeks=2)
    lags = resolve_lags(windows, 300, 20_000)
    assert lags.context == (2016, 144, 288, 18)
    assert lags.trailing == (2016, 4032)
    assert lags.trailing_days == tuple(288 * day for day in range(1, 8))


def test_a_lag_of_more_than_half_the_training_span_is_switched_off_with_the_reason() -> None:
    lags = resolve_lags(windows_params(context=("2w", "1w")), 300, 8063)
    assert lags.context == (2016,) and lags.context_names == ("1w",)
    assert lags.switched_off == {
        "windows.context: 2w": "4032 steps are more than half of the 8063 training steps"
    }
    assert resolve_lags(windows_params(context=("2w",)), 300, 8064).context == (4032,)


def test_days_and_weeks_ago_are_switched_off_where_training_covers_less_than_two_weeks() -> None:
    windows = windows_params(context=("1d", "12h", "1w"), trailing_weeks=4)
    lags = resolve_lags(windows, 300, 1406)  # metr-la-week1
    assert (lags.context_names, lags.trailing, lags.trailing_days) == (("12h",), (), ())
    keys = ["windows.context: 1d", "windows.context: 1w", "windows.trailing_weeks: 4"]
    assert lags.switched_off == dict.fromkeys(keys, "training covers 4.9 days, fewer than two weeks")
    whole = resolve_lags(windows, 300, 4032)
    assert whole.context_names == ("1d", "12h", "1w") and whole.trailing_days and not whole.switched_off


def test_all_impossible_lags_are_named_at_once() -> None:
    windows = windows_params(horizon=30, context=("1d", "100min", "1x", "2w", "14d"))
    with pytest.raises(InputError, match=r"windows\.context") as caught:
        resolve_lags(windows, 3600, 10_000)
    message = str(caught.value)
    assert "1d is 24 steps, shorter than the horizon of 30: it would read the future" in message
    assert "100min is no multiple of the step of 1 h" in message
    assert "'1x' is not a lag" in message
    assert "14d is listed twice" in message


@pytest.mark.parametrize("text", ["0d", "-1d", "1.5h", "d", "1 d", "1D", ""])
def test_what_is_not_a_lag_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="is not a lag"):
        resolve_lags(windows_params(context=(text,)), 300, 10_000)


def test_no_trailing_lag_reads_the_future() -> None:
    lags = resolve_lags(windows_params(horizon=50, trailing_weeks=3), 3600, 10_000)
    assert lags.trailing == (168, 336, 504)
    assert lags.trailing_days == (72, 96, 120, 144, 168)


def test_there_are_no_trailing_lags_where_steps_do_not_fit_a_week() -> None:
    lags = resolve_lags(windows_params(trailing_weeks=3), 420, 10_000)  # 7 minutes: a week yes, a day no
    assert (lags.trailing[0], lags.trailing_days) == (1440, ())
    assert resolve_lags(windows_params(trailing_weeks=3), 11 * 60, 10_000).trailing == ()
    assert resolve_lags(windows_params(trailing_weeks=0), 300, 10_000).trailing_days == ()


@pytest.mark.parametrize(
    ("seconds", "text"), [(300, "5 min"), (3600, "1 h"), (WEEK, "1 w"), (2 * DAY, "2 d"), (45, "45 s")]
)
def test_durations_read_well(seconds: int, text: str) -> None:
    assert describe_seconds(seconds) == text
