"""Requests and replies wait in the proxy for an event, not for the clock."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

import pytest
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from faultline.components.faults import BlackHole, Latency, Reset
from faultline.components.proxy import FaultProxy, named
from faultline.components.proxy_errors import NeedsProtocol, NotReached

Until = Callable[[Callable[[], object]], Awaitable[None]]
T = TypeVar("T")
ONCE = Retry(NoBackoff(), 0)


async def do(command: Awaitable[T]) -> T:
    """A task needs a coroutine; redis-py promises an awaitable."""
    return await command


async def test_a_held_request_has_not_reached_the_server(proxy: FaultProxy, redis: Redis, direct: Redis) -> None:
    hold = proxy.hold(lambda args: args == [b"SET", b"k", b"late"])

    async with asyncio.TaskGroup() as group:
        setting = group.create_task(do(redis.set("k", "late")))
        await hold.reached(5)
        assert await direct.set("k", "early")
        assert await direct.get("k") == b"early"
        assert not setting.done()
        hold.release()

    assert await direct.get("k") == b"late"
    assert [command.args for command in hold.commands] == [[b"SET", b"k", b"late"]]


async def test_while_one_connection_is_held_others_flow(proxy: FaultProxy, redis: Redis) -> None:
    hold = proxy.hold(named("incrby"))

    async with Redis(port=proxy.port) as other, asyncio.TaskGroup() as group:
        held = group.create_task(do(redis.incr("n")))
        await hold.reached(5)
        assert await other.incr("n") == 1, "only the first is held"
        hold.release()

    assert held.result() == 2


async def test_in_a_pipeline_what_came_before_the_held_request_goes_and_what_follows_waits(
    proxy: FaultProxy, redis: Redis, direct: Redis, until: Until
) -> None:
    hold = proxy.hold(lambda args: args[1:] == [b"k", b"held"])
    await redis.ping()
    before = proxy.counts

    async with asyncio.TaskGroup() as group:
        pipeline = redis.pipeline(transaction=False)
        for value in ("first", "held", "last"):
            pipeline.rpush("k", value)
        group.create_task(pipeline.execute())
        await hold.reached(5)
        assert (proxy.counts - before).requests == 3
        await until(lambda: proxy.counts.bytes_to_client > before.bytes_to_client)
        assert await direct.lrange("k", 0, -1) == [b"first"]
        hold.release()

    assert await direct.lrange("k", 0, -1) == [b"first", b"held", b"last"]


async def test_what_comes_later_on_the_connection_waits_behind_the_held_request(
    proxy: FaultProxy, direct: Redis, until: Until
) -> None:
    hold = proxy.hold(named("RPUSH"))
    reader, writer = await asyncio.open_connection(proxy.host, proxy.port)
    writer.write(b"RPUSH k first\r\n")
    await hold.reached(5)

    writer.write(b"RPUSH k second\r\n")
    await until(lambda: proxy.counts.requests == 2)
    assert proxy.counts.bytes_to_server == 0
    hold.release()

    assert [await reader.readline() for _ in range(2)] == [b":1\r\n", b":2\r\n"]
    assert await direct.lrange("k", 0, -1) == [b"first", b"second"]
    writer.transport.abort()


async def test_a_request_that_comes_in_many_chunks_is_held_too(proxy: FaultProxy, redis: Redis, direct: Redis) -> None:
    hold = proxy.hold(named("SET"))

    async with asyncio.TaskGroup() as group:
        group.create_task(do(redis.set("big", b"x" * 5_000_000)))
        await hold.reached(5)
        assert not await direct.exists("big")
        hold.release()

    assert await direct.strlen("big") == 5_000_000


async def test_skip_lets_the_first_ones_through(proxy: FaultProxy, redis: Redis, direct: Redis) -> None:
    hold = proxy.hold(named("INCRBY"), skip=2)

    async with asyncio.TaskGroup() as group:
        group.create_task(asyncio.wait_for(_count_to(redis, 4), 5))
        await hold.reached(5)
        assert await direct.get("n") == b"2"
        hold.release()

    assert await direct.get("n") == b"4"


async def _count_to(redis: Redis, end: int) -> None:
    for _ in range(end):
        await redis.incr("n")


async def test_a_request_held_when_its_client_gives_up_still_arrives_later(
    proxy: FaultProxy, direct: Redis, until: Until
) -> None:
    """The unknown outcome, the late way: the timeout has passed, the write happens afterwards."""
    hold = proxy.hold(named("SET"))

    async with Redis(port=proxy.port, socket_timeout=0.2, retry=ONCE) as impatient:
        with pytest.raises(RedisTimeoutError):
            await impatient.set("k", "v")
    assert hold.arrived == 1
    assert await direct.get("k") is None

    hold.release()

    await until(lambda: proxy.counts.open == 0)
    assert await direct.get("k") == b"v"


async def test_a_held_reply_means_done_but_unknown(proxy: FaultProxy, redis: Redis, direct: Redis) -> None:
    hold = proxy.hold_reply(named("INCRBY"))

    async with asyncio.TaskGroup() as group:
        counting = group.create_task(do(redis.incr("n")))
        await hold.reached(5)
        assert await direct.get("n") == b"1", "the server has done it"
        assert not counting.done(), "and the client does not know"
        hold.release()

    assert counting.result() == 1


async def test_a_held_reply_in_a_pipeline_lets_the_replies_before_it_through(proxy: FaultProxy) -> None:
    hold = proxy.hold_reply(lambda args: args == [b"ECHO", b"b"])
    reader, writer = await asyncio.open_connection(proxy.host, proxy.port)

    writer.write(b"ECHO a\r\nECHO b\r\nECHO c\r\n")
    await hold.reached(5)
    assert await reader.readexactly(7) == b"$1\r\na\r\n"
    assert proxy.counts.bytes_to_client == 7
    hold.release()

    assert await reader.readexactly(14) == b"$1\r\nb\r\n$1\r\nc\r\n"
    writer.transport.abort()


async def test_a_reset_drops_what_is_held(proxy: FaultProxy, redis: Redis, direct: Redis, until: Until) -> None:
    hold = proxy.hold(named("SET"))
    setting = asyncio.ensure_future(redis.set("k", "v"))
    await hold.reached(5)

    proxy.add(Reset())

    with pytest.raises(RedisConnectionError):
        await setting
    hold.release()
    await until(lambda: proxy.counts.open == 0)
    assert await direct.get("k") is None


async def test_a_black_hole_swallows_a_reply_that_was_held(proxy: FaultProxy, redis: Redis) -> None:
    hold = proxy.hold_reply(named("SET"))
    setting = asyncio.ensure_future(redis.set("k", "v"))
    await hold.reached(5)
    hole = proxy.add(BlackHole())
    assert hole.hits == 0, "held before the hole"

    hold.release()

    assert hole.hits == 1
    proxy.heal()
    with pytest.raises(RedisConnectionError):
        await setting


async def test_a_barrier_opens_when_all_are_there(proxy: FaultProxy, direct: Redis, until: Until) -> None:
    barrier = proxy.barrier(3, named("INCRBY"))
    clients = [Redis(port=proxy.port) for _ in range(4)]

    async with asyncio.TaskGroup() as group:
        for number, client in enumerate(clients[:2], start=1):
            group.create_task(do(client.incr("n")))
            await until(lambda: barrier.arrived == number)  # noqa: B023 (waits at once)
        assert await direct.get("n") is None
        group.create_task(do(clients[2].incr("n")))
        await barrier.met(5)

    assert await direct.get("n") == b"3"
    assert await clients[3].incr("n") == 4, "the barrier stays open"
    assert barrier.arrived == 3
    for client in clients:
        await client.aclose()


async def test_pipelined_requests_on_one_connection_meet_at_a_barrier(proxy: FaultProxy, redis: Redis) -> None:
    barrier = proxy.barrier(2, named("INCRBY"))

    pipeline = redis.pipeline(transaction=False)
    pipeline.incr("n")
    pipeline.incr("n")

    assert await pipeline.execute() == [1, 2]
    await barrier.met(5)


async def test_a_hold_under_latency_keeps_the_order(proxy: FaultProxy, redis: Redis) -> None:
    proxy.add(Latency(0.02, jitter=0.02))
    hold = proxy.hold(named("INCRBY"), 2)

    pipeline = redis.pipeline(transaction=False)
    for _ in range(3):
        pipeline.incr("n")

    async with asyncio.TaskGroup() as group:
        answers = group.create_task(pipeline.execute())
        await hold.reached(5)
        hold.release()

    assert answers.result() == [1, 2, 3]


async def test_an_unmet_hold_says_what_came_instead(proxy: FaultProxy, redis: Redis) -> None:
    hold = proxy.hold(named("SET"))
    await redis.get("k")

    with pytest.raises(NotReached, match=r"0 of 1 matching requests were held within 0.05 s.*1 requests.*GET k"):
        await hold.reached(0.05)


async def test_a_mistake_in_match_is_told_and_harms_no_traffic(proxy: FaultProxy, redis: Redis) -> None:
    hold = proxy.hold(lambda args: args[7] == b"")

    assert await redis.set("k", "v")

    with pytest.raises(IndexError):
        await hold.reached(5)


async def test_handshakes_are_not_held(proxy: FaultProxy, direct: Redis) -> None:
    hold = proxy.hold(lambda _: True)

    async with Redis(port=proxy.port, protocol=3, client_name="c", db=1) as client, asyncio.TaskGroup() as group:
        group.create_task(do(client.ping()))
        await hold.reached(5)
        hold.release()

    assert [command.args for command in hold.commands] == [[b"PING"]]


async def test_holds_need_a_protocol(plain: FaultProxy) -> None:
    with pytest.raises(NeedsProtocol):
        plain.hold(named("SET"))
    with pytest.raises(NeedsProtocol):
        plain.barrier(2, named("SET"))


async def test_closing_wakes_whoever_waits_for_a_hold_and_drops_what_is_held(redis_port: int, direct: Redis) -> None:
    async with FaultProxy("127.0.0.1", redis_port, protocol="redis") as proxy:
        never, held = proxy.hold(named("NEVER")), proxy.hold(named("SET"))
        client = Redis(port=proxy.port, retry=ONCE)
        setting = asyncio.ensure_future(client.set("k", "v"))
        await held.reached(5)
        waiting = asyncio.ensure_future(never.reached(60))
        await asyncio.sleep(0)

    with pytest.raises(NotReached, match="before the proxy was closed"):
        await waiting
    with pytest.raises(RedisConnectionError):
        await setting
    await client.aclose()
    assert await direct.get("k") is None
