"""Carts, and what is known of products, in Redis; every change is one step there (module redis/01).

    cart:{USER}:lines        hash sku → quantity, for 30 days after its last change
    cart:{USER}:order:ID     hash of what was heard of an order: its lines, that it is confirmed, that it was taken
    cart:{GUEST}:into        the account whose cart a guest's has become
    cart:product:SKU         hash of the newest version that anybody has told us of

The braces keep a user's keys in one slot of a cluster; a guest's cart can become an account's on one server only. What
Redis loses when it is killed (the last second, unless it is told to be slower) is lost: a cart is a convenience, and an
order that was confirmed then stays in it.

All raise the client's errors: with one of them it is unknown whether a change has happened. Each may be repeated.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import msgspec

from faultline.patterns.script import Script
from faultline.shop.cart.domain import MOST_LINES, CartFull, GuestHasGone, Known
from faultline.shop.contracts import Line, Money

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from redis.asyncio import Redis

LIFETIME = 30 * 24 * 3600  # seconds

_PUT = Script("""
-- KEYS lines, into; ARGV sku, quantity, most lines, lifetime
if redis.call('EXISTS', KEYS[2]) == 1 then return -1 end
if redis.call('HEXISTS', KEYS[1], ARGV[1]) == 0 and redis.call('HLEN', KEYS[1]) >= tonumber(ARGV[3]) then
    return 0
end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
redis.call('EXPIRE', KEYS[1], ARGV[4])
return 1
""")
# All lines in one step, so they are in one of the two carts at any moment; a second time there are none to move.
_MERGE = Script("""
-- KEYS the guest's lines, the account's lines, into; ARGV account, lifetime
local into = redis.call('GET', KEYS[3])
if into and into ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[3], ARGV[1], 'EX', ARGV[2])
local lines = redis.call('HGETALL', KEYS[1])
for i = 1, #lines, 2 do redis.call('HINCRBY', KEYS[2], lines[i], lines[i + 1]) end
redis.call('EXPIRE', KEYS[2], ARGV[2])
redis.call('DEL', KEYS[1])
return 1
""")
_REMOVE = Script("""
-- KEYS lines; ARGV sku, lifetime
if redis.call('HDEL', KEYS[1], ARGV[1]) == 1 then
    redis.call('EXPIRE', KEYS[1], ARGV[2])
end
""")
# What is heard may come twice and in any order: whichever is last of the two takes the lines, once; where a guest has
# ordered and then logged in, from the cart in which they are now.
_ORDERED = Script("""
-- KEYS lines, order, into; ARGV what was heard, its value, lifetime
redis.call('HSET', KEYS[2], ARGV[1], ARGV[2])
redis.call('EXPIRE', KEYS[2], ARGV[3])
local ordered = redis.call('HGET', KEYS[2], 'lines')
if not ordered or redis.call('HEXISTS', KEYS[2], 'confirmed') == 0
    or redis.call('HSETNX', KEYS[2], 'taken', 1) == 0 then
    return
end
local into = redis.call('GET', KEYS[3])
local lines = into and 'cart:{' .. into .. '}:lines' or KEYS[1]
for _, line in ipairs(cjson.decode(ordered)) do
    local had = tonumber(redis.call('HGET', lines, line[1]) or 0)
    if had > line[2] then
        redis.call('HSET', lines, line[1], had - line[2])
    else
        redis.call('HDEL', lines, line[1])
    end
end
redis.call('EXPIRE', lines, ARGV[3])
""")
# Of two versions the newer stays, whoever comes last: an answer of the catalog may be older than an event.
_LEARN = Script("""
-- KEYS product; ARGV version, lifetime, then fields and values
if tonumber(ARGV[1]) < tonumber(redis.call('HGET', KEYS[1], 'version') or 0) then
    return
end
redis.call('HSET', KEYS[1], 'version', ARGV[1], 'seen', redis.call('TIME')[1], unpack(ARGV, 3))
redis.call('EXPIRE', KEYS[1], ARGV[2])
""")


class Carts:
    """What users have in their carts."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis

    async def quantities(self, user: str) -> dict[str, int]:
        """How many of which product."""
        found = cast("dict[bytes, bytes]", await self._redis.hgetall(_lines(user)))
        return {sku.decode(): int(quantity) for sku, quantity in found.items()}

    async def put(self, user: str, sku: str, quantity: int) -> None:
        """Have so many of it in the cart. Raises `CartFull` where that would be a line too many, and `GuestHasGone`."""
        found = await _PUT.run(self._redis, (_lines(user), _into(user)), sku, quantity, MOST_LINES, LIFETIME)
        if found == -1:
            raise GuestHasGone("this guest has logged in: the cart is their account's")
        if not found:
            raise CartFull(f"a cart has {MOST_LINES} lines at most")

    async def merge(self, guest: str, user: str) -> None:
        """Add all that a guest has to what an account has; from now on there is no such guest any more.

        Once, however often it is asked for. The sum may be more than one can put: nothing is lost. Raises
        `GuestHasGone` if their cart has become another account's.
        """
        if not await _MERGE.run(self._redis, (_lines(guest), _lines(user), _into(guest)), user, LIFETIME):
            raise GuestHasGone("this guest has logged in as somebody else")

    async def remove(self, user: str, sku: str) -> None:
        """Have none of it in the cart."""
        await _REMOVE.run(self._redis, (_lines(user),), sku, LIFETIME)

    async def clear(self, user: str) -> None:
        """Have nothing in the cart."""
        await self._redis.delete(_lines(user))

    async def placed(self, user: str, order: str, lines: Iterable[Line]) -> None:
        """They have ordered these, which leave the cart once the order is confirmed, if it is."""
        await self._ordered(user, order, "lines", msgspec.json.encode([(line.sku, line.quantity) for line in lines]))

    async def confirmed(self, user: str, order: str) -> None:
        """An order is: as many as it was for leave the cart, and what was added since stays.

        A line that was taken out meanwhile, and put in again, is the same line: that much of it leaves, too.
        """
        await self._ordered(user, order, "confirmed", b"1")

    async def _ordered(self, user: str, order: str, heard: str, value: bytes) -> None:
        keys = (_lines(user), f"cart:{{{user}}}:order:{order}", _into(user))
        await _ORDERED.run(self._redis, keys, heard, value, LIFETIME)

    async def ready(self) -> None:
        """Raise unless Redis answers."""
        await self._redis.get("cart:ready")


class Products:
    """What is known of products, until nobody has spoken of one for 30 days."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis

    async def known(self, skus: Sequence[str]) -> dict[str, Known]:
        """Those of which a name and a price are known, by sku; one round trip."""
        if not skus:
            return {}
        async with self._redis.pipeline(transaction=False) as together:
            together.time()
            for sku in skus:
                together.hgetall(_product(sku))
            (now, _), *found = await together.execute()
        return {sku: _known(kept, now) for sku, kept in zip(skus, found, strict=True) if b"name" in kept}

    async def learn(
        self, sku: str, version: int, *, name: str | None = None, unit: Money | None = None, retired: bool = False
    ) -> None:
        """Somebody says so of this version; it means nothing once a later one was heard of."""
        told: dict[str, str | int] = {}
        if name is not None:
            told |= {"name": name}
        if unit is not None:
            told |= {"cents": unit.cents, "currency": unit.currency}
        if retired:
            told |= {"retired": 1}
        words = [word for pair in told.items() for word in pair]
        await _LEARN.run(self._redis, (_product(sku),), version, LIFETIME, *words)


def _known(kept: Mapping[bytes, bytes], now: int) -> Known:
    return Known(
        name=kept[b"name"].decode(),
        unit=Money(int(kept[b"cents"]), kept[b"currency"].decode()),
        version=int(kept[b"version"]),
        age=float(max(0, now - int(kept[b"seen"]))),
        retired=b"retired" in kept,
    )


def _lines(user: str) -> str:
    return f"cart:{{{user}}}:lines"


def _into(guest: str) -> str:
    return f"cart:{{{guest}}}:into"


def _product(sku: str) -> str:
    return f"cart:product:{sku}"
