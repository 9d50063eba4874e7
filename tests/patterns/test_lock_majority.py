"""A lock on several servers, also when they are slow, silent or gone."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import pytest
from tests.patterns.lock_state import NAME, SCRIPT, keys

from faultline.components.faults import Direction, Latency
from faultline.patterns import DistributedLock, LeaseUnconfirmed, LockLost, LockUnavailable
from faultline.testbed.speed import measured_lateness

if TYPE_CHECKING:
    from redis.asyncio import Redis
    from tests.patterns.conftest import Servers, Until

    from faultline.components import Instance


async def majority(servers: Servers, count: int = 3, **options: float) -> tuple[list[Instance], list[Redis]]:
    started = [await servers.start() for _ in range(count)]
    return started, [servers.client(server, **options) for server in started]  # type: ignore[arg-type]  # timeout only


async def test_a_minority_may_be_dead(servers: Servers) -> None:
    started, clients = await majority(servers, 5)
    mine, other = DistributedLock(clients, NAME, 10.0), DistributedLock(clients, NAME, 10.0)
    await started[0].kill()
    await started[3].kill()

    lease = await mine.acquire(5)
    with pytest.raises(LockUnavailable):
        await other.acquire(0.2)
    await lease.extend()
    assert 9.0 < lease.valid_for < 9.9
    assert await lease.release() is True
    assert await (await other.acquire(5)).release() is True


async def test_a_silent_minority_costs_little_and_keeps_nothing(servers: Servers, until: Until) -> None:
    started, clients = await majority(servers, timeout=5.0)
    lock = DistributedLock(clients, NAME, 60.0)
    await (await lock.acquire(5)).release()
    taken = (await clients[1].info("commandstats"))["cmdstat_evalsha"]["calls"]
    await started[1].pause()

    async with measured_lateness() as lateness:
        began = time.monotonic()
        lease = await lock.acquire(1)
        await lease.extend()
        assert await lease.release() is True
    assert time.monotonic() - began < 0.5 + lateness.seconds

    await started[1].resume()

    async def arrived() -> bool:
        return (await clients[1].info("commandstats"))["cmdstat_evalsha"]["calls"] > taken

    await until(arrived)  # the request that was given up
    await (await lock.acquire(5)).release()
    alone = [client for server, client in zip(started, clients, strict=True) if server is started[1]]
    await (await DistributedLock(alone, NAME, 60.0).acquire(5)).release()


async def test_without_a_majority_nothing_is_left(servers: Servers) -> None:
    started, clients = await majority(servers)
    await started[0].kill()
    await started[2].kill()

    lock, in_time = DistributedLock(clients, NAME, 60.0), False
    while not in_time:  # who got no answer in time has taken nothing back
        async with measured_lateness() as lateness:
            with pytest.raises(LockUnavailable, match="111"):
                await lock.acquire(0.3)
        in_time = lateness.worst_since(0.0) < 0.1

    assert await keys(clients[1]) == {"fence"}


async def test_a_contender_without_a_majority_blocks_nobody_meanwhile(servers: Servers, until: Until) -> None:
    _, clients = await majority(servers)
    for client in clients[1:]:
        await DistributedLock([client], NAME, 60.0).acquire(5)
    waiting = asyncio.create_task(DistributedLock(clients, NAME, 60.0).acquire(20))

    async def tried() -> bool:
        return bool(await clients[0].get(f"{NAME}:{{{NAME}}}:fence"))

    await until(tried)
    for _ in range(3):
        async with await DistributedLock(clients[:1], NAME, 60.0).acquire(5):
            pass
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting


async def test_a_try_that_failed_does_not_spoil_the_next_of_the_same_call(servers: Servers, until: Until) -> None:
    started = [await servers.start() for _ in range(3)]
    proxy = await servers.proxy(started[0])
    direct = [servers.client(server) for server in started]
    others = [await DistributedLock([client], NAME, 60.0).acquire(5) for client in direct[1:]]
    await (await DistributedLock([direct[0]], NAME, 60.0).acquire(5)).release()
    lost = proxy.hold_reply(SCRIPT)  # the first try: nobody knows what it did there

    waiting = asyncio.create_task(
        DistributedLock([servers.client(proxy, timeout=0.3), *direct[1:]], NAME, 60.0).acquire(20)
    )
    await lost.reached(5)

    async def tried_again() -> bool:
        return int(await direct[0].get(f"{NAME}:{{{NAME}}}:fence") or 0) >= 4

    await until(tried_again)
    await others[0].release()

    assert await (await waiting).release() is True


async def test_a_majority_taken_while_its_request_is_cancelled_is_given_back(servers: Servers) -> None:
    started = [await servers.start() for _ in range(3)]
    proxies = [await servers.proxy(server) for server in started]
    lock = DistributedLock([servers.client(proxy) for proxy in proxies], NAME, 60.0)
    await (await lock.acquire(5)).release()
    answers = [proxy.hold_reply(SCRIPT) for proxy in proxies]

    acquiring = asyncio.create_task(lock.acquire(20))
    for answer in answers:
        await answer.reached(5)
    acquiring.cancel()
    with pytest.raises(asyncio.CancelledError):
        await acquiring

    for server in started:
        assert "lease" not in await keys(servers.client(server))


async def test_a_lease_lost_on_the_majority_is_lost(servers: Servers) -> None:
    _, clients = await majority(servers)
    lease = await DistributedLock(clients, NAME, 60.0).acquire(5)
    await clients[0].flushall()
    await lease.extend()
    await clients[1].flushall()

    with pytest.raises(LockLost) as caught:
        await lease.extend()
    assert not isinstance(caught.value, LeaseUnconfirmed)
    assert lease.valid_for == 0.0
    assert await lease.release() is False
    assert "lease" not in await keys(clients[2])


@pytest.mark.parametrize("count", [3, 5])
async def test_contenders_for_a_majority_all_get_their_turn_alone(servers: Servers, count: int) -> None:
    started = [await servers.start() for _ in range(count)]
    inside = 0
    turns: list[int] = []

    async def work(number: int) -> None:
        nonlocal inside
        lock = DistributedLock([servers.client(server) for server in started], NAME, 10.0)
        for _ in range(2):
            async with await lock.acquire(20):
                inside += 1
                await asyncio.sleep(0.001)
                assert inside == 1
                inside -= 1
                turns.append(number)

    async with asyncio.TaskGroup() as group:
        for number in range(10):
            group.create_task(work(number))

    assert sorted(turns) == sorted([*range(10)] * 2)


async def test_contenders_that_split_the_votes_do_not_go_on_doing_so(servers: Servers) -> None:
    started = [await servers.start() for _ in range(3)]
    locks: list[DistributedLock] = []
    for near in range(3):  # each reaches a server of its own first
        proxies = [await servers.proxy(server) for server in started]
        for number, proxy in enumerate(proxies):
            if number != near:
                proxy.add(Latency(0.02), Direction.TO_SERVER)
        locks.append(DistributedLock([servers.client(proxy, timeout=5) for proxy in proxies], NAME, 10.0))
        await asyncio.gather(*(servers.client(proxy, timeout=5).ping() for proxy in proxies))

    async def work(lock: DistributedLock) -> None:
        for _ in range(3):
            async with await lock.acquire(20):
                pass

    async with asyncio.timeout(10), asyncio.TaskGroup() as group:
        for lock in locks:
            group.create_task(work(lock))
