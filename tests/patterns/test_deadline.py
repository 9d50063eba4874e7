"""What a deadline promises: it ends what hangs, only shrinks, tells the next one, and is no cancellation."""

from __future__ import annotations

import asyncio
import inspect
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest

from faultline.patterns import (
    CircuitBreaker,
    DeadlineExceeded,
    NotTried,
    Retry,
    RetryBudget,
    TooLate,
    deadline,
    from_headers,
    headers,
    remaining,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable

NAME = "x-deadline-remaining-ms"


class Busy(ConnectionError):
    """It says when to come back."""

    retry_after = 2.0


class Clock:
    """Stands still until it is moved."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


async def forever() -> None:
    await asyncio.Event().wait()


async def test_it_ends_a_server_that_drips_though_no_read_ever_waits_long() -> None:
    gone = asyncio.Event()

    async def drip(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            while not writer.is_closing():
                writer.write(b".")
                await writer.drain()
                await asyncio.sleep(0.005)
        gone.set()

    read = 0

    async def read_on(reader: asyncio.StreamReader) -> None:
        nonlocal read
        while True:
            async with asyncio.timeout(10):  # the read's own, which never fires
                read += len(await reader.readexactly(1))

    async with await asyncio.start_server(drip, "127.0.0.1", 0) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.sockets[0].getsockname()[1])
        started = time.monotonic()
        try:
            with pytest.raises(DeadlineExceeded, match=r"not done within 0\.2 s") as raised:
                async with deadline(0.2):
                    await read_on(reader)
        finally:
            writer.close()
        took = time.monotonic() - started
        await gone.wait()
    assert read > 3, "it did not drip"
    assert 0.19 < took < 5
    assert isinstance(raised.value, TimeoutError)
    assert not isinstance(raised.value, NotTried), "what ran may have happened"
    assert remaining() is None


async def test_a_deadline_inside_another_only_shrinks_it() -> None:
    clock = Clock()
    async with deadline(10, clock=clock):
        assert remaining() == 10
        async with deadline(60):
            assert remaining() == 10
        async with deadline(None):
            assert remaining() == 10
        async with deadline(2):
            assert remaining() == 2
            clock.now += 1.5
            async with deadline(2):
                assert remaining() == 0.5
        assert remaining() == 8.5
    assert remaining() is None
    async with deadline(None):
        assert remaining() is None


async def test_the_block_whose_time_is_up_says_so() -> None:
    reached: list[str] = []

    async def fall_back() -> None:
        with suppress(DeadlineExceeded):
            async with deadline(30):
                await forever()
        reached.append("a fallback that comes too late")

    with pytest.raises(DeadlineExceeded):
        async with deadline(0.05):
            await fall_back()
    assert reached == []
    async with deadline(30):
        with pytest.raises(DeadlineExceeded):
            async with deadline(0.05):
                await forever()
        assert 20 < (remaining() or 0) < 30


async def test_one_that_shrinks_nothing_costs_no_timer_and_time_is_monotonic(monkeypatch: pytest.MonkeyPatch) -> None:
    timers: list[float | None] = []
    timeout = asyncio.timeout

    def count(seconds: float | None) -> asyncio.Timeout:
        timers.append(seconds)
        return timeout(seconds)

    monkeypatch.setattr(asyncio, "timeout", count)
    async with deadline(None), deadline(30), deadline(60), deadline(None), deadline(10), deadline(20):
        pass
    assert timers == pytest.approx([30, 10], abs=1)
    assert inspect.signature(deadline).parameters["clock"].default is time.monotonic


async def test_nothing_is_begun_when_nothing_is_left() -> None:
    clock = Clock()
    begun: list[float] = []
    for seconds in (0, -1.0):
        with pytest.raises(TooLate) as raised:
            async with deadline(seconds):
                begun.append(seconds)
        assert isinstance(raised.value, NotTried)
        assert isinstance(raised.value, DeadlineExceeded)
    async with deadline(1, clock=clock):
        clock.now += 1
        assert remaining() == 0
        with pytest.raises(TooLate):
            async with deadline(5):
                begun.append(5)
        with pytest.raises(TooLate):
            headers()
        clock.now += 100
        assert remaining() == 0
    assert begun == []


async def test_a_cancellation_is_not_an_expiry_also_when_both_come_at_once() -> None:
    async def wait(seconds: float) -> None:
        async with deadline(seconds):
            await forever()

    task = asyncio.create_task(wait(30))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    cleaning, let_go = asyncio.Event(), asyncio.Event()

    async def expires_then_is_cancelled() -> None:
        async with deadline(0.01):
            try:
                await forever()
            finally:
                cleaning.set()
                await let_go.wait()

    task = asyncio.create_task(expires_then_is_cancelled())
    await cleaning.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_what_the_body_raises_stays_what_it_is() -> None:
    own = TimeoutError("the socket's own")
    with pytest.raises(TimeoutError) as raised:
        async with deadline(30):
            raise own
    assert raised.value is own
    async with asyncio.timeout(30):  # and it leaves no cancellation behind
        with pytest.raises(DeadlineExceeded):
            async with deadline(0.01):
                await forever()
        task = asyncio.current_task()
        assert task
        assert task.cancelling() == 0
        await asyncio.sleep(0)


async def test_tasks_started_inside_know_it_and_others_do_not() -> None:
    clock = Clock()
    seen: dict[str, float | None] = {}

    async def look(name: str) -> None:
        seen[name] = remaining()

    async def hang() -> None:
        async with deadline(30):  # nobody cancels this task: its own block must end it
            await forever()

    before = asyncio.create_task(look("before"))
    async with deadline(5, clock=clock):
        await asyncio.gather(before, asyncio.create_task(look("inside")))
        seen["thread"] = await asyncio.to_thread(remaining)
    assert seen == {"before": None, "inside": 5, "thread": 5}
    async with deadline(0.1):
        left = asyncio.create_task(hang())
        await asyncio.sleep(0)
    async with asyncio.timeout(10):
        with pytest.raises(DeadlineExceeded):
            await left


async def test_the_next_one_gets_what_is_left_less_a_margin_whatever_its_clock_says(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = Clock()
    assert headers() == {}
    async with deadline(2, clock=clock):
        clock.now += 0.5
        assert headers() == {NAME: "1490"}
        assert headers(margin=0) == {NAME: "1500"}
        monkeypatch.setattr(time, "time", lambda: 4e9)
        sent = headers(margin=0.1)
        assert sent == {NAME: "1400"}
        clock.now += 1.4995
    async with deadline(0.0005, clock=clock):
        with pytest.raises(TooLate):
            headers()
    other_host = Clock()
    other_host.now = 7.0
    async with deadline(from_headers(sent), clock=other_host):
        assert remaining() == pytest.approx(1.4)
        assert headers(margin=0.2) == {NAME: "1260"}, "a tenth at most goes for the way back"


@pytest.mark.parametrize(
    ("told", "seconds"),
    [
        ({}, None),
        ({NAME: "1500"}, 1.5),
        ({"X-Deadline-Remaining-MS": "20"}, 0.02),
        ({NAME: b"30"}, 0.03),
        ({NAME: 40}, 0.04),
        ({NAME: "0"}, 0),
        ({NAME: "900", "X-DEADLINE-REMAINING-MS": "300"}, 0.3),
        ({NAME: "soon", "X-DEADLINE-REMAINING-MS": "300"}, 0.3),
        *(({NAME: nonsense}, None) for nonsense in ("", "-5", "1.5", "1e3", "٣", "1" * 5000, "nan", None, b"\xff")),
    ],
)
async def test_who_says_nothing_or_nonsense_sets_no_deadline(told: dict[str, object], seconds: float | None) -> None:
    assert from_headers(told) == seconds


class Shop:
    """A dependency that fails, asked by a retry with a clock that only its sleeps move; so does the deadline's."""

    def __init__(self, **settings: Any) -> None:
        self.clock = Clock()
        self.slept: list[float] = []
        self.asked = 0
        self.takes = 0.0
        self.error: Exception = ConnectionError()
        self.budget = RetryBudget(burst=10)
        settings = {
            "budget": self.budget,
            "clock": self.clock,
            "sleep": self.sleep,
            "random": lambda: 0.5,
        } | settings
        self.retry = Retry(**settings)

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.clock.now += seconds

    async def ask(self) -> None:
        self.asked += 1
        self.clock.now += self.takes
        raise self.error

    def call(self) -> Awaitable[None]:
        return self.retry.call(self.ask, idempotent=True)


async def test_a_retry_waits_no_longer_than_leaves_time_for_an_attempt() -> None:
    shop = Shop(base=10.0, cap=10.0, needs=0.5, total=None)
    with pytest.raises(ConnectionError) as raised:
        async with deadline(4.5, clock=shop.clock):
            await shop.call()
    assert shop.slept == [2.0, 1.0, 0.5], "half of what is left less what an attempt needs"
    assert raised.value.__notes__[-1] == "no further attempt: it was the last one"


async def test_a_retry_that_would_begin_too_late_is_not_made_nor_paid_for() -> None:
    shop = Shop(needs=0.5)
    shop.takes = 0.6
    with pytest.raises(ConnectionError) as raised:
        async with deadline(1.0, clock=shop.clock):
            await shop.call()
    assert (shop.asked, shop.slept, shop.budget.tokens) == (1, [], 10)
    assert "would have to begin within 0 s" in raised.value.__notes__[-1]

    shop = Shop()
    shop.error = Busy()
    with pytest.raises(ConnectionError):
        async with deadline(2.0, clock=shop.clock):
            await shop.call()
    assert (shop.asked, shop.slept) == (1, []), "what was asked for is not cut"


async def test_a_retry_tries_nothing_when_an_attempt_cannot_fit() -> None:
    shop = Shop(needs=0.5)
    async with deadline(0.5, clock=shop.clock):
        with pytest.raises(TooLate):
            await shop.call()
    assert (shop.asked, shop.budget.tokens) == (0, 10)


async def test_an_attempt_that_has_used_up_its_own_deadline_is_repeated_while_there_is_time() -> None:
    asked = 0

    async def ask() -> str:
        nonlocal asked
        asked += 1
        async with deadline(0.02 if asked < 3 else 5):
            if asked < 3:
                await forever()
            return "answer"

    async with deadline(10):
        assert await Retry(base=0).call(ask, idempotent=True) == "answer"
    assert asked == 3


async def test_a_breaker_counts_what_hangs_and_not_what_came_too_late() -> None:
    async def hang() -> None:
        async with deadline(0.01):
            await forever()

    async def late() -> None:
        async with deadline(0):
            await forever()

    breaker = CircuitBreaker(window=2, minimum=2)
    for _ in range(5):
        with pytest.raises(TooLate):
            await breaker.call(late)
    assert breaker.state == "closed"
    for _ in range(2):
        with pytest.raises(DeadlineExceeded):
            await breaker.call(hang)
    assert breaker.state == "open"


async def test_a_block_is_entered_once() -> None:
    once = deadline(1)
    async with once:
        pass
    with pytest.raises(RuntimeError, match="for one block"):
        await once.__aenter__()
