"""Each fault does what it says, to whom it says, and counts how often it really did."""

import asyncio
import contextlib
import socket
import struct
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from random import Random
from typing import cast

import pytest
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from faultline.components.faults import (
    Age,
    Bandwidth,
    BlackHole,
    Cut,
    Direction,
    Fault,
    Latency,
    PartialWrites,
    Refuse,
    Reset,
    SlowDrip,
)
from faultline.components.proxy import FaultProxy, named
from faultline.components.proxy_errors import NeedsProtocol
from faultline.testbed.speed import measured_lateness

ONCE = Retry(NoBackoff(), 0)

End = tuple[asyncio.StreamReader, asyncio.StreamWriter]
Connect = Callable[[], Awaitable[tuple[End, End]]]
Until = Callable[[Callable[[], object]], Awaitable[None]]

EVERY_FAULT = [
    Latency(0.01),
    Bandwidth(100),
    PartialWrites(2),
    SlowDrip(1, every=0.01),
    BlackHole(),
    Cut(),
    Reset(),
    Reset(after=3),
    Refuse(),
]


async def say(sender: End, receiver: End, text: bytes, timeout: float = 5.0) -> float:
    """Send, wait until all of it is there; how long that took."""
    began = time.monotonic()
    sender[1].write(text)
    async with asyncio.timeout(timeout):
        assert await receiver[0].readexactly(len(text)) == text
    return time.monotonic() - began


async def silent(end: End, seconds: float = 0.05) -> bool:
    """Whether nothing comes, for so long."""
    try:
        async with asyncio.timeout(seconds):
            return not await end[0].read(1)
    except TimeoutError:
        return True


async def receives_reset(end: End) -> None:
    async with asyncio.timeout(5):
        with pytest.raises(ConnectionResetError):
            await end[0].readuntil(b"this never comes")


async def read_all(host: str, port: int) -> bytes:
    reader, writer = await asyncio.open_connection(host, port)
    with contextlib.closing(writer.transport):
        return await reader.read()


async def receives_end(end: End) -> bytes:
    async with asyncio.timeout(5):
        return await end[0].read()


@pytest.mark.parametrize("fault", EVERY_FAULT, ids=str)
async def test_a_fault_that_met_nothing_has_no_hits(plain: FaultProxy, fault: Fault) -> None:
    injected = plain.add(fault)

    assert injected.hits == 0
    plain.remove(injected)
    assert injected.hits == 0


async def test_without_faults_bytes_go_both_ways(connect: Connect, plain: FaultProxy) -> None:
    client, server = await connect()

    await say(client, server, b"question")
    await say(server, client, b"the answer")

    counts = plain.counts
    assert (counts.bytes_to_server, counts.bytes_to_client) == (8, 10)
    assert (counts.accepted, counts.open, counts.requests) == (1, 1, 0)


@pytest.mark.parametrize("direction", Direction)
async def test_latency_strikes_only_its_direction(connect: Connect, plain: FaultProxy, direction: Direction) -> None:
    client, server = await connect()
    late = plain.add(Latency(0.3), direction)

    there = await say(client, server, b"question")
    back = await say(server, client, b"answer")

    assert (there >= 0.3) is direction.covers(Direction.TO_SERVER)
    assert (back >= 0.3) is direction.covers(Direction.TO_CLIENT)
    assert late.hits == (2 if direction is Direction.BOTH else 1)


async def test_delays_of_chunks_overlap_and_those_of_faults_add_up(
    connect: Connect, plain: FaultProxy, until: Until
) -> None:
    client, server = await connect()
    faults = [plain.add(Latency(0.2)), plain.add(Latency(0.3))]

    async with measured_lateness() as lateness:
        began = time.monotonic()
        for number in range(1, 6):
            server[1].write(b"chunk")
            await until(lambda: faults[0].hits == number)  # noqa: B023 (waits at once)
        await client[0].readexactly(25)
        took = time.monotonic() - began

    assert 0.5 <= took < 1.0 + lateness.seconds, "five chunks, each 0.5 s late, side by side"
    assert [fault.hits for fault in faults] == [5, 5]


@dataclass(frozen=True)
class Dice(Fault):
    """A fault that only notes what chance it was given."""

    thrown: list[float] = field(default_factory=list[float])

    def valve(self, chance: Random, age: Age) -> None:
        self.thrown.append(chance.random())


async def throws(port: int, seed: int, until: Until) -> list[float]:
    """Of two connections, each both ways."""
    dice = Dice()
    async with FaultProxy("127.0.0.1", port, seed=seed) as proxy:
        proxy.add(dice, Direction.BOTH)
        for _ in range(2):
            _, writer = await asyncio.open_connection(proxy.host, proxy.port)
            writer.transport.abort()
        await until(lambda: proxy.counts.accepted == 2)
    return dice.thrown


async def test_chance_comes_from_the_seed_alone(redis_port: int, until: Until) -> None:
    """The same seed throws the same, connection by connection and way by way; another seed does not."""
    first = await throws(redis_port, 1, until)

    assert first == await throws(redis_port, 1, until)
    assert len(set(first)) == len(first) == 4
    assert not set(first) & set(await throws(redis_port, 2, until))


async def test_healing_lets_what_is_delayed_go_at_once(connect: Connect, plain: FaultProxy, until: Until) -> None:
    client, server = await connect()
    late = plain.add(Latency(60))
    server[1].write(b"late")
    await until(lambda: late.hits)

    plain.heal()

    async with asyncio.timeout(5):
        assert await client[0].readexactly(4) == b"late"
    assert await say(server, client, b"after") < 5
    assert late.hits == 1


async def test_bandwidth_is_kept(connect: Connect, plain: FaultProxy) -> None:
    client, server = await connect()
    narrow = plain.add(Bandwidth(100_000))

    async with measured_lateness() as lateness:
        took = await say(server, client, b"x" * 50_000)

    assert 0.45 <= took < 1.5 + lateness.seconds
    assert narrow.hits


async def test_a_wide_wire_does_not_count_as_a_fault(connect: Connect, plain: FaultProxy) -> None:
    client, server = await connect()
    wide = plain.add(Bandwidth(100_000_000))

    await say(server, client, b"small")

    assert wide.hits == 0


async def test_partial_writes_arrive_in_pieces(connect: Connect, plain: FaultProxy) -> None:
    client, server = await connect()
    crumbs = plain.add(PartialWrites(10, gap=0.002))
    text = bytes(range(200))

    server[1].write(text)
    pieces: list[bytes] = []
    while sum(map(len, pieces)) < len(text):
        pieces.append(await client[0].read(1000))

    assert b"".join(pieces) == text
    assert len(pieces) >= 5
    assert crumbs.hits == 1


async def test_a_slow_drip_takes_its_time(connect: Connect, plain: FaultProxy) -> None:
    client, server = await connect()
    drip = plain.add(SlowDrip(2, every=0.1))

    async with measured_lateness() as lateness:
        took = await say(server, client, b"12345678")

    assert 0.3 <= took < 1.0 + lateness.seconds, "four drops, three intervals"
    assert drip.hits == 1


@pytest.mark.parametrize("after", [0, 3])
async def test_a_cut_ends_the_connection_in_the_middle(connect: Connect, plain: FaultProxy, after: int) -> None:
    client, server = await connect()
    cut = plain.add(Cut(after))

    server[1].write(b"answer")

    assert await receives_end(client) == b"answer"[:after]
    assert await receives_end(server) == b""
    assert cut.hits == 1


async def test_a_greeting_is_cut_in_the_orderly_way_too(until: Until) -> None:
    """The server may speak before the client's side of the connection is set up."""
    goodbyes: list[bytes] = []

    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.closing(writer.transport):
            writer.write(b"greeting")
            goodbyes.append(await reader.read())

    async with await asyncio.start_server(greet, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        async with FaultProxy("127.0.0.1", port) as proxy:
            cut = proxy.add(Cut(5))
            greetings = await asyncio.gather(*(read_all(proxy.host, proxy.port) for _ in range(50)))
        await until(lambda: len(goodbyes) == 50)

    assert greetings == [b"greet"] * 50
    assert cut.hits == 50


async def test_a_cut_towards_the_server_keeps_the_request_from_it(connect: Connect, plain: FaultProxy) -> None:
    client, server = await connect()
    cut = plain.add(Cut(0), Direction.TO_SERVER)

    client[1].write(b"request")

    assert await receives_end(server) == b""
    assert await receives_end(client) == b""
    assert cut.hits == 1
    assert plain.counts.bytes_to_server == 0


async def test_a_reset_strikes_open_and_new_connections(
    connect: Connect, plain: FaultProxy, accepted: list[End]
) -> None:
    client, server = await connect()

    torn = plain.add(Reset())

    await receives_reset(client)
    await receives_reset(server)
    with pytest.raises(ConnectionResetError):  # in connect() or in read(), whichever is first
        await read_all(plain.host, plain.port)
    assert torn.hits == 2
    assert len(accepted) == 1, "the new connection never reached the server"

    plain.heal()
    await say(*await connect(), b"fine again")


@pytest.mark.parametrize("age", Age)
async def test_a_reset_can_be_narrowed_to_open_or_new_connections(
    connect: Connect, plain: FaultProxy, age: Age
) -> None:
    old, _ = await connect()
    torn = plain.add(Reset(after=3, ages=frozenset({age})))
    new, _ = await connect()

    for client in (old, new):
        client[1].write(b"1234")

    struck, spared = (old, new) if age is Age.OPEN else (new, old)
    await receives_reset(struck)
    assert await silent(spared)
    assert torn.hits == 1


async def test_a_reset_after_bytes_lets_exactly_those_through(connect: Connect, plain: FaultProxy) -> None:
    client, server = await connect()
    torn = plain.add(Reset(after=4), Direction.TO_CLIENT)

    await say(client, server, b"not counted")
    server[1].write(b"answer")

    async with asyncio.timeout(5):
        assert await client[0].readexactly(4) == b"answ"
    await receives_reset(client)
    assert torn.hits == 1


async def test_a_black_hole_swallows_and_what_it_swallowed_never_comes(
    connect: Connect, plain: FaultProxy, until: Until
) -> None:
    client, server = await connect()
    idle, idle_server = await connect()
    hole = plain.add(BlackHole(), Direction.TO_SERVER)

    client[1].write(b"lost")
    await until(lambda: hole.hits)
    assert await silent(server)
    await say(server, client, b"the other way is open")

    plain.heal()

    await receives_reset(client)
    await receives_reset(server)
    await say(idle, idle_server, b"lost nothing, goes on")
    assert hole.hits == 1


async def test_a_black_hole_takes_new_connections_and_their_goodbyes(
    connect: Connect, plain: FaultProxy, until: Until
) -> None:
    hole = plain.add(BlackHole())
    client, server = await connect()

    client[1].write(b"lost")
    client[1].close()
    await until(lambda: hole.hits == 2)

    assert await silent(server)
    assert plain.counts.open == 1
    plain.heal()
    await receives_reset(server)


async def test_a_refused_port_comes_back_as_the_same_port(connect: Connect, plain: FaultProxy) -> None:
    client, server = await connect()
    port = plain.port
    closed = plain.add(Refuse())

    for _ in range(3):
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection(plain.host, port)
    await say(client, server, b"open connections go on")
    assert closed.hits >= 3

    plain.remove(closed)

    assert plain.port == port
    await say(*await connect(), b"open again")
    assert closed.hits >= 3
    assert closed.hits == closed.hits


async def test_two_refusals_end_with_the_last(plain: FaultProxy, connect: Connect) -> None:
    first, second = plain.add(Refuse()), plain.add(Refuse())

    for injected in (first, second):
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection(plain.host, plain.port)
        plain.remove(injected)

    await connect()


async def test_removing_twice_changes_nothing(plain: FaultProxy, connect: Connect) -> None:
    late, other = plain.add(Latency(0.2)), plain.add(Latency(0.2))
    plain.remove(late)
    plain.remove(late)

    client, server = await connect()

    assert await say(server, client, b"late") >= 0.2
    assert (late.hits, other.hits) == (0, 1)


async def test_half_close_is_forwarded_behind_the_bytes(connect: Connect, plain: FaultProxy) -> None:
    client, server = await connect()
    plain.add(Latency(0.1), Direction.BOTH)

    client[1].write(b"all of it")
    client[1].write_eof()

    assert await receives_end(server) == b"all of it"
    await say(server, client, b"still talking")
    server[1].close()
    assert await receives_end(client) == b""


async def test_a_servers_reset_reaches_the_client_behind_the_bytes(
    connect: Connect, plain: FaultProxy, until: Until
) -> None:
    client, server = await connect()
    late = plain.add(Latency(0.2))
    server[1].write(b"last words")
    await until(lambda: late.hits)
    sock = server[1].get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    server[1].transport.abort()

    async with asyncio.timeout(5):
        assert await client[0].readexactly(10) == b"last words"
    await receives_reset(client)


async def test_nobody_upstream_means_reset(unused_tcp_port: int) -> None:
    async with FaultProxy("127.0.0.1", unused_tcp_port) as proxy:
        client = await asyncio.open_connection(proxy.host, proxy.port)
        await receives_reset(client)
        client[1].transport.abort()


async def test_a_client_is_made_to_wait_when_the_server_does_not_read(
    connect: Connect, plain: FaultProxy, until: Until
) -> None:
    """At most so much is buffered; nothing of it is lost."""
    client, server = await connect()
    transport = cast("asyncio.Transport", server[1].transport)
    transport.pause_reading()
    text = bytes(range(256)) * 40_000 * 3  # 30 MB
    client[1].write(text)

    left = [0]

    def stuck() -> bool:
        left.append(client[1].transport.get_write_buffer_size())
        return left[-1] == left[-2] > 0 and len(left) > 200

    await until(stuck)
    assert left[-1] > len(text) - 16 * 2**20, "the kernel's buffers, one chunk, and the transport's 64 KiB"

    transport.resume_reading()
    async with asyncio.timeout(20):
        assert await server[0].readexactly(len(text)) == text


async def test_a_slow_fault_does_not_buffer_without_bound(connect: Connect, plain: FaultProxy, until: Until) -> None:
    client, _ = await connect()
    drip = plain.add(SlowDrip(1, every=30), Direction.TO_SERVER)
    client[1].write(b"x" * 30_000_000)
    await until(lambda: drip.hits)

    left = [0]

    def stuck() -> bool:
        left.append(client[1].transport.get_write_buffer_size())
        return left[-1] == left[-2] > 0 and len(left) > 200

    await until(stuck)
    assert left[-1] > 30_000_000 - 16 * 2**20
    with contextlib.suppress(ConnectionError):
        client[1].transport.abort()


async def test_a_fault_on_certain_connections_spares_all_others(proxy: FaultProxy, until: Until) -> None:
    listener = Redis(port=proxy.port, protocol=2, retry=ONCE, socket_timeout=0.3)
    async with listener, Redis(port=proxy.port, retry=ONCE) as asker, listener.pubsub() as channel:
        await channel.subscribe("news")
        assert await channel.get_message(timeout=5.0), "the subscription is confirmed"
        assert await asker.ping(), "the other connection is open"

        hole = proxy.add(BlackHole(), on=named("subscribe"))
        await asker.publish("news", "lost")
        await until(lambda: hole.hits)
        assert await channel.get_message(timeout=0.05) is None, "what the listener was told did not get lost"
        assert await asker.ping(), "a connection that has not subscribed was struck"
        async with Redis(port=proxy.port, protocol=2, retry=ONCE) as late, late.pubsub() as again:
            await again.subscribe("news")
            assert await again.get_message(timeout=5.0), "a connection made afterwards was struck"


async def test_certain_connections_can_be_told_only_by_requests(redis_port: int) -> None:
    async with FaultProxy("127.0.0.1", redis_port) as blind:
        with pytest.raises(NeedsProtocol):
            blind.add(BlackHole(), on=named("subscribe"))
