"""Hostile and broken code gets a true verdict in time, leaves nothing behind, and the next run is unaffected.

The cases are in hostile_code.toml, which says how they are written; several run at once in one warm runner. What came
of them is in docs/containment.md: `pytest tests/engine/test_hostile_code.py --write` writes it as measured.
"""

import os
import re
import subprocess
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from textwrap import indent

import msgspec
import psutil
import pytest

from faultline.engine.grades import Grade
from faultline.engine.run_folders import run_folder
from faultline.engine.run_request import RunRequest
from faultline.engine.verdicts import Judged, Verdict
from faultline.engine.warm import WarmRunner

AT_ONCE = 4  # runs
HANG = 5.0  # seconds that a check may take in the cases that hang
IN_TIME = 90.0  # seconds for a run, with a wide margin: a good one takes less than one
pytestmark = [pytest.mark.once, pytest.mark.slow]
DOCUMENT = Path(__file__).parents[2] / "docs" / "containment.md"
BEGIN, END = "<!-- measured: begin -->\n", "<!-- measured: end -->\n"
COUNTER = """
import asyncio, atexit, ctypes, multiprocessing, os, pathlib, re, signal, socket, subprocess, sys, threading, time
{top}
class Counter:
    def __init__(self):
        self._total = 0
{init}

    {kind} add(self, number):
        if number == 5:
{five}
        if number < 0:
            raise ValueError(number)
        self._total += number

    def total(self):
        return {total}

def output():
    path = os.readlink("/proc/self/fd/1")
    assert path.endswith(".out"), path  # or a case could remove who knows what
    return path

def grader():
    return int(pathlib.Path(f"/proc/{{os.getppid()}}/stat").read_text().rpartition(")")[2].split()[1])
"""


class Case(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the code does, in words for the document, and what must come of it."""

    what: str
    says: str = ""
    verdict: Verdict = Verdict.FAIL
    top: str = ""
    init: str = "pass"
    five: str = "pass"
    kind: str = "def"
    total: str = "self._total"
    source: str | None = None
    prefix: str = ""
    times: int = 1
    files: dict[str, str] = {}
    judged: Sequence[str] = ("adds_more_than_one", "begins_at_zero")
    spoils: bool = False
    hangs: bool = False

    @property
    def text(self) -> bytes:
        """The solution."""
        init, five = indent(self.init, " " * 8), indent(self.five, " " * 12)
        right = COUNTER.format(top=self.top, init=init, kind=self.kind, five=five, total=self.total)
        return bytes.fromhex(self.prefix) + (right if self.source is None else self.source).encode() * self.times


SECTIONS = msgspec.toml.decode(Path(__file__).with_name("hostile_code.toml").read_bytes(), type=dict[str, list[Case]])
CASES = [case for cases in SECTIONS.values() for case in cases]


@dataclass(frozen=True)
class Outcome:
    """What came of a case, and the files in the solution's folder that were not put there."""

    grade: Grade
    left: Sequence[str]


@dataclass(frozen=True)
class Table:
    """All cases, under way or done."""

    root: Path
    runner: WarmRunner
    running: "dict[str, Future[Outcome]]"

    def outcome(self, case: Case) -> Outcome:
        """Wait for it."""
        return self.running[case.what].result()


@pytest.fixture(scope="module")
def table(shared_tiny_clone: Path) -> Iterator[Table]:
    """Begins with the cases that wait, so that none waits alone at the end."""
    wanted = sorted(CASES, key=lambda case: not case.hangs)
    with WarmRunner(["redis"]) as runner, ThreadPoolExecutor(AT_ONCE) as pool:
        running = {
            case.what: pool.submit(run, shared_tiny_clone, runner, case, f"{number}")
            for number, case in enumerate(wanted)
        }
        yield Table(shared_tiny_clone, runner, running)
        pool.shutdown(cancel_futures=True)
    # Should the lab leave what is nested too deep, pytest could not remove it either.
    subprocess.run(["rm", "-rf", str(shared_tiny_clone)], check=True)


def run(root: Path, runner: WarmRunner, case: Case, name: str) -> Outcome:
    module = next(root.glob("sandbox/*/*/checks.py")).parent
    folder = root / "cases" / name
    folder.mkdir(parents=True)
    (folder / "counter.py").write_bytes(case.text)
    for file, text in case.files.items():
        if text.startswith("-> "):
            (folder / file).unlink()
            (folder / file).symlink_to(module / text.removeprefix("-> ") / file)
        else:
            (folder / file).write_text(text)
    before = {path.name for path in folder.iterdir()}
    request = RunRequest(
        checks=str(module / "checks.py"),
        solution=str(folder),
        module="counter",
        root=str(root),
        folder=str(run_folder(root)),
        seed=1,
        only=list(case.judged),
        check_limit=HANG if case.hangs else 55.0,
    )
    grade = Grade()
    for event in runner.grade(request):
        grade.add(event)
    return Outcome(grade, sorted({path.name for path in folder.iterdir()} - before))


def met(case: Case, grade: Grade) -> Judged:
    """The verdict of the check that met the code."""
    return next(one for one in grade.judged if one.check == case.judged[0])


@pytest.mark.timeout(150)  # each waits for its turn, and the first ones are not the first to run
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.what)
def test_each_gets_a_true_verdict_in_time(table: Table, case: Case) -> None:
    outcome = table.outcome(case)
    grade = outcome.grade

    assert grade.ended
    assert grade.ended.trouble == ""
    assert (met(case, grade).verdict, grade.verdict) == (case.verdict, case.verdict), grade.judged
    assert re.search(case.says, met(case, grade).seen), met(case, grade).seen
    others = {one.check: one.verdict for one in grade.judged if one.check != case.judged[0]}
    assert others == dict.fromkeys(case.judged[1:], Verdict.FAIL if case.spoils else Verdict.PASS), grade.judged
    assert grade.ended.seconds < IN_TIME
    assert outcome.left == []


@pytest.mark.timeout(300)
def test_nothing_of_them_is_left_and_the_next_run_is_unaffected(table: Table) -> None:
    for case in CASES:
        table.outcome(case)
    assert list((table.root / ".lab" / "runs").iterdir()) == []
    assert marked(table.root) == {table.runner.pid}
    good = Case("good", judged=("counts", "refuses_less_than_nothing", "adds_more_than_one", "begins_at_zero"))
    for name in ("good", "and again"):
        outcome = run(table.root, table.runner, good, name)
        assert outcome.grade.verdict is Verdict.PASS, outcome.grade.judged


def marked(root: Path) -> set[int]:
    """The processes that were started for runs of this clone: by their environment, or by where they are."""
    pids = set()
    for process in psutil.process_iter():
        try:
            words = [process.cwd(), *process.environ().values()]
            ours = process.status() != psutil.STATUS_ZOMBIE and any(str(root) in word for word in words)
        except (psutil.Error, OSError):  # ended meanwhile, or where it is has too long a name
            continue
        if ours and process.pid != os.getpid():
            pids.add(process.pid)
    return pids


@pytest.mark.timeout(300)
def test_the_document_shows_every_case_as_it_is(table: Table, request: pytest.FixtureRequest) -> None:
    before, _, rest = DOCUMENT.read_text().partition(BEGIN)
    written, _, after = rest.partition(END)
    if request.config.getoption("--write"):
        DOCUMENT.write_text(f"{before}{BEGIN}{measured(table)}{END}{after}")
        return

    lines = [line for line in written.splitlines() if line.startswith("| ") and not line.startswith("| code ")]
    rows = [re.split(r"(?<!\\) \| ", line.strip("| ")) for line in lines]
    assert [row[:2] for row in rows] == [[case.what, case.verdict] for case in CASES]
    for case, row in zip(CASES, rows, strict=True):
        said = row[3].replace("\\", "") if len(row) > 3 else ""
        assert re.search(case.says, said) if case.says else said == "", f"{case.what}: {said}"


def measured(table: Table) -> str:
    """The tables of the document."""
    text = ""
    for section, cases in SECTIONS.items():
        text += f"\n### {section}\n\n| code | verdict | seconds | seen |\n|---|---|---|---|\n"
        for case in cases:
            grade = table.outcome(case).grade
            assert grade.ended
            seen = met(case, grade).seen.replace(str(table.root), "…")
            seen = re.sub(r"([|*_<>\[\]`~\\])", r"\\\1", seen if len(seen) <= 200 else f"{seen[:200]}…")
            text += f"| {case.what} | {case.verdict} | {grade.ended.seconds:.1f} | {seen} |\n"
    return f"{text}\n"
