"""A projection: tables that follow from the events, and can be built again at any time, with everything running.

    async def create(tx): await tx.execute("CREATE TABLE totals (sku text PRIMARY KEY, sold int)")
    async def sold(tx, event): await tx.execute("INSERT INTO totals …")

    projector = Projector(store, dsn, name="sales", create=create, handlers={"order-placed": sold})
    await projector.run(on_error=log)          # and readers: SELECT … FROM sales.totals
    await projector.rebuild()                  # meanwhile, in this process or another

**Promise.** Each event takes effect once, in order: what its handler does and the position after it are committed
together, so whoever is killed where, and however many projectors run, the tables are what a fold of all events gives.
A rebuild works beside them, from the first event, while appends, the other projector and readers go on; readers see
the old tables until, in one moment, they see the new ones, which are never behind what they saw before.

**How.** A projection's tables live in a PostgreSQL schema of its name. Handlers run with that schema as their search
path, so a rebuild can let them fill another one, `NAME__next`, and give it the name at the end. The position's row is
locked while a page is applied: a second projector waits, and then sees what is left.

**For handlers.** Name tables without their schema; take all from the event, nothing from a clock or another table, or
a rebuild will give something else. What they do elsewhere happens again at every rebuild.

**Not promised.** That readers see what was just appended: compare `lag`, or the event's position with `position`.
A page is one transaction; readers of the events wait for the end of the transactions that write, these too, so keep
`limit` such that a page takes a moment. A handler that always fails holds up its projection: `run` tells `on_error`.

A rebuild ends if it is faster than events come.

**Cost.** A page: five round trips and what the handlers do. A rebuild: all events once, O(`limit`) memory, twice the
tables' space, and at the end a lock under which less than a page is applied.

Sources: Young, *CQRS Documents* (2010); Kleppmann, *Designing Data-Intensive Applications* (2017), chapter 11, for
building a second view beside the first.
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from faultline.patterns.connections import Connections, OverPostgres
from faultline.patterns.event_store import Position
from faultline.patterns.run_loop import run_loop

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping

    from psycopg import AsyncConnection

    from faultline.patterns.event_store import EventStore
    from faultline.patterns.upcasters import Recorded


SCHEMA = """
CREATE TABLE IF NOT EXISTS projections (
    tables text PRIMARY KEY,
    xid xid8 NOT NULL DEFAULT '0',
    version int NOT NULL DEFAULT 0
)
"""
BEGIN = "INSERT INTO projections (tables) VALUES (%s)"
IS_KNOWN = "SELECT 1 FROM projections WHERE tables = %s"
POSITION = "SELECT xid::text::bigint, version FROM projections WHERE tables = %s"
HELD = POSITION + " FOR UPDATE"
MOVE = "UPDATE projections SET xid = %s::text::xid8, version = %s WHERE tables = %s"
END = "DELETE FROM projections WHERE tables = %s"
SEARCH_PATH = "SET LOCAL search_path TO {tables}"
DROP = "DROP SCHEMA IF EXISTS {tables} CASCADE"
CREATE = "CREATE SCHEMA {tables}"
RENAME = "ALTER SCHEMA {tables} RENAME TO {into}"


class Projector(OverPostgres):
    """Keeps the projection `name` of a store's events in the database `dsn`. An `async with` closes its connections."""

    def __init__(
        self,
        store: EventStore,
        dsn: str,
        *,
        name: str,
        create: Callable[[AsyncConnection], Awaitable[object]],
        handlers: Mapping[str, Callable[[AsyncConnection, Recorded], Awaitable[object]]],
        patience: float = 30.0,
    ) -> None:
        """Talk to nobody yet. `create` makes empty tables; `handlers`, by the type of event, change them.

        `patience`: seconds after which a projector that has stopped inside a page loses it to others. Raises
        `ValueError` for less than 1 ms, and a name that PostgreSQL would cut short.
        """
        if round(patience * 1000) < 1:
            raise ValueError(f"a patience of {patience} s ends every page")
        if not 0 < len(name.encode()) <= 50:
            raise ValueError(f"no schema can be named {name!r}")
        self._store, self._create, self._handlers = store, create, handlers
        self._live, self._next, self._old = name, name + "__next", name + "__old"
        silence = str(round(patience * 1000))
        self._connections = Connections(
            dsn, {"idle_in_transaction_session_timeout": silence, "tcp_user_timeout": silence}
        )

    async def create(self) -> None:
        """Make the tables, empty and at the start, unless they are there; any number of processes may do so at once."""
        async with self._making("projections") as session:
            await session.execute(SCHEMA)
            if not await (await session.execute(IS_KNOWN, (self._live,))).fetchone():
                await self._begin(session, self._live)

    async def run_once(self, limit: int = 500) -> int:
        """Apply the next events, at most `limit`, in one transaction; returns how many, 0 when there are none now.

        Raises what a handler raises, and then nothing has happened.
        """
        async with self._connections.one() as session, session.transaction():
            return await self._page(session, self._live, limit)

    async def run(self, *, on_error: Callable[[Exception], None], every: float = 0.05) -> None:
        """Apply events until it is cancelled, looking every so many seconds when there are none.

        `on_error` is told what a page has raised; the next try comes after twice the pause, at most 5 s.
        """

        async def more() -> bool:
            return await self.run_once() > 0

        await run_loop(more, every=every, on_error=on_error)

    async def position(self) -> Position:
        """Up to where the tables tell."""
        async with self._connections.one() as session:
            return await _position(session, POSITION, self._live)

    async def lag(self) -> int:
        """How many committed events the tables do not tell of yet."""
        return await self._store.behind(await self.position())

    async def rebuild(self, limit: int = 500) -> int:
        """Build the tables anew from the first event and put them in place; returns how many events were applied.

        A second rebuild waits for the first one. Killed or cancelled, it leaves everything as it was.
        """
        async with self._connections.one() as lock:
            try:
                await lock.execute("SELECT pg_advisory_lock(hashtextextended(%s, 0))", (f"rebuild {self._live}",))
                return await self._rebuild(limit)
            finally:
                await lock.close()  # and the lock is free

    async def _rebuild(self, limit: int) -> int:
        applied = 0
        async with self._connections.one() as session:
            async with session.transaction():
                await session.execute(END, (self._next,))
                await self._schema(session, DROP, self._next)
                await self._schema(session, DROP, self._old)
                await self._begin(session, self._next)
            while True:
                async with session.transaction():
                    count = await self._page(session, self._next, limit)
                applied += count
                if count < limit:
                    break
            async with session.transaction():
                applied += await self._swap(session, limit)
            async with session.transaction():
                await self._schema(session, DROP, self._old)
        return applied

    async def _swap(self, session: AsyncConnection, limit: int) -> int:
        """Catch up with the live tables, which stand still meanwhile, and take their place."""
        live = await _position(session, HELD, self._live)
        applied = 0
        while (here := await _position(session, POSITION, self._next)) < live:
            count = await self._page(session, self._next, limit)
            assert count, f"at {here} there is nothing to read, but others have read up to {live}"
            applied += count
        await self._schema(session, RENAME, self._live, self._old)
        await self._schema(session, RENAME, self._next, self._live)
        await session.execute(MOVE, (str(here.xid), here.version, self._live))
        await session.execute(END, (self._next,))
        return applied

    async def _begin(self, session: AsyncConnection, tables: str) -> None:
        await session.execute(BEGIN, (tables,))
        await self._schema(session, CREATE, tables)
        async with _inside(session, tables):
            await self._create(session)

    async def _page(self, session: AsyncConnection, tables: str, limit: int) -> int:
        here = await _position(session, HELD, tables)
        events = await self._store.read_all(here, limit)
        if not events:
            return 0
        async with _inside(session, tables):
            await self._apply(session, events)
        last = events[-1].position
        await session.execute(MOVE, (str(last.xid), last.version, tables))
        return len(events)

    async def _apply(self, session: AsyncConnection, events: list[Recorded]) -> None:
        for event in events:
            handler = self._handlers.get(event.type)
            if handler:
                await handler(session, event)

    async def _schema(self, session: AsyncConnection, statement: str, tables: str, into: str = "") -> None:
        from psycopg import sql

        names = {"tables": sql.Identifier(tables), "into": sql.Identifier(into)}
        await session.execute(sql.SQL(statement).format(**names))  # pyright: ignore[reportArgumentType]


@asynccontextmanager
async def _inside(session: AsyncConnection, tables: str) -> AsyncIterator[None]:
    """With the projection's schema as the search path, and only that; an error ends the transaction, and so this."""
    from psycopg import sql

    await session.execute(sql.SQL(SEARCH_PATH).format(tables=sql.Identifier(tables)))
    yield
    await session.execute("SET LOCAL search_path TO DEFAULT")


async def _position(session: AsyncConnection, question: str, tables: str) -> Position:
    row = await (await session.execute(question, (tables,))).fetchone()  # pyright: ignore[reportArgumentType, reportCallIssue]
    if row is None:
        raise LookupError(f"nobody has made the tables {tables}: call `create` first")
    return Position(*row)
