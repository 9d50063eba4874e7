"""A verdict says what was seen, blames whom it must, and comes in the order of the checks."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from faultline.engine import exercise, roadmap
from faultline.engine.errors import BadModule
from faultline.engine.grades import Grade, request
from faultline.engine.module_names import find_module
from faultline.engine.run_request import RunRequest
from faultline.engine.verdicts import EXIT_CODES, Began, Ended, Judged, Verdict
from faultline.engine.warm import WarmRunner

Graded = Callable[..., Grade]

SOLUTION = """
    import asyncio, time

    class Lock:
        async def acquire(self, timeout):
            print("acquiring")
            return timeout

        def nothing(self):
            pass

        def several(self):
            return ["one"]

        def fail(self):
            raise LookupError("there is none")

        async def hang(self):
            await asyncio.sleep(600)
"""


def one(grade: Grade) -> Judged:
    [judged] = grade.judged
    return judged


def test_a_kept_promise_passes_with_its_first_line_and_nothing_else(graded: Graded) -> None:
    grade = graded(
        '''
        async def test_is_granted(testbed):
            """A free lock
            is granted.

            For whoever asks.
            """
            lock = await (await testbed.process("till-1")).new("Lock")
            assert await lock.acquire(timeout=1) == 1
        ''',
        SOLUTION,
    )
    judged = one(grade)
    assert grade.verdict is Verdict.PASS
    assert (judged.check, judged.promise, judged.verdict) == ("is_granted", "A free lock is granted.", Verdict.PASS)
    assert (judged.seen, judged.picture, judged.look) == ("", "", "")
    assert EXIT_CODES[grade.verdict] == 0


def test_a_broken_promise_shows_its_witness_where_to_look_and_what_was_printed(graded: Graded) -> None:
    judged = one(
        graded(
            '''
            async def test_excludes(testbed):
                """One at a time.

                Look: at the
                lock.
                """
                held = []
                for till in await testbed.processes(2, "till"):
                    lock = await till.new("Lock")
                    await lock.acquire(timeout=1)
                    [*_, got] = testbed.history.operations("acquire")
                    held.append(Held(till.name, got.end, got.end + 1, (got,)))
                mutual_exclusion(held, at_least=2)
            ''',
            SOLUTION,
        )
    )
    assert judged.verdict is Verdict.FAIL
    assert judged.seen.startswith("till-1 and till-2 both held it, for ")
    assert [line.split()[2:] for line in judged.picture.splitlines() if "acquire" in line] == [
        ["acquire(timeout=1)"]
    ] * 2
    assert judged.picture.splitlines()[0].split() == ["till-1", "till-2"]
    assert judged.look == "at the lock."
    assert judged.printed == "acquiring\nacquiring\n"


ENDS = [
    ("await lock.fail()", Verdict.FAIL, "your code raised LookupError: there is none, at answer.py:"),
    ("await lock.absent()", Verdict.FAIL, "your code raised AttributeError: 'Lock' object has no"),
    ("assert await lock.acquire(2) == 1, 'two is not one'", Verdict.FAIL, "two is not one"),
    ("x = await lock.acquire(2); assert x == 1", Verdict.FAIL, "assert 2 == 1"),
    ("raise Broken('torn', [])", Verdict.FAIL, "torn"),
    ("await lock.process.kill(); await lock.acquire(1)", Verdict.FAIL, "till-1 was killed by the check"),
    ("with testbed.raises('LockLost'): await lock.acquire(1)", Verdict.FAIL, "promised was LockLost, but nothing"),
    ("with testbed.raises('LockLost'): await lock.fail()", Verdict.FAIL, "promised was LockLost, raised was Look"),
    ("with testbed.raises('Exception'): await lock.fail()", Verdict.PASS, ""),
    (
        "r = await testbed.redis(); await r.truth.set('x', lock.token)",
        Verdict.FAIL,
        "Lock() gave Lock() in till-1, and",
    ),
    ("await lock.nothing(); r = await testbed.redis(); await r.truth.set('x', {})", Verdict.ERROR, "DataError: "),
    (
        "x = await lock.nothing(); x.token",
        Verdict.FAIL,
        "nothing() gave None in till-1, and the check cannot use that: ",
    ),
    ("x = await lock.nothing(); assert x > 1", Verdict.FAIL, "nothing() gave None in till-1, and the check cannot"),
    ("x = await lock.nothing(); x = x or 1; x.token", Verdict.ERROR, "AttributeError: 'int' object has no"),
    ("x = await lock.nothing(); 1 + ''", Verdict.ERROR, "TypeError: unsupported operand"),
    ("[x] = await lock.several(); x.append(1)", Verdict.FAIL, "several() gave ['one'] in till-1, and the check"),
    ("assert lock.token > 1", Verdict.FAIL, "Lock.token is no value that can be read"),
    ("assert lock.token == 1, lock.token", Verdict.FAIL, "<Lock.token is no value that can be read>"),
    ("raise Vacuous('no fault')", Verdict.ERROR, "Vacuous: no fault (checks.py:"),
    ("raise KeyError('ours')", Verdict.ERROR, "KeyError: 'ours' (checks.py:"),
    ("import pytest; pytest.skip('no')", Verdict.ERROR, "Skipped: no"),
    ("import pytest; pytest.fail('no')", Verdict.ERROR, "Failed: no"),
    ("await testbed.until(asyncio.Event().is_set, 'then')", Verdict.ERROR, "TypeError:"),
    (
        "await testbed.until(never, 'then', deadline=0.01)",
        Verdict.ERROR,
        "TestbedError: waited 0.01 s in vain until then",
    ),
]


def test_what_ends_a_check_decides_its_verdict(graded: Graded) -> None:
    checks = "async def never(): return False\n" + "".join(
        f"async def test_{number}(testbed):\n"
        "    lock = await (await testbed.process('till-1')).new('Lock')\n"
        f"    {body}\n"
        for number, (body, _, _) in enumerate(ENDS)
    )
    grade = graded(checks, SOLUTION)
    got = [(judged.verdict, judged.seen[: len(seen)]) for judged, (_, _, seen) in zip(grade.judged, ENDS, strict=True)]
    assert got == [(verdict, seen) for _, verdict, seen in ENDS]
    assert grade.verdict is Verdict.ERROR


def test_of_several_at_once_the_broken_promise_is_told(graded: Graded) -> None:
    judged = one(
        graded(
            """
            async def raises(error):
                await asyncio.sleep(0)
                raise error

            async def test_one(testbed):
                async with asyncio.TaskGroup() as group:
                    group.create_task(raises(KeyError("ours")))
                    group.create_task(raises(Raised(kind="E", bases=[], message="", where="")))
                    group.create_task(raises(Broken("the promise")))
                    group.create_task(raises(AssertionError("an assert")))
            """
        )
    )
    assert (judged.verdict, judged.seen) == (Verdict.FAIL, "the promise")


def test_a_hang_fails_within_its_limit_and_names_what_was_running(graded: Graded) -> None:
    grade = graded(
        """
        async def test_yours(testbed):
            lock = await (await testbed.process("till-1")).new("Lock")
            await lock.hang()

        async def test_ours(testbed):
            await testbed.process("till-1")
            await asyncio.sleep(600)
        """,
        SOLUTION,
        check_limit=2.0,
    )
    yours, ours = grade.judged
    assert (yours.verdict, ours.verdict) == (Verdict.FAIL, Verdict.FAIL)
    assert re.match(r"it did not end within 2 s: till-1 in hang\(\) since \d\.", yours.seen)
    assert "… still in hang()" in yours.picture
    assert ours.seen == "it did not end within 2 s: nothing of yours was running"
    assert max(yours.seconds, ours.seconds) < 10


MISSES = """
    from pathlib import Path
    tries = Path({path!r})

    async def test_one(testbed):
        tries.write_text(tries.read_text() + "x" if tries.exists() else "x")
        with testbed.within(0.05, "it was there"):
            if {when}:
                await asyncio.sleep(1.5 * testbed.patience)
"""


@pytest.mark.parametrize(
    ("when", "verdict", "seen", "tries"),
    [
        ("False", Verdict.PASS, "", 1),
        ("True", Verdict.FAIL, "s until it was there; promised were 0.05 s", 2),
        ("len(tries.read_text()) == 1", Verdict.UNKNOWN, "times the time kept the promise. This machine is busy", 2),
    ],
    ids=["met", "missed twice", "missed once"],
)
def test_a_missed_time_counts_only_if_it_is_missed_again(
    graded: Graded, tmp_path: Path, when: str, verdict: Verdict, seen: str, tries: int
) -> None:
    grade = graded(MISSES.format(path=str(tmp_path / "tries"), when=when))
    assert (one(grade).verdict, seen in one(grade).seen) == (verdict, True)
    assert len((tmp_path / "tries").read_text()) == tries
    assert EXIT_CODES[grade.verdict] == {Verdict.PASS: 0, Verdict.FAIL: 1, Verdict.UNKNOWN: 3}[verdict]


def test_a_promise_of_safety_that_breaks_is_never_tried_again(graded: Graded, tmp_path: Path) -> None:
    grade = graded(
        f"""
        from pathlib import Path

        async def test_one(testbed):
            with open({str(tmp_path / "tries")!r}, "a") as file:
                file.write("x")
            assert False, "unsafe"
        """
    )
    assert grade.verdict is Verdict.FAIL
    assert (tmp_path / "tries").read_text() == "x"


THREE = """
    async def test_b(testbed): pass
    async def test_a(testbed): assert False, "no"
    async def test_c(testbed): pass
"""


def test_events_come_in_the_order_of_the_checks_also_after_a_failure(
    warm: WarmRunner, asked: Callable[..., RunRequest]
) -> None:
    events = list(warm.grade(asked(THREE, seed=7)))
    assert events[0] == Began(7, ["b", "a", "c"])
    assert [(event.check, event.verdict) for event in events[1:-1] if isinstance(event, Judged)] == [
        ("b", Verdict.PASS),
        ("a", Verdict.FAIL),
        ("c", Verdict.PASS),
    ]
    assert isinstance(events[-1], Ended)
    assert events[-1].trouble == ""


def test_only_those_asked_for_are_judged(graded: Graded) -> None:
    grade = graded(THREE, only=["c", "b"])
    assert (grade.checks, grade.verdict) == (["b", "c"], Verdict.PASS)


@pytest.mark.parametrize(
    ("checks", "only", "trouble"),
    [
        (THREE, ["c", "typo"], "there is no check typo"),
        ("async def test_one(testbed:\n    pass", [], "SyntaxError"),
        ("import nothing_of_that_name", [], "ModuleNotFoundError"),
    ],
    ids=["unknown check", "syntax", "import"],
)
def test_checks_that_cannot_run_are_trouble_of_ours(graded: Graded, checks: str, only: list[str], trouble: str) -> None:
    grade = graded(checks, only=only)
    assert grade.verdict is Verdict.ERROR
    assert grade.ended
    assert trouble in grade.ended.trouble
    assert EXIT_CODES[grade.verdict] == 3


def test_no_check_at_all_is_no_pass(graded: Graded) -> None:
    assert graded("").verdict is Verdict.ERROR


def test_a_seed_repeats_every_choice_of_a_check_whatever_else_runs(graded: Graded) -> None:
    checks = """
        async def test_a(testbed): assert False, testbed.random.random()
        async def test_b(testbed): assert False, testbed.random.random()
    """

    def chosen(seed: int, *only: str) -> dict[str, str]:
        return {judged.check: judged.seen for judged in graded(checks, seed=seed, only=only).judged}

    first = chosen(1)
    assert chosen(1) == first
    assert chosen(1, "b") == {"b": first["b"]}
    assert chosen(2)["a"] != first["a"]
    assert first["a"] != first["b"]


def test_the_learners_environment_changes_nothing_of_how_checks_run(
    asked: Callable[..., RunRequest], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PYTEST_ADDOPTS", "-k nothing_of_that_name")
    (tmp_path / "conftest.py").write_text("raise SystemExit\n")
    with WarmRunner([]) as runner:
        grade = Grade()
        for event in runner.grade(asked("async def test_one(testbed): pass\n")):
            grade.add(event)
    assert grade.verdict is Verdict.PASS


def test_a_run_beyond_its_limit_is_ended(warm: WarmRunner, asked: Callable[..., RunRequest]) -> None:
    import msgspec

    request = asked("import time\nasync def test_one(testbed): time.sleep(600)\n")
    events = list(warm.grade(msgspec.structs.replace(request, limit=0.3)))
    assert isinstance(events[-1], Ended)
    assert events[-1].trouble == "the run was ended after 0.3 s, its limit"


def test_checks_that_hang_one_after_the_other_are_failures_and_not_the_end_of_the_run(graded: Graded) -> None:
    checks = "".join(
        f"async def test_{number}(testbed): await (await testbed.process('till-1')).new('Lock')\n"
        for number in range(7)
    )
    grade = graded(checks, "while True: pass\n", check_limit=4.0, limit=12.0)
    assert [one.verdict for one in grade.judged] == [Verdict.FAIL] * 7
    hung = r"it did not end within 4 s: till-1 in Lock\(\) since [34]\.\d s, at answer\.py:1"  # it is begun later
    assert re.fullmatch(hung, grade.judged[0].seen)
    assert grade.judged[-1].seen == "it was not begun: those that hung had used up the 12 s"
    assert grade.verdict is Verdict.FAIL
    assert grade.ended
    assert grade.ended.trouble == ""


def test_a_run_with_too_many_processes_is_ended(graded: Graded) -> None:
    grade = graded(
        """
        async def test_one(testbed):
            await (await testbed.process("till-1")).request(None, "fork", (), {})
        """,
        """
        import os, time
        def fork():
            for _ in range(40):
                if os.fork() == 0:
                    time.sleep(600)
            time.sleep(600)
        """,
        process_limit=30,
    )
    assert grade.ended
    assert grade.ended.trouble.endswith("processes, started by your code; its limit is 30")
    assert grade.verdict is Verdict.FAIL


@pytest.mark.parametrize(("budget", "limit"), [("", 12.0), ("budget = 24", 12.0), ("budget = 40", 20.0)])
def test_a_check_may_take_half_of_a_larger_budget(
    tiny_clone: Path, tiny_module: Path, budget: str, limit: float
) -> None:
    (tiny_module / "module.toml").write_text((tiny_module / "module.toml").read_text() + budget)
    chosen = exercise.load(find_module(roadmap.load(tiny_clone), "redis/05"))

    assert request(chosen, chosen.reference, tiny_clone).check_limit == limit


@pytest.mark.parametrize("budget", ["121", "0"])
def test_a_budget_is_two_minutes_at_most(tiny_clone: Path, tiny_module: Path, budget: str) -> None:
    (tiny_module / "module.toml").write_text(f"{(tiny_module / 'module.toml').read_text()}budget = {budget}\n")
    with pytest.raises(BadModule, match="budget"):
        exercise.load(find_module(roadmap.load(tiny_clone), "redis/05"))


CALLS_BACK = """
    class Shop:
        async def pay(self, charge):
            await charge("ann")
"""


@pytest.mark.parametrize(
    ("does", "verdict", "seen"),
    [
        ("assert type(cents) is int, 'no int'", Verdict.FAIL, "no int"),
        ("raise LookupError(cents)", Verdict.FAIL, "your code raised LookupError"),
    ],
)
def test_what_a_function_of_the_check_is_given_is_told_also_where_the_check_fails_otherwise(
    graded: Graded, does: str, verdict: Verdict, seen: str
) -> None:
    checks = f"""
        async def test_one(testbed):
            async def charge(cents):
                {does}

            shop = await (await testbed.process("shop")).new("Shop")
            await shop.pay(testbed.callback(charge))
    """

    judged = one(graded(checks, CALLS_BACK))

    assert (judged.verdict, seen in judged.seen) == (verdict, True), judged
