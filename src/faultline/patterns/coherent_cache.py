"""A cache in two levels, in the process and in Redis, that keeps nothing which was invalidated: by key, or by tag.

    async with CoherentCache(client, load, ttl=300.0) as products:
        text = await products.get("hat-7")
        await db.set_price("hat-7", 1999)
        await products.invalidate("hat-7")            # after the database has it, never before
        await products.invalidate_tag("category:hats")

**Promise.** Call a value old if its `load` had begun before the invalidation was called. A `get` that begins after
`invalidate` has returned does not give an old value: on this instance at once, on the others as soon as they are told,
which takes about a round trip. It makes no difference whether the old value was in a level, on its way there, or still
being loaded. A value is handed out for `ttl` seconds after its load, both levels together. Level 1 holds at most `size`
entries.

**Not promised.** That two instances change over at the same instant. That a `get` which had begun before gives the new
value. That a value is right when the database is changed without an invalidation, or after it; or when `load` reads
from a replica that lags. When the network falls silent without a word, level 1 is trusted for up to `SILENCE` (1 s)
more; a process that was stopped for less than that may, once, answer before it reads what it was told meanwhile.

**Cost.** A hit in level 1: no request. In level 2: one round trip. A miss: two, around the load. `invalidate`: one.
`invalidate_tag`: one for each 1,000 members, whatever else is in the cache. On the server O(log n) in the entries of a
tag, for each tag of a value, and in the names that were invalidated within a minute. One connection to listen on, one
PING in a quiet quarter of a second. Calls for one key share one load, in each process.

**When something fails**

- Redis dead or silent: `get` loads and remembers nothing, `patience` seconds late twice at most; `invalidate` raises
  `CacheUnavailable`, and is safe to repeat. Until it has been repeated, what it was to forget may be handed out.
- Redis forgets (restart without append-only file, eviction, fail-over to a replica that is behind): entries are loaded
  again, also those whose tag's index is gone; what is being loaded is not stored. A replica that is behind may still
  have an entry that was invalidated: for that, repeat what was invalidated in the last seconds, or flush it.
- The connection that it listens on breaks: level 1 is empty, and in use again once it is subscribed again. A client
  that reconnects by itself delays the first by up to `SILENCE`: rather give it one that does not retry.
- A process dies: what it was loading is not stored; nobody waits for it.
- `load` takes longer than a minute: its value is handed out, and not stored.

One Redis 7 or Valkey 8, not a cluster: scripts make the names of members themselves. Caches of different `name`s have
nothing to do with each other.

Sources: Nishtala and others, *Scaling Memcache at Facebook* (2013), section 3.2.1, whose leases are the instants here;
Redis, *Client-side caching reference*, sections "Avoiding race conditions" and "What to do when losing connection".
"""

from __future__ import annotations

import asyncio
import json
import math
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Self

from redis.exceptions import RedisError

from faultline.patterns.coherence_scripts import FORGET, FORGET_TAG, READ, STORE
from faultline.patterns.errors import CacheUnavailable
from faultline.patterns.invalidations import SILENCE, Subscription
from faultline.patterns.near_cache import Entry, NearCache, Reading

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence
    from types import TracebackType

    from redis.asyncio import Redis

    from faultline.patterns.script import Script

    Load = Callable[[str], Awaitable[tuple[str, Sequence[str]]]]

__all__ = ["CacheUnavailable", "CoherentCache"]

STARTING = 0.8  # seconds that `start` waits for a server that does not answer


class CoherentCache:
    """What `load` gives, remembered for at most `ttl` seconds, or until it is invalidated.

    The client is the caller's: with `decode_responses` or without.
    """

    def __init__(
        self,
        redis: Redis,
        load: Load,
        ttl: float,
        size: int = 1000,
        *,
        name: str = "cache",
        patience: float = 0.2,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Talk to no server yet.

        `load`: the value of a key and its tags; it may be called several times at once. `ttl`: seconds, 0.01 or more.
        `size`: entries of level 1. `name`: begins every key and the channel; caches of one name are one cache.
        `patience`: seconds that an answer of Redis may take. `clock`: seconds, never set back. Raises `ValueError` for
        a `ttl` under 0.01, a `size` under 1, an empty `name` or no `patience`.
        """
        if not 0.01 <= ttl < math.inf:
            raise ValueError(f"ttl is {ttl} s: a value lives for 0.01 s or more")
        if size < 1:
            raise ValueError(f"size is {size}: level 1 holds one entry or more")
        if not name:
            raise ValueError("a cache needs a name: who shares it shares the cache")
        if patience <= 0:
            raise ValueError(f"patience is {patience} s: an answer takes time")
        self._redis = redis
        self._load = load
        self._ttl = ttl
        self._name = name
        self._patience = patience
        self._clock = clock
        self._near = NearCache(size)
        self._ear = _Ear(self._near, clock)
        self._subscription = Subscription(redis, f"{name}:invalidated", self._ear)
        self._listening: asyncio.Task[None] | None = None

    # -- reading -------------------------------------------------------------------------------------------------

    async def get(self, key: str) -> str:
        """The value: from level 1, from Redis, or from `load`, which fills both levels.

        Before `start` and after `stop` it works without level 1. What `load` raises is raised to everyone who shared
        it, and not remembered. A call that is cancelled disturbs no other. Raises `ValueError` for an empty key.
        """
        if not key:
            raise ValueError("an empty key is no key")
        while (value := self._near.find(key, self._clock())) is None:
            reading = self._near.join(key, self._clock())
            if reading is None:
                return await self._fill(key)
            await reading.ended.wait()
            if reading.error:
                raise reading.error
            if reading.value is not None:
                return reading.value
        return value

    async def _fill(self, key: str) -> str:
        reading = self._near.open(key, self._clock())
        try:
            reading.value = await self._find(reading)
        except Exception as error:  # carried to those who wait, whatever it is
            reading.error = error
            raise
        finally:
            self._near.close(reading)
        return reading.value

    async def _find(self, reading: Reading) -> str:
        asked, key = self._clock(), reading.key
        keys = [f"{self._name}:journal", f"{self._name}:entry:{key}"]
        found = await self._ask(READ, keys, key, f"{self._name}:tag:")
        if found and len(found) == 3:
            value = _text(found[0])
            self._near.keep(reading, Entry(value, tuple(json.loads(found[1])), asked + found[2] / 1000))
            return value
        value, tags = await self._load(key)
        if found:
            entry = Entry(value, tuple(tags), self._clock() + self._ttl)
            keys += [f"{self._name}:tag:{tag}" for tag in tags]
            life = round(self._ttl * 1000)
            if await self._ask(STORE, keys, key, found[0], value, json.dumps(entry.tags), life, *tags):
                self._near.keep(reading, entry)
        return value

    # -- forgetting ----------------------------------------------------------------------------------------------

    async def invalidate(self, key: str) -> None:
        """Forget the value of this key, everywhere, and no other.

        Raises `CacheUnavailable` when Redis does not confirm it within `patience`; this instance's level 1 has
        forgotten it even so. Raises `ValueError` for an empty key.
        """
        if not key:
            raise ValueError("an empty key is no key")
        keys = [f"{self._name}:journal", f"{self._name}:entry:{key}"]
        try:
            answer = await self._ask(FORGET, keys, key, f"{self._name}:invalidated")
        finally:
            self._near.drop(key)
        if answer is None:
            raise CacheUnavailable(f"key {key!r}: Redis did not say in {self._patience:g} s that it is gone; ask again")

    async def invalidate_tag(self, tag: str) -> None:
        """Forget every value that has this tag, everywhere, and no other; also those that are being loaded.

        One step takes at most 1,000 members, and has `patience` seconds. Otherwise as `invalidate`.
        """
        if not tag:
            raise ValueError("an empty tag is no tag")
        keys = [f"{self._name}:journal", f"{self._name}:tag:{tag}"]
        names = f"{self._name}:invalidated", f"{self._name}:entry:"
        try:
            left = await self._ask(FORGET_TAG, keys, tag, *names, 1)
            while left:
                left = await self._ask(FORGET_TAG, keys, tag, *names, 0)
        finally:
            self._near.drop_tag(tag)
        if left is None:
            raise CacheUnavailable(f"tag {tag!r}: Redis did not say in {self._patience:g} s that it is gone; ask again")

    async def _ask(self, script: Script, keys: Sequence[str], *arguments: str | float) -> Any:
        """What the script answers; None when nothing comes."""
        try:
            async with asyncio.timeout(self._patience):
                return await script.run(self._redis, tuple(keys), *arguments)
        except (RedisError, OSError):  # an OSError too: TimeoutError
            return None

    # -- listening -----------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Begin to listen; level 1 is in use when it returns, or later if the server does not answer within 0.8 s.

        Started already, it changes nothing.
        """
        if self._listening is None:
            self._ear.hears.clear()
            self._listening = asyncio.create_task(self._subscription.listen(), name=f"{self._name}: invalidations")
            with suppress(TimeoutError):
                await asyncio.wait_for(self._ear.hears.wait(), STARTING)

    async def stop(self) -> None:
        """End what `start` began; no task is left, and no connection but those in the client's pool."""
        listening, self._listening = self._listening, None
        while listening is not None and not listening.done():
            listening.cancel()  # again, if need be: on Python 3.11 `asyncio.wait_for`, in the client, may swallow one
            await asyncio.wait([listening], timeout=0.05)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.stop()


class _Ear:
    """What the subscription tells, as it concerns level 1."""

    def __init__(self, near: NearCache, clock: Callable[[], float]) -> None:
        self._near = near
        self._clock = clock
        self.hears = asyncio.Event()

    def gap(self) -> None:
        self._near.drop_all()
        self.hears.set()

    def deaf(self) -> None:
        self._near.distrust()

    def heard(self) -> None:
        self._near.trust(self._clock() + SILENCE)

    def told(self, message: str) -> None:
        what, _, name = message.partition(":")
        (self._near.drop_tag if what == "t" else self._near.drop)(name)


def _text(answer: bytes | str) -> str:
    return answer.decode() if isinstance(answer, bytes) else answer
