"""A shopping cart in Redis: a hash of quantities, changed by scripts that run on the server as one step each."""

import math
from typing import cast

from redis.asyncio import Redis

LIFETIME = 30 * 24 * 60 * 60  # seconds

ADD = """
local quantity = redis.call('HINCRBY', KEYS[1], ARGV[1], ARGV[2])
redis.call('EXPIRE', KEYS[1], ARGV[3])
return quantity
"""
# Looking how many there are and taking some are one step: between two steps another tab could click.
REMOVE = """
local had = tonumber(redis.call('HGET', KEYS[1], ARGV[1]) or 0)
if had == 0 then
    return 0
end
local left = had - tonumber(ARGV[2])
if left < 1 then
    left = 0
    redis.call('HDEL', KEYS[1], ARGV[1])
else
    redis.call('HSET', KEYS[1], ARGV[1], left)
end
redis.call('EXPIRE', KEYS[1], ARGV[3])
return left
"""
MERGE = """
if KEYS[1] == KEYS[2] then
    return
end
local lines = redis.call('HGETALL', KEYS[2])
for i = 1, #lines, 2 do
    redis.call('HINCRBY', KEYS[1], lines[i], lines[i + 1])
end
if next(lines) then
    redis.call('DEL', KEYS[2])
    redis.call('EXPIRE', KEYS[1], ARGV[1])
end
"""
EVERYTHING = math.inf


class Cart:
    """The lines of one user's cart: a quantity for each SKU."""

    def __init__(self, redis: Redis, user_id: str) -> None:
        if not user_id:
            raise ValueError("a cart needs a user")
        self._redis = redis
        self._key = f"cart:{user_id}"

    async def add(self, sku: str, quantity: int = 1) -> int:
        """Add so many to the line; returns the quantity that it has now."""
        _require_sku(sku)
        _require_quantity(quantity)
        return await self._redis.eval(ADD, 1, self._key, sku, quantity, LIFETIME)

    async def remove(self, sku: str, quantity: int | None = None) -> int:
        """Take so many from the line, all of them without `quantity`; returns the quantity that it has now."""
        _require_sku(sku)
        if quantity is not None:
            _require_quantity(quantity)
        taken = EVERYTHING if quantity is None else quantity
        return await self._redis.eval(REMOVE, 1, self._key, sku, taken, LIFETIME)

    async def items(self) -> dict[str, int]:
        """All lines: the quantity of each SKU."""
        lines = cast("dict[bytes, bytes]", await self._redis.hgetall(self._key))
        return {sku.decode(): int(quantity) for sku, quantity in lines.items()}

    async def merge_from(self, guest: "Cart") -> None:
        """Add every line of `guest` to this cart and empty it, in one step."""
        await self._redis.eval(MERGE, 2, self._key, guest._key, LIFETIME)  # noqa: SLF001 -- a cart, too


def _require_sku(sku: str) -> None:
    if not sku:
        raise ValueError("a line needs an SKU")


def _require_quantity(quantity: int) -> None:
    if type(quantity) is not int or not 1 <= quantity <= 1_000:  # bool is a subclass of int
        raise ValueError(f"a quantity is a whole number from 1 to 1,000, not {quantity!r}")
