"""What a lease promises its holder, and one that is kept."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest
from tests.patterns.lock_state import NAME, SCRIPT, Clock

from faultline.patterns import DistributedLock, LeaseUnconfirmed, LockLost, LockUnavailable
from faultline.testbed.speed import measured_lateness

if TYPE_CHECKING:
    from redis.asyncio import Redis
    from tests.patterns.conftest import Servers, Until

    from faultline.components import Instance


async def test_validity_counts_from_before_the_request_and_leaves_room_for_drift(redis: Redis) -> None:
    clock = Clock()
    lease = await DistributedLock([redis], NAME, 10.0, drift=0.1, clock=clock).acquire(5)

    assert 8.0 < lease.valid_for < 9.0
    clock.ahead = 8.9
    assert 0 < lease.valid_for < 0.1
    await lease.extend()
    assert 8.0 < lease.valid_for < 9.0
    clock.ahead = 30.0
    assert lease.valid_for == 0.0


async def test_what_acquiring_and_extending_took_is_gone_from_the_lease(servers: Servers, server: Instance) -> None:
    proxy = await servers.proxy(server)
    clock = Clock()
    lock = DistributedLock([servers.client(proxy, timeout=5)], NAME, 10.0, clock=clock)
    await (await lock.acquire(5)).release()

    answer = proxy.hold_reply(SCRIPT)
    acquiring = asyncio.create_task(lock.acquire(10))
    await answer.reached(5)
    clock.ahead = 4.0
    answer.release()
    lease = await acquiring
    assert 5.0 < lease.valid_for < 6.0

    await lease.extend()
    assert 9.0 < lease.valid_for < 10.0
    answer = proxy.hold_reply(SCRIPT)
    extending = asyncio.create_task(lease.extend())
    await answer.reached(5)
    clock.ahead = 9.0
    assert 4.0 < lease.valid_for < 5.0
    answer.release()
    await extending
    assert 4.0 < lease.valid_for < 5.0


async def test_what_is_lost_is_not_extended_and_not_freed(redis: Redis) -> None:
    lost = await DistributedLock([redis], NAME, 0.1).acquire(5)
    lock = DistributedLock([redis], NAME, 60.0)
    lease = await lock.acquire(5)

    with pytest.raises(LockLost) as caught:
        await lost.extend()
    assert not isinstance(caught.value, LeaseUnconfirmed)
    assert lost.valid_for == 0.0
    assert await lost.release() is False
    with pytest.raises(LockUnavailable):
        await lock.acquire(0)
    assert await lease.release() is True


async def test_a_released_lease_is_over(redis: Redis) -> None:
    lock = DistributedLock([redis], NAME, 60.0)
    lease = await lock.acquire(5)
    assert await lease.release() is True
    again = await lock.acquire(0)

    assert lease.valid_for == 0.0
    assert await lease.release() is False
    with pytest.raises(LockLost, match="released"):
        await lease.extend()
    assert await again.release() is True


async def test_an_extension_that_meets_a_release_does_not_revive_the_lease(servers: Servers, server: Instance) -> None:
    proxy = await servers.proxy(server)
    lease = await DistributedLock([servers.client(proxy, timeout=5)], NAME, 60.0).acquire(5)
    await lease.extend()
    answer = proxy.hold_reply(SCRIPT)

    extending = asyncio.create_task(lease.extend())
    await answer.reached(5)
    assert await lease.release() is True
    answer.release()

    with pytest.raises(LockLost, match="released"):
        await extending
    assert lease.valid_for == 0.0


async def test_the_block_releases_whatever_happens(redis: Redis) -> None:
    lock = DistributedLock([redis], NAME, 60.0)
    with pytest.raises(ZeroDivisionError):
        async with await lock.acquire(5):
            raise ZeroDivisionError
    async with await lock.acquire(0) as lease:
        await redis.flushall()
    assert lease.valid_for == 0.0


async def test_no_answer_to_an_extension_is_not_a_loss(servers: Servers, server: Instance) -> None:
    lease = await DistributedLock([servers.client(server, timeout=0.2)], NAME, 60.0).acquire(5)

    await server.pause()
    with pytest.raises(LeaseUnconfirmed, match="0 of 1 servers"):
        await lease.extend()
    assert lease.valid_for == 0.0
    await server.resume()

    for _ in range(10):  # more than once only where the machine is slow
        with suppress(LeaseUnconfirmed):
            await lease.extend()
            break
    assert lease.valid_for > 0
    assert await lease.release()


async def test_a_silent_server_keeps_no_holder_for_longer_than_half_a_second(
    servers: Servers, server: Instance
) -> None:
    lease = await DistributedLock([servers.client(server, timeout=30)], NAME, 60.0).acquire(5)

    await server.pause()
    async with measured_lateness() as lateness:
        began = time.monotonic()
        with pytest.raises(LeaseUnconfirmed):
            await lease.extend()
        extended = time.monotonic() - began
        assert await lease.release() is False
        released = time.monotonic() - began - extended
    assert extended < 0.5 + lateness.seconds
    assert released < 0.5 + lateness.seconds


async def test_releasing_a_lease_of_a_dead_server_raises_nothing(servers: Servers, server: Instance) -> None:
    lease = await DistributedLock([servers.client(server)], NAME, 60.0).acquire(5)
    await server.kill()
    assert await lease.release() is False


async def test_a_kept_lease_outlives_its_ttl_and_ends_with_its_block(redis: Redis) -> None:
    lock = DistributedLock([redis], NAME, 2.0)
    tasks = asyncio.all_tasks()

    async with await lock.acquire(5) as lease, lease.kept() as kept:
        with pytest.raises(LockUnavailable):
            await DistributedLock([redis], NAME, 2.0).acquire(3.0)
        assert kept is lease
        assert lease.valid_for > 0
    assert asyncio.all_tasks() == tasks
    await (await lock.acquire(5)).release()


async def test_the_block_of_a_lease_that_is_lost_is_cancelled(redis: Redis) -> None:
    lease = await DistributedLock([redis], NAME, 0.3).acquire(5)
    ended = False

    async def work() -> None:
        nonlocal ended
        async with lease, lease.kept():
            await redis.delete(f"{NAME}:{{{NAME}}}:lease")
            try:
                await asyncio.Event().wait()
            finally:
                ended = True

    with pytest.raises(LockLost):
        await work()
    assert ended
    assert lease.valid_for == 0.0
    assert not asyncio.current_task().cancelling()  # type: ignore[union-attr]  # there is one


async def test_the_block_ends_with_the_validity_when_the_server_is_silent(servers: Servers, server: Instance) -> None:
    lease = await DistributedLock([servers.client(server, timeout=30)], NAME, 0.25).acquire(5)
    await server.pause()

    async with measured_lateness() as lateness:
        began = time.monotonic()
        with pytest.raises(LockLost):
            async with lease.kept():
                await asyncio.Event().wait()
    assert time.monotonic() - began < 0.3 + lateness.seconds


async def test_a_short_silence_is_survived(servers: Servers, server: Instance, until: Until) -> None:
    lease = await DistributedLock([servers.client(server, timeout=30)], NAME, 1.5).acquire(5)

    async def an_extension_is_overdue() -> bool:
        return lease.valid_for < 0.6

    async def it_was_made_good() -> bool:
        return lease.valid_for > 1.2

    async with lease.kept():
        await server.pause()
        await until(an_extension_is_overdue)
        await server.resume()
        await until(it_was_made_good)
    assert await lease.release()


@pytest.mark.parametrize("error", [ZeroDivisionError, TimeoutError, asyncio.CancelledError])
async def test_what_a_kept_block_raises_comes_out_as_it_was(redis: Redis, error: type[BaseException]) -> None:
    lease = await DistributedLock([redis], NAME, 10.0).acquire(5)
    with pytest.raises(error):
        async with lease.kept():
            raise error


async def test_a_lease_that_is_over_is_not_kept(redis: Redis) -> None:
    lease = await DistributedLock([redis], NAME, 10.0).acquire(5)
    await lease.release()
    entered = False
    with pytest.raises(LockLost, match="before its block"):
        async with lease.kept():
            entered = True
    assert not entered
