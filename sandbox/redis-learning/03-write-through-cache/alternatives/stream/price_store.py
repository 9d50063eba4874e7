"""The same without versions in the cache: a copy counts only if no write has begun since. And the queue is a stream.

A stream's entries have ids that the server makes, from its clock, each larger than the one before: they are the
versions. A consumer group hands them out, and takes them back from whoever has had them for too long.
"""

import uuid
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Protocol

from redis.asyncio import Redis
from redis.exceptions import RedisError, ResponseError

OPEN = """
local seconds, micros = unpack(redis.call('TIME'))
local now, open = seconds * 1000 + micros / 1000, redis.call('HGETALL', KEYS[2])
local last = 0
for at = 1, #open, 2 do
    if tonumber(open[at + 1]) > now then last = math.max(last, open[at + 1])
    else redis.call('HDEL', KEYS[2], open[at]) end
end
"""
BEGIN = f"""{OPEN}
last = math.max(last, now + ARGV[1])
local begun = redis.call('INCR', KEYS[3])
redis.call('DEL', KEYS[1])
redis.call('HSET', KEYS[2], begun, string.format('%.0f', now + ARGV[1]))
redis.call('PEXPIREAT', KEYS[2], string.format('%.0f', last))
return begun
"""
LOOK = f"{OPEN} return {{redis.call('GET', KEYS[1]), last, redis.call('GET', KEYS[3])}}"
FILL = f"""{OPEN}
if last > 0 or (redis.call('GET', KEYS[3]) or '') ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[2])
return 1
"""

DONE = """
redis.call('XACK', KEYS[1], unpack(ARGV))
return redis.call('XDEL', KEYS[1], unpack(ARGV, 2))
"""

STREAM, GROUP = "price-stream", "flushers"
IDLE = 300  # milliseconds after which somebody else's entries are ours


class PriceRefused(Exception):
    """The database has refused a change, for good."""


class Database(Protocol):
    """What `db` can do."""

    async def get_price(self, product_id: str) -> Sequence[int] | None: ...
    async def set_price(self, product_id: str, cents: int) -> int: ...
    async def set_prices(self, prices: Sequence[tuple[str, int, int]]) -> None: ...


class WriteThrough:
    """Three keys a product: the copy, until when each open write may take, and how many have ever begun."""

    def __init__(self, redis: Redis, db: Database, lease: float = 10.0) -> None:
        if not lease >= 0.01:
            raise ValueError("lease")
        self.redis, self.db, self.lease = redis, db, int(lease * 1000)
        self.begin, self.look, self.fill = (redis.register_script(script) for script in (BEGIN, LOOK, FILL))

    @staticmethod
    def keys(product_id: str) -> list[str]:
        if product_id == "":
            raise ValueError("product_id")
        return [f"price-{what}-{product_id}" for what in ("copy", "open", "begun")]

    async def get_price(self, product_id: str) -> int | None:
        """From the copy, or from the database."""
        keys = self.keys(product_id)
        begun: bytes | str | None = None
        known = True
        try:
            copy, last, begun = await self.look(keys=keys)
            known = last == 0
            if copy:
                return int(copy)
        except RedisError:
            known = False
        row = await self.db.get_price(product_id)
        if row is not None and known:
            with suppress(RedisError):
                await self.fill(keys=keys, args=[begun or "", row[0]])
        return row[0] if row is not None else None

    async def set_price(self, product_id: str, cents: int) -> None:
        """Through."""
        keys = self.keys(product_id)
        if cents < 0:
            raise ValueError("cents")
        mine = await self.begin(keys=keys, args=[self.lease])
        try:
            await self.db.set_price(product_id, cents)
        except PriceRefused:
            with suppress(RedisError):
                await self.redis.hdel(keys[1], mine)
            raise
        with suppress(RedisError):
            await self.redis.hdel(keys[1], mine)
            await self.fill(keys=keys, args=[mine, cents])


class WriteBehind:
    """An entry a price."""

    def __init__(self, redis: Redis, db: Database) -> None:
        self.redis, self.db, self.me = redis, db, uuid.uuid4().hex
        self.done = redis.register_script(DONE)

    async def set_price(self, product_id: str, cents: int) -> None:
        """Queue."""
        if product_id == "" or cents < 0:
            raise ValueError("price")
        await self.redis.xadd(STREAM, {"id": product_id, "cents": cents})

    async def flush(self, max_batch: int) -> int:
        """What others have dropped, then what is new; of each product the newest."""
        if max_batch < 1:
            raise ValueError("max_batch")
        with suppress(ResponseError):  # it is there already
            await self.redis.xgroup_create(STREAM, GROUP, id="0", mkstream=True)
        entries: list[Any] = (await self.redis.xautoclaim(STREAM, GROUP, self.me, IDLE, count=max_batch))[1]
        if len(entries) < max_batch:
            fresh: Any = await self.redis.xreadgroup(GROUP, self.me, {STREAM: ">"}, count=max_batch - len(entries))
            for found in fresh.values() if isinstance(fresh, dict) else [found for _, found in fresh]:
                entries += found[0] if isinstance(fresh, dict) else found
        rows: dict[str, tuple[str, int, int]] = {}
        for entry, fields in sorted(entries, key=lambda entry: version(entry[0])):
            product_id = fields[b"id"].decode()
            rows[product_id] = (product_id, int(fields[b"cents"]), version(entry))
        if not entries:
            return 0
        await self.db.set_prices(list(rows.values()))
        ids = [entry for entry, _ in entries]
        await self.done(keys=[STREAM], args=[GROUP, *ids])
        return len(rows)


def version(entry: bytes) -> int:
    """The id as one number: milliseconds, and the count within one."""
    milliseconds, _, count = entry.partition(b"-")
    return int(milliseconds) << 20 | int(count)
