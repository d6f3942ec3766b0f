"""What was found on one data set, as Markdown: the table, the verdict on ours, its distribution, the curves.

Enters: {"facts", "runs": {model: [result of each seed]}, "missing", "left_out"} of accuracy.py. Leaves: text.

Glossary: spread = standard deviation over seeds; the best peer is the row other than ours with the lowest mean MAE.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from headway.evaluation.distribution import KINDS

OURS = "headway"
ALL = "all"
STEPS = (3, 6, 12)  # that are shown and judged, where they exist
POINTS = 4  # of a curve that are shown
ROUNDING = 2e-5  # of six digits
Runs = dict[str, list[dict[str, Any]]]


def tables(found: dict[str, Any]) -> str:
    """Everything that is said of a data set."""
    facts, runs = found["facts"], found["runs"]
    lines = [f"\n### {facts['name']}\n", _describe(facts), ""]
    if runs:
        lines += main_table(runs, facts["unit"])
        lines += ["", *verdict(runs), *distribution(runs), *naive_differences(runs), *curve_table(runs)]
    lines += [f"\nMissing: {'; '.join(found['missing'])}."] if found["missing"] else []
    lines += [f"\nLeft out: {model}: {reason}." for model, reason in found["left_out"].items()]
    return "\n".join(lines)


def _describe(facts: dict[str, Any]) -> str:
    minutes = facts["step_seconds"] / 60
    lags = ", ".join(f"{lag * minutes / 60:g} h" for lag in facts["context"]) or "none"
    return (
        f"{facts['sensors']} sensors, {facts['steps']} steps of {minutes:g} min, {facts['test_windows']} "
        f"test windows; context: {lags}; {facts['optimizer_steps']} steps of whatever has an optimizer."
    )


def main_table(runs: Runs, unit: str) -> list[str]:
    """A row a model, the lowest MAE last."""
    steps = _steps(runs)
    titles = [f"MAE@{step}" for step in steps] + [f"MAE, {unit or 'units of the data'}", "RMSE", "MAPE %"]
    header = ["model", "seeds", *titles, "parameters", "train s", "MiB"]
    lines = [f"| {' | '.join(header)} |", f"|---|{'---:|' * (len(header) - 1)}"]
    for model in sorted(runs, key=lambda name: -mean_mae(runs[name])):
        results = runs[model]
        cells = [model, str(len(results)), *(_cell(mean_mae(results, step)) for step in steps)]
        cells.append(_cell(mean_mae(results)) + (f" ± {spread(results):.3f}" if len(results) > 1 else ""))
        cells += [
            _cell(_mean([result["scores"][ALL][name] for result in results])) for name in ("rmse", "mape")
        ]
        parameters, seconds, memory = (
            np.median([result[name] for result in results]) for name in ("parameters", "seconds", "peak_mib")
        )
        cells += [f"{parameters:,.0f}", f"{seconds:.0f}", f"{memory:,.0f}"]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def verdict(runs: Runs) -> list[str]:
    """Whether ours is lower than the best peer by more than seeds differ, and not worse at any step."""
    peers = {model: results for model, results in runs.items() if model != OURS}
    if OURS not in runs or not peers:
        return []
    own, best = runs[OURS], min(peers, key=lambda model: mean_mae(peers[model]))
    gain = mean_mae(peers[best]) - mean_mae(own)
    spreads = [spread(results) for results in (own, peers[best]) if len(results) > 1]
    said = "lower" if gain > 0 else "higher"
    line = f"headway is {said} than the best peer ({best}) by {_percent(gain, mean_mae(peers[best]))}"
    if spreads:
        outcome = (
            "more than the spread" if abs(gain) > max(spreads) else "within the spread: no difference shown"
        )
        line += f", {abs(gain):.4g} against a larger spread of {max(spreads):.3g}: {outcome}."
    else:
        line += f", {abs(gain):.4g}; one seed has no spread, so nothing is shown."
    return [line, *(_step_verdict(own, peers, step) for step in _steps(runs))]


def _step_verdict(own: list[dict[str, Any]], peers: Runs, step: int) -> str:
    best = min(peers, key=lambda model: mean_mae(peers[model], step))
    mine, theirs = mean_mae(own, step), mean_mae(peers[best], step)
    outcome = "not worse" if mine <= theirs else "WORSE"
    return f"- step {step}: {_cell(mine)} against {_cell(theirs)} of {best}: {outcome}."


def distribution(runs: Runs) -> list[str]:
    """CRPS beside the climatological quantiles, and coverage, where ours says a distribution."""
    said = [result["distribution"][ALL] for result in runs.get(OURS, []) if result["distribution"]]
    if not said:
        return []
    crps, usual = (_mean([entry[name] for entry in said]) for name in ("crps", "crps_climatology"))
    covered = ", ".join(
        f"{_cell(100 * (_mean([entry[kind]['coverage']['80%'] for entry in said]) or 0))} % {kind}"
        for kind in KINDS
    )
    outcome = "below" if crps is not None and usual is not None and crps < usual else "NOT below"
    return [
        f"CRPS {_cell(crps)}, {outcome} the {_cell(usual)} of climatological quantiles; "
        f"the 80 % interval covers {covered}."
    ]


def naive_differences(runs: Runs) -> list[str]:
    """Naive forecasts that the evaluate stage found another error of than this script: there must be none."""
    judged = {model: results[0]["scores"][ALL] for model, results in runs.items() if model != OURS}
    return [
        f"NOT THE SAME PROTOCOL: {model} has MAE {judged[model]['mae']} here, {scores[ALL]['mae']} in evaluate."
        for result in runs.get(OURS, [])[:1]
        for model, scores in result["naive"].items()
        if model in judged and not math.isclose(judged[model]["mae"], scores[ALL]["mae"], rel_tol=ROUNDING)
    ]


def curve_table(runs: Runs) -> list[str]:
    """Validation error against training seconds, at evenly spread looks of the first seed."""
    learned = {model: results[0]["curve"] for model, results in runs.items() if results[0]["curve"]}
    if not learned:
        return []
    lines = ["", "| validation MAE after seconds, seed 0 |" + " |" * POINTS, f"|---|{'---:|' * POINTS}"]
    for model, curve in learned.items():
        places = np.unique(np.linspace(0, len(curve) - 1, POINTS).round().astype(int))
        cells = [f"{curve[place][1]:.4g} at {curve[place][0]:.0f} s" for place in places]
        lines.append(f"| {' | '.join([model, *cells, *[''] * (POINTS - len(cells))])} |")
    return lines


def mean_mae(results: Sequence[dict[str, Any]], step: int = 0) -> float:
    """Mean over seeds of the MAE at a step (1 is the first), or over all steps."""
    found = _mean([_scores(result, step)["mae"] for result in results])
    return float("inf") if found is None else found


def spread(results: Sequence[dict[str, Any]]) -> float:
    """Standard deviation over seeds of the MAE over all steps."""
    return float(np.std([result["scores"][ALL]["mae"] for result in results], ddof=1))


def _scores(result: dict[str, Any], step: int) -> dict[str, float | None]:
    scores = result["scores"]
    return scores[list(scores)[step - 1] if step else ALL]


def _steps(runs: Runs) -> list[int]:
    horizon = len(next(iter(runs.values()))[0]["scores"]) - 1
    return [step for step in STEPS if step <= horizon]


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def _percent(part: float, whole: float) -> str:
    return f"{100 * abs(part) / whole:.1f} %"


def _cell(value: float | None) -> str:
    if value is None or not np.isfinite(value):
        return "-"
    return f"{value:.3f}" if abs(value) < 20 else f"{value:.2f}"
