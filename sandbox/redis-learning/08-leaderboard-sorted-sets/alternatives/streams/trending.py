"""The same with other means: scores as they are and numbers that count down, sums in one hash, changes in a stream.

A stream keeps what was said, so a reader may come back for it; each entry names the one before it, which shows a gap.
"""

import asyncio
import math
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import redis.exceptions as trouble
from redis.asyncio import Redis

LIBRARY = """
local t = redis.call('TIME')
local now = t[1] + t[2] / 1e6
local window, bucket = tonumber(ARGV[1]), tonumber(ARGV[2])
local over = math.floor((now - window) / bucket + 1e-6) - 1
local BOARD, WHO, SUMS, DUE = 'trending:board', 'trending:who', 'trending:sums', 'trending:due'

-- Each (bucket, product) is a member of DUE, ordered by its bucket.
for _, pair in ipairs(redis.call('ZRANGE', DUE, '-inf', string.format('%.0f', over), 'BYSCORE')) do
    local sku = string.match(pair, '^%d+|(.*)$')
    local member = redis.call('HGET', WHO, sku)
    local rest = redis.call('ZSCORE', BOARD, member) - redis.call('HGET', SUMS, pair)
    if rest > 0 then
        redis.call('ZADD', BOARD, rest, member)
    else
        redis.call('ZREM', BOARD, member)
        redis.call('HDEL', WHO, sku)
    end
    redis.call('HDEL', SUMS, pair)
    redis.call('ZREM', DUE, pair)
end
"""

RECORD = (
    LIBRARY
    + """
local sku, weight = ARGV[3], tonumber(ARGV[4])
local pair = string.format('%.0f', math.floor(now / bucket)) .. '|' .. sku
redis.call('HINCRBY', SUMS, pair, ARGV[4])
redis.call('ZADD', DUE, math.floor(now / bucket), pair)
local member, total = redis.call('HGET', WHO, sku), weight
if member then
    total = redis.call('ZSCORE', BOARD, member) + weight
    redis.call('ZREM', BOARD, member)
end
local number = redis.call('INCR', 'trending:number')
member = string.format('%015.0f', 999999999999999 - number) .. sku
redis.call('ZADD', BOARD, string.format('%.0f', total), member)
redis.call('HSET', WHO, sku, member)
local last = redis.call('XREVRANGE', 'trending:log', '+', '-', 'COUNT', 1)[1]
redis.call('XADD', 'trending:log', 'MAXLEN', 300, '*',
    'after', last and last[1] or '', 'sku', sku, 'score', string.format('%.0f', total))
redis.call('XTRIM', 'trending:log', 'MINID', string.format('%.0f', now * 1000 - ARGV[5]))
for _, key in ipairs({BOARD, WHO, SUMS, DUE, 'trending:number', 'trending:log'}) do
    redis.call('PEXPIRE', key, ARGV[5])
end
"""
)

BEST = LIBRARY + "return redis.call('ZREVRANGE', BOARD, 0, ARGV[3] - 1, 'WITHSCORES')"

WHERE = (
    LIBRARY
    + """
local member = redis.call('HGET', WHO, ARGV[3])
if not member then return {} end
local at = redis.call('ZREVRANK', BOARD, member)
if ARGV[4] == '' then return {at} end
local from = at - ARGV[4]
if from < 0 then from = 0 end
return {from, redis.call('ZREVRANGE', BOARD, from, at + ARGV[4], 'WITHSCORES')}
"""
)

HERE = """
local last = redis.call('XREVRANGE', 'trending:log', '+', '-', 'COUNT', 1)[1]
return last and last[1] or '0-0'
"""


@dataclass(frozen=True)
class Entry:
    sku: str
    score: int
    rank: int


@dataclass(frozen=True)
class Change:
    sku: str
    score: int


class ChangesLost(Exception):
    pass


class Trending:
    """The ranking of the last `window` seconds."""

    def __init__(self, redis: Redis, window: float = 3600, bucket: float = 60):
        if bucket < 0.01:
            raise ValueError("bucket")
        if window < bucket:
            raise ValueError("window")
        self.redis = redis
        self.times = [repr(float(window)), repr(float(bucket))]
        self.lifetime = math.ceil((window + bucket) * 1000)

    async def record(self, sku: str, weight: int = 1) -> None:
        if sku == "":
            raise ValueError("sku")
        if not isinstance(weight, int) or weight < 1 or weight > 10**15:
            raise ValueError("weight")
        await self.redis.eval(RECORD, 0, *self.times, sku, weight, self.lifetime)

    async def top(self, n: int) -> list[Entry]:
        if n <= 0:
            raise ValueError("n")
        return self._rows(0, await self.redis.eval(BEST, 0, *self.times, n))

    async def rank(self, sku: str) -> int | None:
        found = await self.redis.eval(WHERE, 0, *self.times, sku, "")
        return found[0] + 1 if found else None

    async def around(self, sku: str, k: int) -> list[Entry]:
        if k < 0:
            raise ValueError("k")
        found = await self.redis.eval(WHERE, 0, *self.times, sku, k)
        return self._rows(*found) if found else []

    def _rows(self, start: int, flat: list) -> list[Entry]:
        pairs = [(flat[i][15:].decode(), int(float(flat[i + 1]))) for i in range(0, len(flat), 2)]
        return [Entry(sku, score, start + place) for place, (sku, score) in enumerate(pairs, 1)]

    @asynccontextmanager
    async def changes(self):
        position = await self.redis.eval(HERE, 0)
        queue: asyncio.Queue = asyncio.Queue()
        follower = Follower(queue)
        async with asyncio.TaskGroup() as group:
            group.create_task(self._pump(position, follower))
            try:
                yield follower
            finally:
                follower.over = True  # the pump ends with the step that it is in
                for _ in range(follower.waiting):
                    queue.put_nowait(None)

    async def _pump(self, position: Any, follower: Any) -> None:
        """Ask for what came after the last entry; ask again if the connection breaks, the stream is still there."""
        failed, queue = 0, follower.queue
        while not follower.over:
            try:
                # In short steps: a blocking command must end before the client's own patience does.
                answer: Any = await self.redis.xread({"trending:log": position}, block=100, count=100)
                failed = 0
            except (OSError, trouble.RedisError):
                failed += 1
                if failed > 3:
                    queue.put_nowait(ChangesLost())
                    return
                await asyncio.sleep(0.02)
                continue
            found = [entry for _, some in _streams(answer) for entry in some]
            for entry, fields in found:
                if fields[b"after"] not in (b"", position):  # empty: the stream was forgotten, after a long silence
                    queue.put_nowait(ChangesLost())
                    return
                position = entry
                queue.put_nowait(Change(fields[b"sku"].decode(), int(fields[b"score"])))


def _streams(answer: Any) -> Any:
    if not answer:
        return []
    if isinstance(answer, dict):
        return [(name, some[0] if some and isinstance(some[0], list) else some) for name, some in answer.items()]
    return answer


class Follower:
    """Takes from the queue; an error stays."""

    def __init__(self, queue: asyncio.Queue):
        self.queue = queue
        self.over = False
        self.waiting = 0
        self.failed = None

    def __aiter__(self):
        return self

    async def __anext__(self) -> Change:
        if self.over:
            raise StopAsyncIteration
        if self.failed:
            raise ChangesLost from self.failed
        self.waiting += 1
        try:
            item = await self.queue.get()
        finally:
            self.waiting -= 1
        if item is None:
            raise StopAsyncIteration
        if isinstance(item, ChangesLost):
            self.failed = item
            raise item
        return item
