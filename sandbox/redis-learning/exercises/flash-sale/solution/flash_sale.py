"""A flash sale: a line in Redis, workers with leases, and steps that may be done twice."""

import json
from typing import Literal, Protocol

from redis.asyncio import Redis

# KEYS places of all, those who wait; ARGV buyer
JOIN = """
local place = redis.call('HGET', KEYS[1], ARGV[1])
if not place then
    place = redis.call('HLEN', KEYS[1]) + 1
    redis.call('HSET', KEYS[1], ARGV[1], place)
    redis.call('ZADD', KEYS[2], place, ARGV[1])
end
return tonumber(place)
"""

# KEYS those who wait, those being worked on with the end of their lease, those sold to; ARGV units, lease
TAKE = """
local time = redis.call('TIME')
local now = time[1] + time[2] / 1000000
local buyer = redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', now)[1]
if not buyer and redis.call('ZCARD', KEYS[2]) + redis.call('SCARD', KEYS[3]) < tonumber(ARGV[1]) then
    buyer = redis.call('ZPOPMIN', KEYS[1])[1]
end
if buyer then
    redis.call('ZADD', KEYS[2], now + ARGV[2], buyer)
end
return buyer
"""

# KEYS those being worked on, those to whom it ended so; ARGV buyer
SETTLE = """
redis.call('ZREM', KEYS[1], ARGV[1])
redis.call('SADD', KEYS[2], ARGV[1])
"""


class Declined(Exception):
    """The provider's word: this card pays nothing, and has paid nothing."""


class NotInLine(Exception):
    """The buyer has never joined."""


class Payment(Protocol):
    """The payment provider, as it is given to you."""

    async def charge(self, key: str, buyer: str, cents: int) -> str:
        """Take the money, once for each `key`, and return the receipt; or raise `Declined`."""
        ...


class Orders(Protocol):
    """The orders in the shop's database, as they are given to you."""

    async def record(self, order: str, buyer: str, receipt: str) -> None:
        """Write the order with the id `order`; it is committed when this returns."""
        ...


class FlashSale:
    """One sale, seen from one process."""

    def __init__(
        self,
        redis: Redis,
        payment: Payment,
        orders: Orders,
        *,
        sale: str,
        units: int,
        price: int,
        lease: float = 30.0,
    ) -> None:
        if not sale or units < 1 or price < 1 or lease < 0.01:
            raise ValueError(f"no sale {sale!r} of {units} units for {price} cents, {lease} s each")
        self._redis = redis
        self._payment = payment
        self._orders = orders
        self._sale = sale
        self._units = units
        self._price = price
        self._lease = lease

    async def join(self, buyer: str) -> int:
        """Put this buyer into the line, once."""
        _named(buyer)
        return await self._redis.eval(JOIN, 2, self._key("places"), self._key("waiting"), buyer)

    async def status(self, buyer: str) -> Literal["waiting", "sold", "sold out", "declined"]:
        """Where this buyer stands, at one moment."""
        _named(buyer)
        async with self._redis.pipeline() as moment:
            moment.sismember(self._key("sold"), buyer)
            moment.sismember(self._key("declined"), buyer)
            moment.hexists(self._key("places"), buyer)
            moment.scard(self._key("sold"))
            sold, declined, joined, gone = await moment.execute()
        if sold:
            return "sold"
        if declined:
            return "declined"
        if not joined:
            raise NotInLine(buyer)
        return "sold out" if gone == self._units else "waiting"

    async def work(self) -> bool:
        """Take up one buyer; each step may have been done before, by a worker that died or that comes late."""
        keys = (self._key("waiting"), self._key("working"), self._key("sold"))
        taken = await self._redis.eval(TAKE, 3, *keys, self._units, self._lease)
        if taken is None:
            return False
        buyer = taken.decode()
        purchase = json.dumps([self._sale, buyer])  # the same at every try, and nobody else's
        try:
            receipt = await self._payment.charge(purchase, buyer, self._price)
        except Declined:
            await self._settle(buyer, "declined")
        else:
            await self._orders.record(purchase, buyer, receipt)
            await self._settle(buyer, "sold")
        return True

    async def _settle(self, buyer: str, among: str) -> None:
        """Remember how it ended. A set holds each buyer once, however often that is said."""
        await self._redis.eval(SETTLE, 2, self._key("working"), self._key(among), buyer)

    def _key(self, part: str) -> str:
        return f"sale:{self._sale}:{part}"


def _named(buyer: str) -> None:
    if not buyer:
        raise ValueError("a buyer has a name")
