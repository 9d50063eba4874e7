"""From an exercise and a folder of files to a verdict, and from a verdict to progress."""

import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from faultline.engine.exercise import Exercise
from faultline.engine.progress import Attempt, Outcome
from faultline.engine.run_folders import run_folder
from faultline.engine.run_request import CHECK_LIMIT, RunRequest
from faultline.engine.verdicts import Began, Ended, Event, Judged, Verdict, overall

_OUTCOMES = {
    Verdict.PASS: Outcome.PASSED,
    Verdict.FAIL: Outcome.FAILED,
    Verdict.UNKNOWN: Outcome.UNKNOWN,
    Verdict.ERROR: Outcome.ERROR,
}


def request(
    exercise: Exercise,
    solution: Path,
    root: Path,
    *,
    seed: int | None = None,
    only: Sequence[str] = (),
    brief: bool = False,
) -> RunRequest:
    """The request to grade the files in `solution`; without a seed, a new one. `brief`: as of `run_folder`."""
    return RunRequest(
        checks=str(exercise.checks),
        solution=str(solution),
        module=exercise.entry,
        root=str(root),
        folder=str(run_folder(root, brief=brief)),
        seed=secrets.randbelow(2**31) if seed is None else seed,
        only=list(only),
        limit=max(90.0, 6 * exercise.toml.budget),
        check_limit=max(CHECK_LIMIT, exercise.toml.budget / 2),  # one of a capstone may take longer than a module's
    )


@dataclass(slots=True)
class Grade:
    """What has come of a run so far; feed it the events."""

    seed: int = 0
    checks: list[str] = field(default_factory=list)
    judged: list[Judged] = field(default_factory=list)
    ended: Ended | None = None

    def add(self, event: Event) -> None:
        """Take the run's next event."""
        match event:
            case Began(seed, checks):
                self.seed, self.checks = seed, checks
            case Judged():
                self.judged.append(event)
            case Ended():
                self.ended = event

    @property
    def verdict(self) -> Verdict:
        """The verdict on the whole; `error` until the run has ended."""
        if self.ended is None or (len(self.judged) != len(self.checks) and not self.ended.theirs):
            return Verdict.ERROR
        return overall(self.judged, self.ended)

    def named(self, verdict: Verdict) -> set[str]:
        """The checks with this verdict."""
        return {one.check for one in self.judged if one.verdict is verdict}

    def attempt(self, exercise: Exercise) -> Attempt:
        """The record for the learner's progress."""
        return Attempt(
            module=exercise.module.id,
            at=datetime.now(UTC),
            outcome=_OUTCOMES[self.verdict],
            seconds=self.ended.seconds if self.ended else 0.0,
            checks_passed=len(self.named(Verdict.PASS)),
            checks_total=len(self.checks),
            seed=self.seed,
        )
