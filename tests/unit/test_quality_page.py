"""The page of the quality report: its pictures show what the numbers say, and the data's own markup is text."""

from __future__ import annotations

import base64
import re
import struct
import zlib
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from headway.data.pictures import heat, panel, round_values
from headway.data.prepare import prepare
from headway.data.quality_page import write_report
from worlds import daily_readings, preprocess_params, windows_params, write_raw_world

VOID = {"meta", "img"}


class Reader(HTMLParser):
    """Elements of a page, and whether each is closed where it should be."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.found: list[tuple[str, dict[str, Any]]] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def page(folder: Path, raw: Path, **windows: Any) -> str:
    rules = preprocess_params(unusable_sensors="keep")
    report = prepare(raw, folder / "prepared", rules, windows_params(**windows))
    write_report(folder / "metrics", report, folder / "prepared")
    return (folder / "metrics/quality.html").read_text()


def test_the_page_has_its_pictures_and_loads_nothing(tmp_path: Path) -> None:
    readings = daily_readings(24 * 15, 4, 60)
    readings[100:200, 2] = np.nan
    text = page(tmp_path, write_raw_world(tmp_path / "x", readings=readings, facts={"unit": "km/h"}))
    reader = Reader(text)
    assert not reader.open
    tags = [tag for tag, _ in reader.found]
    assert tags.count("svg") == 5 and tags.count("img") == 1 and tags.count("circle") == 4
    for _, attributes in reader.found:
        assert attributes.get("src", "data:").startswith("data:") and "href" not in attributes
    assert "script" not in tags and "http" not in text
    assert page(tmp_path / "again", tmp_path / "x").replace("again", "") == text


def test_names_of_the_data_are_text_and_no_markup(tmp_path: Path) -> None:
    ids = ("<script>alert(1)</script>", "=cmd|'/c calc'!A1", 'a"b&c', "d")
    facts = {"unit": "<b>km</b>", "variable": "<i>speed"}
    readings = daily_readings(200, 4, 60)
    readings[:50, 0] = np.nan
    text = page(tmp_path, write_raw_world(tmp_path / "x", ids=ids, readings=readings, facts=facts))
    tags = {tag for tag, _ in Reader(text).found}
    assert not tags & {"script", "b>km", "i"} and "&lt;script&gt;alert(1)&lt;/script&gt;" in text


@pytest.mark.parametrize("sensors", [1, 3])
def test_a_world_without_places_neighbors_or_a_day_of_steps_has_a_page_too(
    tmp_path: Path, sensors: int
) -> None:
    readings = daily_readings(120, sensors, 1440)
    raw = write_raw_world(
        tmp_path / "x", readings=readings, sensors=sensors, coordinates=False, step_minutes=1440
    )
    assert not Reader(page(tmp_path, raw)).open


def test_a_position_that_is_not_known_is_left_out_of_the_map(tmp_path: Path) -> None:
    raw = write_raw_world(tmp_path / "x")
    sensors = pd.read_parquet(raw / "sensors.parquet")
    sensors.loc[1, "latitude"] = np.nan
    sensors.to_parquet(raw / "sensors.parquet", index=False)
    edges = pd.DataFrame({"source": ["a", "b"], "target": ["b", "c"], "distance_m": [1.0, 2.0]})
    edges.to_parquet(raw / "edges.parquet", index=False)
    assert [tag for tag, _ in Reader(page(tmp_path, raw)).found].count("circle") == 3


def test_the_image_is_red_where_readings_are_missing() -> None:
    image = re.search(r"base64,([^\"]+)", heat(np.array([[0.0, 1.0], [0.5, 0.0]]), "x"))
    assert image is not None
    content = base64.b64decode(image[1])
    width, height = struct.unpack(">II", content[16:24])
    start = content.index(b"IDAT") + 4
    size = struct.unpack(">I", content[start - 8 : start - 4])[0]
    rows = np.frombuffer(zlib.decompress(content[start : start + size]), np.uint8).reshape(height, -1)
    pixels = rows[:, 1:].reshape(height, width, 3).astype(int)
    assert (width, height) == (2, 2) and pixels[0, 1].tolist() == [196, 62, 38]
    assert pixels[0, 0].tolist() == pixels[1, 1].tolist() == [233, 240, 246]


def test_a_gap_interrupts_a_curve() -> None:
    curve = np.array([1.0, 2.0, np.nan, 3.0, 4.0])
    path = re.findall(
        r'<path d="([^"]*)" fill="none" stroke="#1f6fb2"', panel(np.arange(5.0), [curve], [], "x")
    )
    assert len(path) == 1 and path[0].count("M") == 2 and path[0].count("L") == 2


@pytest.mark.parametrize(
    ("low", "high", "marks"),
    [(0.0, 100.0, [0, 25, 50, 75, 100]), (-3.0, 3.0, [-2, 0, 2]), (61.2, 61.9, [61.2, 61.4, 61.6, 61.8])],
)
def test_marks_of_an_axis_are_round(low: float, high: float, marks: list[float]) -> None:
    assert round_values(low, high) == marks
