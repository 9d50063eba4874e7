"""A testbed on a solution that the test writes."""

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from textwrap import dedent

import pytest

from faultline.components import Clone
from faultline.testbed import LearnerProcess, Testbed
from faultline.testbed.nursery import Nursery
from faultline.testbed.testbed import Solution

OnTestbed = Callable[[str], AbstractAsyncContextManager[Testbed]]
InProcess = Callable[[str], AbstractAsyncContextManager[LearnerProcess]]


@pytest.fixture
def nursery() -> Iterator[Nursery]:
    """Forked before the test's event loop runs, as the grader does."""
    nursery = Nursery.forked()
    yield nursery
    nursery.close()


@pytest.fixture
def on_testbed(tmp_path: Path, nursery: Nursery) -> OnTestbed:
    """A testbed for that source, which becomes the learner's file `answer.py`."""

    @asynccontextmanager
    async def opened(source: str) -> AsyncIterator[Testbed]:
        solution = tmp_path / "solution"
        solution.mkdir()
        (solution / "answer.py").write_text(dedent(source))
        async with Testbed.opened(
            solution=Solution(solution, "answer"),
            folder=tmp_path / "run",
            seed=1,
            nursery=nursery,
            clone=Clone.here(),
        ) as testbed:
            yield testbed

    return opened


@pytest.fixture
def in_process(on_testbed: OnTestbed) -> InProcess:
    """One process of that source."""

    @asynccontextmanager
    async def opened(source: str) -> AsyncIterator[LearnerProcess]:
        async with on_testbed(source) as testbed:
            yield await testbed.process("till-1")

    return opened
