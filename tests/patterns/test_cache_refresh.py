"""Loading again before anybody has to wait: who does it, how often, and what is left when it fails."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

import pytest
from tests.patterns.test_cache import HAT, KEY, Database, patient

from faultline.patterns import Early, StaleWhileRevalidate

if TYPE_CHECKING:
    from redis.asyncio import Redis
    from tests.patterns.conftest import Servers, Until

    from faultline.components import Instance

NEW = {"id": "hat", "price": 999}


async def age(redis: Redis, *, left: float) -> None:
    """The entry has so long to live, what lies beyond its ttl included."""
    assert await redis.pexpire(KEY, round(left * 1000))


async def test_an_old_value_is_given_while_one_load_runs(
    servers: Servers, server: Instance, redis: Redis, until: Until
) -> None:
    database = Database(HAT, NEW)
    policy = StaleWhileRevalidate(beyond=30.0)
    async with (
        patient(redis, database.load, 10.0, refresh=policy) as here,
        patient(servers.client(server), database.load, 10.0, refresh=policy) as there,
    ):
        await here.get("hat")
        assert 38 <= await redis.pttl(KEY) / 1000 <= 40
        await there.get("hat")
        assert database.loads == 1
        await age(redis, left=29.0)
        database.open.clear()

        answers = await asyncio.gather(*(cache.get("hat") for cache in (here, there) for _ in range(50)))
        await until(lambda: asyncio.sleep(0, database.loads == 2))
        answers += await asyncio.gather(*(cache.get("hat") for cache in (here, there) for _ in range(50)))
        assert answers == [HAT] * 200
        database.open.set()

        async def renewed() -> bool:
            return await there.get("hat") == NEW

        await until(renewed)
        assert await here.get("hat") == NEW
    assert database.loads == 2


async def test_early_loads_before_the_end(redis: Redis, until: Until) -> None:
    database = Database(HAT, NEW)
    database.open.clear()
    async with patient(redis, database.load, 10.0, refresh=Early(loads=3.0)) as cache:
        first = asyncio.create_task(cache.get("hat"))
        await until(lambda: asyncio.sleep(0, database.loads))
        await asyncio.sleep(0.1)  # what the load takes: the policy counts in it
        database.open.set()
        await first
        await age(redis, left=2.0)
        assert await cache.get("hat") == HAT
        assert database.loads == 1
        await age(redis, left=0.25)
        assert await cache.get("hat") == HAT

        async def renewed() -> bool:
            return await redis.pttl(KEY) > 5_000

        await until(renewed)
        assert await cache.get("hat") == NEW
    assert database.loads == 2


async def test_who_comes_late_to_a_refresh_does_not_load_again(redis: Redis, until: Until) -> None:
    """Between looking and asking for the lease another process has loaded, and given it back."""
    database = Database()
    async with patient(redis, database.load, 10.0, refresh=StaleWhileRevalidate(30.0)) as cache:
        await cache.get("hat")
        cache._begin_refresh("hat", -1.0)  # as it was seen; by now there are more than 39 s left
        task = cache._refreshing["hat"]  # type: ignore[index]
        await asyncio.wait([task])
        assert database.loads == 1
        assert cache._refreshing == {}


async def test_a_refresh_that_fails_is_told_and_tried_again_later(
    redis: Redis, until: Until, caplog: pytest.LogCaptureFixture
) -> None:
    database = Database(HAT, LookupError("no such table"))
    async with patient(redis, database.load, 10.0, refresh=StaleWhileRevalidate(30.0)) as cache:
        await cache.get("hat")
        await age(redis, left=20.0)
        with caplog.at_level(logging.WARNING):
            for _ in range(3):
                assert await cache.get("hat") == HAT
                await until(lambda: asyncio.sleep(0, bool(caplog.records)))
        assert database.loads == 2, "a failing database was asked again at once"
        assert "no such table" in caplog.text
        assert KEY in caplog.text
        assert await redis.exists(f"{KEY}:lease") == 0


async def test_forget_ends_what_a_refresh_may_keep(redis: Redis, until: Until) -> None:
    database = Database(HAT, HAT, NEW)
    async with patient(redis, database.load, 10.0, refresh=StaleWhileRevalidate(30.0)) as cache:
        await cache.get("hat")
        await age(redis, left=20.0)
        database.open.clear()
        await cache.get("hat")
        await until(lambda: asyncio.sleep(0, database.loads == 2))
        await cache.forget("hat")
        database.open.set()
        assert await cache.get("hat") == NEW

        async def over() -> bool:
            return not cache._refreshing

        await until(over)
        assert await cache.get("hat") == NEW
    assert database.loads == 3


async def test_what_runs_in_the_background_ends_with_the_block(redis: Redis, until: Until) -> None:
    database = Database()
    before = asyncio.all_tasks()
    async with patient(redis, database.load, 10.0, refresh=StaleWhileRevalidate(30.0)) as cache:
        await cache.get("hat")
        await age(redis, left=20.0)
        database.open.clear()
        await cache.get("hat")
        await until(lambda: asyncio.sleep(0, database.loads == 2))

    assert asyncio.all_tasks() == before
    assert await redis.exists(f"{KEY}:lease") == 0


async def test_a_cache_that_would_need_a_background_says_so(redis: Redis) -> None:
    cache = patient(redis, Database().load, 10.0, refresh=StaleWhileRevalidate(30.0))
    await cache.get("hat")
    await age(redis, left=20.0)

    with pytest.raises(RuntimeError, match="async with"):
        await cache.get("hat")


async def test_without_redis_a_due_refresh_costs_nobody_anything(
    redis: Redis, servers: Servers, server: Instance
) -> None:
    database = Database()
    async with patient(redis, database.load, 10.0, refresh=StaleWhileRevalidate(30.0)) as cache:
        await cache.get("hat")
        await server.kill()
        assert await cache.get("hat") == HAT
        assert database.loads == 2
