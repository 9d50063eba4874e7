"""Requests and round trips are what the client did, not how the network cut it."""

import asyncio
import time
from collections.abc import Awaitable, Callable

from redis.asyncio import Redis

from faultline.components.faults import Direction, Latency, PartialWrites
from faultline.components.proxy import Counts, FaultProxy

Until = Callable[[Callable[[], object]], Awaitable[None]]


async def spent(proxy: FaultProxy, doing: Awaitable[object]) -> Counts:
    before = proxy.counts
    await doing
    return proxy.counts - before


async def test_one_command_is_one_round_trip(proxy: FaultProxy, redis: Redis) -> None:
    await redis.ping()

    counts = await spent(proxy, redis.set("k", "v"))

    assert (counts.requests, counts.round_trips) == (1, 1)


async def test_a_pipeline_is_one_round_trip(proxy: FaultProxy, redis: Redis) -> None:
    await redis.ping()
    pipeline = redis.pipeline(transaction=False)
    for number in range(100):
        pipeline.set("k", number)

    counts = await spent(proxy, pipeline.execute())

    assert (counts.requests, counts.round_trips) == (100, 1)


async def test_a_transaction_sent_at_once_is_one_round_trip(proxy: FaultProxy, redis: Redis) -> None:
    await redis.ping()

    pipeline = redis.pipeline(transaction=True)
    pipeline.incr("n")
    pipeline.incr("n")

    counts = await spent(proxy, pipeline.execute())

    assert (counts.requests, counts.round_trips) == (4, 1), "MULTI, two commands, EXEC"


async def test_a_watched_transaction_is_counted_step_by_step(proxy: FaultProxy, redis: Redis) -> None:
    async def watched() -> None:
        async with redis.pipeline(transaction=True) as pipeline:
            await pipeline.watch("n")
            await pipeline.get("n")
            pipeline.multi()
            pipeline.incr("n")
            await pipeline.execute()
            await pipeline.reset()

    await redis.ping()
    counts = await spent(proxy, watched())

    assert (counts.requests, counts.round_trips) == (5, 3), "WATCH | GET | MULTI INCR EXEC"


async def test_one_after_the_other_is_as_many_round_trips(proxy: FaultProxy, redis: Redis) -> None:
    async def loop() -> None:
        for number in range(20):
            await redis.set("k", number)

    await redis.ping()

    assert (await spent(proxy, loop())).round_trips == 20


async def test_counting_is_the_same_when_the_network_crumbles(proxy: FaultProxy, redis: Redis) -> None:
    await redis.ping()
    proxy.add(PartialWrites(3), Direction.BOTH)
    proxy.add(Latency(0.001, jitter=0.001), Direction.BOTH)
    pipeline = redis.pipeline(transaction=False)
    for number in range(50):
        pipeline.set("k", number)

    counts = await spent(proxy, pipeline.execute())

    assert (counts.requests, counts.round_trips) == (50, 1)


async def test_handshakes_are_counted_apart(proxy: FaultProxy, direct: Redis) -> None:
    async with Redis(port=proxy.port, protocol=3, db=2, client_name="me") as client:
        await client.get("k")

    counts = proxy.counts
    assert (counts.requests, counts.round_trips) == (1, 1), proxy.commands
    assert counts.handshakes == sum(command.handshake for command in proxy.commands) >= 4
    assert counts.handshake_round_trips >= 1
    assert [command.args for command in proxy.commands if not command.handshake] == [[b"GET", b"k"]]


async def test_a_select_in_the_middle_is_a_request(proxy: FaultProxy, redis: Redis) -> None:
    await redis.ping()

    counts = await spent(proxy, redis.execute_command("SELECT", 1))

    assert (counts.requests, counts.handshakes) == (1, 0)


async def test_messages_are_pushes_in_both_protocols(proxy: FaultProxy, direct: Redis, until: Until) -> None:
    for protocol in (2, 3):
        before = proxy.counts
        async with Redis(port=proxy.port, protocol=protocol) as client, client.pubsub() as pubsub:
            await pubsub.subscribe("a", "b")
            await until(lambda: (proxy.counts - before).round_trips == 1)  # noqa: B023 (waits at once)
            for _ in range(2):
                assert await pubsub.get_message(timeout=5)  # the confirmations
            for number in range(3):
                await direct.publish("a", number)
            received = [await pubsub.get_message(timeout=5) for _ in range(3)]
            assert [message["data"] for message in received if message] == [b"0", b"1", b"2"]
            await pubsub.ping()
            assert await pubsub.get_message(timeout=5)
            counts = proxy.counts - before
            assert (counts.requests, counts.round_trips) == (2, 2), "SUBSCRIBE | PING"
            # in RESP 3 a confirmation is a push by type; it answers SUBSCRIBE all the same
            assert counts.pushes == 3
            assert counts.unread == 0


async def test_fire_and_forget_makes_no_round_trip(proxy: FaultProxy, direct: Redis, until: Until) -> None:
    reader, writer = await asyncio.open_connection(proxy.host, proxy.port)
    writer.write(b"PING\r\nCLIENT REPLY OFF\r\n")
    assert await reader.readline() == b"+PONG\r\n"
    before = proxy.counts

    writer.write(b"INCR n\r\nINCR n\r\n")
    await until(lambda: (proxy.counts - before).requests == 2)
    assert (proxy.counts - before).round_trips == 0
    writer.write(b"CLIENT REPLY ON\r\nGET n\r\n")
    assert [await reader.readline() for _ in range(3)] == [b"+OK\r\n", b"$1\r\n", b"2\r\n"]

    assert (proxy.counts - before).round_trips == 1
    writer.transport.abort()


async def test_monitor_lines_are_pushes(proxy: FaultProxy, direct: Redis, until: Until) -> None:
    reader, writer = await asyncio.open_connection(proxy.host, proxy.port)
    writer.write(b"MONITOR\r\n")
    assert await reader.readline() == b"+OK\r\n"

    await direct.get("watched")
    assert b"watched" in await reader.readline()

    assert (proxy.counts.requests, proxy.counts.pushes) == (1, 1)
    writer.transport.abort()


async def test_what_is_not_redis_passes_unread(proxy: FaultProxy, direct: Redis) -> None:
    reader, writer = await asyncio.open_connection(proxy.host, proxy.port)

    writer.write(b"*1\r\n+what\r\n")

    assert b"Protocol error" in await reader.readline()
    assert proxy.counts.unread == 1
    writer.transport.abort()


async def test_a_replicas_stream_passes_unread(proxy: FaultProxy, direct: Redis) -> None:
    reader, writer = await asyncio.open_connection(proxy.host, proxy.port)

    writer.write(b"PSYNC ? -1\r\n")

    async with asyncio.timeout(10):
        assert (await reader.readline()).startswith(b"+FULLRESYNC")
        size = b""
        while not size.startswith(b"$"):
            size = await reader.readline()
    assert (proxy.counts.unread, proxy.counts.requests) == (1, 1)
    writer.transport.abort()


async def test_commands_are_logged_with_the_time_and_the_connection(proxy: FaultProxy, redis: Redis) -> None:
    began = time.monotonic()
    await redis.set("k", "v")
    await redis.get("k")

    first, second = [command for command in proxy.commands if not command.handshake]

    assert began <= first.at <= second.at <= time.monotonic()
    assert (first.args, second.args) == ([b"SET", b"k", b"v"], [b"GET", b"k"])
    assert first.connection == second.connection == 1
    assert str(first) == "#1 SET k v"


async def test_the_log_is_bounded(proxy: FaultProxy, redis: Redis) -> None:
    pipeline = redis.pipeline(transaction=False)
    for number in range(12_000):
        pipeline.set("k", number)
    await pipeline.execute()

    assert len(proxy.commands) == 10_000
    assert proxy.commands[-1].args == [b"SET", b"k", b"11999"]
    assert proxy.counts.requests == 12_000
