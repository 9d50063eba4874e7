"""The proof of a grader: it refuses what is wrong by the check that names it, and accepts whatever is right.

A `Case` is one set of files with the verdict that it must get. `prove` runs all of them, several at once, as
often as asked, and collects what disagrees.
"""

import re
import shutil
import statistics
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path

from faultline.engine.exercise import Exercise, Mutant, Outsider, files_in, text_of
from faultline.engine.grades import Grade, request
from faultline.engine.run_folders import run_folder
from faultline.engine.verdicts import Verdict
from faultline.engine.warm import WarmRunner


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """Files to grade, and what must come of it; `objection` says what did not, or ""."""

    kind: str
    name: str
    files: dict[str, str]
    objection: Callable[[Grade], str]
    only: tuple[str, ...] = ()
    repeated: bool = True


@dataclass(slots=True)
class Result:
    """What came of one case."""

    case: Case
    seconds: list[float] = field(default_factory=list)
    objections: list[str] = field(default_factory=list)

    @property
    def median(self) -> float:
        """Seconds of the median run."""
        return statistics.median(self.seconds)


def cases(exercise: Exercise, *, timed: bool) -> list[Case]:
    """Everything that the module holds; `timed`: the reference must also keep the module's budget."""
    return [
        Case(kind="starter", name="starter", files=files_in(exercise.starter, exercise), objection=_refused),
        Case(
            kind="empty",
            name="empty file",
            files=dict.fromkeys(exercise.toml.files, ""),
            objection=_refused,
            repeated=False,
        ),
        Case(
            kind="reference",
            name="reference",
            files=files_in(exercise.reference, exercise),
            objection=lambda grade: _accepted(grade) or (_in_time(grade, exercise.toml.budget) if timed else ""),
        ),
        *(
            Case(kind="alternative", name=folder.name, files=files_in(folder, exercise), objection=_accepted)
            for folder in exercise.alternatives
        ),
        *(_mutant_case(exercise, mutant) for mutant in exercise.mutants),
        *(_outsider_case(exercise, outsider) for outsider in exercise.toml.outsiders),
    ]


def prove(
    exercise: Exercise,
    root: Path,
    runner: WarmRunner,
    chosen: Sequence[Case],
    *,
    repeat: int = 1,
    jobs: int = 2,
) -> Iterator[Result]:
    """Run every case `repeat` times (those marked so) and yield its result after each run, objections included."""
    home = run_folder(root, f"proof-{exercise.module.id.replace('/', '-')}")
    results = {id(case): Result(case) for case in chosen}
    rounds = [case for number in range(repeat) for case in chosen if case.repeated or number == 0]
    cancelled = threading.Event()
    try:
        folders = {id(case): _written(case, home / str(number)) for number, case in enumerate(chosen)}
        with ThreadPoolExecutor(jobs) as pool:
            running = {
                pool.submit(_grade, exercise, root, runner, case, folders[id(case)], cancelled): case for case in rounds
            }
            try:
                for done in as_completed(running):
                    yield _noted(results[id(running[done])], done.result())
            finally:
                cancelled.set()
                pool.shutdown(cancel_futures=True)
    finally:
        shutil.rmtree(home, ignore_errors=True)


def _written(case: Case, folder: Path) -> Path:
    """The folder with the case's files, written once: several runs may read them at the same time."""
    folder.mkdir(parents=True)
    for name, text in case.files.items():
        (folder / name).write_text(text)
    return folder


def _noted(result: Result, grade: Grade) -> Result:
    result.seconds.append(grade.ended.seconds if grade.ended else 0.0)
    if objection := result.case.objection(grade):
        result.objections.append(f"{objection} (seed {grade.seed})")
    return result


def _grade(
    exercise: Exercise, root: Path, runner: WarmRunner, case: Case, folder: Path, cancelled: threading.Event
) -> Grade:
    grade = Grade()
    for event in runner.grade(request(exercise, folder, root, only=case.only), cancelled):
        grade.add(event)
    return grade


def _mutant_case(exercise: Exercise, mutant: Mutant) -> Case:
    def objection(grade: Grade) -> str:
        if broken := _broken(grade):
            return broken
        missed = set(mutant.caught_by) - grade.named(Verdict.FAIL)
        if missed:
            return f"not refused by {', '.join(sorted(missed))}"
        first = next(one for one in grade.judged if one.check == mutant.caught_by[0])
        if not re.search(mutant.looks_like, first.seen):
            return f"{first.check} saw {first.seen!r}, which does not look like {mutant.looks_like!r}"
        return ""

    files = files_in(exercise.reference, exercise) | {exercise.toml.files[0]: exercise.mutated(mutant)}
    return Case(kind="mutant", name=mutant.name, files=files, objection=objection, only=mutant.caught_by)


def _outsider_case(exercise: Exercise, outsider: Outsider) -> Case:
    def objection(grade: Grade) -> str:
        if broken := _broken(grade):
            return broken
        fails, recorded = grade.named(Verdict.FAIL), set(outsider.fails)
        # A library that waits at random may be late only now and then; that is no word against the record.
        more, fewer = fails - recorded, recorded - fails - grade.named(Verdict.UNKNOWN)
        told = [f"fails {name}, which is not recorded" for name in sorted(more)]
        told += [f"does not fail {name}, as is recorded" for name in sorted(fewer)]
        return "; ".join(told)

    text = text_of(exercise.module.path / "outsiders" / outsider.file)
    name = f"{outsider.package} {outsider.version}"
    return Case(kind="outsider", name=name, files={exercise.toml.files[0]: text}, objection=objection, repeated=False)


def _broken(grade: Grade) -> str:
    if grade.ended is None:
        return "the run did not come to its end"
    if grade.ended.trouble:
        return f"the grader broke: {grade.ended.trouble}"
    if not grade.judged or len(grade.judged) != len(grade.checks):
        return f"{len(grade.judged)} of {len(grade.checks)} checks were judged"
    return _listed(grade, Verdict.ERROR)


def _uncertain(grade: Grade) -> str:
    return _listed(grade, Verdict.UNKNOWN)


def _listed(grade: Grade, *verdicts: Verdict) -> str:
    return "; ".join(f"{one.check}: {one.verdict}, {one.seen}" for one in grade.judged if one.verdict in verdicts)


def _refused(grade: Grade) -> str:
    if broken := _broken(grade):
        return broken
    passed = grade.named(Verdict.PASS)
    return f"passed {', '.join(sorted(passed))}" if passed else _uncertain(grade)


def _accepted(grade: Grade) -> str:
    return _broken(grade) or _listed(grade, Verdict.FAIL, Verdict.UNKNOWN)


def _in_time(grade: Grade, budget: float) -> str:
    took = grade.ended.seconds if grade.ended else float("inf")
    return f"took {took:.1f} s of a budget of {budget:g} s" if took > budget else ""
