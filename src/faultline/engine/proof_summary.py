"""A module's proof as a whole: what objects to it, and its figures."""

import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

from faultline.engine.automatic import stale, too_few
from faultline.engine.cases import AUTOMATIC, Answer
from faultline.engine.exercise import Exercise
from faultline.engine.module_shape import objections
from faultline.engine.proof import Result
from faultline.engine.verdicts import Verdict


@dataclass(frozen=True, slots=True)
class Proof:
    """What came of one module."""

    exercise: Exercise
    results: list[Result]

    def of(self, kind: str) -> list[Result]:
        """The results of one kind."""
        return [result for result in self.results if result.case.kind == kind]

    @property
    def known(self) -> bool:
        """Nothing is left to be run."""
        return all(not result.missing or result.trouble for result in self.results)

    @property
    def lacks(self) -> list[str]:
        """What the module's folder should hold and does not, or holds and should not."""
        return [*objections(self.exercise), *stale(self.exercise)]

    @property
    def objections(self) -> list[str]:
        """Everything that speaks against the grader, a sentence each."""
        return [*self.lacks, *self._told()]

    def _told(self) -> Iterator[str]:
        mutants = self.of(AUTOMATIC)
        not_run = [mutant for mutant in mutants if mutant.trouble]
        if not_run:
            yield f"{len(not_run)} automatic mutants {not_run[0].trouble}"
        elif mutants and (objection := too_few(len(self.refused), len(mutants))):
            yield objection
        for result in self.results:
            if result not in not_run:
                yield from (f"{result.case.kind} {result.case.name}: {one}" for one in result.objections)

    @property
    def holds(self) -> bool:
        """Nothing objects."""
        return not self.objections

    @property
    def refused(self) -> list[Result]:
        """The automatic mutants that a check refuses; what is listed never counts, also if it was refused."""
        return [one for one in self.of(AUTOMATIC) if one.answer is Answer.REFUSED and not one.case.why]

    @property
    def runs(self) -> int:
        """All runs that count."""
        return sum(len(result.runs) for result in self.results)

    @property
    def remembered(self) -> int:
        """Those of them that an earlier proof made."""
        return sum(result.remembered for result in self.results)

    @property
    def undecided(self) -> int:
        """Runs that do not count, because the machine was too busy to tell; each was run again."""
        return sum(result.undecided for result in self.results)

    @property
    def oldest(self) -> datetime | None:
        """When the first of them was made."""
        return min((run.at for result in self.results for run in result.runs), default=None)

    def refusals(self) -> Counter[str]:
        """How many automatic mutants each check was the first to refuse."""
        return Counter(name for one in self.refused for name in sorted(one.runs[-1].grade.named(Verdict.FAIL))[:1])

    def facts(self) -> dict[str, object]:
        """All of it for a program."""
        return {
            "module": self.exercise.module.id,
            "python": sys.version.split()[0],
            "lacks": self.lacks,
            "automatic": {"all": len(self.of(AUTOMATIC)), "refused": len(self.refused)},
            "cases": [_case(result) for result in self.results],
        }


def _case(result: Result) -> dict[str, object]:
    facts: dict[str, object] = {
        "kind": result.case.kind,
        "name": result.case.name,
        "runs": len(result.runs),
        "remembered": result.remembered,
        "undecided": result.undecided,
        "median": result.median,
        "max": max(result.seconds, default=0.0),
        "objections": result.objections,
    }
    if result.case.kind == AUTOMATIC:
        by = sorted(result.runs[-1].grade.named(Verdict.FAIL)) if result.runs else []
        facts |= {"answer": result.answer, "refused_by": by, "listed": result.case.why}
    return facts
