"""A clone of the test's own, in which nothing may run when the test is over."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from tests.end_to_end.typed import Typed, clone_at

from faultline.components.room import memory_of
from faultline.engine.run_folders import remove


@pytest.fixture
def clone(tmp_path: Path) -> Iterator[Typed]:
    """A clone of the test's own; nothing of it may run when the test is over."""
    typed = clone_at(tmp_path / "clone")
    yield typed
    try:
        typed.until_nothing_runs(within=5)
    finally:
        for process in typed.running():
            with contextlib.suppress(psutil.Error):
                process.kill()
        remove(memory_of(typed.root))  # of a proof that was killed: nobody comes to this clone again
