"""Cache-aside with one load for all who miss: a task for the callers of a process, a lease for the processes.

The lease is what a load may remember by. Whoever forgets a product deletes the lease with the entry, and an older load
finds at its end that it is not the one any more.
"""

import asyncio
import json
import random
import secrets
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, TypedDict

from redis.asyncio import Redis
from redis.exceptions import RedisError, ResponseError

PATIENCE = 0.18  # seconds for one answer of Redis
LEASE = 1.5  # seconds that a loader which has died keeps the others waiting
POLL = 0.06  # seconds between looks at another process's load
NO_ANSWER = (OSError, RedisError)  # an OSError too: the TimeoutError of asyncio

RENEW = """
if redis.call('GET', KEYS[1]) == ARGV[1] then
    redis.call('PEXPIRE', KEYS[1], ARGV[2])
end
"""
# Ends a load: what it has brought is kept if the lease is still its own. A life of 0 keeps nothing.
END = """
if redis.call('GET', KEYS[2]) == ARGV[1] then
    redis.call('DEL', KEYS[2])
    if ARGV[3] ~= '0' then
        redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
    end
end
"""


class Product(TypedDict):
    """A product as the page shows it."""

    id: str
    name: str
    price: int


SHAPE = {"id": str, "name": str, "price": int}


class NotForgotten(Exception):
    """Redis did not answer `forget`: the old entry may be given until it expires."""


class ProductCache:
    """What the database knows of products, remembered for a while."""

    def __init__(self, redis: Redis, load: Callable[[str], Awaitable[Product | None]], ttl: float = 300.0) -> None:
        if ttl < 1:
            raise ValueError(f"a ttl of {ttl} s")
        self._redis = redis
        self._load = load
        self._ttl = ttl
        self._flights: dict[str, asyncio.Task[Product | None]] = {}

    async def get(self, product_id: str) -> Product | None:
        """The product, or None if there is none."""
        flight = self._flights.get(product_id)
        if flight is None:
            flight = self._flights[product_id] = asyncio.create_task(self._find(product_id))
            flight.add_done_callback(lambda ended: self._drop(product_id, ended))
        return await asyncio.shield(flight)

    async def forget(self, product_id: str) -> None:
        """When this returns, nothing is remembered of the product."""
        try:
            await in_time(self._redis.delete(*keys(product_id)))
        except NO_ANSWER as error:
            raise NotForgotten(f"{product_id} may be remembered for up to {self._ttl:g} s: {error}") from error
        finally:
            self._flights.pop(product_id, None)

    def _drop(self, product_id: str, flight: asyncio.Task[Product | None]) -> None:
        if self._flights.get(product_id) is flight:
            del self._flights[product_id]

    async def _find(self, product_id: str) -> Product | None:
        entry, _ = keys(product_id)
        owner = secrets.token_hex(8)
        try:
            if found := decoded(await self._look(entry)):
                return found[0]
            while True:
                ours, raw = await self._take(product_id, owner)
                if found := decoded(raw):
                    if ours:
                        await self._end(product_id, owner)
                    return found[0]
                if ours:
                    break
                await asyncio.sleep(POLL)
        except NO_ANSWER:
            return await self._load(product_id)
        return await self._load_and_keep(product_id, owner)

    async def _look(self, entry: str) -> bytes | None:
        try:
            return await in_time(self._redis.get(entry))
        except ResponseError:  # a list, for example
            return None

    async def _take(self, product_id: str, owner: str) -> tuple[bool, Any]:
        """Whether the lease is ours, and what is there now: somebody may have been quicker since the last look."""
        entry, lease = keys(product_id)
        async with self._redis.pipeline(transaction=False) as pipe:
            pipe.set(lease, owner, nx=True, px=round(LEASE * 1000))
            pipe.get(entry)
            ours, raw = await in_time(pipe.execute(raise_on_error=False))
        if isinstance(ours, RedisError):
            raise ours
        return bool(ours), raw

    async def _load_and_keep(self, product_id: str, owner: str) -> Product | None:
        loading = asyncio.ensure_future(self._load(product_id))
        renewing = asyncio.create_task(self._renew(product_id, owner, loading))
        try:
            product = await loading
        except BaseException:
            await self._end(product_id, owner)
            raise
        finally:
            renewing.cancel()
        life = self._ttl * random.uniform(0.85, 1.0) * (1.0 if product else 0.1)
        await self._end(product_id, owner, json.dumps([product]), round(life * 1000))
        return product

    async def _renew(self, product_id: str, owner: str, loading: asyncio.Future[Any]) -> None:
        while not loading.done():
            await asyncio.sleep(LEASE / 3)
            await self._tell(RENEW, 1, keys(product_id)[1], owner, round(LEASE * 1000))

    async def _end(self, product_id: str, owner: str, value: str = "", life: int = 0) -> None:
        await self._tell(END, 2, *keys(product_id), owner, value, life)

    async def _tell(self, script: str, *words: Any) -> None:
        with suppress(*NO_ANSWER):
            await in_time(self._redis.eval(script, *words))


def keys(product_id: str) -> tuple[str, str]:
    """Where the entry is, and the lease of whoever loads it."""
    return f"product:{product_id}", f"product:{product_id}:lease"


def decoded(raw: Any) -> tuple[Product | None] | None:
    """What the entry says, as the only item of a tuple; None for whatever is no entry of ours."""
    try:
        [product] = json.loads(raw)
        shape = product and {name: type(value) for name, value in product.items()}
    except (TypeError, ValueError, AttributeError):
        return None
    return (product,) if product is None or shape == SHAPE else None


async def in_time(answer: Awaitable[Any]) -> Any:
    """The answer of Redis, or `TimeoutError`."""
    async with asyncio.timeout(PATIENCE):
        return await answer
