"""Who listens to a leaderboard hears everything, or is told that he does not."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from faultline.components.faults import BlackHole
from faultline.components.proxy import named
from faultline.patterns import Change, ChangesLost, Trending

if TYPE_CHECKING:
    from redis.asyncio import Redis
    from tests.patterns.conftest import Servers, Until

    from faultline.components import Instance


async def listeners(redis: Redis) -> int:
    return (await redis.pubsub_numsub("trending:changes"))[0][1]


async def test_a_quiet_connection_that_lives_is_kept(redis: Redis, until: Until) -> None:
    trending = Trending(redis, quiet=0.03)

    async with trending.changes() as changes:
        waiting = asyncio.ensure_future(anext(changes))
        pings = await until_pings(redis, until, 4)
        assert pings >= 4
        assert not waiting.done()
        await trending.record("hat")

        assert await waiting == Change("hat", 1)


async def until_pings(redis: Redis, until: Until, least: int) -> int:
    async def pings() -> int:
        return int((await redis.info("commandstats")).get("cmdstat_ping", {"calls": 0})["calls"])

    async def enough() -> bool:
        return await pings() >= least

    await until(enough)
    return await pings()


async def test_a_connection_that_fell_silent_is_lost(servers: Servers, server: Instance, redis: Redis) -> None:
    proxy = await servers.proxy(server)
    trending = Trending(servers.client(proxy), quiet=0.1)

    async with trending.changes() as changes:
        await Trending(redis).record("hat")
        assert await anext(changes) == Change("hat", 1)
        silent = proxy.add(BlackHole())
        await Trending(redis).record("cap")

        async with asyncio.timeout(5):
            with pytest.raises(ChangesLost, match="no sign of the server"):
                await anext(changes)
        assert silent.hits
        proxy.remove(silent)
        with pytest.raises(ChangesLost):
            await anext(changes)


async def test_a_client_that_connects_again_by_itself_leaves_no_gap(
    servers: Servers, server: Instance, redis: Redis, until: Until
) -> None:
    trending = Trending(servers.client(server, retries=3))

    async with trending.changes() as changes:
        waiting = asyncio.ensure_future(anext(changes))
        await redis.client_kill_filter(_type="pubsub")
        with pytest.raises(ChangesLost, match="made again"):
            await waiting
        await trending.record("hat")
        with pytest.raises(ChangesLost):
            await anext(changes)

    async def nobody_listens() -> bool:
        return await listeners(redis) == 0

    await until(nobody_listens)


async def test_a_listener_that_is_too_slow_is_told(redis: Redis, until: Until) -> None:
    await redis.config_set("client-output-buffer-limit", "pubsub 32768 0 0")
    trending = Trending(redis)

    async with trending.changes() as changes:

        async def cut_off() -> bool:
            await asyncio.gather(*(trending.record("long-" * 20_000) for _ in range(20)))
            return await listeners(redis) == 0

        await until(cut_off)
        heard: list[int] = []

        async def listen() -> None:
            while True:
                heard.append((await anext(changes)).score)

        with pytest.raises(ChangesLost):
            await listen()
        assert len(heard) < int(await redis.get("trending:records") or 0), "nothing was missed: nothing was tested"
        assert heard == list(range(1, len(heard) + 1))


async def test_a_subscription_that_is_not_confirmed_is_none(
    servers: Servers, server: Instance, redis: Redis, until: Until
) -> None:
    proxy = await servers.proxy(server)
    trending = Trending(servers.client(proxy), quiet=0.1)
    held = proxy.hold(named("subscribe"))

    with pytest.raises(ChangesLost, match="not confirmed"):
        async with trending.changes():
            pytest.fail("entered, and nobody is subscribed")
    held.release()

    async def closed() -> bool:
        return await listeners(redis) == 0 and proxy.counts.open == 0

    await until(closed)


@pytest.mark.parametrize("end", [ZeroDivisionError, asyncio.CancelledError])
async def test_whatever_ends_the_block_ends_the_subscription(
    redis: Redis, until: Until, end: type[BaseException]
) -> None:
    trending = Trending(redis)

    async def block() -> None:
        async with trending.changes():
            assert await listeners(redis) == 1
            raise end

    with pytest.raises(end):
        await block()

    async def nobody_listens() -> bool:
        return await listeners(redis) == 0

    await until(nobody_listens)


async def test_several_who_wait_are_all_told_of_the_end(redis: Redis) -> None:
    trending = Trending(redis)

    async with trending.changes() as changes, trending.changes() as others:
        waiting = [asyncio.ensure_future(anext(one)) for one in (changes, others)]
        await trending.rank("hat")
        changes.end()
        with pytest.raises(StopAsyncIteration):
            await waiting[0]
        await trending.record("hat")
        assert await waiting[1] == Change("hat", 1)
