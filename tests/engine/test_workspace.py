"""The workspace is the learner's: nothing of it is overwritten, and nothing of it is lost."""

from pathlib import Path

import pytest

from faultline.engine import exercise, roadmap, workspace
from faultline.engine.errors import BadModule, NotStarted, NotWritten
from faultline.engine.exercise import Exercise
from faultline.engine.module_names import find_module


@pytest.fixture
def chosen(tiny_clone: Path) -> Exercise:
    return exercise.load(find_module(roadmap.load(tiny_clone), "redis/05"))


def test_start_copies_the_starter_once_and_never_overwrites(tiny_clone: Path, chosen: Exercise) -> None:
    with pytest.raises(
        NotStarted, match=r"^workspace/redis-learning/05-.*/counter\.py is not there; ./lab start redis/05"
    ):
        workspace.started(tiny_clone, chosen)

    [copied] = workspace.start(tiny_clone, chosen)
    assert copied.read_text() == (chosen.starter / "counter.py").read_text()
    copied.write_text("mine")

    assert workspace.start(tiny_clone, chosen) == []
    assert copied.read_text() == "mine"
    assert workspace.started(tiny_clone, chosen) == copied.parent


def test_start_does_not_write_through_a_link_that_leads_nowhere(tiny_clone: Path, chosen: Exercise) -> None:
    folder = workspace.folder_of(tiny_clone, chosen)
    folder.mkdir(parents=True)
    (folder / "counter.py").symlink_to(tiny_clone / "elsewhere.py")
    assert workspace.start(tiny_clone, chosen) == []
    assert not (tiny_clone / "elsewhere.py").exists()


def test_reset_keeps_all_that_was_there_each_time(tiny_clone: Path, chosen: Exercise) -> None:
    assert workspace.reset(tiny_clone, chosen) is None
    folder = workspace.folder_of(tiny_clone, chosen)
    for text in ("first", "second"):
        (folder / "counter.py").write_text(text)
        (folder / "notes.txt").write_text(text)
        backup = workspace.reset(tiny_clone, chosen)
        assert backup
        assert [(backup / name).read_text() for name in ("counter.py", "notes.txt")] == [text, text]
        assert [path.name for path in folder.iterdir()] == ["counter.py"]
    assert len(list(folder.parent.iterdir())) == 3


def test_reset_without_a_starter_moves_nothing(tiny_clone: Path, chosen: Exercise) -> None:
    [copied] = workspace.start(tiny_clone, chosen)
    (chosen.starter / "counter.py").unlink()
    with pytest.raises(BadModule, match="cannot be read"):
        workspace.reset(tiny_clone, chosen)
    assert copied.exists()


def test_a_workspace_that_cannot_be_written_is_a_sentence(tiny_clone: Path, chosen: Exercise) -> None:
    (tiny_clone / "workspace").write_text("a file is in the way, which stops root too")
    with pytest.raises(NotWritten, match=r"counter\.py was not written: .*; make room or make it writable"):
        workspace.start(tiny_clone, chosen)
