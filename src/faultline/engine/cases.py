"""What a proof runs: sets of files, each with the verdict that it must get."""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from faultline.engine.automatic import Automatic, automatic_mutants
from faultline.engine.exercise import Exercise, Mutant, Outsider, files_in, text_of
from faultline.engine.grades import Grade
from faultline.engine.ground import sources
from faultline.engine.verdicts import Verdict

AUTOMATIC = "automatic"
KINDS = ("starter", "empty", "reference", "alternative", "mutant", AUTOMATIC, "outsider")


class Answer(StrEnum):
    """What the checks say to a program as a whole."""

    REFUSED = "refused"
    ACCEPTED = "accepted"
    UNCLEAR = "unclear"  # the run broke, or a check could not decide: no word for or against


class Undecided(str):
    """An objection that a less busy machine may withdraw: nothing was said for or against the grader."""

    __slots__ = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """Files to grade, and what must come of it; `objection` says what did not, or ""."""

    kind: str
    name: str
    files: dict[str, str]
    objection: Callable[[Grade], str]
    only: tuple[str, ...] = ()
    repeated: bool = True
    until_failure: bool = False
    """One refusal is all that is asked; the run ends there."""
    scope: str = ""
    """The function that an automatic mutant is in."""
    why: str = ""
    """Why no check refuses it, if the module says so."""
    beside: tuple[Path, ...] = ()
    """Other files of the clone that the verdict depends on."""


def cases(exercise: Exercise, *, root: Path, timed: bool) -> Iterator[Case]:
    """Everything that the module holds; `timed`: the reference must also keep the module's budget."""
    yield Case(kind="starter", name="starter", files=files_in(exercise.starter, exercise), objection=_refused)
    empty = dict.fromkeys(exercise.toml.files, "")
    yield Case(kind="empty", name="empty file", files=empty, objection=_refused, repeated=False)
    yield Case(
        kind="reference",
        name="reference",
        files=files_in(exercise.reference, exercise),
        objection=lambda grade: _accepted(grade) or (_in_time(grade, exercise.toml.budget) if timed else ""),
    )
    for folder in exercise.alternatives:
        yield Case(kind="alternative", name=folder.name, files=files_in(folder, exercise), objection=_accepted)
    for mutant in exercise.mutants:
        yield _mutant_case(exercise, mutant)
    for automatic in automatic_mutants(exercise):
        yield _automatic_case(automatic)
    for outsider in exercise.toml.outsiders:
        yield _outsider_case(exercise, outsider, root)


def answer(grade: Grade) -> Answer:
    """Refused by one check is refused; otherwise all of them must have passed to call it accepted."""
    if grade.ended is not None and not grade.ended.trouble and grade.named(Verdict.FAIL):
        return Answer.REFUSED
    return Answer.UNCLEAR if _broken(grade) or _uncertain(grade) else Answer.ACCEPTED


def speaks_against(grade: Grade) -> bool:
    """Whether a check fails this program or is broken by it; `unknown`, as on a busy machine, is no word against it."""
    return bool(_broken(grade) or grade.named(Verdict.FAIL))


def undecided(case: Case, grade: Grade) -> bool:
    """Whether a run that should say something could not, as on a busy machine: a check's `unknown` is in the way."""
    objection = case.objection(grade)
    return bool(objection) and isinstance(objection, Undecided)


def worth_keeping(case: Case, grade: Grade) -> bool:
    """Whether a run says something that a later proof may rely on; one that broke or could not decide never does.

    Where runs are counted, one that disagrees is worth remembering. Where one run must decide, whatever an automatic
    mutant should not have got is not.
    """
    if case.until_failure:
        return not case.objection(grade)
    return not _broken(grade) and not undecided(case, grade)


def _mutant_case(exercise: Exercise, mutant: Mutant) -> Case:
    def objection(grade: Grade) -> str:
        if broken := _broken(grade):
            return broken
        missed = set(mutant.caught_by) - grade.named(Verdict.FAIL)
        if missed - grade.named(Verdict.UNKNOWN):
            return f"not refused by {', '.join(sorted(missed))}"
        if missed:
            return _uncertain(grade)
        first = next(one for one in grade.judged if one.check == mutant.caught_by[0])
        if not re.search(mutant.looks_like, first.seen):
            return f"{first.check} saw {first.seen!r}, which does not look like {mutant.looks_like!r}"
        return ""

    files = files_in(exercise.reference, exercise) | {exercise.toml.files[0]: exercise.mutated(mutant)}
    return Case(kind="mutant", name=mutant.name, files=files, objection=objection, only=mutant.caught_by)


def _automatic_case(automatic: Automatic) -> Case:
    def objection(grade: Grade) -> str:
        match answer(grade):
            case Answer.UNCLEAR if _broken(grade) or not automatic.listed:
                return Undecided(f"neither refused nor accepted: {_broken(grade) or _uncertain(grade)}")
            case Answer.REFUSED if automatic.listed and not automatic.listed.unseen:
                by = ", ".join(sorted(grade.named(Verdict.FAIL)))
                return f"equivalents.toml says that it keeps every promise, and {by} refuses it"
            case Answer.ACCEPTED if not automatic.listed:
                return "no check refuses it: strengthen one, or list it in equivalents.toml with the reason"
            case _:
                return ""

    return Case(
        kind=AUTOMATIC,
        name=automatic.variant.name,
        files=automatic.files,
        objection=objection,
        repeated=False,
        until_failure=True,
        scope=automatic.variant.scope,
        why=automatic.listed.why if automatic.listed else "",
    )


def _outsider_case(exercise: Exercise, outsider: Outsider, root: Path) -> Case:
    def objection(grade: Grade) -> str:
        if broken := _broken(grade):
            return broken
        fails, recorded = grade.named(Verdict.FAIL), set(outsider.fails)
        # A library that waits at random may be late only now and then; that is no word against the record.
        more, fewer = fails - recorded - set(outsider.sometimes), recorded - fails - grade.named(Verdict.UNKNOWN)
        told = [f"fails {name}, which is not recorded" for name in sorted(more)]
        told += [f"does not fail {name}, as is recorded" for name in sorted(fewer)]
        return "; ".join(told)

    text = text_of(exercise.module.path / "outsiders" / outsider.file)
    ours = sorted({f"faultline.{name}" for name in re.findall(r"\bfaultline\.(patterns\.\w+|patterns)", text)})
    return Case(
        kind="outsider",
        name=f"{outsider.package} {outsider.version}",
        files={exercise.toml.files[0]: text},
        objection=objection,
        repeated=False,
        beside=(root / "requirements" / "dev.txt", *sources(ours)),
    )


def _broken(grade: Grade) -> str:
    if grade.ended is None:
        return "the run did not come to its end"
    if grade.ended.trouble:
        return f"the grader broke: {grade.ended.trouble}"
    if not grade.judged or len(grade.judged) != len(grade.checks):
        return f"{len(grade.judged)} of {len(grade.checks)} checks were judged"
    return _listed(grade, Verdict.ERROR)


def _uncertain(grade: Grade) -> Undecided:
    return Undecided(_listed(grade, Verdict.UNKNOWN))


def _listed(grade: Grade, *verdicts: Verdict) -> str:
    return "; ".join(f"{one.check}: {one.verdict}, {one.seen}" for one in grade.judged if one.verdict in verdicts)


def _refused(grade: Grade) -> str:
    if broken := _broken(grade):
        return broken
    passed = grade.named(Verdict.PASS)
    return f"passed {', '.join(sorted(passed))}" if passed else _uncertain(grade)


def _accepted(grade: Grade) -> str:
    return _broken(grade) or _listed(grade, Verdict.FAIL) or _uncertain(grade)


def _in_time(grade: Grade, budget: float) -> str:
    took = grade.ended.seconds if grade.ended else float("inf")
    return Undecided(f"took {took:.1f} s of a budget of {budget:g} s") if took > budget else ""
