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
from datetime import timedelta
from typing import Any, TypedDict

from redis.asyncio import Redis
from redis.exceptions import RedisError, ResponseError

PATIENCE = 0.18  # seconds for one answer of Redis
LEASE = 1500  # milliseconds that a loader which has died keeps the others waiting
RENEWAL = 0.5  # seconds
POLL = 0.1  # seconds between looks at another process's load
NO_ANSWER = (OSError, RedisError)  # an OSError too: the TimeoutError of asyncio
MISS = object()

RENEW = """
if redis.call('GET', KEYS[1]) == ARGV[1] then
    redis.call('PEXPIRE', KEYS[1], ARGV[2])
end
"""
GIVE_BACK = """
if redis.call('GET', KEYS[1]) == ARGV[1] then
    redis.call('DEL', KEYS[1])
end
"""
KEEP = """
if redis.call('GET', KEYS[1]) == ARGV[1] then
    redis.call('DEL', KEYS[1])
    redis.call('SET', KEYS[2], ARGV[2], 'PX', ARGV[3])
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
        self._ttl = timedelta(seconds=ttl)
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
            await in_time(self._redis.delete(entry_of(product_id), lease_of(product_id)))
        except NO_ANSWER as error:
            raise NotForgotten(f"{product_id} may be remembered for up to {self._ttl}: {error}") from error
        finally:
            self._flights.pop(product_id, None)

    def _drop(self, product_id: str, flight: asyncio.Task[Product | None]) -> None:
        if self._flights.get(product_id) is flight:
            del self._flights[product_id]

    async def _find(self, product_id: str) -> Product | None:
        owner = secrets.token_hex()
        try:
            if (product := decoded(product_id, await self._look(product_id))) is not MISS:
                return product
            while True:
                ours, raw = await self._take(product_id, owner)
                if (product := decoded(product_id, raw)) is not MISS:
                    if ours:
                        await self._tell(GIVE_BACK, [lease_of(product_id)], owner)
                    return product
                if ours:
                    break
                await asyncio.sleep(POLL)
        except NO_ANSWER:
            return await self._load(product_id)
        return await self._load_and_keep(product_id, owner)

    async def _look(self, product_id: str) -> bytes | None:
        try:
            return await in_time(self._redis.get(entry_of(product_id)))
        except ResponseError:  # a list, for example
            return None

    async def _take(self, product_id: str, owner: str) -> tuple[Any, Any]:
        """Whether the lease is ours, and what is there now: somebody may have been quicker since the last look."""
        async with self._redis.pipeline() as pipe:
            pipe.set(lease_of(product_id), owner, nx=True, px=LEASE)
            pipe.get(entry_of(product_id))
            return await in_time(pipe.execute(raise_on_error=False))

    async def _load_and_keep(self, product_id: str, owner: str) -> Product | None:
        entry, lease = entry_of(product_id), lease_of(product_id)
        loading = asyncio.ensure_future(self._load(product_id))
        renewing = asyncio.create_task(self._renew(lease, owner, loading))
        try:
            product = await loading
        except BaseException:
            await self._tell(GIVE_BACK, [lease], owner)
            raise
        finally:
            renewing.cancel()
        life = self._ttl * random.uniform(0.85, 1.0) * (1.0 if product else 0.2)
        await self._tell(KEEP, [lease, entry], owner, json.dumps([product]), life // timedelta(milliseconds=1))
        return product

    async def _renew(self, lease: str, owner: str, loading: asyncio.Future[Any]) -> None:
        while not loading.done():
            await asyncio.sleep(RENEWAL)
            await self._tell(RENEW, [lease], owner, LEASE)

    async def _tell(self, script: str, keys: list[str], *words: Any) -> None:
        with suppress(*NO_ANSWER):
            await in_time(self._redis.eval(script, len(keys), *keys, *words))


def entry_of(product_id: str) -> str:
    """Where the product is."""
    return f"product:{product_id}"


def lease_of(product_id: str) -> str:
    """Where the owner of the right to load it is."""
    return f"product:{product_id}:lease"


def decoded(product_id: str, raw: Any) -> Any:
    """The product that the entry holds, or None if it says that there is none; MISS for what is no entry of ours."""
    try:
        [product] = json.loads(raw)
        shape = product and {name: type(value) for name, value in product.items()}
    except (TypeError, ValueError, AttributeError, RecursionError):
        return MISS
    ours = product is None or (shape == SHAPE and product["id"] == product_id)
    return product if ours else MISS


async def in_time(answer: Awaitable[Any]) -> Any:
    """The answer of Redis, or `TimeoutError`."""
    async with asyncio.timeout(PATIENCE):
        return await answer
