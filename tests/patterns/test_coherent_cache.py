"""What the checks of redis/04 do not ask: options, chunks, the journal, clients that reconnect, many at once."""

from __future__ import annotations

import asyncio
import random
from collections import defaultdict
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from faultline.components.faults import Age, Reset
from faultline.patterns import CacheUnavailable, CoherentCache
from faultline.patterns.coherence_scripts import CHUNK, LONGEST_LOAD
from faultline.patterns.invalidations import SILENCE

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.patterns.conftest import Servers, Until

    from faultline.components import Instance


@dataclass(slots=True)
class Database:
    """Texts with tags; one load can be stopped after it has read."""

    rows: dict[str, tuple[str, list[str]]] = field(default_factory=dict[str, tuple[str, list[str]]])
    loads: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    gate: asyncio.Event | None = None
    reading: asyncio.Event = field(default_factory=asyncio.Event)

    async def load(self, key: str) -> tuple[str, list[str]]:
        self.loads[key] += 1
        row = self.rows[key]
        if gate := self.gate:
            self.gate = None
            self.reading.set()
            await gate.wait()
        return row

    @asynccontextmanager
    async def slow(self, cache: CoherentCache, key: str) -> AsyncIterator[None]:
        """During the block a get of this key has read its row, and does not have it yet."""
        gate = self.gate = asyncio.Event()
        self.reading.clear()
        get = asyncio.create_task(cache.get(key))
        await self.reading.wait()
        try:
            yield
        finally:
            gate.set()
            await get


@pytest.fixture
def database() -> Database:
    return Database({"hat": ("hat-1", ["clothes"]), "cup": ("cup-1", [])})


def made(client: Redis, database: Database, **options: Any) -> CoherentCache:
    """With patience for a busy machine, unless that is the subject."""
    settings: dict[str, Any] = {"ttl": 60.0, "patience": 5.0} | options
    return CoherentCache(client, database.load, **settings)


async def requests(redis: Redis) -> int:
    """Scripts that the server has run for anybody."""
    stats = await redis.info("commandstats")
    return sum(stats[name]["calls"] for name in ("cmdstat_evalsha", "cmdstat_eval") if name in stats)


@pytest.mark.parametrize(
    "wrong",
    [{"ttl": 0.009}, {"ttl": float("inf")}, {"size": 0}, {"name": ""}, {"patience": 0.0}],
    ids=lambda wrong: next(iter(wrong)),
)
async def test_refuses_what_makes_no_sense(redis: Redis, database: Database, wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        made(redis, database, **wrong)


async def test_takes_a_client_that_decodes(server: Instance, database: Database) -> None:
    async with (
        Redis(host=server.host, port=server.port, decode_responses=True) as redis,
        made(redis, database) as one,
        made(redis, database) as other,
    ):
        assert [await one.get("hat"), await other.get("hat")] == ["hat-1"] * 2
        database.rows["hat"] = "hat-2", []
        await one.invalidate_tag("clothes")
        assert await one.get("hat") == "hat-2"


async def test_caches_of_different_names_have_nothing_to_do_with_each_other(redis: Redis, database: Database) -> None:
    async with (
        made(redis, database, name="a") as one,
        made(redis, database, name="a:b") as other,
    ):
        await one.get("hat")
        await other.get("hat")
        await one.invalidate_tag("clothes")
        await one.invalidate("hat")
        assert database.loads["hat"] == 2
        await other.get("hat")
        assert database.loads["hat"] == 2
        assert {str(key).split(":")[0] for key in await redis.keys()} == {"b'a"}


async def test_a_hit_in_level_1_asks_nobody_and_one_in_level_2_once(redis: Redis, database: Database) -> None:
    async with made(redis, database) as one, made(redis, database) as other:
        await one.get("hat")
        before = await requests(redis)
        await one.get("hat")
        assert await requests(redis) == before
        await other.get("hat")
        await other.get("hat")
        assert await requests(redis) == before + 1


async def test_many_who_ask_at_once_share_one_load(redis: Redis, database: Database) -> None:
    async with made(redis, database) as cache:
        async with database.slow(cache, "hat"):
            gets = [asyncio.create_task(cache.get("hat")) for _ in range(50)]
            await asyncio.sleep(0)
        assert await asyncio.gather(*gets) == ["hat-1"] * 50
        assert database.loads["hat"] == 1
        gets = [asyncio.create_task(cache.get("unknown")) for _ in range(3)]
        for get in gets:
            with pytest.raises(KeyError):
                await get
        assert database.loads["unknown"] == 1


async def test_a_large_tag_is_forgotten_in_steps_and_others_are_told_at_the_end(
    redis: Redis, database: Database, until: Until
) -> None:
    async with made(redis, database) as one, made(redis, database) as other:
        await one.invalidate_tag("nobody")  # so that the script is known
        assert [await other.get("hat"), await one.get("hat")] == ["hat-1"] * 2
        await redis.zadd(
            "cache:tag:clothes", {f"hat-{number}": 1 for number in range(2 * CHUNK)}
        )  # before the real one
        database.rows["hat"] = "hat-2", ["clothes"]
        before = await requests(redis)
        await one.invalidate_tag("clothes")
        assert await requests(redis) == before + 3
        assert not await redis.exists("cache:entry:hat", "cache:tag:clothes")

        async def told() -> bool:
            return await other.get("hat") == "hat-2"

        await until(told)


@pytest.mark.parametrize("begun_anew", [False, True], ids=["and missing", "and begun anew"])
@pytest.mark.parametrize("tag", [False, True], ids=["key", "tag"])
async def test_a_journal_that_is_lost_lets_nothing_through(
    redis: Redis, database: Database, tag: bool, begun_anew: bool
) -> None:
    cache = made(redis, database)
    async with database.slow(cache, "hat"):
        database.rows["hat"] = "hat-2", []
        await (cache.invalidate_tag("clothes") if tag else cache.invalidate("hat"))
        await redis.delete("cache:journal")
        if begun_anew:
            await cache.get("cup")
    assert await cache.get("hat") == "hat-2"


async def test_an_evicted_index_keeps_nothing_from_its_tag(redis: Redis, database: Database) -> None:
    cache = made(redis, database)
    await cache.get("hat")
    await redis.delete("cache:tag:clothes")
    database.rows |= {"hat": ("hat-2", ["clothes"]), "shoe": ("shoe-1", ["clothes"])}
    await cache.get("shoe")  # begins the index anew, without the hat
    await cache.invalidate_tag("clothes")
    assert await cache.get("hat") == "hat-2"
    await cache.get("hat")
    assert database.loads["hat"] == 2, "what is in the new index is not remembered"


async def test_what_is_loaded_while_others_are_invalidated_is_stored(redis: Redis, database: Database) -> None:
    cache = made(redis, database)
    async with database.slow(cache, "hat"):
        await cache.invalidate("cup")
        await cache.invalidate_tag("another")
    await cache.get("hat")
    assert database.loads["hat"] == 1


async def test_what_was_invalidated_before_its_load_began_is_stored(redis: Redis, database: Database) -> None:
    cache = made(redis, database)
    await cache.invalidate("hat")
    await cache.invalidate_tag("clothes")
    await cache.get("hat")
    await cache.get("hat")
    assert database.loads["hat"] == 1


async def test_instants_grow_also_when_the_server_clock_goes_back(redis: Redis, database: Database) -> None:
    cache = made(redis, database)
    await cache.get("cup")
    ahead = float(await redis.zscore("cache:journal", "clock") or 0) + 30e6  # before it was set back by 30 s
    await redis.zadd("cache:journal", {"clock": ahead})
    async with database.slow(cache, "hat"):
        begun = float(await redis.zscore("cache:journal", "clock") or 0)
        database.rows["hat"] = "hat-2", []
        await cache.invalidate("hat")
    assert ahead < begun < float(await redis.zscore("cache:journal", "k:hat") or 0)
    assert await cache.get("hat") == "hat-2"


async def test_a_load_that_takes_too_long_is_handed_out_and_not_stored(redis: Redis, database: Database) -> None:
    cache = made(redis, database)
    await cache.get("cup")
    async with database.slow(cache, "hat"):
        clock = float(await redis.zscore("cache:journal", "clock") or 0)
        await redis.zadd("cache:journal", {"clock": clock + (LONGEST_LOAD + 1) * 1e6})
    await cache.get("hat")
    assert database.loads["hat"] == 2


async def test_the_journal_keeps_a_minute_and_everything_expires(redis: Redis, database: Database) -> None:
    cache = made(redis, database, ttl=5.0)
    await cache.get("hat")
    for number in range(20):
        await cache.invalidate(f"name-{number}")
    assert await redis.zcard("cache:journal") == 22  # with its birth and its clock
    clock = float(await redis.zscore("cache:journal", "clock") or 0)
    await redis.zadd("cache:journal", {"clock": clock + (LONGEST_LOAD + 1) * 1e6})
    await cache.invalidate("hat")
    assert await redis.zcard("cache:journal") == 3
    for key in await redis.keys():
        assert 0 < await redis.ttl(key) <= LONGEST_LOAD


async def test_a_client_that_reconnects_by_itself_brings_nothing_back(
    servers: Servers, server: Instance, database: Database, until: Until
) -> None:
    proxy = await servers.proxy(server)
    retrying = Redis(host=proxy.host, port=proxy.port, retry=Retry(NoBackoff(), 3))
    plain = servers.client(server)
    servers.opened.push_async_callback(retrying.aclose)
    async with made(plain, database) as one, made(retrying, database) as other:
        await other.get("hat")
        proxy.add(Reset(ages=frozenset({Age.OPEN})))
        database.rows["hat"] = "hat-2", []
        await one.invalidate("hat")
        proxy.heal()

        async def hears() -> bool:  # a get that asks nobody
            await other.get("cup")
            before = await requests(plain)
            await other.get("cup")
            return await requests(plain) == before

        await until(hears)
        await asyncio.sleep(SILENCE)  # so long it may have trusted what it had
        assert await other.get("hat") == "hat-2"


async def test_level_1_counts_only_as_long_as_somebody_was_heard(redis: Redis, database: Database) -> None:
    now = 100.0
    async with made(redis, database, clock=lambda: now) as cache:
        await cache.get("hat")
        now += SILENCE  # as for a process that stood still, before it hears again
        before = await requests(redis)
        await cache.get("hat")
        assert await requests(redis) == before + 1


async def test_an_invalidation_that_is_not_confirmed_raises_and_is_forgotten_here(
    servers: Servers, server: Instance, database: Database
) -> None:
    async with made(servers.client(server), database, patience=0.1) as cache:
        await cache.get("hat")
        database.rows["hat"] = "hat-2", []
        await server.pause()
        try:
            with pytest.raises(CacheUnavailable, match="'hat'"):
                await cache.invalidate("hat")
            assert await cache.get("hat") == "hat-2"
            with pytest.raises(CacheUnavailable, match="'clothes'"):
                await cache.invalidate_tag("clothes")
        finally:
            await server.resume()


async def test_no_task_outlives_its_block(redis: Redis, database: Database) -> None:
    before = asyncio.all_tasks()
    async with made(redis, database) as cache:
        await cache.get("hat")
        assert asyncio.all_tasks() - before
    assert asyncio.all_tasks() == before


@dataclass(slots=True)
class Versions:
    """Three keys whose value is a number that grows; loads of random length."""

    chance: random.Random
    rows: dict[str, int] = field(default_factory=lambda: dict.fromkeys("abc", 0))

    async def load(self, key: str) -> tuple[str, list[str]]:
        version = self.rows[key]
        await asyncio.sleep(self.chance.uniform(0, 0.004))
        return str(version), [f"parity:{version % 2}", f"t:{key}"]

    async def work(self, cache: CoherentCache) -> None:
        """Whoever has invalidated reads what is not older than what it wrote."""
        for _ in range(150):
            key = self.chance.choice("abc")
            if self.chance.random() < 0.3:
                self.rows[key] = version = self.rows[key] + 1
                await (cache.invalidate(key) if self.chance.random() < 0.5 else cache.invalidate_tag(f"t:{key}"))
                assert int(await cache.get(key)) >= version, f"an old value of {key} came back"
            else:
                await cache.get(key)


async def test_many_at_once_keep_nothing_that_was_invalidated(servers: Servers, server: Instance, until: Until) -> None:
    versions = Versions(random.Random(4))
    clients = [servers.client(server, timeout=5.0) for _ in range(3)]
    caches = [CoherentCache(client, versions.load, 60.0, patience=5.0) for client in clients]
    async with caches[0], caches[1], caches[2]:
        async with asyncio.TaskGroup() as tasks:
            for cache in caches * 3:
                tasks.create_task(versions.work(cache))
        for cache in caches:

            async def level(cache: CoherentCache = cache) -> bool:
                return {key: int(await cache.get(key)) for key in "abc"} == versions.rows

            await until(level)
