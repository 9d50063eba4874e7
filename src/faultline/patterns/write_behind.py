"""Prices in a durable queue on their way to the database: quick to write, and nothing that was queued is lost.

    prices = WriteBehind(client, database)
    await prices.set_price("shoe", 1999)  # one round trip to Redis
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(prices.run(on_error=log))  # or call `flush` yourself

**Promise.** A price that was queued reaches the database, unless a later one of the same product replaces it in the
queue. None is stored twice, and no product goes back to an earlier price: whoever is killed where, and however many
flush. Products that wait longest are flushed first.

**How.** One script gives each price a *version*, from the server's clock and never less than the last one plus one, and
puts it into a hash, in the place of an older price of the product. A flush takes nothing out: it hands a batch to the
database, which ignores what is not newer than what it has, and after the commit takes out what is still the same.
So a flusher that dies leaves everything where it was, and one that comes late changes nothing.

**Not promised.** That a price outlives Redis: it is as durable as that (`appendonly yes`; `appendfsync everysec` may
lose the last second with the machine, a fail-over what the replica had not got). Order between products. That the
database has the price when `set_price` returns: read through `get_price`, or live with the old one. Several flushers
are for availability: they may hand the same rows to the database, which then stores them once.

**Cost.** `set_price`: one round trip, O(log n) for n products that wait. `flush`: two round trips and one statement,
O(b log n) for b rows. Waiting products are kept once each, in about 150 bytes (Valkey 8.1).

**When something fails**

- Redis dead or silent: `set_price` raises the client's error; the price may be queued or not, and repeating it is safe.
- Flusher killed, cancelled or paused anywhere: the next flush hands its rows to the database again.
- Database down, or an unknown outcome of its commit: `flush` raises that; nothing leaves the queue.
- A price that the database refuses for good stays, and refuses every batch that it is in: `discard` it.
- Redis comes back empty: what was waiting is lost. Versions go on, since they come from the clock.
- The server's clock is set back *and* its data is lost: new prices are ignored until the clock has caught up.

Sources: Software AG, *About Write-Through and Write-Behind Caches* (BigMemory), for what coalescing saves and lateness
costs; Kulkarni and others, *Logical Physical Clocks* (2014), for the version.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from faultline.patterns.errors import PriceRefused
from faultline.patterns.run_loop import run_loop
from faultline.patterns.script import Commands, Script
from faultline.patterns.write_through import PriceDatabase

if TYPE_CHECKING:
    from collections.abc import Callable

    from redis.asyncio import Redis

__all__ = ["Backlog", "PriceDatabase", "PriceRefused", "WriteBehind"]

MICROSECONDS = 1_000_000  # in a second

QUEUE = Script("""
-- KEYS waiting since version; ARGV product cents; microseconds have 16 digits, of which Lua would print 14
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local version = string.format('%.0f', math.max(now, (redis.call('GET', KEYS[3]) or 0) + 1))
redis.call('SET', KEYS[3], version)
redis.call('ZADD', KEYS[2], 'NX', version, ARGV[1])
return redis.call('HSET', KEYS[1], ARGV[1], version .. ':' .. ARGV[2])
""")

TAKE = Script("""
-- KEYS waiting since; ARGV how many; answers product, price, product, price …
local taken = {}
for _, product in ipairs(redis.call('ZRANGE', KEYS[2], 0, ARGV[1] - 1)) do
    taken[#taken + 1] = product
    taken[#taken + 1] = redis.call('HGET', KEYS[1], product)
end
return taken
""")

SETTLE = Script("""
-- KEYS waiting since; ARGV what TAKE has answered; a product that has a newer price by now waits since that
for number = 1, #ARGV, 2 do
    local price = redis.call('HGET', KEYS[1], ARGV[number])
    if price == ARGV[number + 1] then
        redis.call('HDEL', KEYS[1], ARGV[number])
        redis.call('ZREM', KEYS[2], ARGV[number])
    elseif price then
        redis.call('ZADD', KEYS[2], string.match(price, '^%d+'), ARGV[number])
    end
end
return 0
""")

DISCARD = Script("""
redis.call('ZREM', KEYS[2], ARGV[1])
return redis.call('HDEL', KEYS[1], ARGV[1])
""")

LOOK = Script("""
local oldest = redis.call('ZRANGE', KEYS[2], 0, 0, 'WITHSCORES')[2]
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
return {redis.call('ZCARD', KEYS[2]), oldest and math.max(0, now - oldest) or 0}
""")


@dataclass(frozen=True, slots=True)
class Backlog:
    """What is waiting: to be watched, for a queue that nobody flushes looks well until somebody asks the database."""

    products: int
    oldest: float
    """Seconds for which the product that has waited longest has been waiting."""


class WriteBehind:
    """Prices in a queue in Redis, on their way to the database.

    The client is the caller's, with `decode_responses` or without.
    """

    def __init__(self, client: Redis, database: PriceDatabase, *, name: str = "prices") -> None:
        """Talk to nobody yet; `name` is what all keys begin with. Raises `ValueError` for an empty one."""
        if not name:
            raise ValueError("a queue needs a name: who shares it shares the queue")
        self._client: Commands = client
        self._database = database
        start = f"{{{name}}}:"
        self._keys = start + "waiting", start + "since", start + "version"

    async def set_price(self, product_id: str, cents: int) -> None:
        """Queue the price, in one round trip; it takes the place of an older one. Raises the client's errors."""
        if not product_id or cents < 0:
            raise ValueError(f"a price of {cents} cents for {product_id!r}")
        await QUEUE.run(self._client, self._keys, product_id, cents)

    async def get_price(self, product_id: str) -> int | None:
        """The price that is waiting, or else the database's: what was set last. Raises the client's errors.

        While Redis is down nobody knows whether the database's price is the last one.
        """
        waiting = await self._client.execute_command("HGET", self._keys[0], product_id)
        if waiting is not None:
            return _parsed(waiting)[1]
        found = await self._database.get_price(product_id)
        return None if found is None else found[0]

    async def flush(self, max_batch: int) -> int:
        """Bring prices to the database by one statement of at most `max_batch` rows; returns how many it had.

        0: nothing is waiting, and the database was not asked. Raises what the database raises, and the client's
        errors: nothing is lost then. Repeating it is safe.
        """
        if max_batch < 1:
            raise ValueError(f"a batch of {max_batch} brings nothing to the database")
        taken: list[Any] = await TAKE.run(self._client, self._keys[:2], max_batch)
        prices: list[tuple[str, int, int]] = []
        for product_id, price in zip(taken[::2], taken[1::2], strict=True):
            version, cents = _parsed(price)
            prices.append((_text(product_id), cents, version))
        if prices:
            await self._database.set_prices(prices)
            await SETTLE.run(self._client, self._keys[:2], *taken)
        return len(prices)

    async def run(self, *, on_error: Callable[[Exception], None], every: float = 0.1, max_batch: int = 500) -> None:
        """Flush until it is cancelled, `every` so many seconds, or at once as long as batches are full.

        `on_error` is told what a flush has raised; the next try comes after twice the pause, at most 5 s.
        """

        async def batch_was_full() -> bool:
            return await self.flush(max_batch) == max_batch

        await run_loop(batch_was_full, every=every, on_error=on_error)

    async def discard(self, product_id: str) -> bool:
        """Take the product's price off the queue, for one that the database refuses for good; False if none waits."""
        return bool(await DISCARD.run(self._client, self._keys[:2], product_id))

    async def backlog(self) -> Backlog:
        """How many products wait, and for how long the first of them; on the server's clock."""
        products, oldest = await LOOK.run(self._client, self._keys[:2])
        return Backlog(products, oldest / MICROSECONDS)


def _parsed(price: bytes | str) -> tuple[int, int]:
    version, _, cents = _text(price).partition(":")
    return int(version), int(cents)


def _text(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else value
