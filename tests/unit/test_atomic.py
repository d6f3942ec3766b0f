"""Folders that are replaced whole: the one before is there until the new one is."""

from __future__ import annotations

from pathlib import Path

import pytest

from headway.atomic import replacing_folder


def fill(out: Path, content: str) -> None:
    with replacing_folder(out) as draft:
        (draft / "content").write_text(content)


def test_a_folder_is_replaced_whole_and_nothing_is_left_beside_it(tmp_path: Path) -> None:
    for content in ("first", "second"):
        fill(tmp_path / "out", content)
        assert (tmp_path / "out/content").read_text() == content
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_block_that_fails_leaves_the_former_folder(tmp_path: Path) -> None:
    fill(tmp_path / "out", "first")
    with pytest.raises(RuntimeError), replacing_folder(tmp_path / "out"):
        raise RuntimeError
    assert (tmp_path / "out/content").read_text() == "first"


def test_the_former_folder_comes_back_where_the_new_one_cannot_take_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(tmp_path / "out", "first")
    rename = Path.replace

    def full(self: Path, target: Path) -> Path:
        if self.name.endswith(".tmp"):
            raise OSError("the disk is gone")
        return rename(self, target)

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(OSError, match="the disk is gone"):
        fill(tmp_path / "out", "second")
    assert (tmp_path / "out/content").read_text() == "first"


def test_what_was_killed_between_both_renames_begins_with_the_former_folder(tmp_path: Path) -> None:
    fill(tmp_path / "out", "first")
    (tmp_path / "out").rename(tmp_path / ".out.old")
    with pytest.raises(RuntimeError), replacing_folder(tmp_path / "out"):
        raise RuntimeError
    assert (tmp_path / "out/content").read_text() == "first"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
