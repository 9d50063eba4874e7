"""What the shop has written down, wherever that is, read without changing anything.

Every database by a role that can only read, the provider's too; the broker by its management API; the search's index by
searching; the cache by looking; and what the clients have been told by their history.
"""

from __future__ import annotations

import json
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, LiteralString, Self
from urllib.parse import quote

import psycopg
from aio_pika.exceptions import ChannelNotFoundEntity
from psycopg.conninfo import make_conninfo
from redis.asyncio import Redis
from redis.exceptions import RedisError

from faultline.chaos.errors import Unreadable
from faultline.components.http import ask

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence
    from types import TracebackType

    from faultline.chaos.history import Operation
    from faultline.testbed.rabbitmq import Broker

ROLE = "shop_checker"
GRANT = f"""
DO $$ BEGIN
    CREATE ROLE {ROLE} LOGIN;
EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL;
END $$;
GRANT pg_read_all_data TO {ROLE};
ALTER ROLE {ROLE} SET default_transaction_read_only = on;
"""
PATIENCE = 5.0  # seconds for a store to answer
INDEX = "shop-products"
GONE, FOR_EVER = -2, -1  # what Redis says instead of milliseconds
AT_ONCE = 200  # documents of the index, or entries of the cache


@dataclass(frozen=True, slots=True)
class Queue:
    """A queue of the broker, and how many messages nobody has been given yet."""

    name: str
    waiting: int


class Book:
    """One service's database, as it is at one moment."""

    def __init__(self, connection: psycopg.AsyncConnection) -> None:
        self._connection = connection

    async def rows(self, statement: LiteralString, *values: object) -> list[tuple[Any, ...]]:
        """What is in there."""
        return await (await self._connection.execute(statement, values)).fetchall()


class Books:
    """All of them. An `async with` closes the connections."""

    def __init__(
        self,
        *,
        postgres: str,
        broker: Broker | None = None,
        history: Callable[[], Sequence[Operation]] = tuple,
        opensearch: str = "",
        index: str = INDEX,
        redis: str = "",
    ) -> None:
        """`postgres`: the server, as who may make a role. `history`: all that there is of it until now.

        `index`: what the index of products is called; a server that is not named cannot be read.
        """
        self._server = postgres
        self._opensearch, self._index, self._redis = opensearch, index, redis
        self._broker = broker
        self._history = history
        self._open: dict[str, psycopg.AsyncConnection] = {}

    async def __aenter__(self) -> Self:
        async with await psycopg.AsyncConnection.connect(self._server, autocommit=True) as connection:
            await connection.execute(GRANT.encode())
            found = await (await connection.execute("SELECT datname FROM pg_database")).fetchall()
        self.databases = {name for (name,) in found}
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for connection in self._open.values():
            await connection.close()

    @property
    def history(self) -> Sequence[Operation]:
        """What the clients have asked and been told until now."""
        return self._history()

    @asynccontextmanager
    async def of(self, service: str) -> AsyncIterator[Book]:
        """A service's database: all that the block reads is of one moment. Raises `Unreadable`."""
        try:
            connection = await self._connection(service)
            async with connection.transaction():
                yield Book(connection)
        except psycopg.OperationalError as error:
            if gone := self._open.pop(service, None):
                await gone.close()
            raise Unreadable(f"the database {service}: {error}") from error
        except psycopg.errors.UndefinedTable as error:
            raise Unreadable(f"the database {service} is another than is known here: {error}") from error

    async def _connection(self, service: str) -> psycopg.AsyncConnection:
        if service not in self._open:
            if service not in self.databases:
                raise Unreadable(f"there is no database {service}")
            where = make_conninfo(self._server, dbname=service, user=ROLE)
            one = await psycopg.AsyncConnection.connect(where, connect_timeout=round(PATIENCE))
            await one.set_autocommit(True)
            await one.set_isolation_level(psycopg.IsolationLevel.REPEATABLE_READ)
            await one.set_read_only(True)
            self._open[service] = one
        return self._open[service]

    async def search(self, body: dict[str, Any]) -> dict[str, Any]:
        """What the index of products answers to that. Raises `Unreadable`."""
        if not self._opensearch:
            raise Unreadable("the index of products was not named")
        url = f"{self._opensearch.rstrip('/')}/{self._index}/_search"
        try:
            answer = await ask(
                url, method="POST", body=json.dumps(body).encode(), headers={"Content-Type": "application/json"}
            )
        except OSError as error:
            raise Unreadable(f"the index {self._index}: {error}") from error
        if answer.status != 200:
            raise Unreadable(f"the index {self._index}: {answer.status} {answer.body[:200]!r}")
        return dict(json.loads(answer.body))

    async def found(self, query: dict[str, Any], *, by: str) -> AsyncIterator[dict[str, Any]]:
        """All documents of the index that fit, ordered by that field, no two of which have the same there."""
        after: list[Any] = []
        while True:
            body: dict[str, Any] = {"query": query, "size": AT_ONCE, "sort": [{by: "asc"}]}
            hits = (await self.search(body | ({"search_after": after} if after else {})))["hits"]["hits"]
            for hit in hits:
                yield hit["_source"]
            if len(hits) < AT_ONCE:
                return
            after = hits[-1]["sort"]

    async def cached(self, prefix: str) -> AsyncIterator[tuple[str, bytes, float | None]]:
        """Each key in Redis that begins so, what is there, and the seconds for which it stays; None: for ever.

        What goes while it is looked at is left out.
        """
        if not self._redis:
            raise Unreadable("Redis was not named")
        try:
            async with Redis.from_url(self._redis, socket_timeout=PATIENCE) as redis:
                async for key in redis.scan_iter(match=f"{prefix}*", count=AT_ONCE):
                    value, left = await redis.get(key), await redis.pttl(key)
                    if isinstance(value, bytes) and left != GONE:
                        yield key.decode().removeprefix(prefix), value, None if left == FOR_EVER else left / 1000
        except RedisError as error:
            raise Unreadable(f"Redis: {error}") from error

    async def queues(self) -> list[Queue]:
        """All queues; how many wait in each is asked of the queue itself, since statistics are seconds old."""
        if self._broker is None:
            raise Unreadable("the broker was not named")
        names = [
            one["name"] for one in await self._broker.server.manage("GET", f"queues/{_quoted(self._broker.vhost)}")
        ]
        found: list[Queue] = []
        async with self._broker.connected() as connection:
            for name in names:
                async with connection.channel() as channel:
                    with suppress(ChannelNotFoundEntity):  # it was there a moment ago
                        queue = await channel.declare_queue(name, passive=True)
                        found.append(Queue(name, queue.declaration_result.message_count or 0))
        return found

    async def peek(self, queue: str, most: int = 10) -> list[dict[str, Any]]:
        """Messages that lie in a queue which nobody reads; they stay there."""
        if self._broker is None:
            raise Unreadable("the broker was not named")
        path = f"queues/{_quoted(self._broker.vhost)}/{_quoted(queue)}/get"
        asked = {"count": most, "ackmode": "ack_requeue_true", "encoding": "auto"}
        return list(await self._broker.server.manage("POST", path, asked))


def _quoted(name: str) -> str:
    return quote(name, safe="")
