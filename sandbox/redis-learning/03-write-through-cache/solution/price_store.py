"""Prices through a cache and behind a queue: a mark before the commit, and versions that decide who was last."""

import secrets
from collections.abc import Sequence
from contextlib import suppress
from typing import Protocol

from redis.asyncio import Redis
from redis.exceptions import RedisError

# The server's clock in microseconds. That has 16 digits, of which Lua would print 14.
NOW = """
local time = redis.call('TIME')
local now = tonumber(time[1] .. string.format('%06d', time[2]))
"""

# Of each product a hash with the version of the newest price that was seen here and, unless it may be outdated, its
# cents; and a sorted set with a mark for each write whose end is not known yet, by the time at which that mark expires.
SWEEP = NOW + "redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', now)\n"
LOOK = "return {redis.call('HGET', KEYS[1], 'cents'), redis.call('EXISTS', KEYS[2])}"
MARK = """
redis.call('ZADD', KEYS[2], now + ARGV[2], ARGV[1])
return redis.call('HDEL', KEYS[1], 'cents')
"""
STORE = """
if ARGV[3] then
    redis.call('ZREM', KEYS[2], ARGV[3])
end
local newest = redis.call('HGET', KEYS[1], 'version')
if newest and tonumber(newest) > tonumber(ARGV[1]) then
    return
end
redis.call('HSET', KEYS[1], 'version', ARGV[1])
if redis.call('EXISTS', KEYS[2]) == 0 then
    redis.call('HSET', KEYS[1], 'cents', ARGV[2])
end
"""

# The queue: a hash of products, each with the version and the cents of its last price. A version is the server's clock,
# or the last version plus one.
QUEUE = """
local version = redis.call('INCR', KEYS[2])
if now > version then
    version = redis.call('INCRBY', KEYS[2], string.format('%.0f', now - version))
end
return redis.call('HSET', KEYS[1], ARGV[1], string.format('%.0f:%s', version, ARGV[2]))
"""
TAKE = "return redis.call('HRANDFIELD', KEYS[1], ARGV[1], 'WITHVALUES')"
SETTLE = """
for number = 1, #ARGV, 2 do
    if redis.call('HGET', KEYS[1], ARGV[number]) == ARGV[number + 1] then
        redis.call('HDEL', KEYS[1], ARGV[number])
    end
end
"""
WAITING = "price:waiting"
VERSION = WAITING + ":version"


class PriceRefused(Exception):
    """The database has refused a change, for good."""


class Database(Protocol):
    """What `db` can do."""

    async def get_price(self, product_id: str) -> Sequence[int] | None: ...
    async def set_price(self, product_id: str, cents: int) -> int: ...
    async def set_prices(self, prices: Sequence[tuple[str, int, int]]) -> None: ...


def _keys(product_id: str) -> tuple[str, str]:
    if not product_id:
        raise ValueError("a product without a name")
    return f"price:of:{product_id}", f"price:writes:{product_id}"


class WriteThrough:
    """Prices in the database, with a copy in Redis that is never behind it."""

    def __init__(self, redis: Redis, db: Database, lease: float = 10.0) -> None:
        if lease < 0.01:
            raise ValueError(f"a lease of {lease} s")
        self._redis = redis
        self._db = db
        self._lease = lease * 1_000_000  # microseconds

    async def get_price(self, product_id: str) -> int | None:
        """The price in cents; None for a product that the database does not know."""
        keys = _keys(product_id)
        marked = True
        with suppress(RedisError):
            cents, marked = await self._redis.eval(SWEEP + LOOK, 2, *keys)
            if cents is not None:
                return int(cents)
        found = await self._db.get_price(product_id)
        if found is None:
            return None
        cents, version = found
        if not marked:  # a mark may expire while the database is asked, just after a late commit
            with suppress(RedisError):
                await self._redis.eval(SWEEP + STORE, 2, *keys, version, cents)
        return cents

    async def set_price(self, product_id: str, cents: int) -> None:
        """Store the price; when this returns, it is in the database."""
        keys, mark = _keys(product_id), secrets.token_hex()
        if cents < 0:
            raise ValueError(f"a price of {cents}")
        await self._redis.eval(SWEEP + MARK, 2, *keys, mark, self._lease)
        try:
            version = await self._db.set_price(product_id, cents)
        except PriceRefused:
            with suppress(RedisError):
                await self._redis.zrem(keys[1], mark)
            raise
        with suppress(RedisError):
            await self._redis.eval(SWEEP + STORE, 2, *keys, version, cents, mark)


class WriteBehind:
    """Prices in a queue in Redis, on their way to the database."""

    def __init__(self, redis: Redis, db: Database) -> None:
        self._redis = redis
        self._db = db

    async def set_price(self, product_id: str, cents: int) -> None:
        """Queue the price."""
        if not product_id or cents < 0:
            raise ValueError(f"no price of {cents} for {product_id!r}")
        await self._redis.eval(NOW + QUEUE, 2, WAITING, VERSION, product_id, cents)

    async def flush(self, max_batch: int) -> int:
        """Bring queued prices to the database by one statement; returns how many."""
        if max_batch < 1:
            raise ValueError(f"no batch of {max_batch}")
        taken = await self._redis.eval(TAKE, 1, WAITING, max_batch)
        prices: list[tuple[str, int, int]] = []
        for number in range(0, len(taken), 2):
            version, _, cents = taken[number + 1].partition(b":")
            prices.append((taken[number].decode(), int(cents), int(version)))
        if prices:
            await self._db.set_prices(prices)
            await self._redis.eval(SETTLE, 1, WAITING, *taken)
        return len(prices)
