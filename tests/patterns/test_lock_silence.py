"""A lock whose callers are cancelled, and whose servers do not answer."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import pytest
from tests.patterns.lock_state import NAME, SCRIPT, Clock, blocked, keys

from faultline.patterns import DistributedLock, LockUnavailable
from faultline.testbed.speed import measured_lateness

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from redis.asyncio import Redis
    from tests.patterns.conftest import Servers, Until

    from faultline.components import Instance


async def cancelled_in_the_queue(lock: DistributedLock, redis: Redis, until: Until) -> None:
    front = asyncio.create_task(lock.acquire(20))
    await until(lambda: blocked(redis))
    behind = asyncio.create_task(lock.acquire(20))
    await asyncio.sleep(0)
    behind.cancel()
    with pytest.raises(asyncio.CancelledError):
        await behind
    front.cancel()
    with pytest.raises(asyncio.CancelledError):
        await front


async def cancelled_at_the_server(lock: DistributedLock, redis: Redis, until: Until) -> None:
    waiting = asyncio.create_task(lock.acquire(20))
    await until(lambda: blocked(redis))
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting


@pytest.mark.parametrize("cancel", [cancelled_in_the_queue, cancelled_at_the_server])
async def test_a_cancelled_waiter_is_in_nobodys_way(
    servers: Servers,
    server: Instance,
    redis: Redis,
    until: Until,
    cancel: Callable[[DistributedLock, Redis, Until], Awaitable[None]],
) -> None:
    lease = await DistributedLock([redis], NAME, 60.0).acquire(5)
    lock = DistributedLock([servers.client(server)], NAME, 60.0)

    await cancel(lock, redis, until)

    waiting = asyncio.create_task(lock.acquire(20))
    await until(lambda: blocked(redis))
    async with measured_lateness() as lateness:
        began = time.monotonic()
        await lease.release()
        await waiting
    assert time.monotonic() - began < 0.25 + lateness.seconds


async def test_a_lock_taken_while_its_request_is_cancelled_is_given_back(
    servers: Servers, server: Instance, redis: Redis
) -> None:
    proxy = await servers.proxy(server)
    lock = DistributedLock([servers.client(proxy)], NAME, 60.0)
    await (await lock.acquire(5)).release()
    answer = proxy.hold_reply(SCRIPT)

    acquiring = asyncio.create_task(lock.acquire(20))
    await answer.reached(5)
    assert "lease" in await keys(redis)
    acquiring.cancel()
    with pytest.raises(asyncio.CancelledError):
        await acquiring

    assert "lease" not in await keys(redis)


async def test_a_request_that_arrives_after_its_sender_gave_up_takes_nothing(
    servers: Servers, server: Instance, redis: Redis, until: Until
) -> None:
    proxy = await servers.proxy(server)
    lock = DistributedLock([servers.client(proxy)], NAME, 60.0)
    await (await lock.acquire(5)).release()
    late = proxy.hold(SCRIPT)

    with pytest.raises(LockUnavailable, match="no answer in time"):
        await lock.acquire(0)
    assert late.arrived == 1

    async def its_release_arrived() -> bool:
        if await redis.keys("*:void:*"):
            return True
        await (await lock.acquire(5)).release()  # this machine was too slow: the next call makes up for it
        return False

    await until(its_release_arrived)
    taken = (await redis.info("commandstats"))["cmdstat_evalsha"]["calls"]
    late.release()

    async def arrived() -> bool:
        return (await redis.info("commandstats"))["cmdstat_evalsha"]["calls"] > taken

    await until(arrived)
    assert "lease" not in await keys(redis)
    assert (await DistributedLock([redis], NAME, 60.0).acquire(5)).valid_for > 0


@pytest.mark.parametrize("retries", [0, 5])
async def test_a_silent_server_is_given_up_in_time_however_patient_the_client(
    servers: Servers, server: Instance, retries: int
) -> None:
    timeout = 0.4 if retries else 30.0
    client = servers.client(server, timeout=timeout, retries=retries)
    lock = DistributedLock([client], NAME, 60.0)
    await (await lock.acquire(5)).release()

    await server.pause()
    for wait in (0.0, 0.7):
        async with measured_lateness() as lateness:
            began = time.monotonic()
            with pytest.raises(LockUnavailable, match=str(server.port)):
                await lock.acquire(wait)
        assert time.monotonic() - began < wait + 0.5 + lateness.seconds


async def test_a_server_that_falls_silent_while_one_waits_is_given_up_in_time(
    servers: Servers, server: Instance, redis: Redis, until: Until
) -> None:
    await DistributedLock([redis], NAME, 60.0).acquire(5)

    async with measured_lateness() as lateness:
        began = time.monotonic()
        waiting = asyncio.create_task(DistributedLock([servers.client(server, timeout=30)], NAME, 60.0).acquire(1.0))
        await until(lambda: blocked(redis))
        await server.pause()
        with pytest.raises(LockUnavailable):
            await waiting
    assert time.monotonic() - began < 1.5 + lateness.seconds


async def test_what_a_silent_server_may_have_granted_is_taken_back_by_the_next_call(
    servers: Servers, server: Instance
) -> None:
    client = servers.client(server, timeout=0.3)
    lock = DistributedLock([client], NAME, 60.0)
    await (await lock.acquire(5)).release()

    await server.pause()
    with pytest.raises(LockUnavailable):
        await lock.acquire(0)
    await server.resume()

    lease = await lock.acquire(5)
    assert await lease.release()


async def test_a_try_that_took_longer_than_the_ttl_has_failed(servers: Servers, server: Instance, redis: Redis) -> None:
    proxy = await servers.proxy(server)
    clock = Clock()
    lock = DistributedLock([servers.client(proxy, timeout=5)], NAME, 10.0, clock=clock)
    await (await lock.acquire(5)).release()
    answer = proxy.hold_reply(SCRIPT)

    acquiring = asyncio.create_task(lock.acquire(5))
    await answer.reached(5)
    clock.ahead = 10.0
    answer.release()

    with pytest.raises(LockUnavailable):
        await acquiring
    assert "lease" not in await keys(redis)


async def test_a_release_that_is_cancelled_still_frees_the_lock(
    servers: Servers, server: Instance, redis: Redis
) -> None:
    proxy = await servers.proxy(server)
    lease = await DistributedLock([servers.client(proxy)], NAME, 60.0).acquire(5)
    stuck = proxy.hold(SCRIPT)

    releasing = asyncio.create_task(lease.release())
    await stuck.reached(5)
    releasing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await releasing

    assert "lease" not in await keys(redis)
