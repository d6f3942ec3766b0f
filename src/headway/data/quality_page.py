"""metrics/preprocess: the quality report as JSON, and as a page with pictures.

Enters: the report (report.py) and the prepared folder. Leaves: one HTML page that loads nothing from anywhere and
holds no clock time of the run, so that the same data give the same page.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from headway.atomic import write_text
from headway.data.pictures import LEFT, Mark, bars, heat, panel, round_values, sensor_map, table
from headway.data.prepared import Prepared, open_prepared
from headway.data.store import release

TIMES, SENSORS = 430, 300  # cells of the picture of missing readings, at most
BINS = 60
MOST_DOTS, MOST_LINKS = 4000, 12_000
DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
STYLE = """
body{font:15px/1.5 system-ui,sans-serif;color:#22303c;max-width:900px;margin:2rem auto;padding:0 1rem}
h1{font-size:1.5rem;margin-bottom:.2rem}h2{font-size:1.05rem;margin:2.2rem 0 .4rem}
p.note,figcaption{color:#5b6b7a;font-size:.86rem;margin:.2rem 0 .6rem}
.facts{display:flex;flex-wrap:wrap;gap:.6rem;margin:1rem 0}
.facts div{background:#f2f5f8;border-radius:6px;padding:.5rem .9rem}
.facts b{display:block;font-size:1.15rem}.facts span{color:#5b6b7a;font-size:.8rem}
svg{width:100%;height:auto;font:11px system-ui,sans-serif;fill:#5b6b7a}
img.heat{width:100%;height:260px;image-rendering:pixelated;border:1px solid #d9e0e7}
.axis{display:flex;justify-content:space-between;color:#5b6b7a;font-size:.75rem}
table{border-collapse:collapse;font-size:.86rem;margin:.4rem 1.6rem .8rem 0;display:inline-table;vertical-align:top}
td,th{padding:.12rem .7rem .12rem 0;text-align:left;border-bottom:1px solid #e6ebf0}
li{margin:.15rem 0}
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Course:
    """The target over time, in a few hundred pieces.

    Attributes:
        starts: row of the first step of each piece, [piece + 1].
        missing: share of each piece and sensor, [piece, sensor]. mean: over the sensors, NaN where none was read.
    """

    starts: np.ndarray
    missing: np.ndarray
    mean: np.ndarray


def write_report(metrics: Path, report: dict[str, Any], prepared: Path) -> None:
    """quality.json, for programs, and quality.html, for people, each whole or not at all."""
    write_text(metrics / "quality.json", json.dumps(report, sort_keys=True, indent=2) + "\n")
    write_text(metrics / "quality.html", quality_page(report, open_prepared(prepared, verify=False)))


def quality_page(report: dict[str, Any], prepared: Prepared) -> str:
    """The page."""
    course = _course(prepared)
    title = f"{report['dataset']}: {report['variable']}"
    sections = [
        f"<h1>{escape(title)}</h1>",
        f'<p class="note">{escape(_span(report))}</p>',
        _facts(report),
        _sentences("What was done", report["done"]),
        _sentences("Worth a look", report["worth_a_look"]),
        *_missing(report, course),
        *_time(report, prepared, course),
        *_week(report, prepared),
        *_values(report, prepared),
        *_network(report, prepared, course.missing),
        *_tables(report),
    ]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta name="viewport" content="width=device-width"><title>{escape(title)}</title>'
        f"<style>{STYLE}</style></head><body>\n{chr(10).join(sections)}\n</body></html>\n"
    )


def _course(prepared: Prepared) -> _Course:
    steps, sensors = prepared.values.shape[:2]
    starts = np.unique(np.linspace(0, steps, min(TIMES, steps) + 1).astype(np.int64))
    missing = np.zeros((len(starts) - 1, sensors), dtype=np.float32)
    mean = np.full(len(starts) - 1, np.nan)
    for piece, (first, last) in enumerate(pairwise(starts.tolist())):
        seen = prepared.observed[first:last, :, 0]
        missing[piece] = 1 - seen.mean(axis=0)
        if seen.any():
            mean[piece] = prepared.values[first:last, :, 0].sum(dtype=np.float64) / seen.sum()
        release(prepared.observed)
        release(prepared.values)
    return _Course(starts=starts, missing=missing, mean=mean)


def _span(report: dict[str, Any]) -> str:
    first, last = (report[name].removesuffix("Z").replace("T", " ")[:16] for name in ("first", "last"))
    return f"{first} to {last} UTC, a step of {report['step']}; civil time {report['time_zone']}"


def _facts(report: dict[str, Any]) -> str:
    rows, graph = report["series"], report["graph"]
    numbers = {
        "sensors": f"{report['sensors']['kept']:,}",
        "steps": f"{report['steps']:,}",
        "missing": f"{rows['missing_share']:.2%}",
        "zeros": f"{rows['zero_share']:.2%}",
        "gaps": f"{rows['gaps']:,}",
        "neighbors a sensor": f"{graph['degree_mean']:.1f}",
        "components": f"{graph['components']:,}",
    } | {f"{name} windows": f"{split['windows']:,}" for name, split in report["splits"].items()}
    cells = [f"<div><b>{value}</b><span>{escape(name)}</span></div>" for name, value in numbers.items()]
    return f'<div class="facts">{"".join(cells)}</div>'


def _sentences(title: str, sentences: Sequence[str]) -> str:
    if not sentences:
        return f"<h2>{title}</h2><p>Nothing.</p>"
    return f"<h2>{title}</h2><ul>{''.join(f'<li>{escape(text)}</li>' for text in sentences)}</ul>"


def _missing(report: dict[str, Any], course: _Course) -> Iterator[str]:
    shares = course.missing.T
    edges = np.unique(np.linspace(0, len(shares), min(SENSORS, len(shares)) + 1).astype(np.int64))
    rows = np.add.reduceat(shares, edges[:-1], axis=0) / np.diff(edges)[:, None]
    yield "<h2>Missing readings</h2>"
    if not shares.any():
        yield "<p>None.</p>"
        return
    yield heat(rows, "missing readings by sensor and time")
    yield _dates(report, "0")
    yield '<p class="note">A row a sensor, in the order of their ids; time runs to the right; red is missing.</p>'


def _time(report: dict[str, Any], prepared: Prepared, course: _Course) -> Iterator[str]:
    marks = [Mark(at=float(first), text=name) for name, (first, _) in prepared.meta.splits.items()]
    yield f"<h2>The mean sensor over time ({escape(report['unit'])})</h2>"
    yield panel(course.starts[:-1].astype(float), [course.mean], marks, "mean reading over time")
    yield _dates(report, f"{LEFT}px")
    starts = [f"{name} {split['first_origin'][:10]}" for name, split in report["splits"].items()]
    yield f'<p class="note">Marked are the first targets of the windows: {", ".join(starts)}.</p>'


def _dates(report: dict[str, Any], indent: str) -> str:
    """First and last day, under the ends of a picture."""
    days = f"<span>{report['first'][:10]}</span><span>{report['last'][:10]}</span>"
    return f'<div class="axis" style="padding-left:{indent}">{days}</div>'


def _week(report: dict[str, Any], prepared: Prepared) -> Iterator[str]:
    slots = prepared.meta.slots_per_day
    if slots < 4:
        return
    usual = prepared.climatology
    curves = [np.median(usual, axis=1), *np.quantile(usual, (0.1, 0.9), axis=1)]
    marks = [Mark(at=float(day * slots), text=name) for day, name in enumerate(DAYS)]
    yield f"<h2>A usual week ({escape(report['unit'])})</h2>"
    yield panel(np.arange(len(usual), dtype=float), curves, marks, "a usual week")
    yield '<p class="note">Training mean of each time of week: the median sensor, and eight of ten sensors.</p>'


def _values(report: dict[str, Any], prepared: Prepared) -> Iterator[str]:
    stride = max(1, prepared.values.shape[0] * prepared.values.shape[1] // 2_000_000)
    seen = prepared.values[::stride, :, 0][prepared.observed[::stride, :, 0]]
    counts, edges = np.histogram(seen, bins=BINS)
    marks = [Mark(at=value, text=f"{value:g}") for value in round_values(float(edges[0]), float(edges[-1]))]
    yield f"<h2>Readings by size ({escape(report['unit'])})</h2>"
    yield bars(edges, 100 * counts / max(1, counts.sum()), marks, "share of readings by size, percent")
    yield '<p class="note">Percent of the observed readings.</p>'


def _network(report: dict[str, Any], prepared: Prepared, missing: np.ndarray) -> Iterator[str]:
    pairs = np.unique(np.sort(prepared.roads.T, axis=1), axis=0)
    yield f"<h2>The graph, from {escape(report['graph']['source'])}</h2>"
    if {"latitude", "longitude"} <= set(prepared.sensors.columns):
        place = prepared.sensors[["latitude", "longitude"]].to_numpy(dtype=float, copy=True)
        if not np.isnan(place).any(axis=1).all():
            shown = np.arange(0, len(place), max(1, -(-len(place) // MOST_DOTS)))
            place[np.setdiff1d(np.arange(len(place)), shown)] = np.nan
            ids = [str(name) for name in prepared.sensors["sensor_id"]]
            yield sensor_map(place[:, 0], place[:, 1], pairs[:MOST_LINKS], missing.mean(axis=0), ids)
            most = f"{missing.mean(axis=0).max():.1%}"
            yield (
                '<p class="note">Sensors, and lines to the nearest, of which each reads some. Red is missing; the '
                f"reddest misses {most}.</p>"
            )
    degree = np.bincount(pairs.ravel(), minlength=len(missing.T))
    counts = np.bincount(degree)
    marks = [Mark(at=value, text=f"{value:g}") for value in round_values(0.0, float(max(1, len(counts) - 1)))]
    yield bars(np.arange(len(counts) + 1) - 0.5, counts, marks, "sensors by number of lines")
    yield '<p class="note">Sensors by the number of lines to others.</p>'


def _tables(report: dict[str, Any]) -> Iterator[str]:
    rows = report["series"]
    worst = {
        "missing": "missing_sensors",
        "stuck stretches": "stuck_worst",
        "zeros for days": "zero_days_sensors",
        "below 0": "negative_sensors",
        "implausible": "implausible_sensors",
        "null": "null_sensors",
        "on straight lines": "interpolated_sensors",
        "copies of a week": "copied_week_sensors",
    }
    yield "<h2>Sensors with the most, gaps, clock changes</h2>"
    for title, key in worst.items():
        yield table(("sensor", title), list(rows[key].items())[:10])
    yield table(("gap from", "steps"), [(gap["first"], gap["steps"]) for gap in rows["gap_list"][:10]])
    changes = [(change["date"], f"{change['hours']:g}") for change in report["daylight_saving"][:10]]
    yield table(("clocks change on", "hours of that day"), changes)
