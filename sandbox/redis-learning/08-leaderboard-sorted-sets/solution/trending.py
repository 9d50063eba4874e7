"""What is trending now: a sorted set that is always in order, and buckets that say what leaves it, and when."""

import asyncio
import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Self

from redis.asyncio import Redis
from redis.asyncio.client import PubSub
from redis.exceptions import RedisError

CHANGES = "trending:changes"

# Every script begins with this. `ranking` holds minus the scores, so that the best come first and of equals the smaller
# member: a member begins with the number of its last record. `places` says which member a product has right now.
SCRIPT = """
local ranking, places, buckets = 'trending:ranking', 'trending:places', 'trending:buckets'
local window, bucket = tonumber(ARGV[1]), tonumber(ARGV[2])
local time = redis.call('TIME')
local now = tonumber(time[1] .. string.sub(string.format('%06d', time[2]), 1, 3))  -- milliseconds
local counting = math.floor((now - window) / bucket)
while tonumber(redis.call('LINDEX', buckets, 0) or counting) < counting do
    local key = 'trending:bucket:' .. redis.call('LPOP', buckets)
    local sums = redis.call('HGETALL', key)
    for i = 1, #sums, 2 do
        local place = redis.call('HGET', places, sums[i])
        if tonumber(redis.call('ZINCRBY', ranking, sums[i + 1], place)) == 0 then
            redis.call('ZREM', ranking, place)
            redis.call('HDEL', places, sums[i])
        end
    end
    redis.call('DEL', key)
end
"""

RECORD = """
local sku, weight, index = ARGV[3], ARGV[4], string.format('%.0f', math.floor(now / bucket))
local sums = 'trending:bucket:' .. index
if redis.call('EXISTS', sums) == 0 then
    redis.call('RPUSH', buckets, index)
end
redis.call('HINCRBY', sums, sku, weight)
redis.call('PEXPIRE', sums, 2 * (window + bucket))
local score, old = -weight, redis.call('HGET', places, sku)
if old then
    score = score + redis.call('ZSCORE', ranking, old)
    redis.call('ZREM', ranking, old)
end
local number = redis.call('INCR', 'trending:records')
local place = string.format('%016.0f:', number) .. sku
redis.call('ZADD', ranking, score, place)
redis.call('HSET', places, sku, place)
for _, key in ipairs({ranking, places, buckets, 'trending:records'}) do
    redis.call('PEXPIRE', key, window + bucket)
end
redis.call('PUBLISH', 'trending:changes', string.format('%.0f:', -score) .. sku)
"""

TOP = """
return {0, redis.call('ZRANGE', ranking, 0, ARGV[3], 'WITHSCORES')}
"""

RANK = """
local place = redis.call('HGET', places, ARGV[3])
return place and redis.call('ZRANK', ranking, place)
"""

AROUND = """
local place, k = redis.call('HGET', places, ARGV[3]), tonumber(ARGV[4])
if not place then
    return {0, {}}
end
local rank = redis.call('ZRANK', ranking, place)
local first = math.max(0, rank - k)
return {first, redis.call('ZRANGE', ranking, first, rank + k, 'WITHSCORES')}
"""


@dataclass(frozen=True)
class Entry:
    """A product in the ranking."""

    sku: str
    score: int
    rank: int


@dataclass(frozen=True)
class Change:
    """What a record has made of a product's score."""

    sku: str
    score: int


class ChangesLost(Exception):
    """Changes may have been missed."""


class Trending:
    """The ranking of the last `window` seconds."""

    def __init__(self, redis: Redis, window: float = 3600, bucket: float = 60) -> None:
        if not 0.01 <= bucket <= window:
            raise ValueError(f"no window of {window} s in buckets of {bucket} s")
        self._redis = redis
        self._milliseconds = [timedelta(seconds=each) // timedelta(milliseconds=1) for each in (window, bucket)]
        self._record = redis.register_script(SCRIPT + RECORD)
        self._top = redis.register_script(SCRIPT + TOP)
        self._rank = redis.register_script(SCRIPT + RANK)
        self._around = redis.register_script(SCRIPT + AROUND)

    async def record(self, sku: str, weight: int = 1) -> None:
        """Add `weight` to the product's score, now."""
        if not sku or not isinstance(weight, int) or not 1 <= weight <= 10**15:
            raise ValueError(f"no record of {weight!r} for {sku!r}")
        await self._record(args=[*self._milliseconds, sku, weight])

    async def top(self, n: int) -> list[Entry]:
        """The best `n`, best first."""
        if n < 1:
            raise ValueError(f"no top {n}")
        return entries(await self._top(args=[*self._milliseconds, n - 1]))

    async def rank(self, sku: str) -> int | None:
        """The product's rank, from 1; None if it is not in the ranking."""
        rank = await self._rank(args=[*self._milliseconds, sku])
        return None if rank is None else rank + 1

    async def around(self, sku: str, k: int) -> list[Entry]:
        """The product between its neighbours."""
        if k < 0:
            raise ValueError(f"no {k} neighbours")
        return entries(await self._around(args=[*self._milliseconds, sku, k]))

    @asynccontextmanager
    async def changes(self) -> AsyncIterator[AsyncIterator[Change]]:
        """Every record from now on, as it happens."""
        pubsub = self._redis.pubsub()
        changes = Changes(pubsub)
        try:
            await pubsub.subscribe(CHANGES)
            await pubsub.get_message(timeout=None)  # the server says that it is done: from here on nothing is missed
            yield changes
        finally:
            changes.end()
            await pubsub.aclose()


class Changes:
    """The records that a subscription hears of."""

    def __init__(self, pubsub: PubSub) -> None:
        self._pubsub = pubsub
        self._waiting = set[asyncio.Timeout]()
        self._ended = False
        self._lost = False

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Change:
        if self._ended:
            raise StopAsyncIteration
        if self._lost:  # the client would connect again and say nothing of what it has missed
            raise ChangesLost("enter again, and read the ranking again")
        told, waiting = None, asyncio.timeout(None)
        self._waiting.add(waiting)
        try:
            async with waiting:
                while not isinstance(told, bytes):  # a number: the server confirms a subscription
                    told = (await self._pubsub.get_message(timeout=None) or {}).get("data")
        except TimeoutError:  # of `end`
            raise StopAsyncIteration from None
        except RedisError as error:
            self._lost = True
            raise ChangesLost("enter again, and read the ranking again") from error
        finally:
            self._waiting.discard(waiting)
        score, _, sku = told.decode().partition(":")
        return Change(sku, int(score))

    def end(self) -> None:
        """Wake whoever waits."""
        self._ended = True
        for waiting in self._waiting:
            waiting.reschedule(-math.inf)


def entries(found: list) -> list[Entry]:
    """Members and minus their scores, in turn, as the ranking's entries from the first rank on."""
    first, rows = found
    return [
        Entry(rows[at].decode().partition(":")[2], -int(float(rows[at + 1])), rank)
        for rank, at in enumerate(range(0, len(rows), 2), first + 1)
    ]
