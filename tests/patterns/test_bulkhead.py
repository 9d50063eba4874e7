"""What a bulkhead promises: never too many inside, a bounded queue in order, and no place is ever lost."""

from __future__ import annotations

import asyncio
from random import Random
from typing import Any

import pytest

from faultline.patterns import (
    Bulkhead,
    BulkheadFull,
    CircuitBreaker,
    DeadlineExceeded,
    NotTried,
    TooLate,
    deadline,
)


class Callers:
    """Calls that stay inside until they are let go, and who went in when."""

    def __init__(self, room: Bulkhead) -> None:
        self.room = room
        self.entered: list[str] = []
        self.most = 0
        self._leave: dict[str, asyncio.Event] = {}

    async def inside(self, name: str) -> str:
        self.entered.append(name)
        self.most = max(self.most, self.room.in_use)
        await self._leave.setdefault(name, asyncio.Event()).wait()
        return name

    async def come(self, *names: str) -> list[asyncio.Task[str]]:
        """They come one after the other; each has got as far as it can."""
        tasks: list[asyncio.Task[str]] = []
        for name in names:
            tasks.append(asyncio.create_task(self.room.call(self.inside, name)))
            await turns()
        return tasks

    def let_go(self, *names: str) -> None:
        for name in names:
            self._leave.setdefault(name, asyncio.Event()).set()


async def turns() -> None:
    """As many turns of the event loop as anything here needs."""
    for _ in range(5):
        await asyncio.sleep(0)


def state(room: Bulkhead) -> tuple[int, int]:
    return room.in_use, room.queued


async def test_as_many_as_may_are_inside_the_next_wait_and_the_others_are_refused_without_a_turn() -> None:
    room = Bulkhead(2, queue=2)
    callers = Callers(room)
    tasks = await callers.come("a", "b", "c", "d")
    assert (callers.entered, state(room)) == (["a", "b"], (2, 2))
    turned = False

    def turn() -> None:
        nonlocal turned
        turned = True

    asyncio.get_running_loop().call_soon(turn)
    with pytest.raises(BulkheadFull, match="2 inside, 2 waiting") as refused:
        await room.call(callers.inside, "e")
    assert isinstance(refused.value, NotTried)
    assert not turned, "it let others run first"
    callers.let_go("a", "b", "c", "d")
    assert await asyncio.gather(*tasks) == ["a", "b", "c", "d"]
    assert (callers.entered, callers.most, state(room)) == (["a", "b", "c", "d"], 2, (0, 0))


async def test_who_has_waited_longest_is_next_and_nobody_overtakes() -> None:
    room = Bulkhead(1, queue=10)
    callers = Callers(room)
    tasks = await callers.come("a", "b", "c")
    callers.let_go("a", "b", "c", "late")
    await asyncio.sleep(0)  # a leaves; b has the place, and has not run yet
    late = asyncio.create_task(room.call(callers.inside, "late"))
    await asyncio.gather(*tasks, late)
    assert (callers.entered, callers.most) == (["a", "b", "c", "late"], 1)


@pytest.mark.parametrize("error", [ValueError(), asyncio.CancelledError(), KeyError()])
async def test_an_error_inside_gives_the_place_back_and_passes(error: BaseException) -> None:
    async def fail() -> None:
        raise error

    room = Bulkhead(1)
    for _ in range(3):
        with pytest.raises(type(error)) as raised:
            await room.call(fail)
        assert raised.value is error
        assert state(room) == (0, 0)


async def test_cancelled_inside_the_place_goes_to_the_next() -> None:
    room = Bulkhead(1, queue=1)
    callers = Callers(room)
    first, second = await callers.come("a", "b")
    first.cancel()
    await turns()
    assert (callers.entered, state(room)) == (["a", "b"], (1, 0))
    callers.let_go("b")
    assert await second == "b"
    assert state(room) == (0, 0)


async def test_cancelled_in_the_queue_it_leaves_its_room_there() -> None:
    room = Bulkhead(1, queue=2)
    callers = Callers(room)
    first, second, third = await callers.come("a", "b", "c")
    second.cancel()
    await turns()
    assert state(room) == (1, 1)
    (fourth,) = await callers.come("d")
    callers.let_go("a", "c", "d")
    assert await asyncio.gather(first, third, fourth) == ["a", "c", "d"]
    assert second.cancelled()
    assert (callers.entered, state(room)) == (["a", "c", "d"], (0, 0))


@pytest.mark.parametrize("others", [0, 2])
async def test_cancelled_in_the_turn_of_the_hand_over_the_place_goes_on(others: int) -> None:
    room = Bulkhead(1, queue=1 + others)
    callers = Callers(room)
    async with room:
        first, *rest = await callers.come(*"abc"[: 1 + others])
    assert state(room) == (1, others), "it has not been handed over"
    first.cancel()  # which has the place, and has not run yet
    callers.let_go("b", "c")
    await asyncio.wait([first, *rest])
    assert first.cancelled()
    assert (callers.entered, state(room)) == (["b", "c"][:others], (0, 0))


async def test_a_place_that_was_handed_over_is_not_taken_back_by_the_end_of_the_wait() -> None:
    room = Bulkhead(1, queue=1, wait=0.05)
    callers = Callers(room)
    first, second = await callers.come("a", "b")
    callers.let_go("a")
    await first
    await asyncio.sleep(0.1)  # the end of b's wait passes
    assert state(room) == (1, 0)
    callers.let_go("b")
    assert await second == "b"
    assert state(room) == (0, 0)


async def test_whose_wait_is_over_is_refused_and_does_not_hold_up_the_others() -> None:
    room = Bulkhead(1, queue=1, wait=0.05)
    callers = Callers(room)
    first, second = await callers.come("a", "b")
    with pytest.raises(BulkheadFull):
        await second
    assert (callers.entered, state(room)) == (["a"], (1, 0))
    callers.let_go("a")
    await first
    assert state(room) == (0, 0)


async def test_nobody_enters_or_waits_when_the_deadline_is_over() -> None:
    now = 0.0
    room = Bulkhead(1, queue=1, wait=30)
    callers = Callers(room)
    async with deadline(1, clock=lambda: now):
        now = 1.0
        with pytest.raises(TooLate):
            await room.call(callers.inside, "a")
    assert (callers.entered, state(room)) == ([], (0, 0))


async def test_nobody_waits_past_the_deadline_in_its_own_task_or_in_another() -> None:
    room = Bulkhead(1, queue=2, wait=30)
    callers = Callers(room)
    (first,) = await callers.come("a")
    with pytest.raises(DeadlineExceeded):
        async with deadline(0.05):
            await room.call(callers.inside, "b")
    assert state(room) == (1, 0)
    async with deadline(0.05):
        (other,) = await callers.come("c")  # knows the deadline, and nobody cancels it
    async with asyncio.timeout(10):
        with pytest.raises(TooLate):
            await other
    assert (callers.entered, state(room)) == (["a"], (1, 0))
    async with deadline(30):
        short = Bulkhead(1, queue=1, wait=0.01)
        async with short:
            with pytest.raises(BulkheadFull):
                async with short:
                    pass
    callers.let_go("a")
    await first


async def test_a_full_room_is_no_failure_of_whom_it_protects() -> None:
    room, breaker = Bulkhead(1), CircuitBreaker(window=2, minimum=1)
    callers = Callers(room)
    (first,) = await callers.come("a")
    for _ in range(5):
        with pytest.raises(BulkheadFull):
            await breaker.call(room.call, callers.inside, "b")
    assert breaker.state == "closed"
    callers.let_go("a")
    await first


async def test_a_caller_that_is_thrown_away_loses_no_place() -> None:
    room = Bulkhead(1, queue=1)
    async with room:
        waiting = room.call(asyncio.sleep, 0)
        waiting.send(None)
        assert state(room) == (1, 1)
        waiting.close()
        assert state(room) == (1, 0)
        handed = room.call(asyncio.sleep, 0)
        handed.send(None)
    assert state(room) == (1, 0)
    handed.close()
    assert state(room) == (0, 0)


async def test_whatever_is_cancelled_when_places_are_neither_lost_nor_doubled() -> None:
    seed = 11
    random = Random(seed)
    room = Bulkhead(3, queue=20, wait=0.01)
    inside = most = done = 0

    async def work() -> None:
        nonlocal inside, most, done
        async with room:
            inside += 1
            most = max(most, inside)
            try:
                for _ in range(random.randrange(4)):
                    await asyncio.sleep(0)
            finally:
                inside -= 1
        done += 1

    async def come() -> None:
        task = asyncio.create_task(work())
        for _ in range(random.randrange(12)):
            await asyncio.sleep(0)
        if random.random() < 0.5:
            task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    for _ in range(100):
        await asyncio.gather(*(come() for _ in range(20)))
        assert state(room) == (0, 0), f"seed {seed}"
    assert most == 3, f"seed {seed}"
    assert 200 < done < 2000, f"seed {seed}: {done} of 2000"


@pytest.mark.parametrize("wrong", [{"limit": 0}, {"limit": 1, "queue": -1}, {"limit": 1, "wait": 0}])
def test_it_refuses_nonsense(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="no room for"):
        Bulkhead(**wrong)
