"""Grading runs on checks and solutions that the test writes."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest

from faultline.engine.grades import Grade
from faultline.engine.run_request import RunRequest
from faultline.engine.warm import WarmRunner


@pytest.fixture(scope="session")
def warm() -> Iterator[WarmRunner]:
    """One warm runner for all tests that do not harm it."""
    with WarmRunner(["redis"]) as runner:
        yield runner


@pytest.fixture
def asked(tmp_path: Path) -> Callable[..., RunRequest]:
    """Writes checks and a solution, and makes the request to grade them."""

    def request(
        checks: str, solution: str = "", *, seed: int = 1, only: Sequence[str] = (), **limits: Any
    ) -> RunRequest:
        (tmp_path / "checks.py").write_text("import asyncio\nfrom faultline.testbed import *\n" + dedent(checks))
        (tmp_path / "solution").mkdir(exist_ok=True)
        (tmp_path / "solution" / "answer.py").write_text(dedent(solution))
        return RunRequest(
            checks=str(tmp_path / "checks.py"),
            solution=str(tmp_path / "solution"),
            module="answer",
            root=str(tmp_path),
            folder=str(tmp_path / ".lab" / "runs" / "run"),
            seed=seed,
            only=list(only),
            **{"limit": 30.0, **limits},
        )

    return request


@pytest.fixture
def graded(warm: WarmRunner, asked: Callable[..., RunRequest]) -> Callable[..., Grade]:
    """Writes checks and a solution, grades them, and gives what came of it."""

    def grade(checks: str, solution: str = "", **options: object) -> Grade:
        request = asked(checks, solution, **options)
        grade = Grade()
        for event in warm.grade(request):
            grade.add(event)
        assert not Path(request.folder).exists()
        return grade

    return grade
