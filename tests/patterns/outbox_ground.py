"""What the tests of outbox, relay and consumer stand on: real servers, events, and what arrived."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import psycopg

from faultline.components import Instance, Supervisor
from faultline.patterns import Event, Outbox
from faultline.testbed.rabbitmq import Broker, RabbitServer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from faultline.components.proxy import FaultProxy

OUTBOX = Outbox()


@asynccontextmanager
async def virtual_host(server: RabbitServer) -> AsyncIterator[Broker]:
    """One of the test's own, with the durable queue `said`."""
    async with server.vhost("outbox") as broker:
        await declare(broker, "said")
        yield broker


@asynccontextmanager
async def own_rabbitmq(folder: Path) -> AsyncIterator[tuple[Instance, Broker]]:
    """A whole server, to be broken, with the durable queue `said`."""
    async with Supervisor(folder / "rabbitmq") as supervisor:
        server = await supervisor.start("rabbitmq")
        broker = Broker(RabbitServer.of(server), "/")
        await declare(broker, "said")
        yield server, broker


@asynccontextmanager
async def database_with_outbox(folder: Path) -> AsyncIterator[Instance]:
    """A PostgreSQL of the test's own, to be broken."""
    async with Supervisor(folder / "postgres") as supervisor:
        server = await supervisor.start("postgres", settings={"fsync": False})
        async with await psycopg.AsyncConnection.connect(server.url) as connection:
            await OUTBOX.create(connection)
        yield server


def event(name: str, subject: str = "order-1", to: str = "said") -> Event:
    return Event(id=name, type=to, subject=subject, data={"name": name}, headers={"traceparent": "00-1"})


async def say(dsn: str, *events: Event) -> None:
    """All in one transaction."""
    async with await psycopg.AsyncConnection.connect(dsn) as connection:
        for one in events:
            await OUTBOX.append(connection, one)


async def declare(broker: Broker, queue: str, **arguments: str | int) -> None:
    async with broker.connected() as connection:
        await (await connection.channel()).declare_queue(queue, durable=True, arguments={**arguments})


async def heard(broker: Broker, queue: str = "said") -> list[str]:
    """The ids of all that is in the queue, taken out of it."""
    async with broker.connected() as connection:
        there = await (await connection.channel()).get_queue(queue)
        ids: list[str] = []
        while message := await there.get(fail=False, no_ack=True):
            ids.append(message.message_id or "")
    return ids


def through(proxy: FaultProxy, server: Broker | Instance) -> str:
    """The server's address on the other side of the proxy."""
    port = server.port if isinstance(server, Instance) else server.server.port
    return server.url.replace(f":{port}/", f":{proxy.port}/")
