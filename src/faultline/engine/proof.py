"""The proof of a grader: it refuses what is wrong by the check that names it, and accepts whatever is right.

`recalled` looks up what earlier proofs have found on the same ground; `prove` runs what is missing, several at once,
keeps each run as soon as it has ended, and collects what disagrees.
"""

import shutil
import statistics
import threading
from collections import deque
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from faultline.engine.cases import AUTOMATIC, Answer, Case, answer, speaks_against, undecided, worth_keeping
from faultline.engine.check_order import CheckOrder
from faultline.engine.exercise import Exercise
from faultline.engine.grades import Grade, request
from faultline.engine.ground import ground, key
from faultline.engine.load import LOOK, Room
from faultline.engine.memory import Memory, Run
from faultline.engine.run_folders import leave_memory, run_folder
from faultline.engine.run_request import RunRequest
from faultline.engine.warm import WarmRunner

_ALONE = 2  # more tries for a run that could not decide


@dataclass(slots=True)
class Result:
    """What came of one case: the runs that are remembered first, then those of this proof."""

    case: Case
    key: str
    runs: list[Run]
    remembered: int
    missing: int
    trouble: str = ""
    undecided: int = 0
    """Runs of this proof that do not count: the machine was too busy to tell, and each was run again alone."""

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

    def set_undecided_aside(self) -> None:
        """Take back the new runs that say nothing for or against, so that they are missing again."""
        new = self.runs[self.remembered :]
        decided = [run for run in new if not undecided(self.case, run.grade)]
        self.runs[self.remembered :] = decided
        self.missing += len(new) - len(decided)
        self.undecided += len(new) - len(decided)


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


@dataclass(frozen=True, slots=True)
class Subject:
    """One module in a proof: what its runs stand on, who makes them, what is known, and what is missing."""

    on: Ground
    runner: WarmRunner
    results: list[Result]


def prove(subjects: Sequence[Subject], memory: Memory, *, jobs: int | None = None) -> Iterator[tuple[Subject, Result]]:
    """Run what is missing, `jobs` at a time or as many as there is room for; yield each result, with its module.

    The modules in their order, a module's automatic mutants last, measured by its reference. While the last runs of one
    module are on their way, those of the next begin. What the machine, busy with ourselves for one, has left undecided
    is run again when nothing else is.
    """
    benches = [_Bench(subject, memory) for subject in subjects]
    cancelled = threading.Event()
    running: dict[Future[Grade], tuple[_Bench, Result]] = {}
    room = Room(jobs)
    with ThreadPoolExecutor(room.most) as pool:
        try:
            while True:
                while room.one_more(len(running)) and (turn := _next(benches, running.values())):
                    bench, result = turn
                    running[pool.submit(bench.grade, bench.request(result), cancelled)] = turn
                if not running:
                    return
                for done in wait(running, timeout=LOOK, return_when=FIRST_COMPLETED).done:
                    bench, result = running.pop(done)
                    bench.note(result, done.result())
                    yield bench.subject, result
        finally:
            cancelled.set()
            pool.shutdown(cancel_futures=True)
            for bench in benches:
                shutil.rmtree(bench.home, ignore_errors=True)
            for root in {subject.on.root for subject in subjects}:
                leave_memory(root)


def _next(benches: Sequence["_Bench"], running: Collection[tuple["_Bench", Result]]) -> tuple["_Bench", Result] | None:
    if any(bench.alone for bench, _ in running):
        return None
    for bench in benches:
        if bench.waiting and not (bench.alone and running):
            return bench, bench.waiting.popleft()
    return None


def _order(reference: Result, mutants: Sequence[Result]) -> CheckOrder:
    order = CheckOrder({one.check: one.seconds for one in reference.runs[-1].grade.judged})
    for mutant in mutants:
        for run in mutant.runs:
            order.note(mutant.case.scope, run.grade.judged)
    return order


class _Bench:
    """Where the runs of one module are made: first all others, then the automatic mutants."""

    def __init__(self, subject: Subject, memory: Memory) -> None:
        self.subject, self.memory = subject, memory
        exercise = subject.on.exercise
        self.home = run_folder(subject.on.root, f"proof-{exercise.module.id.replace('/', '-')}", brief=True)
        self.waiting: deque[Result] = deque()
        self.alone = False
        """What waits is run when nothing else is."""
        self._unended = 0
        self._tries = 0
        self._order: CheckOrder | None = None
        self._folders: dict[int, Path] = {}
        self._begin([result for result in subject.results if result.case.kind != AUTOMATIC])

    def _begin(self, results: Sequence[Result]) -> None:
        self._phase, self._tries = results, 0
        self._queue(alone=False)

    def _queue(self, *, alone: bool) -> None:
        """Have the missing runs of this phase made, or go on to the next if there are none."""
        self.alone = alone
        turns = range(max((one.missing for one in self._phase), default=0))
        self.waiting.extend(result for turn in turns for result in self._phase if turn < result.missing)
        self._unended = len(self.waiting)
        if not self._unended:
            self._phase_is_over()

    def _phase_is_over(self) -> None:
        if self._tries < _ALONE:
            self._tries += 1
            for result in self._phase:
                result.set_undecided_aside()
            if any(result.missing for result in self._phase):
                self._queue(alone=True)
                return
        self.alone = False
        mutants = [result for result in self.subject.results if result.case.kind == AUTOMATIC]
        if not mutants or self._order:
            return
        reference = next((one for one in self.subject.results if one.case.kind == "reference"), None)
        if reference is None or not reference.runs or speaks_against(reference.runs[-1].grade):
            for mutant in mutants:
                mutant.trouble = "not run: the checks do not accept the reference itself"
            return
        self._order = _order(reference, mutants)
        self._begin(mutants)

    def request(self, result: Result) -> RunRequest:
        """What the runner is asked: all checks of the case, or until one refuses it.

        Then in the best order that is known by now. A check has no less time than usual: its own budgets must run out
        before the mutant counts as hanging.
        """
        on, case = self.subject.on, result.case
        whole = request(on.exercise, self.home, on.root, only=case.only, brief=True)
        whole = msgspec.structs.replace(whole, solution=str(self._written(result)))
        if not case.until_failure or self._order is None:
            return whole
        return msgspec.structs.replace(whole, only=self._order.checks(case.scope), until_failure=True)

    def _written(self, result: Result) -> Path:
        """The folder with the case's files, written once: several runs may read them at the same time."""
        if known := self._folders.get(id(result)):
            return known
        folder = self._folders[id(result)] = self.home / str(len(self._folders) + 1)
        folder.mkdir(parents=True)
        for name, text in result.case.files.items():
            (folder / name).write_text(text)
        return folder

    def grade(self, asked: RunRequest, cancelled: threading.Event) -> Grade:
        """Make one run; in any thread."""
        grade = Grade()
        for event in self.subject.runner.grade(asked, cancelled):
            grade.add(event)
        return grade

    def note(self, result: Result, grade: Grade) -> None:
        """Keep what came of a run."""
        run = Run(datetime.now(UTC), grade)
        result.runs.append(run)
        result.missing -= 1
        if worth_keeping(result.case, grade) and self.subject.on.same:
            self.memory.keep(result.key, run)
        if self._order:
            self._order.note(result.case.scope, grade.judged)
        self._unended -= 1
        if not self._unended:
            self._phase_is_over()
