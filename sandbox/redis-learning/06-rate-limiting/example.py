"""Four limiters of 100 a second under the same traffic: what each admits, what it keeps, what it costs.

Takes REDIS_URL; asserts what the lesson says of it.
"""

import asyncio
import os
import time
from collections.abc import Callable
from dataclasses import dataclass

from redis.asyncio import Redis

LIMIT, PER = 100, 1_000_000  # hits in so many microseconds
KEY = "example:limit"

# Each takes one hit at the instant ARGV[1], in microseconds, and answers 1 or 0.
FIXED = """
local window = math.floor(ARGV[1] / ARGV[3])
local key = KEYS[1] .. ':' .. string.format('%.0f', window)
local used = redis.call('INCR', key)
redis.call('PEXPIRE', key, 2000)
return used <= tonumber(ARGV[2]) and 1 or 0"""
COUNTER = """
local now, limit, per = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local window = math.floor(now / per)
local function count(number)
    return tonumber(redis.call('HGET', KEYS[1], string.format('%.0f', number)) or 0)
end
local estimate = count(window - 1) * (1 - now % per / per) + count(window)
if estimate + 1 > limit then return 0 end
redis.call('HINCRBY', KEYS[1], string.format('%.0f', window), 1)
redis.call('HDEL', KEYS[1], string.format('%.0f', window - 2))
redis.call('PEXPIRE', KEYS[1], 2000)
return 1"""
GCRA = """
local now, limit, per = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local full = math.max(now, tonumber(redis.call('GET', KEYS[1]) or 0)) + per / limit
if full > now + per then return 0 end
redis.call('SET', KEYS[1], string.format('%.0f', full), 'PX', 2000)
return 1"""
LOG = """
local now, limit, per = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local oldest = redis.call('LINDEX', KEYS[1], 0)
while oldest and tonumber(oldest) <= now - per do
    redis.call('LPOP', KEYS[1])
    oldest = redis.call('LINDEX', KEYS[1], 0)
end
if redis.call('LLEN', KEYS[1]) >= limit then return 0 end
redis.call('RPUSH', KEYS[1], ARGV[1])
redis.call('PEXPIRE', KEYS[1], 2000)
return 1"""
WAYS = {"fixed window": FIXED, "sliding counter": COUNTER, "GCRA": GCRA, "sliding log": LOG}


@dataclass(frozen=True)
class Seen:
    """What one limiter did."""

    worst: int  # the most that it admitted in any window
    total: int  # of all windows
    size: int  # bytes that it kept
    rate: float  # hits a second, one after the other


async def clear(redis: Redis) -> None:
    async for key in redis.scan_iter(f"{KEY}*"):
        await redis.delete(key)


async def admitted(redis: Redis, script: str, instants: list[int]) -> list[int]:
    """The instants at which hits got through. The instants are given, so no clock and no luck is in this."""
    await clear(redis)
    decided = [await redis.eval(script, 1, KEY, instant, LIMIT, PER) for instant in instants]
    return [instant for instant, yes in zip(instants, decided, strict=True) if yes]


def worst_window(instants: list[int]) -> int:
    """The most instants in any window, wherever it begins."""
    return max(sum(first <= other < first + PER for other in instants) for first in instants)


def bursts() -> list[int]:
    """A customer who sends all at once: 100 hits at 0.5 s, 100 more at 1.1 s, which is 0.6 s later."""
    return [500_000 + number for number in range(LIMIT)] + [1_100_000 + number for number in range(LIMIT)]


def steady() -> list[int]:
    """A customer who sends 150 a second, evenly, for five seconds."""
    return [number * PER // 150 for number in range(750)]


async def size(redis: Redis) -> int:
    return sum([await redis.memory_usage(key, samples=0) or 0 async for key in redis.scan_iter(f"{KEY}*")])


async def look(redis: Redis, script: str, traffic: Callable[[], list[int]]) -> Seen:
    through = await admitted(redis, script, traffic())
    kept = await size(redis)
    began = time.perf_counter()
    for number in range(500):
        await redis.eval(script, 1, KEY, 9 * PER + number, LIMIT, PER)
    return Seen(worst_window(through), len(through), kept, 500 / (time.perf_counter() - began))


async def two_clocks(redis: Redis) -> int:
    """A log that trusts its clients' clocks: hits of one that is 0.6 s behind, then of one that is 0.6 s ahead."""
    behind, ahead = (
        [5 * PER - 600_000 + number for number in range(LIMIT)],
        [5 * PER + 600_000 + n for n in range(LIMIT)],
    )
    return len(await admitted(redis, LOG, behind + ahead))


async def main() -> None:
    async with Redis.from_url(os.environ["REDIS_URL"], decode_responses=True) as redis:
        print(f"\n1  {LIMIT} hits at 0.5 s and {LIMIT} at 1.1 s; the limit is {LIMIT} a second\n")
        print(f"   {'':18}{'admitted':>9}{'bytes kept':>12}{'hits/s':>9}")
        burst = {name: await look(redis, script, bursts) for name, script in WAYS.items()}
        for name, seen in burst.items():
            print(f"   {name:18}{seen.worst:9}{seen.size:12,}{seen.rate:9,.0f}")
        assert burst["fixed window"].worst == 2 * LIMIT, "a fixed window was to admit both bursts"
        assert LIMIT < burst["sliding counter"].worst < burst["GCRA"].worst < 2 * LIMIT, "see the table above"
        assert burst["sliding log"].worst == LIMIT, "the log was to be exact"
        assert burst["sliding log"].size > 3 * burst["GCRA"].size, "the log was to cost memory"
        print("\n2  150 hits a second, evenly, for 5 seconds: in the worst window, and in all\n")
        even = {name: await look(redis, script, steady) for name, script in WAYS.items()}
        for name, seen in even.items():
            print(f"   {name:18}{seen.worst:9}{seen.total:9}")
        assert max(seen.worst for seen in even.values()) > LIMIT == even["sliding log"].worst, "see the table above"
        print("\n3  The exact log, but each process sends its own time; the clocks are 1.2 s apart\n")
        print(f"   {await two_clocks(redis)} hits admitted at once, of {LIMIT}\n")
        assert await two_clocks(redis) == 2 * LIMIT, "a clock that is ahead was to throw out the others' hits"
        await clear(redis)


if __name__ == "__main__":
    asyncio.run(main())
