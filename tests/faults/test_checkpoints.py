"""A checkpoint is written whole or not at all, and one that was damaged is never trained  1, 7, 15-19, 22)."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from file_system import TENSORS, WRITES, Calls, Flushed, PowerCut, failing, fails_with
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from headway.training import checkpoint
from headway.training.checkpoint import (
    CheckpointError,
    OtherSchema,
    clear_leftovers,
    load_checkpoint,
    load_newest,
    prune_checkpoints,
    save_checkpoint,
)

KIND, KEPT = "step", 2
PARTS = (checkpoint.TENSORS, checkpoint.STATE, checkpoint.MANIFEST)


def save(folder: Path, step: int) -> None:
    """As the training does it."""
    tensors = {"weights": torch.full((8,), float(step)), "moments": torch.arange(step, step + 6)}
    save_checkpoint(folder, f"{KIND}-{step:010}", tensors, {"progress": {"step": step}})
    prune_checkpoints(folder, KIND, KEPT)


def newest_step(folder: Path) -> int:
    """Of the newest whole checkpoint; its tensors must be those of the step."""
    found = load_newest(folder, KIND)
    assert found is not None
    tensors, state = found
    step = state["progress"]["step"]
    assert torch.equal(tensors["weights"], torch.full((8,), float(step)))
    return step


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder with the checkpoints of steps 1 and 2. To be copied."""
    folder = tmp_path_factory.mktemp("two")
    save(folder, 1)
    save(folder, 2)
    return folder


@pytest.fixture
def folder(two: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(two, tmp_path / "run"))


@pytest.fixture(scope="module")
def calls_of_a_save(two: Path, tmp_path_factory: pytest.TempPathFactory) -> int:
    """How many file-system calls one save makes."""
    folder = Path(shutil.copytree(two, tmp_path_factory.mktemp("counted") / "run"))
    with failing(calls := Calls()):
        save(folder, 3)
    assert names(folder) == {"step-0000000002", "step-0000000003"}
    return calls.count


def copies(two: Path, base: Path, count: int) -> Iterator[tuple[int, Path]]:
    for index in range(count):
        yield index, Path(shutil.copytree(two, base / str(index)))


@pytest.mark.parametrize("torn", [False, True], ids=["before", "within"])
def test_fault_01_a_crash_at_every_call_of_a_save_leaves_a_good_checkpoint_and_the_next_save_works(
    torn: bool, two: Path, tmp_path: Path, calls_of_a_save: int
) -> None:
    assert calls_of_a_save > 20
    seen = set()
    for index, folder in copies(two, tmp_path, calls_of_a_save):
        with failing(Calls(fails_with(PowerCut()), index, torn=torn)), pytest.raises(PowerCut):
            save(folder, 3)
        seen.add(newest_step(folder))
        assert not list(folder.glob("*.corrupt")), "a crash is not a damage"
        save(folder, 4)
        assert newest_step(folder) == 4
        assert not list(folder.glob(".tmp-*")) and len(names(folder)) == KEPT
    assert seen == {2, 3}


def test_fault_07_a_power_cut_at_every_call_of_a_save_loses_what_was_not_flushed_and_nothing_else(
    two: Path, tmp_path: Path, calls_of_a_save: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    for index, folder in copies(two, tmp_path, calls_of_a_save):
        disk = Flushed(folder)
        with monkeypatch.context() as context:
            context.setattr(os, "fsync", disk.fsync)
            with failing(Calls(fails_with(PowerCut()), index)), pytest.raises(PowerCut):
                save(folder, 3)
        disk.lose_the_rest()
        assert newest_step(folder) in (2, 3)
        save(folder, 4)
        assert newest_step(folder) == 4


def test_fault_07_would_be_noticed_without_the_flush(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Were this test to fail, the one above would not be watching."""
    disk = Flushed(folder)
    monkeypatch.setattr(os, "fsync", lambda _: None)
    save(folder, 3)
    disk.names |= set(folder.rglob("*"))  # the names reached the disk, what they hold did not
    disk.lose_the_rest()
    assert newest_step(folder) == 2 and list(folder.glob("*.corrupt"))


FULL = {
    "OSError": (OSError(errno.ENOSPC, "No space left on device"), WRITES),
    "RuntimeError": (
        RuntimeError("[enforce fail at inline_container.cc] . unexpected pos"),
        [TENSORS],
    ),  # torch's
}


@pytest.mark.parametrize("kind", FULL)
def test_fault_15_a_full_disk_at_any_call_keeps_the_last_good_checkpoint(
    kind: str, two: Path, tmp_path: Path
) -> None:
    error, watched = FULL[kind]
    for index, folder in copies(two, tmp_path, 99):
        with failing(calls := Calls(fails_with(error), index, torn=True), watched):
            save(folder, 3)  # the second attempt succeeds, once the older ones are gone
        assert newest_step(folder) == 3
        save(folder, 4)
        assert newest_step(folder) == 4 and not list(folder.glob(".tmp-*"))
        if calls.count <= index:
            break
    else:
        raise AssertionError("a save makes more calls than were tried")


def test_fault_15_a_disk_that_stays_full_stops_with_the_bytes_needed_and_free(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=5 * 2**20))
    large = {"weights": torch.zeros(2**20)}  # 4 MiB
    with pytest.raises(CheckpointError, match=r"No space left.* needs 8\.8 MiB and 5\.0 MiB are free"):
        save_checkpoint(folder, "step-0000000003", large, {})
    assert "trying again without the older checkpoints" in caplog.text
    assert names(folder) == {"step-0000000002"} and newest_step(folder) == 2, (
        "the last good one is never given up"
    )
    with pytest.raises(CheckpointError):
        save_checkpoint(folder, "step-0000000003", large, {})
    assert newest_step(folder) == 2


def test_fault_15_room_is_never_made_by_the_last_good_checkpoint(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "step-0000000002/state.json").write_text("{}")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=0))
    with pytest.raises(CheckpointError):
        save(folder, 3)
    assert names(folder) == {"step-0000000001"}, "the damaged one went, not the older good one"
    (folder / "step-0000000001/state.json").write_text("{}")
    with pytest.raises(CheckpointError):
        save(folder, 3)
    with pytest.raises(CheckpointError, match=r"no checkpoint .* can be used"):
        load_newest(folder, KIND)


@pytest.mark.parametrize("part", PARTS)
def test_fault_16_a_checkpoint_cut_short_is_set_aside_and_the_one_before_is_used(
    part: str, two: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    size = (two / "step-0000000002" / part).stat().st_size
    lengths = sorted({0, 1, size // 3, size // 2, size - 1})
    for index, folder in copies(two, tmp_path, len(lengths)):
        os.truncate(folder / "step-0000000002" / part, lengths[index])
        assert newest_step(folder) == 1
        assert names(folder) == {"step-0000000001", "step-0000000002.corrupt"}
        assert "step-0000000002" in caplog.messages[-1]


@pytest.mark.parametrize("part", PARTS)
def test_fault_16_a_checkpoint_that_lacks_a_file_is_not_used(part: str, folder: Path) -> None:
    (folder / "step-0000000002" / part).unlink()
    assert newest_step(folder) == 1


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(part=st.sampled_from(PARTS), place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_fault_17_one_flipped_bit_is_noticed_in_every_file(
    part: str, place: float, bit: int, two: Path
) -> None:
    path = two / "step-0000000002" / part
    whole = path.read_bytes()
    flipped = bytearray(whole)
    flipped[int(place * len(whole))] ^= 1 << bit
    path.write_bytes(flipped)
    try:
        with pytest.raises(CheckpointError):
            load_checkpoint(two / "step-0000000002")
    finally:
        path.write_bytes(whole)


def test_fault_18_a_run_whose_checkpoints_are_all_bad_stops_and_says_how_to_start_over(folder: Path) -> None:
    for path in folder.glob("step-*"):
        (path / "manifest.json").write_text("{")
    for _ in range(2):  # nor is the second start a fresh one
        with pytest.raises(
            CheckpointError, match=r"no checkpoint in .* can be used; .* runtime\.resume: never"
        ):
            load_newest(folder, KIND)


def test_fault_19_what_a_killed_save_left_is_ignored_and_removed_by_the_next(folder: Path) -> None:
    shutil.copytree(folder / "step-0000000002", folder / ".tmp-step-0000000009")
    (folder / ".tmp-gone-step-0000000001").mkdir()
    assert newest_step(folder) == 2
    save(folder, 3)
    assert names(folder) == {"step-0000000002", "step-0000000003"}


def test_fault_22_a_checkpoint_of_another_schema_is_refused_by_its_number_and_kept(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint, "SCHEMA", 2)
    with pytest.raises(OtherSchema, match=r"step-0000000002 is of schema 1 and this headway reads 2"):
        load_newest(folder, KIND)
    assert names(folder) == {"step-0000000001", "step-0000000002"}, (
        "it is whole: another version may continue it"
    )


def test_a_damaged_checkpoint_of_the_step_to_be_saved_is_replaced(folder: Path) -> None:
    """A run that fell back to the step before arrives at the same step again, and the disk fails again."""
    for _ in range(2):
        (folder / "step-0000000002/state.json").write_text("{")
        assert newest_step(folder) == 1
        save(folder, 2)
        assert newest_step(folder) == 2
    (folder / "step-0000000002/tensors.safetensors").write_bytes(b"")
    save(folder, 2)  # damaged after it was loaded
    assert newest_step(folder) == 2
    assert names(folder) == {"step-0000000001", "step-0000000002", "step-0000000002.corrupt"}


def test_a_whole_checkpoint_of_the_step_to_be_saved_stays(folder: Path) -> None:
    before = (folder / "step-0000000002").stat().st_ino
    save(folder, 2)
    assert (folder / "step-0000000002").stat().st_ino == before


def test_a_file_in_the_place_of_a_checkpoint_is_no_checkpoint(folder: Path) -> None:
    (folder / "step-0000000003").write_text("")
    assert newest_step(folder) == 2


def test_a_checkpoint_that_cannot_be_removed_does_not_stop_a_training(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError("not yours")

    with monkeypatch.context() as context:
        context.setattr(shutil, "rmtree", refuse)
        prune_checkpoints(folder, KIND, 1)
    assert "could not remove" in caplog.text and newest_step(folder) == 2
    clear_leftovers(folder)
    assert names(folder) == {"step-0000000002"}
