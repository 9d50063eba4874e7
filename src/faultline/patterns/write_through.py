"""Prices that are written to the database and to the cache in front of it, which nobody ever sees outdated.

    prices = WriteThrough(client, database)
    await prices.set_price("shoe", 1999)
    await prices.get_price("shoe")  # from Redis

**Promise.** A read gives a price that the database has held at some moment of that read: with writers and readers in
any number of processes, whoever of them is killed where, and with a Redis that dies at any moment and comes back with
all that it had confirmed. As long as no call stands still for `lease` seconds between two of its steps.

**How.** Before a writer asks the database it puts a *mark* into Redis and takes the cached price out. While there is a
mark nobody caches anything, nor does a reader who saw one before asking the database. The mark goes when the end of the
write is known; if its writer has died, it expires after its own `lease`, by the server's clock, whatever others write
meanwhile. Of two prices the database's version says which is the newer one, and no older one is cached after it.

**Not promised.** That a price can be written without Redis: the cached one could not be taken out, so the write is
refused. A writer that stops for longer than `lease` between mark and commit, *and* a Redis that is gone at the commit:
then an old price may stay until the next write, or for `ttl`. Prices that somebody changes in the database without this
class. A fail-over to a replica that has not got the last mark.

**Cost.** A read from the cache: one round trip, O(1). A read from the database, and a write: two. One hash a product,
about 100 bytes (Valkey 8.1), which goes `ttl` seconds after its last change.

**When something fails**

- Redis dead or silent: reads ask the database (after the client's own time-out), writes raise the client's error
  before the database is asked. After the commit its silence is not raised: the price is stored, and the mark stays.
- The database raises `PriceRefused`: nothing has changed, the mark goes. Anything else: unknown, the mark stays.
- A writer is killed or cancelled: reads of that product ask the database until the mark expires.

Sources: Nishtala and others, *Scaling Memcache at Facebook* (2013), whose leases keep slow readers from storing old
values; Gray and Cheriton, *Leases* (1989), for a right that ends by itself.
"""

from __future__ import annotations

import secrets
from contextlib import suppress
from typing import TYPE_CHECKING, Protocol

from redis.exceptions import RedisError

from faultline.patterns.errors import PriceRefused
from faultline.patterns.script import Commands, Script

if TYPE_CHECKING:
    from collections.abc import Sequence

    from redis.asyncio import Redis

__all__ = ["PriceDatabase", "PriceRefused", "WriteThrough"]

DAY = 86_400.0  # seconds

_NOW = """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
"""

MARK = Script(f"""{_NOW}
-- KEYS copy marks; ARGV mark, lease in ms, ttl in ms; what is left of the copy is its version
redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', now)
redis.call('ZADD', KEYS[2], now + ARGV[2], ARGV[1])
redis.call('PEXPIREAT', KEYS[2], redis.call('ZRANGE', KEYS[2], -1, -1, 'WITHSCORES')[2])
redis.call('HDEL', KEYS[1], 'cents')
return redis.call('PEXPIRE', KEYS[1], ARGV[3])
""")

KEEP = Script(f"""{_NOW}
-- KEYS copy marks; ARGV mark (of a reader: none), version, cents, ttl in ms; answers 1 if the price is cached now
redis.call('ZREM', KEYS[2], ARGV[1])
if (tonumber(redis.call('HGET', KEYS[1], 'version')) or 0) > tonumber(ARGV[2]) then return 0 end
redis.call('HSET', KEYS[1], 'version', ARGV[2])
redis.call('PEXPIRE', KEYS[1], ARGV[4])
if redis.call('ZCOUNT', KEYS[2], now, '+inf') > 0 then return 0 end  -- another write is under way
redis.call('HSET', KEYS[1], 'cents', ARGV[3])
return 1
""")

LOOK = Script(f"""{_NOW}
-- KEYS copy marks; answers the cents, and how many marks there are
return {{redis.call('HGET', KEYS[1], 'cents'), redis.call('ZCOUNT', KEYS[2], now, '+inf')}}
""")

UNMARK = Script("return redis.call('ZREM', KEYS[1], ARGV[1])")


class PriceDatabase(Protocol):
    """What is needed of a database; `WriteBehind` needs `get_price` and `set_prices`. Versions only ever grow.

    On PostgreSQL, with `price (product_id text PRIMARY KEY, cents bigint, version bigint)`:

        INSERT INTO price VALUES (%s, %s, 1) ON CONFLICT (product_id) DO UPDATE
        SET cents = EXCLUDED.cents, version = price.version + 1 RETURNING version

        INSERT INTO price SELECT * FROM unnest(%s::text[], %s::bigint[], %s::bigint[]) ON CONFLICT (product_id)
        DO UPDATE SET cents = EXCLUDED.cents, version = EXCLUDED.version WHERE price.version < EXCLUDED.version
    """

    async def get_price(self, product_id: str) -> Sequence[int] | None:
        """Cents and version, or None."""
        ...

    async def set_price(self, product_id: str, cents: int) -> int:
        """Store the price; its version, larger than all before it and at most 2**53. Raises `PriceRefused`."""
        ...

    async def set_prices(self, prices: Sequence[tuple[str, int, int]]) -> None:
        """Store each (product_id, cents, version) that is newer than what is stored, all at once."""
        ...


class WriteThrough:
    """Prices in the database, with a copy in Redis that is never behind it.

    The client is the caller's, with `decode_responses` or without.
    """

    def __init__(
        self, client: Redis, database: PriceDatabase, lease: float = 10.0, *, name: str = "prices", ttl: float = DAY
    ) -> None:
        """Talk to nobody yet.

        `lease`: seconds that a write may take at most, and for which a dead writer's product is not cached. `name`:
        what all keys begin with. `ttl`: seconds that a copy is kept. Raises `ValueError` for a `lease` under 0.01, a
        `ttl` that is not at least twice that, or an empty name.
        """
        if not lease >= 0.01:
            raise ValueError(f"lease is {lease} s: a write needs 0.01 s or more")
        if not ttl >= 2 * lease:
            raise ValueError(f"ttl is {ttl} s: a copy outlives the slowest write, so twice the lease of {lease} s")
        if not name:
            raise ValueError("prices need a name: who shares it shares the copies")
        self._client: Commands = client
        self._database = database
        self._lease = round(lease * 1000)
        self._ttl = round(ttl * 1000)
        self._name = name

    async def get_price(self, product_id: str) -> int | None:
        """The price in cents; None for a product that the database does not know (which is not cached).

        Raises what the database raises; Redis's errors are not raised.
        """
        copy, marks = self._keys(product_id)
        marked = True
        with suppress(RedisError):
            cents, marked = await LOOK.run(self._client, (copy, marks))
            if cents is not None:
                return int(cents)
        found = await self._database.get_price(product_id)
        if found is None:
            return None
        cents, version = found
        if not marked:  # a mark may expire while the database is asked, just after a late commit
            with suppress(RedisError):
                await KEEP.run(self._client, (copy, marks), "", version, cents, self._ttl)
        return cents

    async def set_price(self, product_id: str, cents: int) -> None:
        """Store the price; when this returns, it is in the database.

        Raises the client's error if Redis does not answer: then the database was not asked. Raises what the database
        raises. Repeating it is safe, also after an unknown outcome.
        """
        keys, mark = self._keys(product_id), secrets.token_hex(8)
        if cents < 0:
            raise ValueError(f"a price of {cents} cents")
        await MARK.run(self._client, keys, mark, self._lease, self._ttl)
        try:
            version = await self._database.set_price(product_id, cents)
        except PriceRefused:
            with suppress(RedisError):
                await UNMARK.run(self._client, keys[1:], mark)
            raise
        with suppress(RedisError):
            await KEEP.run(self._client, keys, mark, version, cents, self._ttl)

    def _keys(self, product_id: str) -> tuple[str, str]:
        if not product_id:
            raise ValueError("a price needs a product")
        return f"{self._name}:copy:{{{product_id}}}", f"{self._name}:marks:{{{product_id}}}"
