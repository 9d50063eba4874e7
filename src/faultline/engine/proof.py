"""The proof of a grader: it refuses what is wrong by the check that names it, and accepts whatever is right.

`recalled` looks up what earlier proofs have found on the same ground; `prove` runs what is missing, several at once,
keeps each run as soon as it has ended, and collects what disagrees.
"""

import shutil
import statistics
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from faultline.engine.cases import AUTOMATIC, Answer, Case, answer, speaks_against, worth_keeping
from faultline.engine.check_order import CheckOrder
from faultline.engine.exercise import Exercise
from faultline.engine.grades import Grade, request
from faultline.engine.ground import ground, key
from faultline.engine.memory import Memory, Run
from faultline.engine.run_folders import run_folder
from faultline.engine.run_request import RunRequest
from faultline.engine.warm import WarmRunner


@dataclass(slots=True)
class Result:
    """What came of one case: the runs that are remembered first, then those of this proof."""

    case: Case
    key: str
    runs: list[Run]
    remembered: int
    missing: int
    trouble: str = ""

    @property
    def median(self) -> float:
        """Seconds of the median run; 0 if there was none."""
        return statistics.median(self.seconds) if self.runs else 0.0

    @property
    def seconds(self) -> list[float]:
        """How long each run took."""
        return [run.grade.ended.seconds if run.grade.ended else 0.0 for run in self.runs]

    @property
    def answer(self) -> Answer:
        """What the checks said at last."""
        return answer(self.runs[-1].grade) if self.runs else Answer.UNCLEAR

    @property
    def objections(self) -> list[str]:
        """What disagrees, run by run."""
        told = [self.trouble] if self.trouble else []
        for number, run in enumerate(self.runs):
            if objection := self.case.objection(run.grade):
                since = f", remembered from {run.at:%Y-%m-%d}; --again forgets it" if number < self.remembered else ""
                told.append(f"{objection} (seed {run.grade.seed}{since})")
        return told


@dataclass(frozen=True, slots=True)
class Ground:
    """What all runs of a module's proof stand on, and whether it still is the same."""

    exercise: Exercise
    root: Path
    busy: bool = False
    hash: str = field(default="", init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "hash", self._now())

    @property
    def same(self) -> bool:
        """Nothing of it has been edited since."""
        return self._now() == self.hash

    def _now(self) -> str:
        return ground(self.exercise, self.root, busy=self.busy)


def recalled(
    on: Ground, chosen: Sequence[Case], memory: Memory, *, repeat: int = 1, again: bool = False
) -> list[Result]:
    """What is known of each case on this ground, and how many of `repeat` runs are missing.

    A case that is not repeated is run once. `again` forgets what is known.
    """
    results: list[Result] = []
    for case in chosen:
        mode = "until failure" if case.until_failure else "all"
        name = key(on.hash, case.files, mode=mode, only=case.only, beside=case.beside)
        if again:
            memory.forget(name)
        runs = memory.runs(name)
        wanted = repeat if case.repeated else 1
        results.append(Result(case, name, runs, remembered=len(runs), missing=max(0, wanted - len(runs))))
    return results


def prove(
    on: Ground, runner: WarmRunner, results: Sequence[Result], memory: Memory, *, jobs: int = 2
) -> Iterator[Result]:
    """Run what is missing and yield the result after each run; automatic mutants last, measured by the reference."""
    home = run_folder(on.root, f"proof-{on.exercise.module.id.replace('/', '-')}")
    bench = _Bench(on, runner, memory, home, jobs)
    try:
        yield from bench.run([result for result in results if result.case.kind != AUTOMATIC], bench.whole)
        if mutants := [result for result in results if result.case.kind == AUTOMATIC]:
            reference = next((one for one in results if one.case.kind == "reference"), None)
            if reference is None or not reference.runs or speaks_against(reference.runs[-1].grade):
                for mutant in mutants:
                    mutant.trouble = "not run: the checks do not accept the reference itself"
                return
            order = _order(reference, mutants)
            for result in bench.run(mutants, lambda result: bench.until_failure(result, order)):
                order.note(result.case.scope, result.runs[-1].grade.judged)
                yield result
            # What was unclear because the machine was busy, with ourselves for one, is decided alone if it can be.
            unclear = [one for one in mutants if one.answer is Answer.UNCLEAR and one.objections]
            for result in unclear:
                result.runs.clear()
                result.missing = 1
            bench.jobs = 1
            yield from bench.run(unclear, lambda result: bench.until_failure(result, order))
    finally:
        shutil.rmtree(home, ignore_errors=True)


def _order(reference: Result, mutants: Sequence[Result]) -> CheckOrder:
    order = CheckOrder({one.check: one.seconds for one in reference.runs[-1].grade.judged})
    for mutant in mutants:
        for run in mutant.runs:
            order.note(mutant.case.scope, run.grade.judged)
    return order


@dataclass(slots=True)
class _Bench:
    """Where the runs of one proof are made, `jobs` at a time."""

    on: Ground
    runner: WarmRunner
    memory: Memory
    home: Path
    jobs: int
    _cancelled: threading.Event = field(default_factory=threading.Event)
    _folders: int = 0

    def run(self, results: Sequence[Result], asking: Callable[[Result], RunRequest]) -> Iterator[Result]:
        """Make the missing runs, keep each, and yield its result."""
        turns = range(max((one.missing for one in results), default=0))
        rounds = [result for turn in turns for result in results if turn < result.missing]
        folders = {id(result): self._written(result.case) for result in results if result.missing}
        with ThreadPoolExecutor(self.jobs) as pool:

            def graded(result: Result) -> Grade:
                return self._grade(msgspec.structs.replace(asking(result), solution=str(folders[id(result)])))

            running = {pool.submit(graded, result): result for result in rounds}
            try:
                for done in as_completed(running):
                    yield self._noted(running[done], done.result())
            finally:
                self._cancelled.set()
                pool.shutdown(cancel_futures=True)
                self._cancelled.clear()

    def whole(self, result: Result) -> RunRequest:
        """All checks that the case asks for."""
        return request(self.on.exercise, self.home, self.on.root, only=result.case.only)

    def until_failure(self, result: Result, order: CheckOrder) -> RunRequest:
        """Check by check until one refuses it, in the best order that is known by now.

        A check has no less time than usual: its own budgets must run out before the mutant counts as hanging.
        """
        return msgspec.structs.replace(self.whole(result), only=order.checks(result.case.scope), until_failure=True)

    def _written(self, case: Case) -> Path:
        """The folder with the case's files, written once: several runs may read them at the same time."""
        self._folders += 1
        folder = self.home / str(self._folders)
        folder.mkdir(parents=True)
        for name, text in case.files.items():
            (folder / name).write_text(text)
        return folder

    def _grade(self, asked: RunRequest) -> Grade:
        grade = Grade()
        for event in self.runner.grade(asked, self._cancelled):
            grade.add(event)
        return grade

    def _noted(self, result: Result, grade: Grade) -> Result:
        run = Run(datetime.now(UTC), grade)
        result.runs.append(run)
        result.missing -= 1
        if worth_keeping(result.case, grade) and self.on.same:
            self.memory.keep(result.key, run)
        return result
