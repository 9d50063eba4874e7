"""Real servers, clients of them, and a way to wait for a condition."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import TimeoutError as RedisTimeout

from faultline.components import Instance, Supervisor
from faultline.components.proxy import FaultProxy

DEADLINE = 20.0

Until = Callable[[Callable[[], Awaitable[object]]], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Servers:
    """Starts Redis servers, and closes whatever was opened to them."""

    supervisor: Supervisor
    opened: AsyncExitStack

    async def start(self, **settings: object) -> Instance:
        return await self.supervisor.start("redis", settings=settings)

    def client(
        self, server: Instance | FaultProxy, *, timeout: float = 5.0, connections: int = 100, retries: int = 0
    ) -> Redis:
        """As a lock wants it: it does not retry, and gives up after `timeout`."""
        client = Redis(
            host=server.host,
            port=server.port,
            socket_timeout=timeout,
            socket_connect_timeout=timeout,
            max_connections=connections,
            retry=Retry(NoBackoff(), retries),
        )
        self.opened.push_async_callback(_closed, client)
        return client

    async def proxy(self, server: Instance) -> FaultProxy:
        return await self.opened.enter_async_context(FaultProxy(server.host, server.port, protocol="redis", seed=1))


async def _closed(client: Redis) -> None:
    """Its connections, also where a busy machine takes longer than a lock would wait."""
    with suppress(RedisTimeout):
        await client.aclose()


@pytest.fixture
async def servers(tmp_path: Path) -> AsyncIterator[Servers]:
    async with Supervisor(tmp_path) as supervisor, AsyncExitStack() as opened:
        yield Servers(supervisor, opened)


@pytest.fixture
async def server(servers: Servers) -> Instance:
    return await servers.start()


@pytest.fixture
def redis(servers: Servers, server: Instance) -> Redis:
    return servers.client(server)


@pytest.fixture
def until() -> Until:
    """Wait until the answer is true, with a deadline."""

    async def until(condition: Callable[[], Awaitable[object]]) -> None:
        async with asyncio.timeout(DEADLINE):
            while not await condition():  # noqa: ASYNC110 - a server calls nobody back
                await asyncio.sleep(0.002)

    return until
