"""The price that comes back: a slow reader, with and without a lease; a message that is lost; what a tag costs.

Takes REDIS_URL; asserts what the lesson says of it.
"""

import asyncio
import os
import secrets
import time
from collections.abc import Awaitable, Callable
from statistics import median

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from faultline.testbed import Operation, timeline

ENTRY, LEASE, CHANNEL = "example:price", "example:lease", "example:invalidated"
TTL = 1000  # milliseconds

# What a reader asks first, and what it does with what it has loaded.
GET = "return {redis.call('GET', KEYS[1]), ''}"
SET = "redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3]) return 1"
DELETE = "return redis.call('DEL', KEYS[1])"
GET_OR_LEASE = """
local value = redis.call('GET', KEYS[1])
if not value then redis.call('SET', KEYS[2], ARGV[1], 'NX', 'PX', 10000) end
return {value, redis.call('GET', KEYS[2])}"""
SET_IF_LEASED = f"if redis.call('GET', KEYS[2]) ~= ARGV[1] then return 0 end {SET}"
END_LEASE = "return redis.call('DEL', KEYS[1], KEYS[2])"
NAIVE, LEASED = (GET, SET, DELETE), (GET_OR_LEASE, SET_IF_LEASED, END_LEASE)

# Both delete the ten entries of a tag. The first looks at every key, the second into a list of them.
BY_KEYS = """
for _, key in ipairs(redis.call('KEYS', 'example:entry:*')) do
    if redis.call('HGET', key, 'tag') == ARGV[1] then redis.call('DEL', key) end
end"""
BY_INDEX = """
for _, key in ipairs(redis.call('SMEMBERS', 'example:tag:' .. ARGV[1])) do redis.call('DEL', key) end
redis.call('DEL', 'example:tag:' .. ARGV[1])"""
FILL = """
for n = ARGV[1], ARGV[2] do
    redis.call('HSET', 'example:entry:' .. ARGV[3] .. n, 'tag', ARGV[3], 'value', n)
    redis.call('SADD', 'example:tag:' .. ARGV[3], 'example:entry:' .. ARGV[3] .. n)
end"""


async def clear(redis: Redis) -> None:
    for key in await redis.keys("example:*"):
        await redis.unlink(key)


class Run:
    """A reader and a writer of one price, in a given order of steps; what they do is written down."""

    def __init__(self, redis: Redis, scripts: tuple[str, str, str]) -> None:
        self.redis, self.database, self.began = redis, "19.99", time.monotonic()
        self.ask, self.store, self.forget = scripts
        self.steps: list[Operation] = []

    def note(self, who: str, what: str) -> None:
        self.steps.append(Operation(who, what, time.monotonic() - self.began))

    async def run(self, script: str, *arguments: str | int) -> list[str | None] | int:
        return await self.redis.eval(script, 2, ENTRY, LEASE, *arguments)

    async def read(self, meanwhile: Callable[[], Awaitable[None]]) -> None:
        """A slow reader: between loading and storing it stands still, and `meanwhile` happens."""
        _, lease = await self.run(self.ask, secrets.token_hex(4))
        self.note("reader", "misses" + (f", has the lease {lease}" if lease else ""))
        loaded = self.database
        self.note("reader", f"loads {loaded}")
        await meanwhile()
        stored = await self.run(self.store, lease or "", loaded, TTL)
        self.note("reader", f"stores {loaded}" if stored else "is refused: its lease has ended")

    async def write(self) -> None:
        self.database = "24.99"
        self.note("writer", "writes 24.99 to the database")

    async def delete(self) -> None:
        await self.run(self.forget)
        self.note("writer", "deletes the entry")

    async def write_then_delete(self) -> None:
        await self.write()
        await self.delete()

    async def seen(self) -> float:
        """For how long readers are given another price than the database has."""
        print(timeline(self.steps))
        began = time.monotonic()
        while (value := await self.redis.get(ENTRY)) not in {None, self.database}:
            await asyncio.sleep(0.01)
        wrong = time.monotonic() - began
        print(f"\n   then readers get {value or 'nothing, and load'}" + f", after {wrong:.2f} s of 19.99" * (wrong > 0.1))
        return wrong


async def race(redis: Redis, scripts: tuple[str, str, str]) -> float:
    await clear(redis)
    run = Run(redis, scripts)
    await run.read(run.write_then_delete)
    return await run.seen()


async def deleted_too_early(redis: Redis) -> float:
    """The writer's own mistake: no cache can know that the database is not changed yet."""
    await clear(redis)
    run = Run(redis, LEASED)
    await run.delete()
    await run.read(lambda: asyncio.sleep(0))
    await run.write()
    return await run.seen()


async def lost_message(redis: Redis, *, empty: bool) -> str:
    """A process with a copy of its own; its connection is cut, and a price changes before it is there again."""
    async with redis.pubsub() as channel:
        await channel.subscribe(CHANNEL)
        await channel.get_message(timeout=1)
        local, deadline = {"hat": "19.99"}, time.monotonic() + 0.5
        await redis.client_kill_filter(_type="pubsub")
        heard = await redis.publish(CHANNEL, "hat")  # nobody is there
        assert heard == 0, "the message was to be lost"
        while time.monotonic() < deadline:
            try:
                message = await channel.get_message(timeout=0.05)
            except (ConnectionError, OSError):
                continue  # as many a loop says: the client connects again by itself
            if message and message["type"] == "subscribe" and empty:
                local.clear()
            elif message and message["type"] == "message":
                local.pop(message["data"], None)
        assert await redis.publish(CHANNEL, "cup") == 1, "the client was to have subscribed again"
        return local.get("hat", "nothing, and asks")


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
    url = os.environ["REDIS_URL"]
    async with Redis.from_url(url, decode_responses=True, retry=Retry(NoBackoff(), 1)) as redis:
        print("\n1  Cache-aside as it is often written: a reader that is slow once\n")
        assert await race(redis, NAIVE) > 0.8 * TTL / 1000, "the old price was to stay for a ttl"
        print("\n2  The same order of steps, with a lease\n")
        assert await race(redis, LEASED) == 0 or not await redis.exists(ENTRY), "the old price was to be refused"
        print("\n3  With a lease, and a writer that deletes before it writes\n")
        assert await deleted_too_early(redis) > 0.8 * TTL / 1000, "no lease helps against that"
        print("\n4  A copy in the process; the connection breaks, 'hat' is invalidated, the client is back by itself\n")
        kept, emptied = [await lost_message(redis, empty=empty) for empty in (False, True)]
        print(f"   it goes on                          a get gives {kept}")
        print(f"   it is emptied when it subscribes    a get gives {emptied}")
        assert (kept, emptied) == ("19.99", "nothing, and asks"), "see above"
        print("\n5  Invalidating a tag of 10 entries among so many others: ms, from the client\n")
        print(f"   {'others':>8}{'KEYS':>10}{'index':>10}")
        figures = {}
        for others in (100, 10_000, 100_000):
            await clear(redis)
            for start in range(1, others, 10_000):
                await redis.eval(FILL, 0, start, min(start + 9_999, others), "cups")
            figures[others] = await milliseconds(redis, BY_KEYS), await milliseconds(redis, BY_INDEX)
            print(f"   {others:8,}{figures[others][0]:10.2f}{figures[others][1]:10.2f}")
        assert figures[100_000][0] > 50 * figures[100][0] / 4, "KEYS was to grow with the others"
        assert figures[100_000][0] > 10 * figures[100_000][1], "the index was not to"
        await clear(redis)
        print()


if __name__ == "__main__":
    asyncio.run(main())
