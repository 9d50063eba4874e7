"""A folder in memory: only where there is enough, and only our own."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from faultline.components import room
from faultline.components.room import in_memory, memory_of


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path
    folder = memory_of(tmp_path)
    if folder.is_symlink() or folder.is_file():
        folder.unlink()
    elif folder.exists():
        folder.rmdir()


def test_each_clone_has_its_own(root: Path) -> None:
    folder = in_memory(root)
    assert folder
    assert folder == in_memory(root) == memory_of(root)
    assert folder.is_dir()
    assert folder.parent == room.MEMORY
    assert memory_of(root / "another") != folder


def test_a_name_that_somebody_else_has_is_not_used(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    memory_of(root).symlink_to(theirs)
    assert in_memory(root) is None
    memory_of(root).unlink()
    memory_of(root).write_text("a file")
    assert in_memory(root) is None
    memory_of(root).unlink()
    name = memory_of(root)
    name.mkdir()
    monkeypatch.setattr(room, "memory_of", lambda _: name)
    monkeypatch.setattr(os, "getuid", lambda: 12345)
    assert in_memory(root) is None


def test_where_there_is_little_or_none_it_is_the_disk(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, "PLENTY", 2**60)
    assert in_memory(root) is None
    monkeypatch.undo()
    monkeypatch.setattr(room, "MEMORY", tmp_path / "no such place")
    assert in_memory(root) is None
