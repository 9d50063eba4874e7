"""PostgreSQL in a check: its address for the learner's code, questions of the grader's own for the truth.

A server starts in a third of a second, so checks that break none share one, each in a database of its own. What would
hit the others (kill, pause, roles, settings) only a server of one's own can be asked for.
"""

import asyncio
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psycopg

from faultline.components import Clone, Instance, Supervisor
from faultline.components.component import Address
from faultline.components.proxy import FaultProxy
from faultline.testbed.breakable import Breakable
from faultline.testbed.faked_clock import FakedClock
from faultline.testbed.history import History
from faultline.testbed.until import until

Row = tuple[Any, ...]


def dsn_of(at: Address, *, user: str = "postgres", database: str = "postgres") -> str:
    """What psycopg, asyncpg and libpq take; without TLS, so that a proxy can read along."""
    return f"postgresql://{user}@{at.host}:{at.port}/{database}?sslmode=disable&gssencmode=disable&connect_timeout=10"


@dataclass(slots=True, eq=False)
class Asked:
    """What the grader asks for the truth, on a connection of its own."""

    _asking: "psycopg.AsyncConnection[Row] | None" = field(init=False, default=None)
    _one_at_a_time: asyncio.Lock = field(init=False, default_factory=asyncio.Lock)

    def at(self) -> str:
        """Its address as contracts take it, a connection string."""
        raise NotImplementedError

    async def truth(self, sql: str, parameters: Sequence[Any] = ()) -> list[Row]:
        """The rows that one statement gives, committed at once; on a connection of the grader's own.

        After a restart it connects anew. Raises `psycopg.Error`.
        """
        async with self._one_at_a_time:
            if self._asking is None or self._asking.closed:
                self._asking = await self.connect(autocommit=True)
            cursor = await self._asking.execute(sql.encode(), parameters or None)
            return await cursor.fetchall() if cursor.description else []

    async def connect(self, *, autocommit: bool = False) -> "psycopg.AsyncConnection[Row]":
        """A connection more for the check itself, which closes it."""
        return await psycopg.AsyncConnection.connect(self.at(), autocommit=autocommit)

    async def script(self, sql: str) -> None:
        """Several statements at once: a schema, or what a check finds there at its beginning."""
        async with await self.connect(autocommit=True) as connection:
            await connection.execute(sql.encode())

    async def close(self) -> None:
        """Hang up."""
        if self._asking is not None:
            await self._asking.close()
        self._asking = None


@dataclass(slots=True, eq=False)
class Database(Asked):
    """An empty database of the check's own, on the server that the checks of a run share; nothing breaks it."""

    server: Address
    name: str

    def at(self) -> str:
        """Its address as contracts take it, a connection string."""
        return dsn_of(self.server, database=self.name)


class SharedPostgres:
    """One server for all checks of a run, started when the first of them asks, and ended with the block."""

    def __init__(self, folder: Path, clone: Clone) -> None:
        self._supervisor = Supervisor(folder, clone)
        self._instance: Instance | None = None
        self._made = 0
        self._one_at_a_time = asyncio.Lock()
        self._stack = AsyncExitStack()

    async def database(self) -> Database:
        """An empty database; it goes with the server, for dropping one waits for a checkpoint."""
        async with self._one_at_a_time:  # also because CREATE DATABASE wants its template for itself
            if self._instance is None:
                self._instance = await self._supervisor.start("postgres", settings={"fsync": False})
            self._made += 1
            name = f"check_{self._made}"
            async with await psycopg.AsyncConnection.connect(dsn_of(self._instance), autocommit=True) as connection:
                await connection.execute(f"CREATE DATABASE {name}".encode())
        return Database(self._instance, name)

    async def __aenter__(self) -> Self:
        await self._stack.enter_async_context(self._supervisor)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._instance:
            self._instance.kill_now()  # nothing that it holds is needed any more
        await self._stack.aclose()


@dataclass(slots=True, eq=False)
class PostgresServer(Asked, Breakable):
    """One real server; the check may break it, and ask it for the truth. What was committed survives a kill."""

    instance: Instance
    history: History
    clock: FakedClock | None = None

    def at(self, *, user: str = "postgres") -> str:
        """Its address as contracts take it, a connection string; `user` may be a role that the check has made."""
        return dsn_of(self.instance, user=user)

    async def wall_clock(self) -> float:
        """What it takes for the time of day (`clock_timestamp()`), in Unix seconds."""
        [(seconds,)] = await self.truth("SELECT extract(epoch FROM clock_timestamp())::float8")
        return float(seconds)

    async def _begun(self) -> None:
        if self.clock:
            await self.clock.started(self)

    async def _hang_up(self) -> None:
        await self.close()

    async def forgotten(self, ports: Sequence[int]) -> None:
        """Return when it has ended all sessions that came from these ports, whose connections are closed."""
        await until(lambda: self._knows_none_of(ports), f"{self.name} had ended the sessions of the dead")

    async def _knows_none_of(self, ports: Sequence[int]) -> bool:
        return not await self.truth("SELECT pid FROM pg_stat_activity WHERE client_port = ANY (%s)", (list(ports),))


@dataclass(frozen=True, slots=True)
class ProxiedPostgres:
    """The way to a server that leads through a fault proxy of its own."""

    proxy: FaultProxy
    server: PostgresServer

    @property
    def requests(self) -> int:
        """Statements that were executed through it until now, BEGIN and COMMIT too."""
        return self.proxy.counts.requests

    def at(self, *, user: str = "postgres") -> str:
        """The proxy's address as contracts take it, a connection string."""
        return dsn_of(self.proxy, user=user)
