"""What a distributed lock promises on one server."""

from __future__ import annotations

import asyncio
import math
import time
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest
from redis.asyncio import Redis
from tests.patterns.lock_state import NAME, SCRIPT, blocked, keys

from faultline.patterns import DistributedLock, LockUnavailable
from faultline.testbed.speed import measured_lateness

if TYPE_CHECKING:
    from tests.patterns.conftest import Servers, Until

    from faultline.components import Instance


@pytest.mark.parametrize(
    ("clients", "name", "ttl"),
    [(0, NAME, 1.0), (2, NAME, 1.0), (4, NAME, 1.0), (1, "", 1.0)]
    + [(1, NAME, ttl) for ttl in (0.0, -1.0, 0.0009, math.inf, math.nan)],
)
def test_what_cannot_be_promised_is_refused(clients: int, name: str, ttl: float) -> None:
    with pytest.raises(ValueError, match=r"majority|name|ttl"):
        DistributedLock([Redis()] * clients, name, ttl)


@pytest.mark.parametrize(("ttl", "expected"), [(8.29, 8290), (32.001, 32001), (20.0004, 20000)])
async def test_ttl_is_exact_to_the_millisecond(redis: Redis, ttl: float, expected: int) -> None:
    seconds, micros = await redis.time()
    lease = await DistributedLock([redis], NAME, ttl, drift=0.0, clock=lambda: 0.0).acquire(5)

    granted = await redis.pexpiretime(f"{NAME}:{{{NAME}}}:lease") - expected
    until_seconds, until_micros = await redis.time()
    assert lease.valid_for == expected / 1000
    assert seconds * 1000 + micros // 1000 <= granted <= until_seconds * 1000 + until_micros / 1000


async def test_one_at_a_time_and_tokens_grow(servers: Servers, server: Instance) -> None:
    clients = [servers.client(server) for _ in range(3)]
    inside: list[int] = []
    tokens: list[int] = []

    async def work(lock: DistributedLock) -> None:
        for _ in range(5):
            async with await lock.acquire(20) as lease:
                inside.append(lease.token)
                await asyncio.sleep(0.0005)
                assert inside == [lease.token]
                tokens.append(inside.pop())

    async with asyncio.TaskGroup() as group:
        for client in clients:
            shared = DistributedLock([client], NAME, 10.0)
            for lock in (shared, shared, DistributedLock([client], NAME, 10.0)):
                group.create_task(work(lock))

    assert len(tokens) == 45
    assert all(later > earlier for earlier, later in zip(tokens, tokens[1:], strict=False))


async def test_a_pair_costs_two_round_trips_and_leaves_only_the_counter(
    servers: Servers, server: Instance, redis: Redis
) -> None:
    proxy = await servers.proxy(server)
    lock = DistributedLock([servers.client(proxy)], NAME, 10.0)
    await (await lock.acquire(5)).release()
    before = proxy.counts.requests

    await (await lock.acquire(5)).release()

    assert proxy.counts.requests - before == 2
    assert await keys(redis) == {"fence"}
    assert await redis.ttl(f"{NAME}:{{{NAME}}}:fence") == -1


async def test_a_server_that_forgot_the_scripts_is_told_again(redis: Redis) -> None:
    lock = DistributedLock([redis], NAME, 10.0)
    for _ in range(2):
        await redis.script_flush()
        lease = await lock.acquire(5)
        await redis.script_flush()
        await lease.extend()
        await redis.script_flush()
        assert await lease.release()


async def test_leases_and_tokens_survive_a_killed_server(servers: Servers) -> None:
    server = await servers.start(append_only=True, fsync="always")
    lock = DistributedLock([servers.client(server)], NAME, 60.0)
    await (await lock.acquire(5)).release()
    lease = await lock.acquire(5)

    await server.kill()
    await server.restart()

    with pytest.raises(LockUnavailable):
        await lock.acquire(0)
    assert await lease.release()
    assert (await lock.acquire(0)).token > lease.token


async def test_locks_of_different_names_have_nothing_to_do_with_each_other(redis: Redis) -> None:
    one = await DistributedLock([redis], "sale", 10.0).acquire(5)
    two = await DistributedLock([redis], "sale:{sale}", 10.0).acquire(5)
    assert (one.token, two.token) == (1, 1)
    assert await one.release()
    assert await two.release()


async def test_a_client_that_sends_a_request_twice_still_gets_the_lock(servers: Servers, server: Instance) -> None:
    proxy = await servers.proxy(server)
    client = Redis(host=proxy.host, port=proxy.port, socket_timeout=0.3)  # with redis-py's own retries
    servers.opened.push_async_callback(client.aclose)
    lock = DistributedLock([client], NAME, 60.0)
    await (await lock.acquire(5)).release()
    lost = proxy.hold_reply(SCRIPT)

    acquiring = asyncio.create_task(lock.acquire(5))
    await lost.reached(5)
    lease = await acquiring

    assert lease.token == 3  # the first answer, 2, is still on its way
    assert await lease.release()


async def test_a_released_lock_goes_to_a_waiter_that_did_not_poll(
    servers: Servers, server: Instance, redis: Redis, until: Until
) -> None:
    proxy = await servers.proxy(server)
    lease = await DistributedLock([redis], NAME, 60.0).acquire(5)
    waiting = asyncio.create_task(DistributedLock([servers.client(proxy)], NAME, 60.0).acquire(20))
    await until(lambda: blocked(redis))
    before = proxy.counts.requests

    async with measured_lateness() as lateness:
        began = time.monotonic()
        await lease.release()
        await waiting
        took = time.monotonic() - began

    assert took < 0.05 + lateness.seconds
    assert proxy.counts.requests - before <= 3


async def test_a_lost_wake_up_costs_at_most_a_quarter_second(
    servers: Servers, server: Instance, redis: Redis, until: Until
) -> None:
    lease = await DistributedLock([redis], NAME, 60.0).acquire(5)
    thief = asyncio.ensure_future(servers.client(server, timeout=30).blpop([f"{NAME}:{{{NAME}}}:wake"], timeout=20))
    await until(lambda: blocked(redis, 1))  # first in the queue: a waiter that will die with the wake-up
    waiting = asyncio.create_task(DistributedLock([servers.client(server)], NAME, 60.0).acquire(20))
    await until(lambda: blocked(redis, 2))

    async with measured_lateness() as lateness:
        began = time.monotonic()
        await lease.release()
        assert await thief
        await waiting
        took = time.monotonic() - began

    assert took < 0.25 + lateness.seconds


async def test_a_wake_up_that_nobody_needed_does_not_make_waiters_spin(
    servers: Servers, server: Instance, redis: Redis
) -> None:
    proxy = await servers.proxy(server)
    await DistributedLock([redis], NAME, 60.0).acquire(5)
    await redis.rpush(f"{NAME}:{{{NAME}}}:wake", 1)

    with pytest.raises(LockUnavailable):
        await DistributedLock([servers.client(proxy)], NAME, 60.0).acquire(0.5)

    assert 4 <= proxy.counts.requests <= 50 * 0.5


async def test_wake_ups_do_not_pile_up(redis: Redis) -> None:
    lock = DistributedLock([redis], NAME, 60.0)
    lease = await lock.acquire(5)
    with pytest.raises(LockUnavailable):
        await lock.acquire(0.01)
    for _ in range(5):  # with a waiter that has just given up
        await lease.release()
        lease = await lock.acquire(0)

    assert await redis.llen(f"{NAME}:{{{NAME}}}:wake") == 1
    assert 0 < await redis.pttl(f"{NAME}:{{{NAME}}}:wake") <= 1000


@pytest.mark.parametrize("ttl", [0.25, 0.31, 0.33, 0.35, 0.6])
async def test_the_lock_of_a_dead_holder_is_free_within_a_tenth_of_its_ttl(servers: Servers, ttl: float) -> None:
    server = await servers.start(config={"hz": "10"})  # Redis's own setting: it ends a blocked command up to 0.1 s late
    redis, waiter = servers.client(server), DistributedLock([servers.client(server)], NAME, 10.0)
    await (await waiter.acquire(5)).release()

    async with measured_lateness() as lateness:
        began = time.monotonic()
        await DistributedLock([redis], NAME, ttl).acquire(5)
        await waiter.acquire(5)
        took = time.monotonic() - began

    assert ttl <= took < ttl + max(0.1 * ttl, 0.05) + lateness.seconds


async def test_a_waiter_of_a_lease_that_is_always_about_to_end_sends_at_most_50_commands_a_second(
    servers: Servers, server: Instance, redis: Redis
) -> None:
    proxy = await servers.proxy(server)

    async def renew() -> None:
        while True:
            await redis.set(f"{NAME}:{{{NAME}}}:lease", "somebody", px=10)
            await asyncio.sleep(0.002)

    renewing = asyncio.create_task(renew())
    began = time.monotonic()
    with suppress(LockUnavailable):  # it may get the lock when this machine stands still
        await DistributedLock([servers.client(proxy)], NAME, 0.05).acquire(1.0)
    waited = time.monotonic() - began
    renewing.cancel()

    assert proxy.counts.requests <= 50 * waited + 5
    assert proxy.counts.requests >= 5 or waited < 0.9


@pytest.mark.parametrize("timeout", [0, -1])
async def test_no_timeout_means_one_try(servers: Servers, server: Instance, redis: Redis, timeout: float) -> None:
    proxy = await servers.proxy(server)
    await DistributedLock([redis], NAME, 60.0).acquire(5)

    with pytest.raises(LockUnavailable, match="others held it"):
        await DistributedLock([servers.client(proxy)], NAME, 60.0).acquire(timeout)

    assert proxy.counts.requests == 1
    assert await keys(redis) == {"lease", "fence"}


async def test_one_try_is_a_try_although_others_wait_on_the_same_object(
    servers: Servers, server: Instance, redis: Redis, until: Until
) -> None:
    lock = DistributedLock([redis], NAME, 60.0)
    lease = await lock.acquire(5)
    waiting = asyncio.create_task(lock.acquire(20))
    await until(lambda: blocked(redis))

    with pytest.raises(LockUnavailable):
        await lock.acquire(0)
    await redis.delete(f"{NAME}:{{{NAME}}}:lease")  # free, and the waiter does not know
    again = await lock.acquire(0)

    assert await lease.release() is False
    assert await again.release() is True
    await waiting


async def test_tasks_on_one_object_wait_on_one_connection_and_in_order(
    servers: Servers, server: Instance, redis: Redis, until: Until
) -> None:
    lock = DistributedLock([servers.client(server, connections=2)], NAME, 60.0)
    lease = await lock.acquire(5)
    turns: list[int] = []

    async def wait(number: int) -> None:
        async with await lock.acquire(20):
            turns.append(number)

    async with asyncio.TaskGroup() as group:
        group.create_task(wait(0))
        await until(lambda: blocked(redis))
        for number in range(1, 20):
            group.create_task(wait(number))
        assert await lease.release()

    assert turns == list(range(20))


async def test_a_holder_can_release_while_waiters_have_all_connections(
    servers: Servers, server: Instance, redis: Redis, until: Until
) -> None:
    client = servers.client(server, connections=3)
    lease = await DistributedLock([client], NAME, 60.0).acquire(5)

    async def wait() -> None:
        async with await DistributedLock([client], NAME, 60.0).acquire(20):
            pass

    async with asyncio.TaskGroup() as group:
        for _ in range(8):
            group.create_task(wait())
        await until(lambda: blocked(redis, 3))
        # A release gives up after 0.5 s, and a busy machine can stand still for that long.
        released = [await lease.release()]
        while not released[-1] and len(released) < 3:
            released.append(await lease.release())
        assert released[-1]
