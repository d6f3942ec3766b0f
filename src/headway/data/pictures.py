"""Pictures for a page that needs nothing but itself: SVG drawn by hand, and images as PNG inside it.

Enters: numbers. Leaves: text of SVG or HTML; every text of a data set is escaped on its way.

Glossary: panel = one chart with its axes; band = the space between two curves.
"""

from __future__ import annotations

import base64
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise

import numpy as np

WIDTH, HEIGHT = 860, 230
LEFT, RIGHT, TOP, BOTTOM = 58, 12, 10, 28
INK, LINE, BAND, RULE = "#33475b", "#1f6fb2", "#bcd7ee", "#d9e0e7"
COLD, HOT = np.array([233, 240, 246]), np.array([196, 62, 38])  # nothing, all of it


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """A text at a place of the x axis."""

    at: float
    text: str


def panel(x: np.ndarray, curves: Sequence[np.ndarray], marks: Sequence[Mark], label: str) -> str:
    """One curve, or a curve between two others; NaN leaves a gap. `marks` are ticks of the x axis."""
    scale = _Scale.around(x, np.concatenate(curves))
    body = [scale.grid(marks)]
    if len(curves) == 3:
        low, high = scale.path(x, curves[1]), scale.path(x[::-1], curves[2][::-1])
        body.append(f'<path d="{low} {high.replace("M", "L", 1)} Z" fill="{BAND}"/>')
    body.append(f'<path d="{scale.path(x, curves[0])}" fill="none" stroke="{LINE}" stroke-width="1.4"/>')
    return _svg(label, "".join(body))


def bars(edges: np.ndarray, counts: np.ndarray, marks: Sequence[Mark], label: str) -> str:
    """Bars between neighboring edges, from 0."""
    scale = _Scale.around(edges, np.append(counts, 0.0))
    body, floor = [scale.grid(marks)], scale.y(0.0)
    for (first, last), count in zip(pairwise(edges.tolist()), counts.tolist(), strict=True):
        left, right, top = scale.x(float(first)), scale.x(float(last)), scale.y(float(count))
        body.append(
            f'<rect x="{left:.1f}" y="{top:.1f}" width="{max(0.5, right - left - 1):.1f}" '
            f'height="{max(0, floor - top):.1f}" fill="{LINE}"/>'
        )
    return _svg(label, "".join(body))


def heat(shares: np.ndarray, label: str) -> str:
    """Shares [row, column] in 0..1 as an image, the first row on top."""
    levels = np.nan_to_num(shares).clip(0, 1)
    colors = (COLD + levels[..., None] * (HOT - COLD)).astype(np.uint8)
    image = base64.b64encode(_png(colors)).decode()
    return f'<img class="heat" alt="{escape(label)}" title="{escape(label)}" src="data:image/png;base64,{image}">'


def sensor_map(
    latitude: np.ndarray, longitude: np.ndarray, links: np.ndarray, shares: np.ndarray, names: Sequence[str]
) -> str:
    """Sensors where they stand, the highest share the reddest, and who reads whom (`links`, pairs of rows)."""
    east = longitude * np.cos(np.radians(np.nanmean(latitude)))
    span = max(np.nanmax(east) - np.nanmin(east), np.nanmax(latitude) - np.nanmin(latitude), 1e-9)
    size = 520.0
    x = 20 + (east - np.nanmin(east)) / span * (size - 40)
    y = 20 + (np.nanmax(latitude) - latitude) / span * (size - 40)
    width, height = np.nanmax(x) + 20, np.nanmax(y) + 20
    known, redness = ~np.isnan(x + y), shares / max(float(shares.max()), 1e-9)
    lines = "".join(
        f"M{x[a]:.1f} {y[a]:.1f}L{x[b]:.1f} {y[b]:.1f}" for a, b in links.tolist() if known[a] and known[b]
    )
    dots = [f'<path d="{lines}" stroke="#9fb3c8" stroke-width="0.6" fill="none"/>']
    for row in np.flatnonzero(known).tolist():
        red, green, blue = (COLD * 0.75 + redness[row] * (HOT - COLD * 0.75)).astype(int)
        dots.append(
            f'<circle cx="{x[row]:.1f}" cy="{y[row]:.1f}" r="3.2" fill="rgb({red},{green},{blue})" stroke="{INK}" '
            f'stroke-width="0.4"><title>{escape(names[row])}: {shares[row]:.1%} missing</title></circle>'
        )
    return (
        f'<svg viewBox="0 0 {width:.0f} {height:.0f}" style="max-width:{width:.0f}px" role="img" '
        f'aria-label="map of the sensors">{"".join(dots)}</svg>'
    )


def table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """An HTML table; "" without rows."""
    if not rows:
        return ""
    head = "".join(f"<th>{escape(name)}</th>" for name in header)
    lines = ["<tr>" + "".join(f"<td>{escape(str(cell))}</td>" for cell in row) + "</tr>" for row in rows]
    return f"<table><tr>{head}</tr>{''.join(lines)}</table>"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Scale:
    """Data to the pixels of a panel."""

    left: float
    right: float
    low: float
    high: float

    @classmethod
    def around(cls, x: np.ndarray, y: np.ndarray) -> _Scale:
        seen = y[np.isfinite(y)]
        low, high = (float(seen.min()), float(seen.max())) if len(seen) else (0.0, 1.0)
        high = high if high > low else low + 1.0
        return cls(left=float(x[0]), right=float(max(x[-1], x[0] + 1e-9)), low=low, high=high)

    def x(self, value: float) -> float:
        return LEFT + (value - self.left) / (self.right - self.left) * (WIDTH - LEFT - RIGHT)

    def y(self, value: float) -> float:
        return TOP + (self.high - value) / (self.high - self.low) * (HEIGHT - TOP - BOTTOM)

    def path(self, x: np.ndarray, y: np.ndarray) -> str:
        parts, pen = [], "M"
        for one, other in zip(x.tolist(), y.tolist(), strict=True):
            if not np.isfinite(other):
                pen = "M"
                continue
            parts.append(f"{pen}{self.x(one):.1f} {self.y(other):.1f}")
            pen = "L"
        return " ".join(parts)

    def grid(self, marks: Sequence[Mark]) -> str:
        floor, parts = HEIGHT - BOTTOM, []
        for value in round_values(self.low, self.high):
            y = self.y(value)
            parts.append(f'<path d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}" stroke="{RULE}"/>')
            parts.append(f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{value:g}</text>')
        for mark in marks:
            x = self.x(mark.at)
            parts.append(f'<path d="M{x:.1f} {TOP}V{floor + 4}" stroke="{RULE}"/>')
            anchor = "end" if x > WIDTH - 60 else "start" if x < LEFT + 20 else "middle"
            parts.append(
                f'<text x="{x:.1f}" y="{floor + 18}" text-anchor="{anchor}">{escape(mark.text)}</text>'
            )
        return "".join(parts)


def round_values(low: float, high: float) -> list[float]:
    """Three to six round numbers between two."""
    raw = (high - low) / 4
    power = 10.0 ** np.floor(np.log10(raw))
    step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= raw * 0.999)
    first = np.ceil(low / step - 1e-9) * step
    return [float(round(value, 10)) + 0.0 for value in np.arange(first, high + step * 1e-6, step)]  # no -0


def _svg(label: str, body: str) -> str:
    return f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(label)}">{body}</svg>'


def _png(colors: np.ndarray) -> bytes:
    """An RGB image [row, column, 3] of bytes."""
    height, width, _ = colors.shape
    rows = np.zeros((height, 1 + 3 * width), dtype=np.uint8)  # each row begins with its filter: none
    rows[:, 1:] = colors.reshape(height, -1)
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(rows.tobytes(), 9)), (b"IEND", b"")]
    packed = [
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(packed)
