"""Notifications and the gateway alone, on real servers, with a proxy before each; what others would say tests say."""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aio_pika
import aiohttp
import msgspec
from tests.shop.conftest import DEADLINE, Reply, Shop, until

from faultline.chaos.owners import calls_of, owner_of
from faultline.components import Clone, Supervisor
from faultline.components.proxy import Command, FaultProxy
from faultline.engine import shop
from faultline.shop.contracts import (
    Contract,
    Money,
    OrderCancelled,
    OrderConfirmed,
    OrderLine,
    OrderPlaced,
    PaymentRefunded,
    PaymentRefundFailed,
    said,
)
from faultline.testbed.rabbitmq import RabbitServer

ONE, TWO = "notifications-1", "notifications-2"
DATABASE = "notifications"
QUEUE = "notifications.events"
TELL = """
WITH opened AS (
    INSERT INTO mailbox (recipient, last) VALUES (%(user)s, %(n)s)
    ON CONFLICT (recipient) DO UPDATE SET last = mailbox.last + %(n)s RETURNING last
), told AS (
    INSERT INTO notification (recipient, number, id, event, template, about, title, text)
    SELECT %(user)s, last - %(n)s + n, %(user)s || (last - %(n)s + n), %(user)s || (last - %(n)s + n), 'x', 'x', 'x',
        repeat('x', %(size)s) FROM opened, generate_series(1, %(n)s) AS n
)
SELECT pg_notify('notifications', %(user)s) FROM opened
"""

"""Tells `user` so many things at once, without an event."""
Saying = tuple[Contract, str, int]
"""An event, its subject, and the subject's version."""


@dataclass(frozen=True, slots=True)
class Heard:
    """What a stream has said at once."""

    id: int
    body: dict[str, Any]


class Stream:
    """A stream as a browser reads it."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self._response = response
        self.status = response.status
        self.beats = 0

    async def next(self) -> Heard | None:
        """What is said next, heart-beats left out; None where the stream has ended as it should."""
        fields: dict[str, str] = {}
        async with asyncio.timeout(DEADLINE):
            async for raw in self._response.content:
                line = raw.decode().rstrip("\n")
                if line.startswith(":"):
                    self.beats += 1
                elif line:
                    name, _, value = line.partition(": ")
                    fields[name] = value
                elif fields:
                    body = msgspec.json.decode(fields["data"]) if "data" in fields else {}
                    return Heard(int(fields["id"]), body)
        return None

    async def event(self) -> Heard:
        """What is told next: not where it begins."""
        while (heard := await self.next()) is not None:
            if heard.body:
                return heard
        raise AssertionError("the stream is over")


@dataclass(frozen=True, slots=True)
class Town:
    """The services, and what is between them and their servers."""

    shop: Shop
    before_broker: FaultProxy

    async def say(self, *events: Saying) -> None:
        """As a relay would."""
        async with await aio_pika.connect(self.shop.broker.url) as connection:
            exchange = await (await connection.channel()).get_exchange("shop.events")
            for event, subject, sequence in events:
                word = said(event, subject=subject, sequence=sequence, time=datetime.now(UTC), correlation="a-test")
                message = aio_pika.Message(
                    msgspec.json.encode(word.data),
                    message_id=word.id,
                    type=word.type,
                    headers={**word.headers, "subject": subject},
                    delivery_mode=aio_pika.DeliveryMode.PERSISTENT,
                )
                await exchange.publish(message, routing_key=word.type)

    async def inbox(self, user: str, query: str = "?limit=100", *, at: str = ONE) -> dict[str, Any]:
        """What they find there."""
        reply = await self.shop.ask(at, f"/v1/notifications{query}", X_User=user)
        assert reply.status == 200, reply.body
        return dict(reply.body)

    async def told(self, user: str, *templates: str) -> list[dict[str, Any]]:
        """Wait until they were told these, the oldest first, and nothing else."""
        found: list[dict[str, Any]] = []

        async def there() -> bool:
            nonlocal found
            found = (await self.inbox(user))["items"][::-1]
            return len(found) >= len(templates)

        await until(there)
        assert [one["template"] for one in found] == list(templates)
        return found

    async def heard(self, *ids: str) -> None:
        """Wait until all these events have had their effect."""
        asked = "SELECT count(*)::int FROM inbox WHERE message_id = ANY (%s)"

        async def all_of_them() -> bool:
            return await self.shop.rows(DATABASE, asked, list(ids)) == [(len(ids),)]

        await until(all_of_them)

    async def settled(self) -> None:
        """Wait until nothing waits in the queue, and all that was told was said."""

        async def quiet() -> bool:
            waits = await self.shop.rows(DATABASE, "SELECT FROM outbox WHERE sent_at IS NULL LIMIT 1")
            return not waits and await self.shop.broker.ready_messages(QUEUE) == 0

        await until(quiet)

    @asynccontextmanager
    async def stream(
        self, user: str, last: int | None = None, *, at: str = ONE, query: str = ""
    ) -> AsyncIterator[Stream]:
        """One of theirs, as it begins."""
        headers = {"X-User": user} | ({} if last is None else {"Last-Event-ID": str(last)})
        url = f"http://127.0.0.1:{self.shop.process(at).port}/v1/notifications/stream{query}"
        async with aiohttp.ClientSession() as session, session.get(url, headers=headers) as response:
            yield Stream(response)

    async def read(self, user: str, id_: str) -> Reply:
        """They say that they have read it."""
        return await self.shop.ask(ONE, f"/v1/notifications/{id_}/read", method="PUT", X_User=user)


class Edge:
    """Stops the one request that a test is about, on its way there or with its answer on the way back."""

    def __init__(self, verb: str, *, after: bool, mark: str = "") -> None:
        """`mark`: what was asked before on that connection; empty where that does not matter."""
        self._verb, self._after, self._mark = verb.encode(), after, mark.encode()
        self._marked: set[int] = set()
        self._command: Command | None = None
        self.met = asyncio.Event()
        self.connection = 0

    def arrived(self, command: Command) -> bool:
        if self._mark and self._mark in b" ".join(command.args):
            self._marked.add(command.connection)
        if self._command or command.args[0].upper() != self._verb:
            return False
        if self._mark and command.connection not in self._marked:
            return False
        self._command, self.connection = command, command.connection
        if not self._after:
            self.met.set()
        return not self._after

    def executed(self, command: Command) -> bool:
        if command is self._command:
            self.met.set()
        return command is self._command

    def answered(self, command: Command) -> None:
        if command is self._command:
            self.met.set()


async def kill(town: Town, proxy: FaultProxy, connection: int, signal: int) -> shop.Running:
    """End the process whose connection it is, with all that is on the way; as it was before it."""
    running = {one.pid: one for one in shop.read(town.shop.services.folder) if one.pid}
    pid = owner_of((proxy.client_ports()[connection], proxy.port), running)
    assert pid
    mine = calls_of(pid)
    dead = {
        each: {number for number, port in each.client_ports().items() if (port, each.port) in mine}
        for each in (town.before_broker, town.shop.before_postgres)
    }
    with suppress(ProcessLookupError):
        os.kill(pid, signal)
    for each, connections in dead.items():
        await each.hang_up(connections)
    return running[pid]


@asynccontextmanager
async def notifying(folder: Path, where: tuple[str, int, int], **environment: str) -> AsyncIterator[Town]:
    """Both services, as long as the block lasts."""
    clone = Clone(folder, {**os.environ, **environment})
    async with (
        Supervisor(folder / "servers") as supervisor,
        RabbitServer(*where).vhost("notifications") as broker,
    ):
        postgres = await supervisor.start("postgres", settings={**shop.SETTINGS["postgres"], "fsync": False})
        redis = await supervisor.start("redis")
        address = urlsplit(broker.url)
        assert address.hostname
        assert address.port
        async with (
            FaultProxy(postgres.host, postgres.port, protocol="postgres", seed=1) as before_postgres,
            FaultProxy(redis.host, redis.port, protocol="redis", seed=1) as before_redis,
            FaultProxy(address.hostname, address.port, protocol="amqp", seed=1) as before_broker,
        ):
            urls = {
                "postgres": f"postgresql://postgres@127.0.0.1:{before_postgres.port}/postgres",
                "redis": f"redis://127.0.0.1:{before_redis.port}",
                "rabbitmq": broker.url.replace(f":{address.port}/", f":{before_broker.port}/"),
            }
            async with shop.running(clone, urls, ("notifications", "gateway")) as services:
                await services.ready()
                one = Shop(services, postgres, redis, broker, before_postgres, before_redis)
                yield Town(one, before_broker)


def placed(order: str, user: str, cents: int = 1999) -> Saying:
    lines = (OrderLine(sku="hat", quantity=2, unit=Money(cents // 2)),)
    return OrderPlaced(order=order, user=user, lines=lines, total=Money(cents), key=order), order, 1


def confirmed(order: str, user: str) -> Saying:
    return OrderConfirmed(order=order, user=user), order, 2


def cancelled(order: str, user: str, reason: str) -> Saying:
    return OrderCancelled(order=order, user=user, reason=reason), order, 2


def refunded(order: str, cents: int = 1999) -> Saying:
    return PaymentRefunded(order=order, amount=Money(cents), reference="r", transaction=f"{order}:refund"), order, 3


def refund_failed(order: str) -> Saying:
    return PaymentRefundFailed(order=order, code="gone"), order, 3
