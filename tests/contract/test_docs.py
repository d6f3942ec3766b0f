"""What the documentation names exists: keys of params.yaml, files, links, commands."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pandas as pd
import pytest

from headway.__main__ import _parser
from headway.evaluation.tables import results_sentence
from headway.params import load_document

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted((ROOT / "docs").rglob("*.md"))
FILES = ("json", "md", "npy", "parquet", "py", "safetensors", "yaml", "yml")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_keys_of_params_that_a_page_names_exist(page: Path) -> None:
    document = load_document(ROOT / "params.yaml")
    sections = {name: body for name, body in document.items() if isinstance(body, dict)}
    spoken = re.findall(rf"\b({'|'.join(sections)})\.([a-z_]+)", _code(page))
    unknown = [f"{name}.{key}" for name, key in spoken if key not in sections[name] and key not in FILES]
    assert unknown == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_source_files_and_pages_that_a_page_names_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    paths = [
        ROOT / path for path in re.findall(r"`((?:src|stages|tests|benchmarks|presets)/[^`<*\s]*)`", text)
    ]
    links = [page.parent / link for link in re.findall(r"\]\(([^):#]+)[^):]*\)", text)]
    assert [path for path in [*paths, *links] if not path.exists()] == []


@pytest.mark.parametrize("page", [*PAGES, ROOT / "README.md"], ids=lambda page: page.stem)
def test_headings_that_a_page_links_to_exist(page: Path) -> None:
    links = re.findall(r"\]\(([^):#]*)#([^)]+)\)", page.read_text(encoding="utf-8"))
    assert [
        (link, anchor)
        for link, anchor in links
        if anchor not in _anchors(page.parent / link if link else page)
    ] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_commands_of_ours_that_a_page_names_are_understood(page: Path) -> None:
    for line in re.findall(r"python -m headway ([^`\n#]*)", _code(page)):
        _parser().parse_args(line.split())


@pytest.mark.parametrize("page", [*PAGES, ROOT / "README.md"], ids=lambda page: page.stem)
def test_commands_of_benchmarks_that_a_page_names_have_options_that_exist_and_those_they_need(
    page: Path,
) -> None:
    for name, rest in re.findall(r"benchmarks/(\w+)\.py ([^`\\]*--[^`]*)", _code(page)):
        own = (ROOT / f"benchmarks/{name}.py").read_text()
        siblings = [
            ROOT / f"benchmarks/{other}.py" for other in re.findall(r"^(?:from|import) (\w+)", own, re.M)
        ]
        text = own + "".join(path.read_text() for path in siblings if path.exists())
        said = set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", rest))
        known = set(re.findall(r'"(--[a-z-]+)"', text))
        needed = set(re.findall(r'add_argument\(\s*"(--[a-z-]+)"[^)]*required=True', own))
        assert said <= known and needed <= said, f"{name}.py {rest}"


def test_the_results_of_the_readme_are_those_of_the_committed_metrics() -> None:
    page = (ROOT / "README.md").read_text(encoding="utf-8")
    shown = page.partition("<!-- results -->")[2].partition("<!-- /results -->")[0]
    lines = [line for line in shown.split("\n") if line.startswith("|")]
    header, _, *rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    measured = pd.read_csv(ROOT / "metrics/evaluate/horizon.csv", index_col="horizon_minutes")
    places = {title: int(title.split()[1]) for title in header if re.fullmatch(r"MAE \d+ min", title)}
    for row in rows:
        for title, minutes in places.items():
            assert float(row[header.index(title)]) == pytest.approx(
                measured.loc[minutes, row[0].replace(" ", "_")], abs=0.006
            )
    assert [row[0].replace(" ", "_") for row in rows] == list(measured.columns) and len(places) == 3
    scores = json.loads((ROOT / "metrics/evaluate/metrics.json").read_text())
    assert shown.endswith(results_sentence(scores["distribution"]))


def _anchors(page: Path) -> list[str]:
    """Of its headings, as GitHub makes them: lower case, no punctuation, hyphens for spaces."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return [re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings]


def _code(page: Path) -> str:
    """What a page sets in code: blocks and spans."""
    text = page.read_text(encoding="utf-8")
    blocks = re.findall(r"^```.*?^```", text, re.DOTALL | re.MULTILINE)
    spans = re.findall(r"`[^`]+`", re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE))
    return "\n".join([*blocks, *spans])
