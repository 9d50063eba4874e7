"""Connections to one PostgreSQL server, kept for whoever needs one next: what the patterns over PostgreSQL stand on.

Not psycopg_pool (3.3.3, tried side by side): with its `check` 500 uses took 1,001 round trips instead of 501; while the
server is away it waits for its `timeout` and raises `PoolTimeout`, which does not say why, where this raises the reason
at once; after a restart it was back in 1.1 s instead of 0.01; and it works in four tasks of its own.
"""

from __future__ import annotations

import asyncio
import select
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Self

from faultline.patterns.errors import Away

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Mapping
    from types import TracebackType

    from psycopg import AsyncConnection

AWAY = ("08", "53", "57P")  # how the SQLSTATE begins of a server that cannot work now, whatever it is asked


class Connections:
    """At most `most` at a time, each with autocommit; opened when needed and kept afterwards.

    One that comes back inside a transaction, or broken, is closed, so a cancelled or failed caller holds nothing. One
    on which the server has said anything meanwhile (its farewell) is not handed out.
    """

    def __init__(self, dsn: str, settings: Mapping[str, str], *, most: int = 10) -> None:
        """Talk to nobody yet; `settings` are the server's, for each of these connections."""
        if most < 1:
            raise ValueError(f"no work with {most} connections")
        self._dsn = dsn
        self._settings = dict(settings)
        self._room = asyncio.Semaphore(most)
        self._idle: list[AsyncConnection] = []
        self._closed = False

    @asynccontextmanager
    async def one(self) -> AsyncIterator[AsyncConnection]:
        """One connection for the block. Raises `psycopg.OperationalError` when the server cannot be reached."""
        from psycopg.pq import TransactionStatus

        async with self._room:
            connection = await self._kept() or await self._opened()
            try:
                yield connection
            finally:
                if connection.info.transaction_status == TransactionStatus.IDLE and not self._closed:
                    self._idle.append(connection)
                else:
                    await connection.close()

    async def close(self) -> None:
        """Close what is kept; what is in use is closed when it comes back."""
        self._closed = True
        while self._idle:
            await self._idle.pop().close()

    async def _kept(self) -> AsyncConnection | None:
        while self._idle:
            connection = self._idle.pop()
            if not connection.closed and not _spoken_to(connection.fileno()):
                return connection
            await connection.close()
        return None

    async def _opened(self) -> AsyncConnection:
        from psycopg import AsyncConnection

        connection = await AsyncConnection.connect(self._dsn, autocommit=True)
        try:
            for setting, value in self._settings.items():
                await connection.execute("SELECT set_config(%s, %s, false)", (setting, value))
        except BaseException:
            await connection.close()
            raise
        return connection


@contextmanager
def saying_away() -> Iterator[None]:
    """Raises `Away` for an error that tells of the server, or of the way there, and not of what was asked."""
    from psycopg import OperationalError

    try:
        yield
    except OperationalError as error:
        if error.sqlstate is None or error.sqlstate.startswith(AWAY):
            raise Away(repr(error)) from error
        raise


class OverPostgres:
    """What has connections of its own, which the end of an `async with` closes."""

    _connections: Connections

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._connections.close()

    @asynccontextmanager
    async def _making(self, what: str) -> AsyncIterator[AsyncConnection]:
        """A transaction in which nobody else makes `what`: also IF NOT EXISTS fails for two who do so at once."""
        async with self._connections.one() as session, session.transaction():
            await session.execute("SELECT pg_advisory_xact_lock(hashtextextended(%s, 0))", (f"create {what}",))
            yield session


def _spoken_to(descriptor: int) -> bool:
    """Whether bytes wait there: a server says nothing to an idle connection but that it is over."""
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(0))
