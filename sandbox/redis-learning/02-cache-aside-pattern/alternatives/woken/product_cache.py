"""Cache-aside by one script: it gives the entry, or the lease, or a list on which whoever loads will call.

Entries carry a checksum that the script itself looks at, waiters block on the server instead of asking again, and the
load is cancelled when its last caller is.
"""

import asyncio
import json
import os
import random
from contextlib import suppress
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import RedisError

# KEYS entry lease waiters; ARGV owner, ms of the lease, this process's bell
# Answers {'entry', it}, {'load'}, or {'wait'}.
ASK = """
local kept = redis.call('TYPE', KEYS[1]).ok == 'string' and redis.call('GET', KEYS[1]) or ''
if string.sub(kept, 1, 40) == redis.sha1hex('product/2' .. string.sub(kept, 41)) then
    return {'entry', string.sub(kept, 41)}
end
if redis.call('SET', KEYS[2], ARGV[1], 'NX', 'PX', ARGV[2]) then return {'load'} end
redis.call('SADD', KEYS[3], ARGV[3])
redis.call('PEXPIRE', KEYS[3], 3000)
return {'wait'}
"""
BEAT = "return redis.call('GET', KEYS[1]) == ARGV[1] and redis.call('PEXPIRE', KEYS[1], ARGV[2])"
# KEYS entry lease waiters; ARGV owner, text to keep, ms to keep it for (0: not at all)
DONE = """
if redis.call('GET', KEYS[2]) ~= ARGV[1] then return end
redis.call('DEL', KEYS[2])
if ARGV[3] ~= '0' then
    redis.call('SET', KEYS[1], redis.sha1hex('product/2' .. ARGV[2]) .. ARGV[2], 'PX', ARGV[3])
end
for _, bell in ipairs(redis.call('SMEMBERS', KEYS[3])) do
    redis.call('RPUSH', bell, 1)
    redis.call('PEXPIRE', bell, 1000)
end
redis.call('DEL', KEYS[3])
"""
GONE = (RedisError, OSError)


class NotForgotten(Exception):
    """Redis did not answer."""


class Flight:
    """One search for a product, and how many wait for it."""

    def __init__(self, search: Any) -> None:
        self.task = asyncio.ensure_future(search)
        self.callers = 0

    async def join(self) -> Any:
        """What it finds; the last one to leave ends it."""
        self.callers += 1
        try:
            return await asyncio.shield(self.task)
        finally:
            self.callers -= 1
            if not self.callers:
                self.task.cancel()


class ProductCache:
    """Products, remembered for a while."""

    def __init__(self, redis: Redis, load: Any, ttl: float = 300.0) -> None:
        if not ttl >= 1.0:
            raise ValueError("ttl")
        self.redis, self.load, self.ttl = redis, load, ttl
        self.flights: dict[str, Flight] = {}
        self.chance = random.SystemRandom()

    async def get(self, product_id: str) -> Any:
        """The product, or None."""
        flight = self.flights.get(product_id)
        if flight is None or flight.task.done():
            flight = self.flights[product_id] = Flight(self.search(product_id))
        try:
            return await flight.join()
        finally:
            if not flight.callers and self.flights.get(product_id) is flight:
                del self.flights[product_id]

    async def forget(self, product_id: str) -> None:
        """Nothing is remembered any more."""
        entry, lease, _ = names(product_id)
        try:
            await asyncio.wait_for(self.redis.unlink(lease, entry), 0.15)
        except GONE as trouble:
            raise NotForgotten(product_id) from trouble
        finally:
            self.flights.pop(product_id, None)

    async def search(self, product_id: str) -> Any:
        """Ask, and do what the answer says, until there is a product."""
        owner = os.urandom(12).hex()
        bell = f"product:{product_id}:bell:{owner}"
        try:
            while True:
                async with asyncio.timeout(0.17):
                    word, *more = await self.redis.eval(ASK, 3, *names(product_id), owner, 1400, bell)
                if word == b"entry":
                    return json.loads(more[0])
                if word == b"load":
                    break
                async with asyncio.timeout(0.3):
                    await self.redis.blpop([bell], 0.1)
        except GONE:
            return await self.load(product_id)
        return await self.fetch(product_id, owner)

    async def fetch(self, product_id: str, owner: str) -> Any:
        """Load, and say so four times in a lease."""
        text, life = "", 0.0
        loading = asyncio.ensure_future(self.load(product_id))
        try:
            while not loading.done():
                await asyncio.wait({loading}, timeout=0.35)
                if not loading.done():
                    await self.tell(BEAT, 1, names(product_id)[1], owner, 1400)
            product = loading.result()
            life = self.ttl * (1 - self.chance.random() / 6) / (20 if product is None else 1)
            text = json.dumps(product)
            return product
        finally:
            loading.cancel()
            await self.tell(DONE, 3, *names(product_id), owner, text, int(life * 1000))

    async def tell(self, *words: Any) -> None:
        """Run a script, if Redis is there."""
        with suppress(*GONE):
            await asyncio.wait_for(self.redis.eval(*words), 0.11)


def names(product_id: str) -> tuple[str, str, str]:
    """Entry, lease, and who waits."""
    return f"product:{product_id}", f"product:{product_id}:loader", f"product:{product_id}:waiters"
