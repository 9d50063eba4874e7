"""Cache-aside that costs one load for a hot miss, and that nobody depends on.

    products = CacheAside(client, load_product, ttl=300.0, prefix="product:")
    product = await products.get("hat")          # None: there is no such product
    await products.forget("hat")                 # after its price has changed

**Promise.** Of all who miss the same key, in all processes, one loads (`flights` in the process, a lease between them),
however long the load takes; the others wait without spinning and have the value when it is there. That there is none
is remembered, too. What a load brings is kept only while the lease is its own: not if the key was forgotten since it
began, nor if another one has loaded because this one stood still. Whatever else is found at the key is a miss. Redis
costs a call at most `2 * patience` beyond its own answers, dead, silent or full; then each process loads for itself.

**Not promised.** That a value is never old: `forget` reaches what is in Redis and in this object; a caller of another
process may still join a load that began before. Nor that there are never two loads: `forget`, a loader that stands
still for longer than its `lease`, and an outage each allow for one more. A silent Redis costs every call its
`patience`: put a circuit breaker around the client where that is too much.

**Cost.** A hit is one `GET` (with a `refresh` policy one script), shared by those of a process who ask at the same
time, so that 50 callers who come to a cold process do not open 50 connections; a miss two round trips and one to keep
what was loaded; a load that is slower than a third of the lease one more for each third. Who waits blocks on the
server (`XREAD`, at most eight connections an object; beyond those it looks every 0.08 s). O(1) memory a key: the
entry, a lease while it is loaded, a message for a second after that.

**When something fails**

- Loader killed: the lease runs out, and one of those who wait loads, a few milliseconds later.
- Loader paused, or cut off from Redis: likewise; what it brings in the end goes to its callers, and nowhere else.
- Load raises: all who wait in this process get it; those in other processes load anew, at once; nothing is kept.
- Redis gone while somebody waits: noticed within 0.4 s.
- Redis comes back empty, fails over, or evicts: misses, and maybe a second load. Nothing wrong is kept: a lease that
  is lost is a load that is not kept.
- A refresh in the background fails: the old value is given as long as the policy allows, a warning is logged, and the
  next try is a second later.

Sources: Nishtala and others, *Scaling Memcache at Facebook* (2013), section 3.2.1: the lease that both ends stampedes
and keeps stale sets out; Go's `singleflight`; Vattani and others (see `cache_refresh`).
"""

from __future__ import annotations

import asyncio
import json
import logging
import math
import os
import random
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Generic, Self, TypeVar

from redis.exceptions import RedisError, ResponseError

from faultline.patterns.cache_entry import packed, unpacked
from faultline.patterns.cache_scripts import END, LEASE, LOOK, RENEW, TAKE, Keys
from faultline.patterns.errors import NotForgotten
from faultline.patterns.flights import Flights

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from types import TracebackType

    from faultline.patterns.cache_refresh import Refresh
    from faultline.patterns.script import Commands

V = TypeVar("V")
Look = tuple[object, float]
"""What is at the key, and the seconds until its ttl ends."""

AGAIN: Look = (None, -math.inf)  # whoever looked was cancelled
NO_ANSWER = (RedisError, OSError)  # an OSError too: the TimeoutError of asyncio
BLOCK_MS, BLOCKED = 100, 0.22  # Redis answers a blocking command up to 0.1 s late
LISTENERS = 8  # connections of one object on which somebody waits
GLANCE = 0.08  # seconds between looks where nobody wakes us
SOON = 0.005  # seconds, at least, before the end of a lease is looked for
RETRY = 1.0  # seconds after a refresh that failed
MINE, KEPT = 1, 2  # answers of TAKE

log = logging.getLogger(__name__)


def as_json(value: object) -> bytes:
    """JSON without spaces."""
    return json.dumps(value, separators=(",", ":")).encode()


class CacheAside(Generic[V]):
    """What `load` says of a key, remembered for a while.

    The client is the caller's: `decode_responses=False`, `socket_timeout` 0.25 s or more, or none. Callers who join
    one load share the object that it gave.
    """

    def __init__(
        self,
        redis: Commands,
        load: Callable[[str], Awaitable[V | None]],
        ttl: float = 300.0,
        *,
        prefix: str = "cache:",
        encode: Callable[[V], bytes] = as_json,
        decode: Callable[[bytes], V] = json.loads,
        unknown: float | None = None,
        jitter: float = 0.15,
        lease: float = 1.5,
        patience: float = 0.15,
        refresh: Refresh | None = None,
        chance: random.Random | None = None,
    ) -> None:
        """Check the arguments; talk to no server yet.

        `load`: the value of a key, or None if there is none. `ttl`: seconds, 1 or more; no entry lives longer (but
        for a `refresh` policy that says so), and none for less than 1 - `jitter` of it. `unknown`: seconds for "there
        is none", by default a tenth of the ttl. `decode` may raise anything for bytes that it does not want: a miss.
        `lease`: seconds after which a loader that died is replaced. `patience`: seconds for one answer of Redis.
        `refresh`: load before anybody has to wait (`cache_refresh`); the cache must then be entered (`async with`).
        """
        if not 1 <= ttl < math.inf:
            raise ValueError(f"ttl is {ttl} s: an entry lives for 1 s or more")
        if not 0 <= jitter < 1:
            raise ValueError(f"jitter is {jitter}: a share of the ttl, from 0 to less than 1")
        if not (lease >= 0.05 and patience > 0):
            raise ValueError(f"a lease of {lease} s and a patience of {patience} s: 0.05 s or more, and more than 0")
        self._redis = redis
        self._load = load
        self._ttl = ttl
        self._unknown = ttl / 10 if unknown is None else unknown
        self._prefix = prefix
        self._encode = encode
        self._decode = decode
        self._jitter = jitter
        self._lease = lease
        self._patience = patience
        self._refresh = refresh
        self._chance = chance or random.SystemRandom()  # forked processes must not expire in step
        self._looks: dict[str, asyncio.Future[Look | None]] = {}
        self._flights: Flights[V | None] = Flights()
        self._listeners = asyncio.Semaphore(LISTENERS)
        self._refreshing: dict[str, asyncio.Task[None]] | None = None

    async def get(self, key: str) -> V | None:
        """The value, or None if there is none; raises what `load` raises, and nothing of Redis's.

        A caller who is cancelled takes nobody along; the last one who waits takes the load along.
        """
        found: Look | None
        while (look := self._looks.get(key)) is not None:
            found = await asyncio.shield(look)
            if found is not AGAIN:
                return await self._given(key, found)
        look = self._looks[key] = asyncio.get_running_loop().create_future()
        found = AGAIN  # for those who share it, if this one is cancelled
        try:
            async with asyncio.timeout(self._patience):
                found = await self._look(self._prefix + key)
        except NO_ANSWER:
            found = None
        finally:
            if self._looks.get(key) is look:
                del self._looks[key]
            look.set_result(found)
        return await self._given(key, found)

    async def _given(self, key: str, found: Look | None) -> V | None:
        """What a look has found; otherwise by a flight, with or without (None) Redis."""
        if found is None:
            return await self._flights.join(key, lambda: self._loaded(key))
        raw, left = found
        known = self._known(raw)
        if known is None:
            return await self._flights.join(key, lambda: self._fetched(key, raw))
        value, took = known
        if self._refresh and self._refresh.due(left, took, self._chance):
            self._begin_refresh(key, left)
        return value

    async def forget(self, key: str) -> None:
        """When this returns, nothing is remembered of the key, and no load that had begun before will be.

        A `get` of this object that begins afterwards waits for no load that had begun before. Raises `NotForgotten`
        if Redis does not answer within `patience`: unknown, and safe to repeat.
        """
        keys = Keys.of(self._prefix + key)
        try:
            async with asyncio.timeout(self._patience):
                await self._redis.execute_command("DEL", keys.entry, keys.lease)
        except NO_ANSWER as error:
            old = f"what it holds may be given for up to {self._ttl:g} s more"
            raise NotForgotten(f"{keys.entry}: Redis did not say that it is gone; {old}: {error!r}") from error
        finally:
            self._looks.pop(key, None)
            self._flights.drop(key)

    async def _look(self, entry: str) -> Look:
        """What is at the key, and with a `refresh` policy the seconds until its ttl ends."""
        if self._refresh:
            raw, milliseconds = await LOOK.run(self._redis, (entry,)) or (None, 0)
            return raw, milliseconds / 1000 - self._refresh.beyond
        try:
            return await self._redis.execute_command("GET", entry), 0.0
        except ResponseError:  # not a string
            return None, 0.0

    def _known(self, raw: object) -> tuple[V | None, float] | None:
        """The value and what loading it took; None for whatever is no entry of ours."""
        entry = unpacked(raw)
        if entry is None:
            return None
        if entry.payload is None:
            return None, entry.took
        try:
            return self._decode(entry.payload), entry.took
        except Exception:  # the caller's decoder, on bytes of an older or newer version of itself
            return None

    async def _loaded(self, key: str) -> V | None:
        """Without Redis."""
        return await self._load(key)

    async def _fetched(self, key: str, seen: object) -> V | None:
        """The value, by whoever has the lease: what was `seen` at the key is none."""
        keys, owner = Keys.of(self._prefix + key), os.urandom(16).hex()
        while True:
            spoilt = seen if isinstance(seen, bytes) else b""
            try:
                async with asyncio.timeout(self._patience):
                    word, *more = await TAKE.run(self._redis, keys.all, owner, self._lease_ms, spoilt)
            except NO_ANSWER:  # the lease may be ours all the same: `_kept` finds out
                word, more = MINE, []
            if word == MINE:
                return await self._kept(key, keys, owner)
            if word == KEPT:
                seen = more[0]
                if known := self._known(seen):
                    return known[0]
            else:
                await self._woken(keys, *more)

    async def _kept(self, key: str, keys: Keys, owner: str) -> V | None:
        """Load, keep what comes if the lease is still ours, and give it back in any case."""
        loop = asyncio.get_running_loop()
        began, entry, life = loop.time(), b"", 0.0
        try:
            async with self._renewed(keys, owner):
                value = await self._load(key)
            payload = None if value is None else self._encode(value)
            entry = packed(payload, loop.time() - began)
            life = (self._unknown if value is None else self._ttl) * (1 - self._jitter * self._chance.random())
            life += self._refresh.beyond if self._refresh else 0.0
            return value
        finally:
            with suppress(*NO_ANSWER):
                async with asyncio.timeout(self._patience):
                    await END.run(self._redis, keys.all, owner, entry, round(life * 1000))

    @asynccontextmanager
    async def _renewed(self, keys: Keys, owner: str) -> AsyncIterator[None]:
        """The lease does not run out while this process lives and gets time."""
        over = asyncio.Event()
        renewing = asyncio.create_task(self._renew(keys, owner, over), name=f"renew {keys.lease}")
        try:
            yield
        finally:
            over.set()
            renewing.cancel()  # the client may swallow it; then `over` ends the loop
            await asyncio.wait([renewing])

    async def _renew(self, keys: Keys, owner: str, over: asyncio.Event) -> None:
        while not over.is_set():
            await asyncio.sleep(self._lease / 3)
            with suppress(*NO_ANSWER):
                async with asyncio.timeout(self._patience):
                    await RENEW.run(self._redis, (keys.lease,), owner, self._lease_ms)

    async def _woken(self, keys: Keys, last: bytes, lease_left: int) -> None:
        """When a load has ended, or when the lease may have: its holder has died, or renews it."""
        left = lease_left / 1000
        if left > BLOCKED and not self._listeners.locked():
            with suppress(*NO_ANSWER):
                async with self._listeners, asyncio.timeout(BLOCKED):
                    words = ("COUNT", 1, "BLOCK", BLOCK_MS, "STREAMS", keys.done, last)
                    await self._redis.execute_command("XREAD", *words)
                    return
        await asyncio.sleep(max(SOON, min(left, GLANCE)))

    @property
    def _lease_ms(self) -> int:
        return round(self._lease * 1000)

    # -- in the background -----------------------------------------------------------------------------------------

    def _begin_refresh(self, key: str, left: float) -> None:
        if self._refreshing is None:
            raise RuntimeError("a cache with a refresh policy loads in the background: enter it first, `async with`")
        if key not in self._refreshing and key not in self._flights:
            task = asyncio.create_task(self._refreshed(key, left), name=f"refresh {key}")
            self._refreshing[key] = task
            task.add_done_callback(lambda _: self._refreshing and self._refreshing.pop(key, None))

    async def _refreshed(self, key: str, left: float) -> None:
        """Load if nobody else does; while this runs nobody here asks again."""
        keys, owner = Keys.of(self._prefix + key), os.urandom(16).hex()
        beyond = self._refresh.beyond if self._refresh else 0.0
        seen = round((left + beyond) * 1000)
        try:
            async with asyncio.timeout(self._patience):
                ours = await LEASE.run(self._redis, (keys.lease, keys.entry), owner, self._lease_ms, seen)
        except NO_ANSWER:
            ours = 0
        if not ours:
            await asyncio.sleep(GLANCE)
            return
        try:
            await self._kept(key, keys, owner)
        except Exception:  # the load's, and nobody waits for it: what is there is still good for a while
            log.warning("refreshing %s failed; what is there stays for now", keys.entry, exc_info=True)
            await asyncio.sleep(RETRY)

    async def __aenter__(self) -> Self:
        self._refreshing = {}
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        tasks = list((self._refreshing or {}).values())
        self._refreshing = None
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
