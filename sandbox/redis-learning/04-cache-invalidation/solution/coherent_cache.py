"""A cache in two levels that many instances share and that does not keep what was invalidated.

Level 2 is guarded by leases: a miss takes one out, an invalidation ends it, and what was loaded under a lease that has
ended is not stored. Level 1 hears of invalidations by Pub/Sub, and is trusted only while that is being heard.
"""

import asyncio
import json
import secrets
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from redis.asyncio import Redis
from redis.asyncio.client import PubSub
from redis.exceptions import RedisError

Load = Callable[[str], Awaitable[tuple[str, Sequence[str]]]]

# The entry, if the index of each of its tags still knows it; without, `invalidate_tag` would not have found it.
# Or, on a miss, the lease of this key and the generation of all tags, made where there is none.
READ = """
local entry = redis.call('HMGET', KEYS[1], 'value', 'tags')
local known = entry[1]
for _, tag in ipairs(cjson.decode(entry[2] or '[]')) do
    known = known and redis.call('ZSCORE', 'cache:tag:' .. tag, ARGV[3])
end
if known then
    return {entry[1], entry[2], redis.call('PTTL', KEYS[1])}
end
for n = 2, 3 do
    redis.call('SET', KEYS[n], ARGV[1], 'NX')
    redis.call('PEXPIRE', KEYS[n], ARGV[2])
end
return redis.call('MGET', KEYS[2], KEYS[3])
"""
# Only under the lease and the generation that were there before the load. What Redis has forgotten is no lease.
STORE = """
if redis.call('GET', KEYS[2]) ~= ARGV[1] or redis.call('GET', KEYS[3]) ~= ARGV[2] then
    return false
end
redis.call('HSET', KEYS[1], 'value', ARGV[3], 'tags', ARGV[4])
redis.call('PEXPIRE', KEYS[1], ARGV[5])
local time = redis.call('TIME')
local now = time[1] + time[2] / 1e6
for n = 4, #KEYS do
    redis.call('ZREMRANGEBYSCORE', KEYS[n], '-inf', now)
    redis.call('ZADD', KEYS[n], now + ARGV[5] / 1e3, ARGV[6])
    redis.call('PEXPIRE', KEYS[n], ARGV[5])
end
return true
"""
INVALIDATE = """
redis.call('DEL', KEYS[1], KEYS[2])
return redis.call('PUBLISH', ARGV[1], ARGV[2])
"""
# A new generation first of all: the tags of what is being loaded now are not known yet.
INVALIDATE_TAG = """
redis.call('SET', KEYS[2], ARGV[4], 'PX', ARGV[5])
for _, key in ipairs(redis.call('ZRANGE', KEYS[1], 0, -1)) do
    local entry = 'cache:entry:' .. key
    for _, tag in ipairs(cjson.decode(redis.call('HGET', entry, 'tags') or '[]')) do
        if tag == ARGV[3] then
            redis.call('DEL', entry)
        end
    end
end
return redis.call('PUBLISH', ARGV[1], ARGV[2])
"""

MILLISECONDS = 1000  # in a second
CHANNEL = "cache:invalidated"
GENERATION = "cache:generation"
LEASE = 20_000  # milliseconds that a load may take
PAUSE = 0.3  # seconds without a message, after which it asks whether anybody is there
SILENCE = 1.0  # seconds without a message, after which nobody is
STARTING = 0.8  # seconds that `start` waits
NO_ANSWER = (OSError, RedisError)  # an OSError too: the TimeoutError of asyncio


class CacheUnavailable(Exception):
    """Redis has not confirmed an invalidation: it may have happened or not. Asking again is safe."""


@dataclass(frozen=True)
class Entry:
    """What level 1 holds of a key."""

    value: str
    tags: Sequence[str]
    until: float


@dataclass(eq=False)
class Fill:
    """A `get` that is on its way to Redis or the database; others may wait for what it brings."""

    hearing: object
    valid: bool = True
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    value: str | None = None


class CoherentCache:
    """What `load` gives, remembered for at most `ttl` seconds, or until it is invalidated."""

    def __init__(self, redis: Redis, load: Load, ttl: float, size: int = 1000, patience: float = 0.2) -> None:
        if ttl < 0.01 or size < 1 or patience <= 0:
            raise ValueError(f"no cache for {ttl} s, of {size} entries, that waits {patience} s")
        self._redis = redis
        self._load = load
        self._ttl = ttl
        self._size = size
        self._patience = patience
        self._local: dict[str, Entry] = {}
        self._fills: dict[str, Fill] = {}
        self._hearing: object = None  # one object for each time that it listens without a gap; None while it does not
        self._heard = asyncio.Event()
        self._listener: asyncio.Task[None] | None = None

    # -- reading -------------------------------------------------------------------------------------------------

    async def get(self, key: str) -> str:
        """The value: from level 1, from Redis, or from `load`."""
        if not key:
            raise ValueError("no key")
        while True:
            held = self._local.get(key)
            if held and held.until > time.monotonic():
                return held.value
            fill = self._fills.get(key)
            if fill is None:
                return await self._fill(key)
            await fill.ended.wait()
            if fill.value is not None:  # otherwise it was cancelled, or has failed
                return fill.value

    async def _fill(self, key: str) -> str:
        fill = Fill(self._hearing)
        if self._hearing:  # who does not hear of invalidations must not share
            self._fills[key] = fill
        try:
            fill.value = await self._find(key, fill)
        finally:
            if self._fills.get(key) is fill:
                del self._fills[key]
            fill.ended.set()
        return fill.value

    async def _find(self, key: str, fill: Fill) -> str:
        keys = [f"cache:entry:{key}", f"cache:lease:{key}", GENERATION]
        asked = time.monotonic()
        found = await self._ask(READ, keys, secrets.token_hex(), LEASE, key)
        if found and len(found) == 3:
            value, tags, left = found[0].decode(), json.loads(found[1]), found[2] / MILLISECONDS
            self._keep(key, Entry(value, tags, asked + left), fill)
            return value
        value, tags = await self._load(key)
        if found:
            entry = Entry(value, tags, time.monotonic() + self._ttl)
            keys += [f"cache:tag:{tag}" for tag in tags]
            life = round(self._ttl * MILLISECONDS)
            if await self._ask(STORE, keys, *found, value, json.dumps(list(tags)), life, key):
                self._keep(key, entry, fill)
        return value

    def _keep(self, key: str, entry: Entry, fill: Fill) -> None:
        if fill.valid and fill.hearing and fill.hearing is self._hearing:
            self._local[key] = entry
            if len(self._local) > self._size:
                del self._local[next(iter(self._local))]

    async def _ask(self, script: str, keys: Sequence[str], *arguments: Any) -> Any:
        """What the script returns; None when no answer comes."""
        try:
            async with asyncio.timeout(self._patience):
                return await self._redis.eval(script, len(keys), *keys, *arguments)
        except NO_ANSWER:
            return None

    # -- forgetting ----------------------------------------------------------------------------------------------

    async def invalidate(self, key: str) -> None:
        """Forget the value of this key, everywhere."""
        if not key:
            raise ValueError("no key")
        keys = [f"cache:entry:{key}", f"cache:lease:{key}"]
        try:
            told = await self._ask(INVALIDATE, keys, CHANNEL, f"k{key}")
        finally:
            self._drop(key)
        if told is None:
            raise CacheUnavailable(f"key {key!r} may still be in Redis: no answer; ask again")

    async def invalidate_tag(self, tag: str) -> None:
        """Forget every value that has this tag, everywhere."""
        if not tag:
            raise ValueError("no tag")
        keys = [f"cache:tag:{tag}", GENERATION]
        try:
            told = await self._ask(INVALIDATE_TAG, keys, CHANNEL, f"t{tag}", tag, secrets.token_hex(), LEASE)
        finally:
            self._drop_tag(tag)
        if told is None:
            raise CacheUnavailable(f"values with the tag {tag!r} may still be in Redis: no answer; ask again")

    def _drop(self, key: str) -> None:
        self._local.pop(key, None)
        if fill := self._fills.pop(key, None):
            fill.valid = False

    def _drop_tag(self, tag: str) -> None:
        for key in [key for key, entry in self._local.items() if tag in entry.tags]:
            del self._local[key]
        for fill in self._fills.values():  # what tags they will bring is not known
            fill.valid = False
        self._fills.clear()

    def _drop_all(self) -> None:
        self._hearing = None
        self._local.clear()
        self._fills.clear()

    # -- listening -----------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Begin to listen; when it returns, level 1 is in use, or the server does not answer."""
        if self._listener is None:
            self._heard.clear()
            self._listener = asyncio.create_task(self._listen())
            with suppress(TimeoutError):
                await asyncio.wait_for(self._heard.wait(), STARTING)

    async def stop(self) -> None:
        """End what `start` began."""
        listener, self._listener = self._listener, None
        while listener and not listener.done():  # on Python 3.11 what it awaits may swallow a cancellation
            listener.cancel()
            await asyncio.wait([listener], timeout=PAUSE)

    async def _listen(self) -> None:
        while True:
            with suppress(*NO_ANSWER):
                async with self._redis.pubsub() as channel:
                    try:
                        await self._hear(channel)
                    finally:
                        self._drop_all()
            await asyncio.sleep(PAUSE)

    async def _hear(self, channel: PubSub) -> None:
        """Obey what others have invalidated, until the connection breaks or falls silent."""
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(SILENCE) as silence:
            await channel.subscribe(CHANNEL)
            while True:
                message = await channel.get_message(timeout=PAUSE)
                if message is None:
                    await channel.ping()
                    continue
                silence.reschedule(loop.time() + SILENCE)
                if message["type"] == "subscribe":  # from now on, and only from now on, nothing is missed
                    self._hearing = object()
                    self._heard.set()
                elif message["type"] == "message":
                    text = message["data"].decode()
                    (self._drop if text[0] == "k" else self._drop_tag)(text[1:])
