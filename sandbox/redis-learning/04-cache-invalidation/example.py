"""The price that comes back: a slow reader, with and without a lease; a message that is lost; what a tag costs.

Takes REDIS_URL; asserts what the lesson says of it.
"""

import asyncio
import os
import secrets
import time
from contextlib import suppress
from statistics import median

from redis.asyncio import Redis
from redis.exceptions import RedisError

from faultline.testbed import Operation, timeline

ENTRY, LEASE, CHANNEL, TTL = "example:price", "example:lease", "example:invalidated", 1000  # milliseconds
# What a reader asks first, what it does with what it has loaded, and what a writer does.
GET = "return {redis.call('GET', KEYS[1]), ''}"
SET = "redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3]) return 1"
DELETE = "return redis.call('DEL', KEYS[1])"
GET_OR_LEASE = """local value = redis.call('GET', KEYS[1])
if not value then redis.call('SET', KEYS[2], ARGV[1], 'NX', 'PX', 10000) end
return {value, redis.call('GET', KEYS[2])}"""
SET_IF_LEASED = f"if redis.call('GET', KEYS[2]) ~= ARGV[1] then return 0 end {SET}"
END_LEASE = "return redis.call('DEL', KEYS[1], KEYS[2])"
NAIVE, LEASED = (GET, SET, DELETE), (GET_OR_LEASE, SET_IF_LEASED, END_LEASE)
# Both delete the ten entries of a tag. The first looks at every key, the second into a list of them.
BY_KEYS = """for _, key in ipairs(redis.call('KEYS', 'example:entry:*')) do
    if redis.call('HGET', key, 'tag') == ARGV[1] then redis.call('DEL', key) end end"""
BY_INDEX = """for _, key in ipairs(redis.call('SMEMBERS', 'example:tag:' .. ARGV[1])) do redis.call('DEL', key) end
redis.call('DEL', 'example:tag:' .. ARGV[1])"""
FILL = """for n = ARGV[1], ARGV[2] do
    redis.call('HSET', 'example:entry:' .. ARGV[3] .. n, 'tag', ARGV[3], 'value', n)
    redis.call('SADD', 'example:tag:' .. ARGV[3], 'example:entry:' .. ARGV[3] .. n) end"""


async def clear(redis: Redis) -> None:
    keys = await redis.keys("example:*")
    for start in range(0, len(keys), 1000):
        await redis.unlink(*keys[start : start + 1000])


class Run:
    """A reader and a writer of one price, in a given order of steps; what they do is written down."""

    def __init__(self, redis: Redis, scripts: tuple[str, str, str]) -> None:
        self.redis, self.database, self.began = redis, "19.99", time.monotonic()
        self.ask, self.store, self.forget = scripts
        self.steps: list[Operation] = []

    def note(self, who: str, what: str) -> None:
        self.steps.append(Operation(who, what, time.monotonic() - self.began))

    async def read(self, *meanwhile: str) -> None:
        """A slow reader: between loading and storing it stands still, and the writer does this."""
        _, lease = await self.redis.eval(self.ask, 2, ENTRY, LEASE, secrets.token_hex(4))
        self.note("reader", "misses" + (f", has the lease {lease}" if lease else ""))
        loaded = self.database
        self.note("reader", f"loads {loaded}")
        await self.change(*meanwhile)
        stored = await self.redis.eval(self.store, 2, ENTRY, LEASE, lease or "", loaded, TTL)
        self.note("reader", f"stores {loaded}" if stored else "is refused: its lease has ended")

    async def change(self, *steps: str) -> None:
        """The writer does these, in this order."""
        for step in steps:
            if step == "deletes the entry":
                await self.redis.eval(self.forget, 2, ENTRY, LEASE)
            self.database = "24.99" if step == "writes 24.99" else self.database
            self.note("writer", step)

    async def seen(self) -> float:
        """For how long readers are given another price than the database has."""
        print(timeline(self.steps))
        began = time.monotonic()
        while await self.redis.get(ENTRY) not in {None, self.database}:  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0.01)
        print(f"\n   after that, readers get 19.99 for {(wrong := time.monotonic() - began):.2f} s")
        return wrong


async def lost_message(redis: Redis, *, empty: bool) -> str:
    """A process with a copy of its own; its connection is cut, and a price changes before it is there again."""
    local: dict[str, str] = {}
    async with redis.pubsub() as channel:

        async def hear() -> None:
            with suppress(RedisError):  # as many a loop does: the client connects and subscribes again by itself
                message = await channel.get_message(timeout=0.1)
                if message and message["type"] == "message":
                    local.pop(message["data"], None)
                elif message and empty:
                    local.clear()

        await channel.subscribe(CHANNEL)
        await hear()
        local["hat"] = "19.99"
        await redis.client_kill_filter(_type="pubsub")
        assert await redis.publish(CHANNEL, "hat") == 0, "the message was to find nobody"
        while await redis.publish(CHANNEL, "cup") == 0:
            await hear()
        await hear()
    return local.get("hat", "nothing, and asks Redis")


async def milliseconds(redis: Redis, script: str) -> float:
    """What it takes to invalidate a tag of ten members (median of five)."""
    taken = []
    for _ in range(5):
        await redis.eval(FILL, 0, 1, 10, "hats")
        began = time.perf_counter()
        await redis.eval(script, 0, "hats")
        taken.append((time.perf_counter() - began) * 1000)
    return median(taken)


async def main() -> None:
    async with Redis.from_url(os.environ["REDIS_URL"], decode_responses=True) as redis:
        print("\n1  Cache-aside as it is often written: a reader that is slow once\n")
        await (run := Run(redis, NAIVE)).read("writes 24.99", "deletes the entry")
        assert await run.seen() > 0.8 * TTL / 1000, "the old price was to stay for a ttl"
        print("\n2  The same order of steps, with a lease\n")
        await (run := Run(redis, LEASED)).read("writes 24.99", "deletes the entry")
        assert not await redis.exists(ENTRY), "the old price was to be refused"
        await run.seen()
        print("\n3  With a lease, and a writer that deletes before it writes\n")
        await (run := Run(redis, LEASED)).change("deletes the entry")
        await run.read("writes 24.99")
        assert await run.seen() > 0.8 * TTL / 1000, "no lease helps against that"
        print("\n4  A copy in the process; the connection breaks, 'hat' is invalidated, the client is back by itself\n")
        kept, emptied = [await lost_message(redis, empty=empty) for empty in (False, True)]
        print(f"   it goes on: a get gives {kept}\n   it is emptied when it subscribes: a get gives {emptied}")
        assert (kept, emptied) == ("19.99", "nothing, and asks Redis"), "see above"
        print("\n5  Invalidating a tag of 10 entries among so many others: ms, from the client\n")
        print(f"   {'others':>8}{'KEYS':>10}{'index':>10}")
        figures: dict[int, tuple[float, float]] = {}
        for others in (100, 10_000, 100_000):
            await clear(redis)
            for start in range(1, others, 10_000):
                await redis.eval(FILL, 0, start, min(start + 9_999, others), "cups")
            figures[others] = await milliseconds(redis, BY_KEYS), await milliseconds(redis, BY_INDEX)
            print(f"   {others:8,}{figures[others][0]:10.2f}{figures[others][1]:10.2f}")
        assert figures[100_000][0] > 10 * max(figures[100][0], figures[100_000][1]), "only KEYS was to grow"
        await clear(redis)


if __name__ == "__main__":
    asyncio.run(main())
