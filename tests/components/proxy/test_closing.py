"""Whatever was going on, closing the proxy leaves no task, no socket and no timer, and gives the port back."""

import asyncio
import contextlib
import gc
import socket
import warnings
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest
from redis.asyncio import Redis

from faultline.components.faults import BlackHole, Fault, Latency, Refuse, Reset, SlowDrip
from faultline.components.proxy import FaultProxy, named

Until = Callable[[Callable[[], object]], Awaitable[None]]


async def abandon(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Read to the end, whichever it is, and close."""
    with contextlib.suppress(ConnectionError):
        await reader.read()
    writer.transport.abort()
    with contextlib.suppress(ConnectionError):
        await writer.wait_closed()


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.mark.parametrize("fault", [None, Latency(60), BlackHole(), SlowDrip(1, every=60), Refuse()], ids=str)
async def test_closing_leaves_nothing_behind(redis_port: int, until: Until, fault: Fault | None) -> None:
    gc.collect()
    tasks, open_before = asyncio.all_tasks(), descriptors()

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        async with FaultProxy("127.0.0.1", redis_port, protocol="redis") as proxy:
            clients = [await asyncio.open_connection(proxy.host, proxy.port) for _ in range(5)]
            await until(lambda: proxy.counts.open == 5)
            hold = proxy.hold(named("GET"))
            if fault:
                proxy.add(fault)
            for number, (_, writer) in enumerate(clients):
                writer.write([b"PING\r\n", b"GET k\r\n", b"*3\r\n$3\r\nSE", b"PING\r\n" * 100_000, b""][number])
            await until(lambda: hold.arrived and proxy.counts.requests > 100)
        while clients:
            await abandon(*clients.pop())
        gc.collect()

    assert asyncio.all_tasks() == tasks
    assert descriptors() == open_before
    assert proxy.counts.open == 0


async def test_the_port_is_given_back(redis_port: int) -> None:
    async with FaultProxy("127.0.0.1", redis_port) as proxy:
        port = proxy.port

    with socket.socket() as sock:
        sock.bind(("127.0.0.1", port))


@pytest.fixture
def stuck_port() -> Iterator[int]:
    """A server whose queue is full, so that no handshake with it is ever finished."""
    with contextlib.ExitStack() as stack:
        full = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        port: int = full.getsockname()[1]
        for _ in range(3):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(("127.0.0.1", port))
        yield port


async def test_closing_while_connecting_upstream_leaves_nothing_behind(stuck_port: int, until: Until) -> None:
    gc.collect()
    open_before = descriptors()

    async with asyncio.timeout(5), FaultProxy("127.0.0.1", stuck_port) as proxy:
        client = await asyncio.open_connection(proxy.host, proxy.port)
        await until(lambda: proxy.counts.open)

    with pytest.raises(ConnectionResetError):
        await client[0].read()
    await abandon(*client)
    del client
    assert descriptors() == open_before


async def test_a_socket_that_was_made_for_the_server_is_closed_where_nobody_listens(until: Until) -> None:
    made = list[socket.socket]()

    def make() -> socket.socket:
        made.append(socket.socket())
        return made[-1]

    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        async with FaultProxy(*nobody.getsockname(), far=make) as proxy:
            await abandon(*await asyncio.open_connection(proxy.host, proxy.port))
            await until(lambda: made and made[0].fileno() == -1)


async def test_a_reset_strikes_a_connection_that_is_not_through_to_the_server_yet(
    stuck_port: int, until: Until
) -> None:
    async with asyncio.timeout(5), FaultProxy("127.0.0.1", stuck_port) as proxy:
        client = await asyncio.open_connection(proxy.host, proxy.port)
        await until(lambda: proxy.counts.open)

        torn = proxy.add(Reset())

        with pytest.raises(ConnectionResetError):
            await client[0].read()
        await until(lambda: proxy.counts.open == 0)
        await abandon(*client)
        assert torn.hits == 1


async def test_a_reset_strikes_a_connection_in_the_moment_of_its_accept(proxy: FaultProxy) -> None:
    """It is accepted, and its task has not taken its first step."""
    with socket.socket() as client:
        client.setblocking(False)
        client.connect_ex((proxy.host, proxy.port))
        while not proxy.counts.accepted:  # noqa: ASYNC110 -- the very next turn of the loop, no later
            await asyncio.sleep(0)

        torn = proxy.add(Reset())

        async with asyncio.timeout(5):
            with pytest.raises(ConnectionResetError):
                await asyncio.get_running_loop().sock_recv(client, 1)
    assert torn.hits == 1


async def test_an_error_inside_passes_through(redis_port: int) -> None:
    with pytest.raises(ZeroDivisionError):
        async with FaultProxy("127.0.0.1", redis_port):
            _ = 1 / 0


async def test_finished_connections_are_forgotten_while_the_proxy_runs(
    proxy: FaultProxy, direct: Redis, until: Until
) -> None:
    gc.collect()
    open_before = descriptors()

    for _ in range(20):
        async with Redis(port=proxy.port, single_connection_client=True) as client:
            await client.ping()

    await until(lambda: proxy.counts.open == 0)
    assert proxy.counts.accepted >= 20
    await until(lambda: descriptors() == open_before)


async def test_a_proxy_can_be_entered_in_one_task_and_left_in_another(redis_port: int) -> None:
    """As a test's fixture does."""
    proxy = FaultProxy("127.0.0.1", redis_port, protocol="redis")
    await asyncio.ensure_future(proxy.__aenter__())
    reader, writer = await asyncio.open_connection(proxy.host, proxy.port)
    writer.write(b"PING\r\n")
    assert await reader.readline() == b"+PONG\r\n"

    await asyncio.ensure_future(proxy.__aexit__(None, None, None))

    with pytest.raises(ConnectionResetError):
        await reader.read()
    writer.transport.abort()
