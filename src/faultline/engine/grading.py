"""Grades one solution: runs a module's checks under pytest, each on a testbed of its own, and says what came out.

pytest finds the checks and explains their asserts; everything else is here. A check is a coroutine function that
takes a `Testbed`, and parameters if it is parametrized. Its docstring is read by the learner: the first line is the
promise, a paragraph that begins with `Look:` says where to look when it is broken.
"""

import asyncio
import contextlib
import inspect
import io
import os
import random
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from faultline.components import Clone
from faultline.engine.blame import unusable
from faultline.engine.readable import readable
from faultline.engine.run_request import RunRequest
from faultline.engine.verdicts import Began, Event, Judged, Verdict
from faultline.testbed import Broken, BudgetMissed, Entry, ProcessDied, Raised, Testbed, TestbedError, timeline
from faultline.testbed.nursery import Nursery
from faultline.testbed.postgres import SharedPostgres
from faultline.testbed.speed import contention
from faultline.testbed.testbed import Solution

# Plugins of pytest that a check has no use for; without them a run begins and ends a third sooner.
_UNUSED = [
    "cacheprovider",
    "debugging",
    "doctest",
    "faulthandler",
    "junitxml",
    "legacypath",
    "logging",
    "monkeypatch",
    "pastebin",
    "recwarn",
    "setuponly",
    "setupplan",
    "stepwise",
    "subtests",
    "threadexception",
    "tmpdir",
    "unittest",
    "unraisableexception",
    "warnings",
]
_SHOWN = 2000  # characters of what was seen or printed
_OUTCOMES = (pytest.fail.Exception, pytest.skip.Exception)  # not `Exception`s for Python

AT_ONCE = 2  # checks; they mostly wait, and each has servers and processes of its own
_RESERVE = 5.0  # seconds of the run's limit that are kept for the end of it, or a quarter
_DIGITS = 10_000  # of an integer that a learner's process may send
_ANSWERS = ("checks.py", "mutants.toml", "solution", "alternatives", "outsiders")
SAME = 0.1  # two times that differ by less than this share are the same


@dataclass(slots=True)
class _Attempt:
    """One execution of one check."""

    verdict: Verdict
    seen: str = ""
    picture: str = ""
    printed: str = ""
    missed: BudgetMissed | None = None
    late: dict[str, float] = field(default_factory=dict)


@dataclass(slots=True)
class Grader:
    """The pytest plugin; `trouble` is what kept checks from being judged at all."""

    request: RunRequest
    emit: Callable[[Event], None]
    nursery: Nursery
    trouble: list[str] = field(default_factory=list)
    _databases: SharedPostgres | None = None
    _began: float = 0.0
    _hung: bool = False

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """A checks.py that cannot be imported is our error."""
        if report.failed:
            self.trouble.append(f"{self.request.checks} cannot be collected:\n{report.longreprtext}")

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Keep the checks that were asked for, and announce them."""
        if self.request.only:
            unknown = set(self.request.only) - {_name(item) for item in items}
            if unknown:
                self.trouble.append(f"there is no check {', '.join(sorted(unknown))}")
            items[:] = [item for item in items if _name(item) in self.request.only]
        if self.request.until_failure and self.request.only:
            items.sort(key=lambda item: self.request.only.index(_name(item)))
        self.emit(Began(self.request.seed, [_name(item) for item in items]))

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        """Judge the checks, `AT_ONCE` at a time, and tell the verdicts in the order of the checks."""
        if not self.trouble:
            asyncio.run(self._judge_all([item for item in session.items if isinstance(item, pytest.Function)]))
        return True

    async def _judge_all(self, items: list[pytest.Function]) -> None:
        self._began = time.monotonic()
        free = asyncio.Semaphore(AT_ONCE)
        async with (
            SharedPostgres(Path(self.request.folder) / "shared", _clone()) as self._databases,
            asyncio.TaskGroup() as group,
        ):
            tasks = [group.create_task(self._judged(item, free)) for item in items]
            for task in asyncio.as_completed(tasks) if self.request.until_failure else tasks:
                judged = await task
                self.emit(judged)
                if self.request.until_failure and judged.verdict is Verdict.FAIL:
                    for other in tasks:
                        other.cancel()
                    return

    async def _judged(self, item: pytest.Function, free: asyncio.Semaphore) -> Judged:
        async with free:
            began = time.monotonic()
            attempt = self._too_late() or await self._judge(_name(item), item)
        promise, look = _learner_facing(item.function)
        return Judged(
            check=_name(item),
            promise=promise,
            verdict=attempt.verdict,
            seconds=round(time.monotonic() - began, 3),
            seen=readable(attempt.seen[:_SHOWN]),
            picture=readable(attempt.picture),
            look=look,
            printed=readable(attempt.printed[-_SHOWN:]),
        )

    def _left(self) -> float:
        """Seconds that checks may still take of the run's limit."""
        limit = self.request.limit
        return self._began + limit - min(_RESERVE, limit / 4) - time.monotonic()

    def _too_late(self) -> _Attempt | None:
        if self._left() > min(self.request.check_limit, self.request.limit / 2):
            return None
        if self._hung:
            return _Attempt(Verdict.FAIL, f"it was not begun: those that hung had used up the {self.request.limit:g} s")
        seen = f"it was not begun: the {self.request.limit:g} s of the run were used up; this machine is busy"
        return _Attempt(Verdict.UNKNOWN, seen)

    async def _judge(self, check: str, item: pytest.Function) -> _Attempt:
        first = await self._attempt(check, item, patience=1.0)
        if not first.missed:
            return first
        patience = min(4.0, max(1.5, 1.5 * await contention()))
        second = await self._attempt(check, item, patience=patience)
        again = second.late.get(first.missed.promise)
        if again is not None and abs(again - first.missed.took) < SAME * first.missed.took:
            return first  # a busy machine is late by chance, code by the same time twice
        if second.verdict is Verdict.PASS:
            return _Attempt(
                Verdict.UNKNOWN,
                f"{first.seen}; a second try with {patience:.1f} times the time kept the promise. "
                "This machine is busy: close what you can and check again.",
                first.picture,
                first.printed,
            )
        return second

    async def _attempt(self, check: str, item: pytest.Function, *, patience: float) -> _Attempt:
        seed = random.Random(f"{self.request.seed}:{check}").getrandbits(32)
        folder = Path(self.request.folder) / f"{check}-{patience:.1f}"
        folder.mkdir(parents=True)
        solution = Solution(Path(self.request.solution), self.request.module, _hidden(self.request))
        opened = None
        places: dict[str, str] = {}
        limit = min(self.request.check_limit * patience, max(0.0, self._left()))
        timer = asyncio.timeout(limit)
        try:
            async with Testbed.opened(
                solution=solution,
                folder=folder,
                seed=seed,
                nursery=self.nursery,
                clone=_clone(),
                patience=patience,
                broker=self.request.broker,
                databases=self._databases,
            ) as opened:
                try:
                    async with timer:
                        opened.timer = timer
                        await item.obj(testbed=opened, **_parameters(item))
                except TimeoutError:
                    places = await opened.places() if timer.expired() else {}
                    raise
                opened.prove_faults()
        except (Exception, *_OUTCOMES) as error:  # whatever a check or the learner's code raises becomes a verdict
            if opened is None:
                return _Attempt(Verdict.ERROR, _ours(error))
            if isinstance(error, TimeoutError) and timer.expired():
                known = limit >= self.request.check_limit or self._hung  # otherwise it is the run that was too slow
                self._hung = self._hung or known
                return _hung(opened, limit, places, Verdict.FAIL if known else Verdict.UNKNOWN)
            return _failed(_known(_leaf(error), opened), opened, Path(self.request.checks))
        return _Attempt(Verdict.PASS, late=opened.late)


def grade(request: RunRequest, emit: Callable[[Event], None]) -> str:
    """Run the checks; returns what kept them from being judged, or "". Call it in a process of its own."""
    sys.set_int_max_str_digits(_DIGITS)
    grader = Grader(request, emit, Nursery.forked())
    without = [option for name in _UNUSED for option in ("-p", f"no:{name}")]
    options = [*without, "--import-mode=importlib", "--noconftest", "-c", os.devnull, "--rootdir"]
    noise = io.StringIO()
    with contextlib.redirect_stdout(noise), contextlib.redirect_stderr(noise):
        status = pytest.main([*options, request.root, request.checks], plugins=[grader])
    grader.nursery.close()
    if status not in {pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED} and not grader.trouble:
        grader.trouble.append(f"pytest ended with {status!r}:\n{noise.getvalue()[-2000:]}")
    return "\n".join(grader.trouble)


def _hidden(request: RunRequest) -> tuple[str, ...]:
    """What no learner's process has any business in: the answers, and what the lab keeps."""
    module = Path(request.checks).parent
    runs = str(Path(request.folder).parent)  # not in there if they are in memory
    return (str(Path(request.root) / ".lab"), runs, *(str(module / name) for name in _ANSWERS))


def _clone() -> Clone:
    """Where servers come from: checks kill, pause and wipe what they get, so never from a given address."""
    return Clone.here().without_given_servers()


def _name(item: pytest.Item) -> str:
    return item.name.removeprefix("test_")


def _parameters(item: pytest.Function) -> dict[str, Any]:
    """What `@pytest.mark.parametrize` gives this check; there are no fixtures but the testbed."""
    return dict(item.callspec.params) if hasattr(item, "callspec") else {}


def _learner_facing(function: Callable[..., Any]) -> tuple[str, str]:
    paragraphs = inspect.cleandoc(function.__doc__ or function.__name__).split("\n\n")
    look = next((paragraph for paragraph in paragraphs if paragraph.startswith("Look:")), "")
    return paragraphs[0].replace("\n", " "), " ".join(look.removeprefix("Look:").split())


def _hung(testbed: Testbed, limit: float, places: dict[str, str], verdict: Verdict) -> _Attempt:
    now = testbed.history.now()
    at = {name: f", at {place}" for name, place in places.items()}
    waiting = [
        f"{one.lane} in {one.what} since {now - one.start:.1f} s{at.get(one.lane, '')}"
        for one in testbed.history.pending()
    ]
    seen = f"it did not end within {limit:.3g} s: {'; '.join(waiting[:4]) or 'nothing of yours was running'}"
    return _Attempt(verdict, seen, _picture(testbed, (), now), testbed.printed)


def _known(error: BaseException, testbed: Testbed) -> BaseException:
    """The error, or what says more: a fault was off, or a function of the check saw what it must not be given.

    What entries of the history show stands all the same.
    """
    if isinstance(error, Broken) and error.witness:
        return error
    try:
        testbed.prove_faults_met()
    except (TestbedError, AssertionError) as more:
        return more
    return error


def _failed(error: BaseException, testbed: Testbed, checks: Path) -> _Attempt:
    if given := unusable(error, testbed, checks):
        error = Broken(given)
    verdict, seen, witness = _said(error)
    missed = error if isinstance(error, BudgetMissed) else None
    picture = "" if verdict is Verdict.ERROR else _picture(testbed, witness, testbed.history.now())
    return _Attempt(verdict, seen, picture, testbed.printed, missed)


def _said(error: BaseException) -> tuple[Verdict, str, Sequence[Entry]]:
    match error:
        case Broken():
            return Verdict.FAIL, _first(error), error.witness
        case Raised():
            return Verdict.FAIL, f"your code raised {error}", ()
        case AssertionError():
            return Verdict.FAIL, _first(error), ()
        case _:
            return Verdict.ERROR, _ours(error), ()


def _first(error: Exception) -> str:
    """An assert's own message, without pytest's explanation where there is a message."""
    return str(error).split("\nassert ", 1)[0].strip() or type(error).__name__


def _ours(error: BaseException) -> str:
    last = traceback.extract_tb(error.__traceback__)[-1:]
    place = f" ({Path(last[0].filename).name}:{last[0].lineno})" if last else ""
    return f"{type(error).__name__}: {error}{place}"


_RANK = (Broken, ProcessDied, AssertionError, Raised, BaseException)


def _leaf(error: BaseException) -> BaseException:
    """The one exception of a group that tells most: a broken promise before anything else, our own errors last."""
    return min(_leaves(error), key=lambda leaf: next(rank for rank, kind in enumerate(_RANK) if isinstance(leaf, kind)))


def _leaves(error: BaseException) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from _leaves(inner)
    else:
        yield error


def _picture(testbed: Testbed, witness: Sequence[Entry], now: float) -> str:
    return timeline(testbed.history.around(witness), pending_from=now)
