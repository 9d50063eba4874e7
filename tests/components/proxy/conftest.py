"""Real servers, a proxy before each, and clients that go through it."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from faultline.components import Supervisor
from faultline.components.proxy import FaultProxy

DEADLINE = 20.0
ONCE = Retry(NoBackoff(), 0)

End = tuple[asyncio.StreamReader, asyncio.StreamWriter]
Until = Callable[[Callable[[], object]], Awaitable[None]]
Connect = Callable[[], Awaitable[tuple[End, End]]]


@pytest.fixture
async def supervisor(tmp_path: Path) -> AsyncIterator[Supervisor]:
    async with Supervisor(tmp_path / "servers") as supervisor:
        yield supervisor


@pytest.fixture
async def redis_port(supervisor: Supervisor) -> int:
    """A Redis (or Valkey) of our own."""
    return (await supervisor.start("redis")).port


@pytest.fixture
async def postgres_port(supervisor: Supervisor) -> int:
    """A PostgreSQL of our own."""
    return (await supervisor.start("postgres", settings={"fsync": False})).port


@pytest.fixture
async def proxy(redis_port: int) -> AsyncIterator[FaultProxy]:
    """Before Redis, reading its commands."""
    async with FaultProxy("127.0.0.1", redis_port, protocol="redis", seed=1) as proxy:
        yield proxy


@pytest.fixture
async def direct(redis_port: int) -> AsyncIterator[Redis]:
    """The truth: a client that does not go through the proxy; the database is empty at first."""
    async with Redis(port=redis_port) as client:
        await client.flushall()
        yield client


@pytest.fixture
async def redis(proxy: FaultProxy, direct: Redis) -> AsyncIterator[Redis]:
    """A client through the proxy."""
    async with Redis(port=proxy.port, protocol=2, retry=ONCE, single_connection_client=True) as client:
        yield client


@pytest.fixture
async def accepted() -> AsyncIterator[list[End]]:
    """The server's ends of all connections to the server that the test plays itself."""
    ends: list[End] = []
    yield ends
    for _, writer in ends:
        writer.transport.abort()


@pytest.fixture
async def plain(accepted: list[End]) -> AsyncIterator[FaultProxy]:
    """A proxy before the server that the test plays itself."""
    async with await asyncio.start_server(lambda *end: accepted.append(end), "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        async with FaultProxy("127.0.0.1", port, seed=1) as proxy:
            yield proxy
        for _, writer in accepted:
            writer.transport.abort()


@pytest.fixture
async def connect(plain: FaultProxy, accepted: list[End], until: Until) -> AsyncIterator[Connect]:
    """Opens a connection through `plain` and gives the client's end and the server's."""
    clients: list[End] = []

    async def connect() -> tuple[End, End]:
        number = len(accepted)
        clients.append(await asyncio.open_connection(plain.host, plain.port))
        await until(lambda: len(accepted) > number)
        return clients[-1], accepted[number]

    yield connect
    for _, writer in clients:
        writer.transport.abort()


@pytest.fixture
def until() -> Until:
    """Waits for a condition, with a deadline."""

    async def until(condition: Callable[[], object]) -> None:
        async with asyncio.timeout(DEADLINE):
            while not condition():  # noqa: ASYNC110 -- any condition: nothing here could set an event
                await asyncio.sleep(0.001)

    return until
