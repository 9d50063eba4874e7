"""What a distributed lock promises on one server and on several, also when they are slow, silent or gone."""

from __future__ import annotations

import asyncio
import math
import time
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest
from redis.asyncio import Redis

from faultline.components.faults import Direction, Latency
from faultline.components.proxy import named
from faultline.patterns import DistributedLock, LeaseUnconfirmed, LockLost, LockUnavailable
from faultline.testbed.speed import measured_lateness

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from tests.patterns.conftest import Servers, Until

    from faultline.components import Instance

NAME = "flash-sale"
SCRIPT = named("EVALSHA", "EVAL")


class Clock:
    """The machine's, until it is put forward."""

    def __init__(self) -> None:
        self.ahead = 0.0

    def __call__(self) -> float:
        return time.monotonic() + self.ahead


async def blocked(redis: Redis, waiters: int = 1) -> bool:
    return int((await redis.info("clients"))["blocked_clients"]) == waiters


async def keys(redis: Redis) -> set[str]:
    return {bytes(key).decode().rpartition(":")[2] for key in await redis.keys("*")}  # pyright: ignore[reportArgumentType] -- not decoded


# -- arguments ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("clients", "name", "ttl"),
    [(0, NAME, 1.0), (2, NAME, 1.0), (4, NAME, 1.0), (1, "", 1.0)]
    + [(1, NAME, ttl) for ttl in (0.0, -1.0, 0.0009, math.inf, math.nan)],
)
def test_what_cannot_be_promised_is_refused(clients: int, name: str, ttl: float) -> None:
    with pytest.raises(ValueError, match=r"majority|name|ttl"):
        DistributedLock([Redis()] * clients, name, ttl)


@pytest.mark.parametrize(("ttl", "expected"), [(0.29, 290), (1.001, 1001), (2.0004, 2000)])
async def test_ttl_is_exact_to_the_millisecond(redis: Redis, ttl: float, expected: int) -> None:
    lease = await DistributedLock([redis], NAME, ttl, drift=0.0, clock=lambda: 0.0).acquire(0)

    seconds, micros = await redis.time()
    granted = await redis.pexpiretime(f"{NAME}:{{{NAME}}}:lease") - expected
    assert lease.valid_for == expected / 1000
    assert 0 <= seconds * 1000 + micros / 1000 - granted < 200


# -- one server --------------------------------------------------------------------------------------------------


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
    await (await lock.acquire(1)).release()
    before = proxy.counts.requests

    await (await lock.acquire(1)).release()

    assert proxy.counts.requests - before == 2
    assert await keys(redis) == {"fence"}
    assert await redis.ttl(f"{NAME}:{{{NAME}}}:fence") == -1


async def test_a_server_that_forgot_the_scripts_is_told_again(redis: Redis) -> None:
    lock = DistributedLock([redis], NAME, 10.0)
    for _ in range(2):
        await redis.script_flush()
        lease = await lock.acquire(0)
        await redis.script_flush()
        await lease.extend()
        await redis.script_flush()
        assert await lease.release()


async def test_leases_and_tokens_survive_a_killed_server(servers: Servers) -> None:
    server = await servers.start(append_only=True)
    lock = DistributedLock([servers.client(server)], NAME, 60.0)
    await (await lock.acquire(1)).release()
    lease = await lock.acquire(1)

    await server.kill()
    await server.restart()

    with pytest.raises(LockUnavailable):
        await lock.acquire(0)
    assert await lease.release()
    assert (await lock.acquire(0)).token > lease.token


async def test_locks_of_different_names_have_nothing_to_do_with_each_other(redis: Redis) -> None:
    one = await DistributedLock([redis], "sale", 10.0).acquire(0)
    two = await DistributedLock([redis], "sale:{sale}", 10.0).acquire(0)
    assert (one.token, two.token) == (1, 1)
    assert await one.release()
    assert await two.release()


async def test_a_client_that_sends_a_request_twice_still_gets_the_lock(servers: Servers, server: Instance) -> None:
    proxy = await servers.proxy(server)
    client = Redis(host=proxy.host, port=proxy.port, socket_timeout=0.3)  # with redis-py's own retries
    servers.opened.push_async_callback(client.aclose)
    lock = DistributedLock([client], NAME, 60.0)
    await (await lock.acquire(1)).release()
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
    lease = await DistributedLock([redis], NAME, 60.0).acquire(0)
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
    lease = await DistributedLock([redis], NAME, 60.0).acquire(0)
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
    await DistributedLock([redis], NAME, 60.0).acquire(0)
    await redis.rpush(f"{NAME}:{{{NAME}}}:wake", 1)

    with pytest.raises(LockUnavailable):
        await DistributedLock([servers.client(proxy)], NAME, 60.0).acquire(0.5)

    assert 4 <= proxy.counts.requests <= 50 * 0.5


async def test_wake_ups_do_not_pile_up(redis: Redis) -> None:
    lock = DistributedLock([redis], NAME, 60.0)
    lease = await lock.acquire(0)
    with pytest.raises(LockUnavailable):
        await lock.acquire(0.01)
    for _ in range(5):  # with a waiter that has just given up
        await lease.release()
        lease = await lock.acquire(0)

    assert await redis.llen(f"{NAME}:{{{NAME}}}:wake") == 1
    assert 0 < await redis.pttl(f"{NAME}:{{{NAME}}}:wake") <= 1000


@pytest.mark.parametrize("ttl", [0.25, 0.31, 0.33, 0.35, 0.6])
async def test_the_lock_of_a_dead_holder_is_free_within_a_tenth_of_its_ttl(
    servers: Servers, server: Instance, redis: Redis, ttl: float
) -> None:
    waiter = DistributedLock([servers.client(server)], NAME, 10.0)
    await (await waiter.acquire(1)).release()

    async with measured_lateness() as lateness:
        began = time.monotonic()
        await DistributedLock([redis], NAME, ttl).acquire(0)
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
    await DistributedLock([redis], NAME, 60.0).acquire(0)

    with pytest.raises(LockUnavailable, match="others held it"):
        await DistributedLock([servers.client(proxy)], NAME, 60.0).acquire(timeout)

    assert proxy.counts.requests == 1
    assert await keys(redis) == {"lease", "fence"}


async def test_one_try_is_a_try_although_others_wait_on_the_same_object(
    servers: Servers, server: Instance, redis: Redis, until: Until
) -> None:
    lock = DistributedLock([redis], NAME, 60.0)
    lease = await lock.acquire(0)
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
    lease = await lock.acquire(0)
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
    lease = await DistributedLock([client], NAME, 60.0).acquire(0)

    async def wait() -> None:
        async with await DistributedLock([client], NAME, 60.0).acquire(20):
            pass

    async with asyncio.TaskGroup() as group:
        for _ in range(8):
            group.create_task(wait())
        await until(lambda: blocked(redis, 3))
        assert await lease.release()


# -- cancellation, and answers that do not come ------------------------------------------------------------------


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
    lease = await DistributedLock([redis], NAME, 60.0).acquire(0)
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
    await (await lock.acquire(1)).release()
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
    await (await lock.acquire(1)).release()
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
    assert (await DistributedLock([redis], NAME, 60.0).acquire(0)).valid_for > 0


@pytest.mark.parametrize("retries", [0, 5])
async def test_a_silent_server_is_given_up_in_time_however_patient_the_client(
    servers: Servers, server: Instance, retries: int
) -> None:
    timeout = 0.4 if retries else 30.0
    client = servers.client(server, timeout=timeout, retries=retries)
    lock = DistributedLock([client], NAME, 60.0)
    await (await lock.acquire(1)).release()

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
    await DistributedLock([redis], NAME, 60.0).acquire(0)

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
    await (await lock.acquire(1)).release()

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
    await (await lock.acquire(1)).release()
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
    lease = await DistributedLock([servers.client(proxy)], NAME, 60.0).acquire(0)
    stuck = proxy.hold(SCRIPT)

    releasing = asyncio.create_task(lease.release())
    await stuck.reached(5)
    releasing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await releasing

    assert "lease" not in await keys(redis)


# -- the lease ---------------------------------------------------------------------------------------------------


async def test_validity_counts_from_before_the_request_and_leaves_room_for_drift(redis: Redis) -> None:
    clock = Clock()
    lease = await DistributedLock([redis], NAME, 10.0, drift=0.1, clock=clock).acquire(0)

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
    await (await lock.acquire(0)).release()

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
    lease = await lock.acquire(0)
    assert await lease.release() is True
    again = await lock.acquire(0)

    assert lease.valid_for == 0.0
    assert await lease.release() is False
    with pytest.raises(LockLost, match="released"):
        await lease.extend()
    assert await again.release() is True


async def test_an_extension_that_meets_a_release_does_not_revive_the_lease(servers: Servers, server: Instance) -> None:
    proxy = await servers.proxy(server)
    lease = await DistributedLock([servers.client(proxy, timeout=5)], NAME, 60.0).acquire(0)
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
        async with await lock.acquire(0):
            raise ZeroDivisionError
    async with await lock.acquire(0) as lease:
        await redis.flushall()
    assert lease.valid_for == 0.0


async def test_no_answer_to_an_extension_is_not_a_loss(servers: Servers, server: Instance) -> None:
    lease = await DistributedLock([servers.client(server, timeout=0.2)], NAME, 60.0).acquire(1)

    await server.pause()
    with pytest.raises(LeaseUnconfirmed, match="0 of 1 servers"):
        await lease.extend()
    assert lease.valid_for == 0.0
    await server.resume()

    await lease.extend()
    assert lease.valid_for > 0
    assert await lease.release()


async def test_a_silent_server_keeps_no_holder_for_longer_than_half_a_second(
    servers: Servers, server: Instance
) -> None:
    lease = await DistributedLock([servers.client(server, timeout=30)], NAME, 60.0).acquire(1)

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
    lease = await DistributedLock([servers.client(server)], NAME, 60.0).acquire(0)
    await server.kill()
    assert await lease.release() is False


# -- a lease that is kept ----------------------------------------------------------------------------------------


async def test_a_kept_lease_outlives_its_ttl_and_ends_with_its_block(redis: Redis) -> None:
    lock = DistributedLock([redis], NAME, 0.4)
    tasks = asyncio.all_tasks()

    async with await lock.acquire(0) as lease, lease.kept() as kept:
        with pytest.raises(LockUnavailable):
            await DistributedLock([redis], NAME, 0.4).acquire(1.0)
        assert kept is lease
        assert lease.valid_for > 0
    assert asyncio.all_tasks() == tasks
    await (await lock.acquire(0)).release()


async def test_the_block_of_a_lease_that_is_lost_is_cancelled(redis: Redis) -> None:
    lease = await DistributedLock([redis], NAME, 0.3).acquire(0)
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
    lease = await DistributedLock([servers.client(server, timeout=30)], NAME, 1.5).acquire(0)

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
    lease = await DistributedLock([redis], NAME, 10.0).acquire(0)
    with pytest.raises(error):
        async with lease.kept():
            raise error


async def test_a_lease_that_is_over_is_not_kept(redis: Redis) -> None:
    lease = await DistributedLock([redis], NAME, 10.0).acquire(0)
    await lease.release()
    entered = False
    with pytest.raises(LockLost, match="before its block"):
        async with lease.kept():
            entered = True
    assert not entered


# -- several servers ---------------------------------------------------------------------------------------------


async def majority(servers: Servers, count: int = 3, **options: float) -> tuple[list[Instance], list[Redis]]:
    started = [await servers.start() for _ in range(count)]
    return started, [servers.client(server, **options) for server in started]  # type: ignore[arg-type]  # timeout only


async def test_a_minority_may_be_dead(servers: Servers) -> None:
    started, clients = await majority(servers, 5)
    mine, other = DistributedLock(clients, NAME, 10.0), DistributedLock(clients, NAME, 10.0)
    await started[0].kill()
    await started[3].kill()

    lease = await mine.acquire(1)
    with pytest.raises(LockUnavailable):
        await other.acquire(0.2)
    await lease.extend()
    assert 9.0 < lease.valid_for < 9.9
    assert await lease.release() is True
    assert await (await other.acquire(1)).release() is True


async def test_a_silent_minority_costs_little_and_keeps_nothing(servers: Servers, until: Until) -> None:
    started, clients = await majority(servers, timeout=5.0)
    lock = DistributedLock(clients, NAME, 60.0)
    await (await lock.acquire(1)).release()
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
    await (await DistributedLock(alone, NAME, 60.0).acquire(1)).release()


async def test_without_a_majority_nothing_is_left(servers: Servers) -> None:
    started, clients = await majority(servers)
    await started[0].kill()
    await started[2].kill()

    with pytest.raises(LockUnavailable, match="111"):
        await DistributedLock(clients, NAME, 60.0).acquire(0.3)

    assert await keys(clients[1]) == {"fence"}


async def test_a_contender_without_a_majority_blocks_nobody_meanwhile(servers: Servers, until: Until) -> None:
    _, clients = await majority(servers)
    for client in clients[1:]:
        await DistributedLock([client], NAME, 60.0).acquire(0)
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
    others = [await DistributedLock([client], NAME, 60.0).acquire(0) for client in direct[1:]]
    await (await DistributedLock([direct[0]], NAME, 60.0).acquire(0)).release()
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
    await (await lock.acquire(1)).release()
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
    lease = await DistributedLock(clients, NAME, 60.0).acquire(1)
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
