"""What the rate limiter promises beyond the checks of redis/06: GCRA, and hits borrowed in batches."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from faultline.patterns import BorrowedHits, Decision, RateLimiter

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from redis.asyncio import Redis
    from tests.patterns.conftest import Servers

    from faultline.components import Instance

KEY = "ann"
PATIENT = 10.0  # seconds that a hit may wait where silence is not the subject


@dataclass(slots=True)
class Clock:
    """Stands still until it is set."""

    now: float = 100.0

    def __call__(self) -> float:
        return self.now


async def trips(redis: Redis, action: Callable[[], Awaitable[object]]) -> int:
    """Scripts that the server has run for the action."""

    async def run() -> int:
        stats = await redis.info("commandstats")
        return sum(stats.get(f"cmdstat_{name}", {}).get("calls", 0) for name in ("eval", "evalsha"))

    before = await run()
    await action()
    return await run() - before


# -- GCRA --------------------------------------------------------------------------------------------------------


async def test_gcra_admits_its_burst_and_then_one_for_each_that_leaks(redis: Redis) -> None:
    gate = RateLimiter(redis, 2, 3600.0, "closed", PATIENT, burst=5)

    assert [(await gate.hit(KEY)).remaining for _ in range(5)] == [4, 3, 2, 1, 0]
    refused = await gate.hit(KEY)
    assert (refused.allowed, refused.remaining) == (False, 0)
    assert 1790 < refused.retry_after <= 1800, "one leaks in half an hour"
    assert 5390 < (await gate.hit(KEY, 3)).retry_after <= 5400
    assert (await gate.hit("bob", 5)).allowed, "another key has a bucket of its own"


async def test_gcra_has_room_again_after_retry_after_and_not_before(redis: Redis) -> None:
    gate = RateLimiter(redis, 10, 4.0, "closed", PATIENT, burst=2)  # one leaks in 0.4 s
    loop = asyncio.get_running_loop()
    await gate.hit(KEY, 2)
    refused = await gate.hit(KEY)
    asked = loop.time()

    while not (decision := await gate.hit(KEY)).allowed:
        last = decision.retry_after
        await asyncio.sleep(last / 2 if last > 0.02 else 0)
    waited = loop.time() - asked
    assert waited >= refused.retry_after - 0.01
    assert 0 < refused.retry_after <= 0.4


async def test_gcra_keeps_one_small_key_that_goes_when_the_bucket_is_empty(redis: Redis) -> None:
    gate = RateLimiter(redis, 1000, 60.0, timeout=PATIENT, burst=1000)
    await gate.hit(KEY)
    little = await redis.memory_usage("rate:ann")
    for _ in range(400):
        await gate.hit(KEY)
    assert await redis.memory_usage("rate:ann") == little
    assert 22_000 < await redis.pttl("rate:ann") <= 24_060, "401 hits leak away in 24 s"
    assert await redis.keys() == [b"rate:ann"]


async def test_gcra_of_many_at_once_admits_its_burst(redis: Redis) -> None:
    gate = RateLimiter(redis, 1, 3600.0, "closed", PATIENT, burst=30)
    decisions = await asyncio.gather(*(gate.hit(KEY) for _ in range(200)))
    assert sum(decision.allowed for decision in decisions) == 30


# -- the limiter -------------------------------------------------------------------------------------------------


async def test_a_prefix_keeps_two_uses_apart(redis: Redis) -> None:
    for prefix in ("login:", "search:"):
        assert (await RateLimiter(redis, 1, 60.0, "closed", PATIENT, prefix=prefix).hit(KEY)).allowed
    assert sorted(await redis.keys()) == [b"login:ann", b"search:ann"]


async def test_it_costs_one_script_a_hit_and_survives_a_server_that_forgot_it(redis: Redis) -> None:
    gate = RateLimiter(redis, 10, 60.0, "closed", PATIENT)
    await gate.hit(KEY)
    assert await trips(redis, lambda: gate.hit(KEY)) == 1
    await redis.script_flush()
    assert (await gate.hit(KEY)).remaining == 7


@pytest.mark.parametrize("gcra", [False, True])
async def test_a_smaller_limit_or_burst_on_the_same_key_never_says_less_than_nothing(redis: Redis, gcra: bool) -> None:
    await RateLimiter(redis, 10, 60.0, timeout=PATIENT, burst=10 if gcra else None).hit(KEY, 10)
    refused = await RateLimiter(redis, 10 if gcra else 3, 60.0, timeout=PATIENT, burst=3 if gcra else None).hit(KEY)
    assert (refused.allowed, refused.remaining) == (False, 0)


@pytest.mark.parametrize("burst", [None, 5])
async def test_without_a_server_it_says_that_nobody_answered(
    servers: Servers, server: Instance, burst: int | None
) -> None:
    client = servers.client(server)
    opens, closes = (RateLimiter(client, 5, 60.0, word, 0.1, burst=burst) for word in ("open", "closed"))
    assert (await opens.hit(KEY)).answered
    await server.kill()
    assert await opens.hit(KEY) == Decision(allowed=True, remaining=0, retry_after=0.0, answered=False)
    assert await closes.hit(KEY) == Decision(allowed=False, remaining=0, retry_after=0.0, answered=False)


@pytest.mark.parametrize(
    "wrong",
    [
        {"limit": 0},
        {"per": 0.0},
        {"burst": 0},
        {"on_failure": "ajar"},
    ],
)
def test_it_refuses_nonsense(redis: Redis, wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="no limiter of"):
        RateLimiter(redis, **({"limit": 5, "per": 60.0} | wrong))  # type: ignore[arg-type]


async def test_a_cost_may_be_what_could_be_admitted_at_once(redis: Redis) -> None:
    gate = RateLimiter(redis, 10, 60.0, "closed", PATIENT, burst=2)
    assert (await gate.hit(KEY, 2)).allowed
    for cost in (0, 3):
        with pytest.raises(ValueError, match="from 1 to 2"):
            await gate.hit(KEY, cost)


# -- borrowed ----------------------------------------------------------------------------------------------------


async def test_borrowed_hits_cost_one_trip_a_batch(redis: Redis) -> None:
    borrowed = BorrowedHits(RateLimiter(redis, 1000, 60.0, "closed", PATIENT), 100, 60.0)

    await borrowed.hit("bob")  # brings the script

    async def many() -> None:
        for _ in range(300):
            assert (await borrowed.hit(KEY)).allowed

    assert await trips(redis, many) == 3
    assert await redis.llen("rate:ann") == 300


async def test_many_at_once_borrow_once(redis: Redis) -> None:
    borrowed = BorrowedHits(RateLimiter(redis, 1000, 60.0, "closed", PATIENT), 100, 60.0)
    await borrowed.hit("bob")  # brings the script
    assert await trips(redis, lambda: asyncio.gather(*(borrowed.hit(KEY) for _ in range(100)))) == 1


async def test_two_processes_together_never_admit_more_than_the_limit_of_one_window(redis: Redis) -> None:
    both = [BorrowedHits(RateLimiter(redis, 50, 60.0, "closed", PATIENT), 20, 60.0) for _ in range(2)]
    decisions = await asyncio.gather(*(one.hit(KEY) for one in both for _ in range(100)))
    assert sum(decision.allowed for decision in decisions) == 50, "two batches, and then one by one"


async def test_what_was_kept_too_long_is_not_admitted(redis: Redis) -> None:
    clock = Clock()
    borrowed = BorrowedHits(RateLimiter(redis, 20, 60.0, "closed", PATIENT), 10, 1.0, clock=clock)
    assert (await borrowed.hit(KEY)).remaining == 9
    clock.now += 1.0
    assert (await borrowed.hit(KEY)).remaining == 9, "the first nine are lost"
    clock.now += 1.0
    assert not (await borrowed.hit(KEY)).allowed, "and the limit is used up"


async def test_a_refusal_is_free_until_there_is_room(redis: Redis) -> None:
    clock = Clock()
    borrowed = BorrowedHits(RateLimiter(redis, 2, 60.0, "closed", PATIENT), 2, 60.0, clock=clock)
    await borrowed.hit(KEY)
    await borrowed.hit(KEY)
    refused = await borrowed.hit(KEY)
    assert not refused.allowed
    clock.now += 20

    async def again() -> None:
        later = await borrowed.hit(KEY)
        assert (later.allowed, later.retry_after) == (False, pytest.approx(refused.retry_after - 20, abs=0.1))

    assert await trips(redis, again) == 0
    clock.now += 41
    assert await trips(redis, lambda: borrowed.hit(KEY)) == 2, "asked again: for a batch, and for one"


async def test_a_server_that_is_gone_is_asked_once_in_a_timeout(servers: Servers, server: Instance) -> None:
    clock = Clock()
    limiter = RateLimiter(servers.client(server), 10, 60.0, "open", 0.2)
    borrowed = BorrowedHits(limiter, 5, 60.0, clock=clock)
    loop = asyncio.get_running_loop()
    await server.pause()
    began = loop.time()
    decisions = [await borrowed.hit(KEY) for _ in range(200)]
    assert all(decision.allowed and not decision.answered for decision in decisions)
    assert loop.time() - began < 5.0, "and not 200 times 0.2 s"
    await server.resume()
    clock.now += 0.2
    assert (await borrowed.hit(KEY)).answered


async def test_of_many_keys_the_first_are_forgotten(redis: Redis) -> None:
    borrowed = BorrowedHits(RateLimiter(redis, 100, 60.0, "closed", PATIENT), 10, 60.0, keys=3)
    for key in ("a", "b", "c", "d"):
        await borrowed.hit(key)
    assert await trips(redis, lambda: borrowed.hit("d")) == 0
    assert await trips(redis, lambda: borrowed.hit("a")) == 1


@pytest.mark.parametrize("batch", [1, 11])
def test_a_batch_is_more_than_one_and_fits(redis: Redis, batch: int) -> None:
    with pytest.raises(ValueError, match="no batch"):
        BorrowedHits(RateLimiter(redis, 10, 60.0), batch)
