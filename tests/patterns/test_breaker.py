"""What the circuit breaker promises: when it opens, whom it lets out, and what comes too late to matter."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

import pytest

from faultline.patterns import CircuitBreaker, CircuitOpen, NotTried


@dataclass(slots=True)
class Clock:
    """Stands still until it is moved."""

    now: float = 100.0

    def __call__(self) -> float:
        return self.now


class Declined(Exception):
    """An answer, if not the wished one."""


class Dependency:
    """Succeeds, fails, or holds its callers until it is told."""

    def __init__(self) -> None:
        self.asked = 0
        self.gate: asyncio.Event | None = None
        self.error: BaseException | None = None

    async def ask(self) -> str:
        self.asked += 1
        if self.gate:
            await self.gate.wait()
        if self.error:
            raise self.error
        return "answer"


class Shop:
    """A breaker with its dependency and its clock."""

    def __init__(self, **settings: Any) -> None:
        self.clock = Clock()
        self.dependency = Dependency()
        settings = {"open_for": 30.0, "clock": self.clock} | settings
        self.breaker = CircuitBreaker(**settings)
        self.changes: list[tuple[str, str]] = []
        self.breaker.on_change(lambda before, after: self.changes.append((before, after)))

    async def calls(self, count: int, error: BaseException | None = None) -> None:
        self.dependency.error = error
        for _ in range(count):
            [outcome] = await asyncio.gather(self.breaker.call(self.dependency.ask), return_exceptions=True)
            assert outcome == "answer" if error is None else type(outcome) is type(error)
        self.dependency.error = None

    async def opened(self) -> Shop:
        await self.calls(10, ConnectionError())
        assert self.breaker.state == "open"
        return self

    async def out(self, count: int) -> list[asyncio.Task[str]]:
        """So many calls, which have come as far as they do while the dependency holds them."""
        self.dependency.gate = asyncio.Event()
        tasks = [asyncio.create_task(self.breaker.call(self.dependency.ask)) for _ in range(count)]
        for _ in range(3):
            await asyncio.sleep(0)
        return tasks

    def let_go(self, error: BaseException | None = None) -> None:
        assert self.dependency.gate
        self.dependency.error = error
        self.dependency.gate.set()
        self.dependency.gate = None


# -- opening -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("rate", "failures"), [(0.5, 5), (0.7, 7), (0.1, 1)])
async def test_it_opens_at_the_rate_and_not_before_the_minimum(rate: float, failures: int) -> None:
    shop = Shop(failure_rate=rate)
    await shop.calls(failures, ConnectionError())
    await shop.calls(9 - failures)
    assert shop.breaker.state == "closed"
    await shop.calls(1)
    assert shop.breaker.state == "open"
    assert shop.changes == [("closed", "open")]


async def test_below_the_rate_it_stays_closed() -> None:
    shop = Shop()
    for _ in range(50):
        await shop.calls(1, ConnectionError())
        await shop.calls(2)
    assert shop.breaker.state == "closed"


async def test_only_the_window_counts() -> None:
    shop = Shop(window=10, minimum=10)
    await shop.calls(4, ConnectionError())
    await shop.calls(10)
    await shop.calls(4, ConnectionError())
    assert shop.breaker.state == "closed", "failures that have left the window were counted"
    await shop.calls(1, ConnectionError())
    assert shop.breaker.state == "open"


async def test_open_it_refuses_at_once_and_says_for_how_long() -> None:
    shop = await Shop().opened()
    shop.clock.now += 12
    coroutine = shop.breaker.call(shop.dependency.ask)
    with pytest.raises(CircuitOpen, match=r"18\.0 s") as refused:
        coroutine.send(None)  # ends here and now, without a turn of the event loop
    assert refused.value.retry_after == 18
    assert shop.dependency.asked == 10
    assert isinstance(refused.value, NotTried)


async def test_what_is_slow_is_a_failure_and_yet_an_answer() -> None:
    shop = Shop(slow_after=1.0, minimum=1)
    for took, state in ((1.0, "closed"), (1.001, "open")):
        [task] = await shop.out(1)
        shop.clock.now += took
        shop.let_go()
        assert await task == "answer"
        assert shop.breaker.state == state, took


async def test_a_cancelled_call_counts_only_if_it_was_slow() -> None:
    shop = Shop(slow_after=1.0, minimum=1, window=1)
    [quick] = await shop.out(1)
    quick.cancel()
    await asyncio.wait([quick])
    assert shop.breaker.state == "closed"
    [slow] = await shop.out(1)
    shop.clock.now += 1.5
    slow.cancel()
    await asyncio.wait([slow])
    assert slow.cancelled()
    assert shop.breaker.state == "open"


async def test_the_rate_is_exact() -> None:
    shop = Shop(failure_rate=0.07, window=100, minimum=100)  # 0.07 * 100 is more than 7
    await shop.calls(93)
    await shop.calls(7, ConnectionError())
    assert shop.breaker.state == "open"


@pytest.mark.parametrize("error", [Declined(), NotTried(), asyncio.CancelledError()])
async def test_what_says_nothing_of_the_dependency_is_not_counted(error: BaseException) -> None:
    shop = Shop(ignore=(Declined,), window=10)
    await shop.calls(100, error)
    await shop.calls(9, ConnectionError())
    assert shop.breaker.state == "closed", "it was counted"
    await shop.calls(1, ConnectionError())
    assert shop.breaker.state == "open"
    assert shop.dependency.asked == 110


# -- half-open ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("probes", [1, 3])
async def test_exactly_the_probes_pass(probes: int) -> None:
    shop = await Shop(probes=probes).opened()
    shop.clock.now += 30
    assert shop.breaker.state == "open"
    tasks = await shop.out(100)
    assert shop.breaker.state == "half-open"
    assert shop.dependency.asked == 10 + probes
    shop.let_go()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert results.count("answer") == probes
    assert all(isinstance(result, CircuitOpen) for result in results if result != "answer")
    assert shop.changes == [("closed", "open"), ("open", "half-open"), ("half-open", "closed")]


async def test_all_probes_must_succeed() -> None:
    shop = await Shop(probes=2).opened()
    shop.clock.now += 30
    await shop.calls(1)
    assert shop.breaker.state == "half-open"
    await shop.calls(1, ConnectionError())
    assert shop.breaker.state == "open"


async def test_a_failed_probe_opens_it_for_a_full_period() -> None:
    shop = await Shop().opened()
    shop.clock.now += 50
    [probe] = await shop.out(1)
    shop.clock.now += 5
    shop.let_go(ConnectionError())
    await asyncio.wait([probe])
    with pytest.raises(CircuitOpen) as refused:
        await shop.breaker.call(shop.dependency.ask)
    assert refused.value.retry_after == 30
    shop.clock.now += 29.9
    with pytest.raises(CircuitOpen):
        await shop.breaker.call(shop.dependency.ask)


async def test_a_success_closes_it_with_a_clean_window() -> None:
    shop = await Shop().opened()
    shop.clock.now += 30
    await shop.calls(1)
    assert shop.breaker.state == "closed"
    await shop.calls(9, ConnectionError())
    assert shop.breaker.state == "closed", "what was before counts on"
    await shop.calls(1, ConnectionError())
    assert shop.breaker.state == "open"


async def test_an_ignored_error_is_a_probe_that_succeeded() -> None:
    shop = await Shop(ignore=(Declined,)).opened()
    shop.clock.now += 30
    await shop.calls(1, Declined())
    assert shop.breaker.state == "closed"


@pytest.mark.parametrize("error", [NotTried(), asyncio.CancelledError(), GeneratorExit()])
async def test_a_probe_that_tells_nothing_gives_its_place_back(error: BaseException) -> None:
    shop = await Shop().opened()
    shop.clock.now += 30
    await shop.calls(5, error)
    assert (shop.breaker.state, shop.dependency.asked) == ("half-open", 15)
    await shop.calls(1)
    assert shop.breaker.state == "closed"


async def test_a_probe_cancelled_from_outside_gives_its_place_back() -> None:
    shop = await Shop().opened()
    shop.clock.now += 30
    [probe] = await shop.out(1)
    probe.cancel()
    await asyncio.wait([probe])
    assert probe.cancelled()
    shop.dependency.gate = None
    await shop.calls(1)
    assert shop.breaker.state == "closed"


async def test_a_probe_that_hangs_holds_its_place_for_a_period_only() -> None:
    shop = await Shop().opened()
    shop.clock.now += 30
    [hanging] = await shop.out(1)
    gate = shop.dependency.gate
    assert gate
    shop.clock.now += 20
    with pytest.raises(CircuitOpen) as refused:
        await shop.breaker.call(shop.dependency.ask)
    assert refused.value.retry_after == 10
    shop.clock.now += 10
    tasks = await shop.out(10)
    assert shop.dependency.asked == 12, "one in its place, and no more"
    gate.set()
    assert await hanging == "answer"
    assert shop.breaker.state == "half-open", "who has lost its place has no say"
    shop.let_go()
    await asyncio.wait(tasks)
    assert shop.breaker.state == "closed"


async def test_what_probes_found_before_others_hung_is_old() -> None:
    shop = await Shop(probes=2).opened()
    shop.clock.now += 30
    await shop.calls(1)
    [hanging] = await shop.out(1)
    shop.dependency.gate = None
    shop.clock.now += 30
    await shop.calls(1)
    assert shop.breaker.state == "half-open"
    await shop.calls(1)
    assert shop.breaker.state == "closed"
    hanging.cancel()


# -- late --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [None, Declined()])
async def test_an_old_answer_does_not_close_it(error: Exception | None) -> None:
    shop = Shop(ignore=(Declined,))
    [old] = await shop.out(1)
    gate = shop.dependency.gate
    shop.dependency.gate = None
    await shop.opened()
    shop.clock.now += 30
    [probe] = await shop.out(1)
    assert gate
    shop.dependency.error = error
    gate.set()
    await asyncio.wait([old])
    assert type(old.exception()) is type(error)
    assert shop.breaker.state == "half-open"
    shop.let_go()
    await probe


async def test_an_old_failure_does_not_count_in_the_new_window() -> None:
    shop = Shop(window=1, minimum=1)
    [old] = await shop.out(1)
    gate = shop.dependency.gate
    shop.dependency.gate = None
    await shop.calls(1, ConnectionError())
    shop.clock.now += 30
    await shop.calls(1)
    assert shop.breaker.state == "closed"
    shop.dependency.error = ConnectionError()
    assert gate
    gate.set()
    await asyncio.wait([old])
    assert isinstance(old.exception(), ConnectionError)
    assert shop.breaker.state == "closed"


async def test_an_old_cancellation_gives_no_second_place() -> None:
    shop = Shop()
    [old] = await shop.out(1)
    shop.dependency.gate = None
    await shop.opened()
    shop.clock.now += 30
    [probe] = await shop.out(1)
    old.cancel()
    await asyncio.wait([old])
    with pytest.raises(CircuitOpen):
        await shop.breaker.call(shop.dependency.ask)
    shop.let_go()
    await probe


# -- the rest ----------------------------------------------------------------------------------------------------


async def test_as_a_decorator_it_keeps_name_and_arguments() -> None:
    breaker = CircuitBreaker(minimum=1)

    @breaker
    async def divide(cents: int, *, by: int) -> int:
        return cents // by

    assert divide.__name__ == "divide"
    assert await divide(100, by=3) == 33
    with pytest.raises(ZeroDivisionError):
        await divide(100, by=0)
    assert breaker.state == "open"


async def test_a_listener_that_fails_costs_no_call_its_result() -> None:
    shop = Shop(minimum=1)
    told: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context))

    def fail(before: str, after: str) -> None:
        raise LookupError(after)

    shop.breaker.on_change(fail)
    later: list[str] = []
    shop.breaker.on_change(lambda _, after: later.append(after))
    await shop.calls(1, ConnectionError())
    assert [str(context["exception"]) for context in told] == ["open"]
    assert later == ["open"]


@pytest.mark.parametrize(
    "wrong",
    [
        {"failure_rate": 0.0},
        {"failure_rate": 1.1},
        {"minimum": 0},
        {"minimum": 21},
        {"open_for": 0.0},
        {"probes": 0},
        {"slow_after": 0.0},
    ],
)
def test_it_refuses_nonsense(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"no breaker|longer than"):
        CircuitBreaker(**wrong)
