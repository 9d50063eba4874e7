"""The same without scripts: `WATCH` before the load, `MULTI` after it, and no load is shared.

Redis itself refuses the transaction if an invalidation has touched what was watched, or if the connection is not the
same any more. Level 1 keeps nothing that was on its way while any message came.
"""

import asyncio
import json
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

from redis.asyncio import Redis
from redis.exceptions import RedisError, WatchError

GUARD = 30_000  # milliseconds that the trace of an invalidation stays
TRIES = 3  # quarters of a second in which nothing is heard
NEWS = "cache:news"
ALL_TAGS = "cache:guard"


class CacheUnavailable(Exception):
    """Redis has not confirmed an invalidation."""


@dataclass
class Local:
    """One entry of level 1."""

    value: str
    tags: list[str]
    dies: float


class CoherentCache:
    """What `load` gives, remembered for at most `ttl` seconds, or until it is invalidated."""

    def __init__(
        self,
        redis: Redis,
        load: Callable[[str], Awaitable[tuple[str, Sequence[str]]]],
        ttl: float,
        size: int = 1000,
        patience: float = 0.2,
    ) -> None:
        if ttl < 0.01:
            raise ValueError("ttl")
        if size < 1:
            raise ValueError("size")
        if not patience > 0:
            raise ValueError("patience")
        self.patience = patience
        self.redis, self.load, self.size, self.milliseconds = redis, load, size, round(ttl * 1000)
        self.entries: dict[str, Local] = {}
        self.members: dict[str, set[str]] = defaultdict(set)
        self.listening = False
        self.news = 0  # how many messages and changes of the connection there have been
        self.up = asyncio.Event()
        self.task: asyncio.Task[None] | None = None

    # -- get

    async def get(self, key: str) -> str:
        """The value."""
        if key == "":
            raise ValueError("key")
        found = self.entries.get(key)
        if found is not None and time.monotonic() < found.dies:
            return found.value
        news, began = self.news, time.monotonic()
        try:
            async with asyncio.timeout(self.patience):
                async with self.redis.pipeline(transaction=False) as pipe:
                    pipe.get(self.entry(key))
                    pipe.pttl(self.entry(key))
                    pipe.time()
                    raw, left, (seconds, microseconds) = await pipe.execute()
                value, tags = json.loads(raw) if raw else ("", [])
                if tags and not await self.known(key, tags):
                    raw = None
        except (RedisError, TimeoutError, OSError):
            value, _ = await self.load(key)
            return value
        if raw is not None:
            self.remember(key, value, tags, began + left / 1000, news)
            return value
        return await self.load_and_store(key, seconds * 1000 + microseconds // 1000)

    async def known(self, key: str, tags: list[str]) -> bool:
        """Whether all indexes have the key: from one that was evicted it is missing, and its tag does not reach it."""
        async with self.redis.pipeline(transaction=False) as pipe:
            for tag in tags:
                pipe.zscore(self.index(tag), key)
            return None not in await pipe.execute()

    async def load_and_store(self, key: str, now: int) -> str:
        news, watched = self.news, False
        async with self.redis.pipeline() as guard:
            try:
                async with asyncio.timeout(self.patience):
                    await guard.watch(self.guard(key), ALL_TAGS)
                watched = True
            except (RedisError, TimeoutError, OSError):
                guard.watching = False
            began = time.monotonic()
            value, tags = await self.load(key)
            loaded = time.monotonic()
            if not watched:
                return value
            gone = now + round((loaded - began) * 1000) + self.milliseconds + 50
            guard.multi()
            guard.watching = False  # EXEC ends it; UNWATCH would be sent by whoever gives up, and wait for 5 s
            guard.set(self.entry(key), json.dumps([value, list(tags)]), px=self.milliseconds)
            for tag in tags:
                guard.zremrangebyscore(self.index(tag), 0, now)
                guard.zadd(self.index(tag), {key: gone})
                guard.pexpire(self.index(tag), self.milliseconds + 1000)
            try:
                async with asyncio.timeout(self.patience):
                    await guard.execute()
            except (WatchError, RedisError, TimeoutError, OSError):
                return value
        self.remember(key, value, list(tags), loaded + self.milliseconds / 1000, news)
        return value

    def remember(self, key: str, value: str, tags: list[str], dies: float, news: int) -> None:
        if not self.listening or news != self.news:
            return
        self.forget(key)
        if len(self.entries) == self.size:
            self.forget(next(iter(self.entries)))
        self.entries[key] = Local(value, tags, dies)
        for tag in tags:
            self.members[tag].add(key)

    # -- invalidate

    async def invalidate(self, key: str) -> None:
        """Forget this key."""
        if key == "":
            raise ValueError("key")
        try:
            async with asyncio.timeout(self.patience), self.redis.pipeline() as pipe:
                pipe.set(self.guard(key), 1, px=GUARD)
                pipe.delete(self.entry(key))
                pipe.publish(NEWS, json.dumps({"key": key}))
                await pipe.execute()
        except (RedisError, TimeoutError, OSError) as error:
            raise CacheUnavailable(key) from error
        finally:
            self.hear({"key": key})

    async def invalidate_tag(self, tag: str) -> None:
        """Forget all that has this tag."""
        if tag == "":
            raise ValueError("tag")
        try:
            async with asyncio.timeout(2 * self.patience):
                async with self.redis.pipeline() as pipe:
                    pipe.set(ALL_TAGS, 1, px=GUARD)
                    pipe.zrange(self.index(tag), 0, -1)
                    _, keys = await pipe.execute()
                names = [key.decode() for key in keys]
                values = await self.redis.mget([self.entry(name) for name in names]) if names else []
                async with self.redis.pipeline() as pipe:
                    for name, raw in zip(names, values, strict=True):
                        pipe.zrem(self.index(tag), name)
                        if raw is not None and tag in json.loads(raw)[1]:
                            pipe.delete(self.entry(name))
                    pipe.publish(NEWS, json.dumps({"tag": tag}))
                    await pipe.execute()
        except (RedisError, TimeoutError, OSError) as error:
            raise CacheUnavailable(tag) from error
        finally:
            self.hear({"tag": tag})

    def hear(self, news: dict[str, str]) -> None:
        self.news += 1
        if "key" in news:
            self.forget(news["key"])
        for key in list(self.members.get(news.get("tag", ""), ())):
            self.forget(key)

    def forget(self, key: str) -> None:
        entry = self.entries.pop(key, None)
        for tag in set(entry.tags) if entry else ():
            self.members[tag].discard(key)
            if not self.members[tag]:
                del self.members[tag]

    # -- listen

    async def start(self) -> None:
        """Begin to listen."""
        if self.task:
            return
        self.task = asyncio.create_task(self.run())
        with suppress(TimeoutError):
            await asyncio.wait_for(self.up.wait(), 0.7)

    async def stop(self) -> None:
        """End that."""
        task, self.task = self.task, None
        while task and not task.done():
            task.cancel()
            await asyncio.wait([task], timeout=0.1)

    async def run(self) -> None:
        while True:
            pubsub = self.redis.pubsub()
            try:
                async with asyncio.timeout(1):
                    await pubsub.subscribe(NEWS)
                await self.listen(pubsub)
            except (RedisError, TimeoutError, OSError):
                pass
            finally:
                self.listening = False
                self.news += 1
                self.entries.clear()
                self.members.clear()
                self.up.clear()
                await pubsub.aclose()
            await asyncio.sleep(0.2)

    async def listen(self, pubsub) -> None:
        quiet = 0
        while quiet < TRIES:
            async with asyncio.timeout(1):
                message = await pubsub.get_message(timeout=0.25)
            if message is None:
                quiet += 1
                await pubsub.ping()
                continue
            quiet = 0
            if message["type"] == "subscribe":
                self.entries.clear()
                self.members.clear()
                self.news += 1
                self.listening = True
                self.up.set()
            if message["type"] == "message":
                self.hear(json.loads(message["data"]))

    @staticmethod
    def entry(key: str) -> str:
        return f"cache:e:{key}"

    @staticmethod
    def guard(key: str) -> str:
        return f"cache:g:{key}"

    @staticmethod
    def index(tag: str) -> str:
        return f"cache:t:{tag}"
