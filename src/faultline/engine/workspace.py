"""The learner's own files: `workspace/` mirrors `sandbox/`, one folder a module. No other code writes there."""

import os
from datetime import UTC, datetime
from pathlib import Path

from faultline.engine.atomic_write import write_atomically
from faultline.engine.errors import NotStarted, NotWritten
from faultline.engine.exercise import Exercise, files_in


def folder_of(root: Path, exercise: Exercise) -> Path:
    """Where the learner's copy of the exercise is, or will be."""
    return root / "workspace" / exercise.module.path.relative_to(root / "sandbox")


def started(root: Path, exercise: Exercise) -> Path:
    """The learner's copy; raises `NotStarted` if a file of the exercise is missing from it."""
    folder = folder_of(root, exercise)
    for name in exercise.toml.files:
        file = (folder / name).relative_to(root)
        if not (root / file).is_file():
            raise NotStarted(f"{file} is not there; ./lab start {exercise.module.id} puts the starter there")
    return folder


def start(root: Path, exercise: Exercise) -> list[Path]:
    """Copy what of the starter is not there yet; never overwrites. Returns what was copied."""
    folder = folder_of(root, exercise)
    copied = []
    for name, text in files_in(exercise.starter, exercise).items():
        if not os.path.lexists(folder / name):
            write_atomically(folder / name, text)
            copied.append(folder / name)
    return copied


def reset(root: Path, exercise: Exercise) -> Path | None:
    """Start over: move the learner's copy aside, to the folder that is returned, and copy the starter."""
    folder = folder_of(root, exercise)
    files_in(exercise.starter, exercise)  # raises before anything is moved
    backup = None
    if folder.exists():
        backup = folder.with_name(f"{folder.name}.backup-{datetime.now(UTC):%Y%m%dT%H%M%S%f}")
        try:
            folder.rename(backup)
        except OSError as error:
            raise NotWritten(
                f"{folder} cannot be moved aside: {error.strerror}; make the folder above it writable, then try again"
            ) from error
    start(root, exercise)
    return backup
