"""The stage as it is run: its files, its messages, killed half-way, and on real data."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from headway.data.prepare import prepare
from headway.data.prepared import Prepared, open_prepared
from worlds import preprocess_params, windows_params, write_raw_world

ROOT = Path(__file__).parents[2]
REAL = ROOT.parent / "shared" / "data"


def prepared(raw: Path, windows: dict[str, Any], **preprocess: Any) -> tuple[Prepared, dict[str, Any]]:
    out = raw.parent / "prepared"
    report = prepare(raw, out, preprocess_params(**preprocess), windows_params(**windows))
    return open_prepared(out), report


def project(tmp_path: Path, dataset: str = "x") -> Path:
    """A project of one stage: the stage's script, the package, params.yaml and a data set."""
    write_raw_world(tmp_path / "data" / "raw" / "x", steps=400, facts={"unit": "km/h"})
    params = (ROOT / "params.yaml").read_text().replace("dataset: simulated", f"dataset: {dataset}")
    (tmp_path / "params.yaml").write_text(params)
    return tmp_path


def stage(folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "stages" / "preprocess.py")]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


def test_the_stage_writes_data_and_report_and_says_what_it_found(tmp_path: Path) -> None:
    done = stage(project(tmp_path))
    assert done.returncode == 0, done.stderr
    assert "x: 400 steps of 1 h" in done.stderr
    quality = json.loads((tmp_path / "metrics/preprocess/quality.json").read_text())
    assert quality["splits"]["train"]["windows"] == round(0.7 * 377)
    assert open_prepared(tmp_path / "data" / "prepared").meta.dataset == "x"


def test_the_stage_ends_with_one_clear_message(tmp_path: Path) -> None:
    done = stage(project(tmp_path, "moon"))
    assert done.returncode == 1
    assert done.stderr.startswith("error: data/raw/moon: no such data set; data/raw has x.")
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "data" / "prepared").exists() and not (tmp_path / "metrics").exists()


def test_a_killed_stage_leaves_no_half_folder(tmp_path: Path) -> None:
    """Killed while it writes: `data/prepared` is absent, and the next run is whole."""
    folder = project(tmp_path)
    script = (
        "import sys, time; sys.path[:0] = [r'{src}', r'{tests}']\n"
        "from pathlib import Path; from headway.data import prepared_writer as p\n"
        "from worlds import preprocess_params, windows_params\n"
        "whole = p.fingerprint\n"
        "p.fingerprint = lambda path: (print('writing', flush=True), time.sleep(60), whole(path))[2]\n"
        "from headway.data.prepare import prepare\n"
        "prepare(Path('data/raw/x'), Path('data/prepared'), preprocess_params(), windows_params())\n"
    ).format(src=ROOT / "src", tests=ROOT / "tests")
    child = subprocess.Popen([sys.executable, "-c", script], cwd=folder, stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None and child.stdout.readline() == "writing\n"
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    child.stdout.close()
    assert not (folder / "data" / "prepared").exists()
    assert stage(folder).returncode == 0
    assert sorted(entry.name for entry in (folder / "data").iterdir()) == ["prepared", "raw"]
    open_prepared(folder / "data" / "prepared")


def test_preprocess_starts_without_torch() -> None:
    code = (
        "import sys; sys.path.insert(0, 'src'); import headway.data.prepare; sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


real = pytest.mark.skipif(
    not REAL.is_dir(), reason="the real data sets are not at shared/data beside the project"
)


@real
@pytest.mark.parametrize(
    ("name", "windows", "sensors", "windows_of_test"),
    [
        ("metr-la-week1", {"history": 12, "horizon": 12, "context": ("1d", "1w")}, 207, 399),
        ("yinchuan-speed", {"history": 12, "horizon": 6, "inputs": ("flow",)}, 108, 438),
        ("chickenpox-hungary", {"history": 8, "horizon": 4, "trailing_weeks": 8}, 20, 102),
        ("boroondara-scats-2006", {"history": 12, "horizon": 4, "context": ("1d", "1w")}, 140, 592),
    ],
)
def test_real_data_sets_pass_without_a_dataset_yaml(
    tmp_path: Path, name: str, windows: dict[str, Any], sensors: int, windows_of_test: int
) -> None:
    raw = tmp_path / name
    shutil.copytree(REAL / name, raw)
    result, report = prepared(raw, windows, max_neighbors=8)
    assert result.meta.sensors == sensors
    assert report["splits"]["test"]["windows"] == windows_of_test
    assert np.isfinite(result.values).all() and not result.values[~result.observed].any()
    assert result.valid.any() and np.isfinite(result.features).all() and np.isfinite(result.climatology).all()
    source = pd.read_parquet(raw / "series.parquet").drop(columns="timestamp").sort_index(axis=1).to_numpy()
    np.testing.assert_array_equal(result.values[..., 0], np.nan_to_num(source))


@real
def test_a_week_of_los_angeles_is_read_without_days_and_weeks_ago(tmp_path: Path) -> None:
    raw = tmp_path / "metr-la-week1"
    shutil.copytree(REAL / "metr-la-week1", raw)
    result, report = prepared(
        raw, {"history": 12, "horizon": 12, "context": ("1d", "1w"), "trailing_weeks": 4}
    )
    assert result.meta.context == result.meta.trailing == result.meta.trailing_days == ()
    assert list(report["context"]["switched_off"]) == [
        "windows.context: 1d",
        "windows.context: 1w",
        "windows.trailing_weeks: 4",
    ]
