"""What retry promises: how often, after how long, at what load, and what is never repeated."""

from __future__ import annotations

import asyncio
from random import Random
from typing import Any

import pytest

from faultline.patterns import CircuitOpen, NotTried, Retry, RetryBudget


class Busy(ConnectionError):
    """It says when to come back."""

    def __init__(self, retry_after: float) -> None:
        super().__init__("busy")
        self.retry_after = retry_after


class Shop:
    """A retry with a clock that only its sleeps move, and a dependency that fails as told, then succeeds."""

    def __init__(self, *errors: BaseException, **settings: Any) -> None:
        self.now = 0.0
        self.slept: list[float] = []
        self.errors: list[BaseException] = list(errors)
        self.asked = 0
        self.budget = RetryBudget(burst=1000)
        settings = {
            "budget": self.budget,
            "clock": lambda: self.now,
            "sleep": self.sleep,
            "random": lambda: 0.5,
        } | settings
        self.retry = Retry(**settings)

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds

    async def ask(self) -> str:
        self.asked += 1
        if self.errors:
            raise self.errors.pop(0)
        return "answer"

    async def call(self) -> str:
        return await self.retry.call(self.ask, idempotent=True)


async def test_it_tries_again_after_twice_the_time_up_to_the_cap() -> None:
    shop = Shop(*(ConnectionError() for _ in range(6)), attempts=7, base=0.1, cap=1.0, total=None)
    assert await shop.call() == "answer"
    assert shop.slept == pytest.approx([0.05, 0.1, 0.2, 0.4, 0.5, 0.5])


async def test_delays_are_full_jitter() -> None:
    seed = 7
    shop = Shop(base=0.1, cap=10.0, random=Random(seed).random, budget=RetryBudget(3))
    for _ in range(2000):
        shop.errors = [ConnectionError(), ConnectionError()]
        await shop.call()
    for number, most in ((0, 0.1), (1, 0.2)):
        delays = sorted(shop.slept[number::2])
        assert 0 <= delays[0] < 0.01 * most, f"seed {seed}"
        assert 0.99 * most < delays[-1] < most, f"seed {seed}"
        assert 0.45 * most < delays[1000] < 0.55 * most, f"seed {seed}"


async def test_it_ends_with_the_last_error_and_tells_of_the_earlier_ones() -> None:
    last = TimeoutError("third")
    shop = Shop(ConnectionError("first"), ConnectionResetError("second"), last, attempts=3)
    with pytest.raises(TimeoutError) as raised:
        await shop.call()
    assert raised.value is last
    assert last.__notes__ == [
        "attempt 1 of 3: ConnectionError: first",
        "attempt 2 of 3: ConnectionResetError: second",
        "no further attempt: it was the last one",
    ]
    assert len(shop.slept) == 2, "slept, and for nothing"
    assert shop.budget.tokens == 998.0, "paid for what was not made"


@pytest.mark.parametrize("error", [ValueError(), CircuitOpen(0.1), asyncio.CancelledError()])
async def test_what_does_not_pass_by_itself_is_not_repeated(error: BaseException) -> None:
    shop = Shop(error)
    with pytest.raises(type(error)):
        await shop.call()
    assert shop.asked == 1


async def test_which_errors_may_pass_can_be_a_question() -> None:
    def may_pass(error: Exception) -> bool:
        return str(error) == "503"

    shop = Shop(ValueError("503"), ValueError("400"), retry_on=may_pass)
    with pytest.raises(ValueError, match="400"):
        await shop.call()
    assert shop.asked == 2


@pytest.mark.parametrize(
    ("error", "asked"),
    [(TimeoutError(), 1), (ConnectionResetError(), 1), (ConnectionRefusedError(), 2), (NotTried(), 2)],
)
async def test_what_may_have_happened_is_repeated_only_if_it_may_happen_twice(error: Exception, asked: int) -> None:
    shop = Shop(error, retry_on=(Exception,))
    await asyncio.gather(shop.retry.call(shop.ask), return_exceptions=True)
    assert shop.asked == asked


async def test_it_comes_back_when_it_was_told_to() -> None:
    shop = Shop(Busy(1.5), Busy(0))
    await shop.call()
    assert shop.slept == [1.5, 0]


@pytest.mark.parametrize("asked_for", [3600, 5.0])
async def test_it_does_not_wait_past_its_total(asked_for: float) -> None:
    shop = Shop(Busy(asked_for), total=5.0)
    with pytest.raises(Busy):
        await shop.call()
    assert (shop.asked, shop.slept) == (1, [])


async def test_the_total_is_of_all_attempts() -> None:
    shop = Shop(Busy(2), Busy(2), Busy(2), total=5.0)
    with pytest.raises(Busy):
        await shop.call()
    assert shop.slept == [2, 2]


async def test_a_server_that_hangs_is_left_when_the_total_is_over() -> None:
    came, gone = asyncio.Event(), asyncio.Event()

    async def hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        came.set()
        await reader.read()
        writer.close()
        gone.set()

    async def ask() -> bytes:
        nonlocal asked
        asked += 1
        if asked == 1:
            raise ConnectionError("first")
        reader, writer = await asyncio.open_connection("127.0.0.1", server.sockets[0].getsockname()[1])
        try:
            return await reader.read(1)
        finally:
            writer.close()

    asked = 0
    async with await asyncio.start_server(hang, "127.0.0.1", 0) as server:
        started = asyncio.get_running_loop().time()
        with pytest.raises(TimeoutError) as raised:
            await Retry(total=0.3, base=0).call(ask, idempotent=True)
        took = asyncio.get_running_loop().time() - started
        await gone.wait()
    assert came.is_set()
    assert 0.29 < took < 5
    assert raised.value.__notes__ == [
        "attempt 1 of 4: ConnectionError: first",
        "cut: the total of 0.3 s had run out",
    ]


async def test_in_an_outage_the_load_is_little_more_than_normal() -> None:
    budget = RetryBudget(0.1)
    shops = [Shop(*(ConnectionError() for _ in range(400)), budget=budget, attempts=4) for _ in range(10)]
    for _ in range(100):
        await asyncio.gather(*(shop.call() for shop in shops), return_exceptions=True)
    assert sum(shop.asked for shop in shops) == 1000 + 10 + 99, "the first deposit found it full"


async def test_ten_calls_pay_for_one_retry_and_no_more_than_the_burst_is_kept() -> None:
    budget = RetryBudget(0.1, burst=1)
    assert [budget.withdraw(), budget.withdraw()] == [True, False]
    for _ in range(10):
        assert not budget.withdraw()
        budget.deposit()
    assert [budget.withdraw(), budget.withdraw()] == [True, False]
    for _ in range(100):
        budget.deposit()
    assert budget.tokens == 1


async def test_a_cancelled_wait_ends_at_once_and_gives_its_token_back() -> None:
    waits, never = asyncio.Event(), asyncio.Event()

    async def sleep(_: float) -> None:
        waits.set()
        await never.wait()

    shop = Shop(ConnectionError(), sleep=sleep)
    calling = asyncio.create_task(shop.call())
    await waits.wait()
    assert shop.budget.tokens == 999.0
    calling.cancel()
    with pytest.raises(asyncio.CancelledError):
        await calling
    assert (shop.asked, shop.budget.tokens) == (1, 1000.0)


async def test_without_a_budget_each_has_its_own() -> None:
    for _ in range(2):
        shop = Shop(*(ConnectionError() for _ in range(12)), budget=None, attempts=20, total=None)
        with pytest.raises(ConnectionError):
            await shop.call()
        assert shop.asked == 11


@pytest.mark.parametrize("wrong", [{"attempts": 0}, {"base": -1}, {"cap": -1}, {"total": 0}])
def test_it_refuses_nonsense(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="no retry of"):
        Retry(**wrong)
    with pytest.raises(ValueError, match="no budget of"):
        RetryBudget(-0.1)
