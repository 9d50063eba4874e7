"""The learner's own files: `workspace/` mirrors `sandbox/`, one folder a module. No other code writes there."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from faultline.engine.errors import NotStarted, NotWritten
from faultline.engine.exercise import Exercise


def folder_of(root: Path, exercise: Exercise) -> Path:
    """Where the learner's copy of the exercise is, or will be."""
    return root / "workspace" / exercise.module.path.relative_to(root / "sandbox")


def started(root: Path, exercise: Exercise) -> Path:
    """The learner's copy; raises `NotStarted` if a file of the exercise is missing from it."""
    folder = folder_of(root, exercise)
    for name in exercise.toml.files:
        if not (folder / name).is_file():
            raise NotStarted(
                f"{_shown(root, folder / name)} is not there; ./lab start {exercise.module.id} puts the starter there"
            )
    return folder


def start(root: Path, exercise: Exercise) -> list[Path]:
    """Copy what of the starter is not there yet; never overwrites. Returns what was copied."""
    folder = folder_of(root, exercise)
    copied = []
    with _explained(folder):
        folder.mkdir(parents=True, exist_ok=True)
        for name in exercise.toml.files:
            if not (folder / name).exists():
                shutil.copyfile(exercise.starter / name, folder / name)
                copied.append(folder / name)
    return copied


def reset(root: Path, exercise: Exercise) -> Path | None:
    """Start over: move the learner's copy aside, to the folder that is returned, and copy the starter."""
    folder = folder_of(root, exercise)
    backup = None
    with _explained(folder):
        if folder.exists():
            backup = folder.with_name(f"{folder.name}.backup-{datetime.now(UTC):%Y%m%dT%H%M%S%f}")
            folder.rename(backup)
    start(root, exercise)
    return backup


def _shown(root: Path, path: Path) -> Path:
    return path.relative_to(root)


@contextmanager
def _explained(folder: Path) -> Iterator[None]:
    """Turn a refusal of the file system into a sentence."""
    try:
        yield
    except OSError as error:
        raise NotWritten(
            f"{folder} cannot be written: {error.strerror}; make room or make it writable, then try again"
        ) from error
