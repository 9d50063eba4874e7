"""What the learner's code may use, and what it sees of the machine."""

import asyncio
import time
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import pytest

from faultline.components import Clone
from faultline.testbed import LearnerProcess, Raised, Testbed
from faultline.testbed.nursery import Nursery
from faultline.testbed.testbed import Solution

InProcess = Callable[[str], AbstractAsyncContextManager[LearnerProcess]]
OnTestbed = Callable[[str], AbstractAsyncContextManager[Testbed]]


async def test_memory_beyond_the_limit_is_a_memory_error(in_process: InProcess) -> None:
    async with in_process("def take(size):\n        return len(bytearray(size))\n") as process:
        assert await process.request(None, "take", (2**20,), {}) == 2**20
        with pytest.raises(Raised, match=r"^MemoryError: a process of yours may have 2 GB of memory, at answer\.py:2$"):
            await process.request(None, "take", (3 * 2**30,), {})
        assert await process.request(None, "take", (2**20,), {}) == 2**20


@pytest.mark.parametrize("blocking", ["time.sleep(60)", "while True: pass"])
async def test_a_solution_that_blocks_its_loop_does_not_block_the_grader(on_testbed: OnTestbed, blocking: str) -> None:
    async with on_testbed(f"import time\ndef block():\n    {blocking}\ndef ask():\n    return 1\n") as testbed:
        stuck, other = await testbed.processes(2, "till")
        blocked = asyncio.create_task(stuck.request(None, "block", (), {}))
        assert await other.request(None, "ask", (), {}) == 1
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(stuck.request(None, "ask", (), {}), 0.05)
        assert not blocked.done()
        await stuck.kill()
        with pytest.raises(AssertionError, match="killed by the check"):
            await blocked


CLOCKS = """
    import time
    from datetime import date, datetime, UTC
    from time import time as now

    def read():
        return {
            "time": time.time(),
            "from time": now(),
            "time_ns": time.time_ns() / 1e9,
            "clock_gettime": time.clock_gettime(time.CLOCK_REALTIME),
            "clock_gettime_ns": time.clock_gettime_ns(time.CLOCK_REALTIME) / 1e9,
            "utc": datetime.now(UTC).timestamp(),
            "local": datetime.now().timestamp(),
            "utcnow": datetime.utcnow().replace(tzinfo=UTC).timestamp(),
            "gmtime": __import__("calendar").timegm(time.gmtime()),
            "localtime": time.mktime(time.localtime()),
            "day": (date.today() - date(1970, 1, 1)).days,
            "monotonic": time.monotonic(),
        }
"""
DAYS = 2 * 86_400.0


@pytest.mark.filterwarnings("ignore:datetime.datetime.utcnow:DeprecationWarning")  # learners use it all the same
@pytest.mark.parametrize("offset", [DAYS, -DAYS])
async def test_every_wall_clock_is_wrong_and_the_monotonic_one_is_right(on_testbed: OnTestbed, offset: float) -> None:
    async with on_testbed(CLOCKS) as testbed:
        wrong = await testbed.process("wrong", clock_offset=offset)
        right = await testbed.process("right")
        seen, truth = await asyncio.gather(*(one.request(None, "read", (), {}) for one in (wrong, right)))

    assert seen.pop("monotonic") == pytest.approx(time.monotonic(), abs=5)
    assert seen.pop("day") - truth.pop("day") == offset / 86_400
    assert {clock: round((at - truth[clock] - offset) / 10) for clock, at in seen.items()} == dict.fromkeys(seen, 0)


async def test_what_is_printed_is_kept_also_when_the_process_is_killed(in_process: InProcess) -> None:
    async with in_process("import sys\ndef say():\n    print('hello')\n    print('oh', file=sys.stderr)\n") as process:
        await process.request(None, "say", (), {})
        await process.kill()
        assert process.output.read_text() == "hello\noh\n"


async def test_a_solution_may_be_called_like_a_module_that_is_loaded_already(tmp_path: Path, nursery: Nursery) -> None:
    (tmp_path / "queue.py").write_text("class Queue:\n    mine = True\n")
    (tmp_path / "parts.py").write_text("import queue\nQueue = queue.Queue\n")
    opened: Any = Testbed.opened(
        solution=Solution(tmp_path, "queue"), folder=tmp_path / "run", seed=1, nursery=nursery, clone=Clone.here()
    )
    async with opened as testbed:
        process = await testbed.process("till-1")
        assert (await process.new("Queue")).mine is True


async def test_tasks_of_one_process_run_at_the_same_time(in_process: InProcess) -> None:
    source = """
        import asyncio
        gate = asyncio.Event()
        async def wait():
            await gate.wait()
            return "went"
        async def open():
            gate.set()
    """
    async with in_process(source) as process:
        waiting = [asyncio.create_task(process.request(None, "wait", (), {})) for _ in range(20)]
        await process.request(None, "open", (), {})
        assert await asyncio.gather(*waiting) == ["went"] * 20


CHANCE = """
    import random, secrets, time
    from datetime import datetime
    from random import choice
    own, system = random.Random(), random.SystemRandom()

    def guessable():
        random.seed()
        return [random.random(), choice(range(10**9)), own.random(), random.Random().random(), random.getrandbits(60),
                time.time(), time.time_ns() / 1e9, datetime.now().timestamp()]

    def safe():
        return [secrets.token_hex(), str(system.getrandbits(128))]

    def seeded():
        return random.Random(secrets.token_bytes()).random()
"""


async def test_foreseeable_processes_differ_by_what_the_system_draws_alone(on_testbed: OnTestbed) -> None:
    async with on_testbed(CHANCE) as testbed:
        both = [await testbed.process(f"shop-{number}", foreseeable=True) for number in (1, 2)]
        usual = await testbed.process("usual")
        first, second, other = [await one.request(None, "guessable", (), {}) for one in (*both, usual)]
        safe = [await one.request(None, "safe", (), {}) for one in both]
        seeded = [await one.request(None, "seeded", (), {}) for one in (*both, usual)]

    assert first == second
    assert not set(first) & set(other)
    assert set(first[-3:]) == {first[-1]}
    assert not set(safe[0]) & set(safe[1])
    assert seeded[0] == seeded[1] != seeded[2]
