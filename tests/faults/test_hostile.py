"""Files made to harm: nothing of them runs, and none of them is loaded (faults 55-62)."""

from __future__ import annotations

import ast
import getpass
import io
import json
import socket
import struct
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.lib.format import write_array_header_1_0
from run_stages import DATASET, OUTPUTS, STAGES, outputs, run_stage, write_params
from safetensors.torch import load_file, save_file

from dvc_project import ROOT
from headway.data import parquet
from headway.data.prepared import fingerprint as fingerprint_of_prepared
from headway.training.checkpoint import CheckpointError, _fingerprint, load_checkpoint, save_checkpoint
from worlds import write_raw_world

CANARY = Path("canary")
PICKLE = b"cos\nsystem\n(S'touch canary'\ntR."  # runs `touch canary` in whoever unpickles it
RAW = Path("data/raw") / DATASET


@pytest.fixture(autouse=True)
def no_canary(project: Path) -> Iterator[None]:
    yield
    assert not CANARY.exists(), "something was executed"


def header_of(**tensors: dict[str, object]) -> bytes:
    text = json.dumps(tensors).encode()
    return struct.pack("<Q", len(text)) + text


def tensor_at(first: int, last: int) -> dict[str, object]:
    return {"dtype": "F32", "shape": [(last - first) // 4], "data_offsets": [first, last]}


ATTACKS = {
    "pickle": PICKLE,
    "zip of a pickle": b"PK\x03\x04" + PICKLE,
    "header larger than the file": struct.pack("<Q", 2**63) + b"{}",
    "header of 200 MB": struct.pack("<Q", 200 * 2**20) + b"{" + b" " * 100,
    "overlapping tensors": header_of(a=tensor_at(0, 8), b=tensor_at(4, 12)) + bytes(12),
    "a hole between tensors": header_of(a=tensor_at(0, 4), b=tensor_at(8, 12)) + bytes(12),
    "tensors beyond the end": header_of(a=tensor_at(0, 4096)) + bytes(4),
    "bytes after the end": header_of(a=tensor_at(0, 4)) + bytes(4096),
    "nothing": b"",
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_faults_55_and_56_a_checkpoint_of_anything_but_tensors_is_refused(attack: str, project: Path) -> None:
    """Though its manifest is in order: hashes are for accidents."""
    path = save_checkpoint(project, "step-1", {"weights": torch.ones(3)}, {})
    (path / "tensors.safetensors").write_bytes(ATTACKS[attack])
    manifest = {name: _fingerprint(path / name) for name in ("tensors.safetensors", "state.json")}
    (path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(CheckpointError, match="is not a whole checkpoint"):
        load_checkpoint(path)


@pytest.mark.parametrize("attack", ATTACKS)
def test_faults_55_and_56_a_model_of_anything_but_tensors_is_refused(attack: str, stages: Path) -> None:
    Path("models/train/model.safetensors").write_bytes(ATTACKS[attack])
    assert run_stage("evaluate").startswith("error: models/train is not a whole model folder")


@pytest.mark.parametrize("name", ["values.npy", "time.npy"])
def test_fault_55_an_array_of_objects_is_refused(name: str, stages: Path) -> None:
    objects = io.BytesIO()
    write_array_header_1_0(objects, {"descr": "|O", "fortran_order": False, "shape": (1,)})
    forge_prepared(name, objects.getvalue() + PICKLE)
    for stage in ("train", "evaluate"):
        assert run_stage(stage).startswith("error: data/prepared is damaged")


def forge_prepared(name: str, content: bytes) -> None:
    """Replace a file of data/prepared, and its hash."""
    meta = json.loads(Path("data/prepared/meta.json").read_text())
    (Path("data/prepared") / name).write_bytes(content)
    meta["files"][name] = fingerprint_of_prepared(Path("data/prepared") / name)
    Path("data/prepared/meta.json").write_text(json.dumps(meta))


@pytest.mark.parametrize("name", ["series.parquet", "sensors.parquet", "edges.parquet"])
def test_fault_55_a_pickle_in_the_place_of_a_table_is_refused(name: str, stages: Path) -> None:
    (RAW / name).write_bytes(PICKLE)
    assert run_stage("preprocess").startswith(f"error: {RAW / name} is no readable Parquet file")


def test_fault_56_weights_that_are_not_finite_forecast_nothing(stages: Path) -> None:
    path = Path("models/train/model.safetensors")
    tensors = load_file(path)
    save_file(
        {name: tensor * np.nan if tensor.is_floating_point() else tensor for name, tensor in tensors.items()},
        path,
    )
    before = outputs("evaluate")
    assert "not finite" in run_stage("evaluate")
    assert outputs("evaluate") == before


def test_fault_57_a_table_that_claims_more_cells_than_are_read_is_refused_by_its_footer(
    stages: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parquet, "MAX_CELLS", 1999)
    said = run_stage("preprocess")
    assert said == f"error: {RAW}/series.parquet claims 400 rows of 5 columns; at most 1999 cells are read"


@pytest.mark.parametrize("name", ["../../outside.npy", "/etc/passwd"])
def test_fault_58_names_that_lead_out_of_a_folder_are_refused(name: str, stages: Path) -> None:
    path = Path("data/prepared/meta.json")
    meta = json.loads(path.read_text())
    meta["files"][name] = {"bytes": 1, "sha256": "0"}
    path.write_text(json.dumps(meta))
    said = run_stage("train")
    assert said.startswith("error: data/prepared is not what preprocess wrote") and name in said


def test_fault_58_a_checkpoint_reads_its_own_files_whatever_its_manifest_names(project: Path) -> None:
    path = save_checkpoint(project, "step-1", {"weights": torch.ones(3)}, {"fine": True})
    manifest = json.loads((path / "manifest.json").read_text())
    (path / "manifest.json").write_text(json.dumps({**manifest, "../../secret": {"bytes": 1, "sha256": "0"}}))
    assert load_checkpoint(path)[1] == {"fine": True}


BOMB = "\n".join(
    [
        "a0: &a0 [x, x, x, x, x, x, x, x, x]",
        *(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 12)),
    ]
)
YAMLS = {
    "a tag that calls": ("unit: !!python/object/apply:os.system ['touch canary']", "is not readable YAML"),
    "aliases of aliases": (BOMB, "must be one value each"),
    "brackets without an end": ("unit: " + "[" * 3_000, "is not readable YAML"),
    "a day that is none": ("source: 2024-13-45", "is not readable YAML"),
    "two megabytes": ("unit: " + "x" * 2**21, "at most 1048576 are read"),
}


@pytest.mark.parametrize("kind", YAMLS)
def test_fault_59_yaml_that_calls_or_explodes_is_refused_in_no_time(kind: str, stages: Path) -> None:
    text, problem = YAMLS[kind]
    (RAW / "dataset.yaml").write_text(text)
    started = time.monotonic()
    said = run_stage("preprocess")
    assert said.startswith(f"error: {RAW}/dataset.yaml") and problem in said
    assert time.monotonic() - started < 10


def test_fault_59_a_tag_in_params_calls_nothing(stages: Path) -> None:
    Path("params.yaml").write_text("train: !!python/object/apply:os.system ['touch canary']")
    assert all(run_stage(stage).startswith("error: params.yaml is not readable YAML") for stage in STAGES)


BANNED = {
    "eval",
    "exec",
    "pickle",
    "dill",
    "joblib",
    "cloudpickle",
    "shelve",
    "marshal",
    "torch.load",
    "os.system",
}
OPTIONS = {"allow_pickle=True", "trust_remote_code=True", "shell=True", "weights_only=False"}
SOURCES = sorted([*(ROOT / "src").rglob("*.py"), *(ROOT / "stages").glob("*.py")])
ADMITTED = {
    "plain_pickle": {"pickle"},  # the reader that admits plain containers and arrays, and calls nothing
    "cluster": {"cloudpickle"},  # says how Dask sends our task out; nothing that arrives is read with it
}


def test_faults_55_and_60_no_code_here_can_unpickle_or_run_what_it_was_given() -> None:
    used = {path.stem: words_of(path) & (BANNED | OPTIONS) for path in SOURCES}
    assert {stem: words for stem, words in used.items() if words - ADMITTED.get(stem, set())} == {}


def words_of(path: Path) -> set[str]:
    """Names of what a file calls, options it sets, modules it imports."""
    words: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call):
            words |= {
                ast.unparse(node.func),
                *(f"{word.arg}={ast.unparse(word.value)}" for word in node.keywords),
            }
        elif isinstance(node, ast.Import):
            words |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            words |= {str(node.module), *(f"{node.module}.{alias.name}" for alias in node.names)}
    return words


def test_fault_61_formulas_and_tags_in_names_of_sensors_reach_no_table(project: Path) -> None:
    ids = ["=cmd|' /C calc'!A0", "@SUM(1)", "</script><script>alert(1)</script>", "plain"]
    write_raw_world(RAW, steps=400, ids=ids, coordinates=False)
    write_params()
    for stage in STAGES:
        assert run_stage(stage) == "", stage
    tables = [path for path in Path("metrics").rglob("*.*sv")]
    assert {"sensors.csv", "week.csv"} <= {path.name for path in tables}
    for path in tables:
        text = path.read_text()
        assert "<" not in text and not any(
            cell[:1] in "=@+" for cell in text.replace("\n", ",").split(",") if cell
        )
    assert "'=cmd|' /C calc'!A0," in Path("metrics/evaluate/sensors.csv").read_text()


def test_fault_62_no_output_holds_a_secret_a_home_a_host_or_a_user(
    stages: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_do_not_tell")
    monkeypatch.setattr(socket, "gethostname", lambda: "host-of-somebody")
    for stage in STAGES:
        assert run_stage(stage) == "", stage
    private = ["hf_do_not_tell", "host-of-somebody", str(stages), f"{Path.home()}/", f"/{getpass.getuser()}/"]
    files = [
        path for folder in sum(OUTPUTS.values(), ()) for path in Path(folder).rglob("*") if path.is_file()
    ]
    files += [path for path in Path(".resume").rglob("*") if path.is_file() and path.name != "lock"]
    assert len(files) > 25
    for path in files:
        found = [word for word in private if word.encode() in path.read_bytes()]
        assert not found, f"{path} holds {found}"
