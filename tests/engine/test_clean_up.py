"""Nothing of a run is left: after its end, after a cancel, and after kill -9 of any of its processes.

The solution does what it can to stay: one process blocks, one stands still, and each has left a process in a
session of its own.
"""

import contextlib
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from faultline.components import processes
from faultline.components.room import memory_of
from faultline.engine.errors import RunnerDied
from faultline.engine.grades import Grade
from faultline.engine.run_folders import leave_memory, present, remove, run_folder
from faultline.engine.run_request import RunRequest
from faultline.engine.verdicts import Began, Ended, Verdict
from faultline.engine.warm import WarmRunner

Find = Callable[[psutil.Process], psutil.Process]

NASTY = """
    import os, subprocess, time

    def leave():
        subprocess.Popen(["sleep", "600"], start_new_session=True)
        if os.fork() == 0:
            os.setsid()
            time.sleep(600)

    def block():
        while True:
            pass
"""
STAYS = """
    async def test_one(testbed):
        server = await testbed.redis()
        paused, blocked, third = await testbed.processes(3, "till")
        for process in (paused, blocked):
            await process.request(None, "leave", (), {})
        await paused.pause()
        await server.pause()
        await testbed.redis()
        async with asyncio.TaskGroup() as group:
            group.create_task(blocked.request(None, "block", (), {}))
            group.create_task(asyncio.sleep(600))
"""
GOOD = "async def test_one(testbed):\n    await testbed.redis()\n    await testbed.process('till-1')\n"


def of_runs(root: Path) -> list[psutil.Process]:
    """Every process that has to do with this clone's runs: by its folder, its environment or its command."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if process.pid != os.getpid() and process.status() != psutil.STATUS_ZOMBIE:
                words = [process.cwd(), *process.cmdline(), *process.environ().values()]
                if any(str(root) in word for word in words):
                    found.append(process)
    return found


def until(condition: Callable[[], object], what: Callable[[], object], *, within: float = 10.0) -> None:
    deadline = time.monotonic() + within
    while not condition():
        assert time.monotonic() < deadline, what()
        time.sleep(0.005)


def left(root: Path, runner: WarmRunner | None) -> list[psutil.Process]:
    """What runs for this clone, without the warm runner that waits for the next run."""
    mine = {child.pid for child in psutil.Process().children()} if runner else set()
    return [process for process in of_runs(root) if process.pid not in mine]


def until_clean(root: Path, runner: WarmRunner | None = None) -> None:
    until(lambda: not left(root, runner), lambda: f"still running: {left(root, runner)}")


def folders(root: Path) -> list[str]:
    return [path.name for path in present(root)]


@pytest.fixture
def request_for(tiny_clone: Path, asked: Callable[..., RunRequest]) -> Callable[[str], RunRequest]:
    """Makes the request to grade the nasty solution with these checks, in a clone of the test's own."""
    import msgspec

    def make(checks: str) -> RunRequest:
        request = asked(checks, NASTY, check_limit=60.0)
        return msgspec.structs.replace(request, root=str(tiny_clone), folder=str(run_folder(tiny_clone)))

    return make


@pytest.fixture
def own(tiny_clone: Path) -> Iterator[WarmRunner]:
    """A warm runner of the test's own, with its processes marked by the test's clone."""
    with WarmRunner(["redis"]) as runner:
        yield runner


def passes(runner: WarmRunner, request: RunRequest) -> bool:
    grade = Grade()
    for event in runner.grade(request):
        grade.add(event)
    return grade.verdict is Verdict.PASS


def test_a_run_that_ends_leaves_nothing(
    own: WarmRunner, request_for: Callable[[str], RunRequest], tiny_clone: Path
) -> None:
    checks = STAYS.replace("asyncio.sleep(600)", "asyncio.sleep(0)").replace("blocked.request", "third.request")
    ends = checks.replace('"block"', '"nothing"')
    events = list(own.grade(request_for(ends)))
    assert isinstance(events[-1], Ended)
    until_clean(tiny_clone, own)  # the warden itself ends when it has said so
    assert folders(tiny_clone) == []


def test_a_run_whose_events_nobody_wants_any_more_is_ended(
    own: WarmRunner, request_for: Callable[[str], RunRequest], tiny_clone: Path
) -> None:
    for moment in (0.0, 0.2, 0.5):
        events = own.grade(request_for(STAYS))
        assert isinstance(next(events), Began)
        time.sleep(moment)
        assert isinstance(events, Iterator)
        events.close()  # type: ignore[attr-defined] # it is a generator
        until_clean(tiny_clone, own)
        until(lambda: not folders(tiny_clone), lambda: folders(tiny_clone))


def test_leaving_the_runner_ends_its_runs_before_it_returns(
    request_for: Callable[[str], RunRequest], tiny_clone: Path
) -> None:
    with WarmRunner([]) as runner:
        events = runner.grade(request_for(STAYS))
        next(events)
        time.sleep(0.3)
    assert of_runs(tiny_clone) == []
    assert folders(tiny_clone) == []
    with pytest.raises(RunnerDied):
        next(events)


def warm_runner(runner: psutil.Process) -> psutil.Process:
    return runner


def warden(runner: psutil.Process) -> psutil.Process:
    return runner.children()[0]


def grader(runner: psutil.Process) -> psutil.Process:
    return warden(runner).children()[0]


def nursery(runner: psutil.Process) -> psutil.Process:
    return min(grader(runner).children(), key=lambda process: process.pid)


@pytest.mark.parametrize("victim", [grader, warden, nursery, warm_runner], ids=lambda find: find.__name__)
def test_kill_9_of_any_process_of_a_run_leaves_nothing(
    request_for: Callable[[str], RunRequest], tiny_clone: Path, victim: Find
) -> None:
    seed = random.randrange(10**6)
    print(f"seed {seed}")
    moments = random.Random(seed)
    rounds = 2 if victim is warm_runner else 5
    with contextlib.ExitStack() as runners:
        runner = runners.enter_context(WarmRunner(["redis"]))
        for _ in range(rounds):
            events = runner.grade(request_for(STAYS))
            assert isinstance(next(events), Began)
            time.sleep(moments.uniform(0.0, 0.5))
            victim(psutil.Process(runner.pid)).kill()
            with contextlib.suppress(RunnerDied):
                for _ in events:
                    pass
            if victim is warm_runner:
                until_clean(tiny_clone)
                runner = runners.enter_context(WarmRunner(["redis"]))
            until_clean(tiny_clone, runner)
            until(lambda: not folders(tiny_clone), lambda: folders(tiny_clone))
        assert passes(runner, request_for(GOOD))
    assert folders(tiny_clone) == []


def test_kill_9_of_the_lab_itself_leaves_nothing(tiny_clone: Path, tiny_module: Path) -> None:
    (tiny_module / "checks.py").write_text("import asyncio\n" + STAYS.replace("\n    ", "\n"))
    (tiny_module / "solution" / "counter.py").write_text(NASTY.replace("\n    ", "\n"))
    seed = random.randrange(10**6)
    print(f"seed {seed}")
    moments = random.Random(seed)
    for _ in range(4):
        command = [sys.executable, "-m", "faultline.cli", "check", "redis/05", "--json"]
        with subprocess.Popen(
            [*command, "--solution", str(tiny_module / "solution")], stdout=subprocess.PIPE, env=os.environ
        ) as lab:
            assert lab.stdout
            if moments.random() < 0.8:
                assert b"began" in lab.stdout.readline()
            time.sleep(moments.uniform(0.0, 0.5))
            lab.kill()
        until_clean(tiny_clone)
        until(lambda: not folders(tiny_clone), lambda: folders(tiny_clone))


def test_what_is_left_when_all_that_watched_was_killed_goes_with_the_next_run(
    request_for: Callable[[str], RunRequest], tiny_clone: Path, tiny_module: Path
) -> None:
    (tiny_module / "checks.py").write_text("import asyncio\n" + STAYS.replace("\n    ", "\n"))
    (tiny_module / "solution" / "counter.py").write_text(NASTY.replace("\n    ", "\n"))
    command = [sys.executable, "-m", "faultline.cli", "check", "redis/05", "--json"]
    with subprocess.Popen(
        [*command, "--solution", str(tiny_module / "solution")], stdout=subprocess.PIPE, env=os.environ
    ) as lab:
        assert lab.stdout
        lab.stdout.readline()
        top = psutil.Process(lab.pid)
        until(lambda: any("sleep" in one.cmdline() for one in of_runs(tiny_clone)), lambda: of_runs(tiny_clone))
        [runner] = top.children()
        doomed = [runner, warden(runner), grader(runner), top]
        for process in doomed:
            process.suspend()
        for process in doomed:
            process.kill()
    until(lambda: all(not process.is_running() for process in doomed), lambda: doomed)
    assert any("sleep" in process.cmdline() for process in of_runs(tiny_clone))
    assert folders(tiny_clone)

    with WarmRunner(["redis"]) as runner:
        assert passes(runner, request_for(GOOD))
        until_clean(tiny_clone, runner)
    assert folders(tiny_clone) == []


def test_a_run_leaves_the_folders_of_those_who_live_alone(
    own: WarmRunner, request_for: Callable[[str], RunRequest], tiny_clone: Path
) -> None:
    runs = tiny_clone / ".lab" / "runs"
    mine = run_folder(tiny_clone, "proof")
    brief = run_folder(tiny_clone, "proof", brief=True)
    for folder in (mine, brief, brief.with_name("1.1-run-2"), runs / "1.1-run-1", runs / "something"):
        (folder / "inside").mkdir(parents=True)
    assert passes(own, request_for(GOOD))
    assert brief.parent != runs
    assert sorted(folders(tiny_clone)) == sorted([mine.name, brief.name, "something"])
    remove(brief)
    leave_memory(tiny_clone)
    assert not memory_of(tiny_clone).exists()


SWEEPER = """
import asyncio, sys
from pathlib import Path
from faultline.engine.run_folders import sweep_runs
print(len(asyncio.run(sweep_runs(Path(sys.argv[1])))))
"""


def test_who_sweeps_for_an_owner_that_has_just_died_does_not_stop_itself(tmp_path: Path) -> None:
    """A lab that was killed while its runner began: the warden that is forked then finds its own run ownerless."""
    runs = tmp_path / ".lab" / "runs"
    for owner in ("4194303.1", "4194303.2"):  # nobody's
        (runs / f"{owner}-run-1").mkdir(parents=True)
    environment = {**os.environ, processes.MARK: str(runs.resolve() / "4194303.1")}
    swept = subprocess.run(
        [sys.executable, "-c", SWEEPER, str(tmp_path)],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
        timeout=30,
    )
    assert swept.stdout == "1\n", "the other owner's"
    assert [path.name for path in runs.iterdir()] == ["4194303.1-run-1"]
