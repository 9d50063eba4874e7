"""An event store on PostgreSQL: append with an expected version, and one order of all events, without a hole.

    store = EventStore(dsn, upcasters={("order-placed", 1): with_currency})
    history = await store.read("order-123")
    facts = [Fact(id=new_id, type="order-shipped", data={...})]
    await store.append("order-123", len(history), facts)  # or VersionConflict: read and decide again

    async for event in store.subscribe(after=position): ...

**Promise.** Of any number who append to one stream with the same expected version, one succeeds; its facts are there
all or not at all, and nobody changes or deletes them (a trigger refuses even the table's owner). The same facts
appended again, because a reply was lost, are not appended twice: the answer is the first one. Whoever reads all events
and goes on from the last position it has seen misses none, sees none twice, and sees each stream's in the order of
their versions, whatever commits when.

**How.** The key (stream, version) lets one of two win, in one statement, which is its own transaction. Every event
carries the number of the transaction that wrote it, and all are read in the order of (xid, version), as far as every
transaction with a lower number has ended: `xid < pg_snapshot_xmin(pg_current_snapshot())`. Numbers of sequences will
not do: they are given out before commits, in any order, so `position > last` skips rows for good. Nor would xids, if a
writer could have got its number early, for something else, and then append after a later one (decision 0015). So an
append comes *first* in its transaction, or is refused (`AppendNotFirst`): it sees the version before, which was
committed, and only then gets its number, which is therefore larger. For the same reason one transaction appends to one
stream.

**As of a moment.** `read(stream, until=...)` gives what had been recorded by then. `recorded_at` is the server's, and
never goes back within a stream, though the clock may. An event is recorded when it is written, and seen when that is
committed.

**Not promised.** That what is committed can be read at once by `read_all`: a transaction that has written anything,
anywhere on that *server*, and is still open holds up all that came after it (`behind` tells how many; watch it). `read`
does not wait. That positions mean anything after a dump was restored on another server: transactions are counted anew
there. Erasing: encrypt what must be forgotten, and lose the key.

**Cost.** An append is one round trip and one commit: an INSERT into a table with three unique indices, nothing that
others wait for but who appends to the same stream; within your transaction two round trips more (a savepoint). A
conflict: two more. `read` is O(events of the stream), `read_all` O(limit), both one round trip. `subscribe` asks every
so often, because NOTIFY makes all commits of a database wait for each other.

**When something fails**

- PostgreSQL goes away: `psycopg.OperationalError`, unknown; append the same facts again. A silent one is waited for.
  A `deadline` around it leaves it unknown just so, and may last up to 10 s longer: psycopg first asks the server to
  cancel the statement, and then gives the connection up.
- It goes back to an older state (an asynchronous replica takes over, `synchronous_commit = off`): events are lost, and
  positions are used again. Readers have to begin anew.

Sources: Young, *CQRS Documents* (2010); PostgreSQL, *Transactions and Identifiers* (`xid8`, `pg_current_xact_id`);
JasperFx/marten and akka-persistence-jdbc (#96), for the hole that readers by sequence fall into.
"""

from __future__ import annotations

import asyncio
import json
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from faultline.patterns.connections import Connections, OverPostgres
from faultline.patterns.errors import AppendNotFirst, NoTransaction, VersionConflict
from faultline.patterns.upcasters import Recorded, upcast

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
    from datetime import datetime

    from psycopg import AsyncConnection
    from psycopg.errors import UniqueViolation

    from faultline.patterns.upcasters import Upcasters

IS_THERE = "SELECT to_regclass('events') IS NOT NULL"
SCHEMA = """
CREATE TABLE events (
    xid xid8 NOT NULL DEFAULT pg_current_xact_id(),
    stream text NOT NULL,
    version int NOT NULL CHECK (version > 0),
    id text NOT NULL UNIQUE,
    type text NOT NULL,
    schema int NOT NULL,
    data jsonb NOT NULL,
    headers jsonb NOT NULL,
    recorded_at timestamptz NOT NULL,
    PRIMARY KEY (stream, version),
    UNIQUE (xid, version)
);
CREATE OR REPLACE FUNCTION events_are_history() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'events are history: no % of them', TG_OP USING ERRCODE = 'restrict_violation';
END $$;
CREATE TRIGGER events_are_history BEFORE UPDATE OR DELETE OR TRUNCATE ON events
    FOR EACH STATEMENT EXECUTE FUNCTION events_are_history();
"""
APPEND = """
WITH head AS MATERIALIZED (
    SELECT coalesce(last.version, 0) AS version, last.recorded_at, pg_current_xact_id_if_assigned() IS NULL AS first
    FROM (VALUES (1)) AS one LEFT JOIN LATERAL (
        SELECT version, recorded_at FROM events WHERE stream = %(stream)s ORDER BY version DESC LIMIT 1
    ) AS last ON true
)
INSERT INTO events (stream, version, id, type, schema, data, headers, recorded_at)
SELECT %(stream)s, %(expected)s + n, id, type, schema, data, headers,
    greatest(statement_timestamp(), head.recorded_at)
FROM head, ROWS FROM (
    json_to_recordset(%(facts)s::json) AS (id text, type text, schema int, data jsonb, headers jsonb)
) WITH ORDINALITY AS fact (id, type, schema, data, headers, n)
WHERE head.version = %(expected)s AND head.first
RETURNING xid::text::bigint
"""
WHERE_THEY_ARE = (
    "SELECT stream, version, id, xid::text::bigint FROM events WHERE id = ANY (%s) ORDER BY stream, version"
)
VERSION = """
SELECT coalesce(max(version), 0), pg_current_xact_id_if_assigned() IS NULL FROM events WHERE stream = %s
"""
COLUMNS = "SELECT stream, version, id, type, schema, data, headers, recorded_at, xid::text::bigint FROM events"
READ = (
    COLUMNS
    + " WHERE stream = %s AND version > %s AND recorded_at <= coalesce(%s::timestamptz, 'infinity') ORDER BY version"
)
READ_ALL = (
    COLUMNS
    + """
WHERE (xid, version) > (%s::text::xid8, %s) AND xid < pg_snapshot_xmin(pg_current_snapshot())
ORDER BY xid, version LIMIT %s
"""
)
BEHIND = "SELECT count(*) FROM events WHERE (xid, version) > (%s::text::xid8, %s)"


class Position(NamedTuple):
    """A place in the order of all events; what is greater comes later."""

    xid: int
    version: int


START = Position(0, 0)
"""Before all events."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fact:
    """Something that has happened, to be appended."""

    id: str
    """Nobody else's, and the same when it is appended again."""
    type: str
    """What happened, in the words of the business."""
    data: Mapping[str, Any]
    """What JSON can say: the values themselves, not where they could be looked up."""
    schema: int = 1
    """Which shape of `data`; raise it for one that readers of the last do not understand, with an upcaster."""
    headers: Mapping[str, str] = field(default_factory=dict[str, str])
    """The rest of the envelope, such as `correlationid`, `causationid`, `traceparent`."""


class EventStore(OverPostgres):
    """The table `events` of the database `dsn`. An `async with` closes its connections."""

    def __init__(self, dsn: str, *, upcasters: Upcasters | None = None, connections: int = 10) -> None:
        """Talk to nobody yet. `upcasters`: what turns old shapes of events into today's, when they are read.

        `connections`: how many appends and reads at once. Raises `ValueError` for none.
        """
        self._upcasters = {} if upcasters is None else upcasters
        self._connections = Connections(dsn, {}, most=connections)

    async def create(self) -> None:
        """Make the table unless it is there; any number of processes may do so at once."""
        async with self._making("events") as session:
            row = await (await session.execute(IS_THERE)).fetchone()
            if row == (False,):
                await session.execute(SCHEMA)

    async def append(
        self, stream: str, expected: int, facts: Sequence[Fact], *, tx: AsyncConnection | None = None
    ) -> Position:
        """Append the facts as versions `expected` + 1 and so on; returns the position of the last.

        `expected`: how many events the stream had when this was decided. `tx`: a connection with a transaction that
        this becomes a part of, as its first statement that writes or locks anything.

        Raises `VersionConflict`, `AppendNotFirst` and `NoTransaction`, when nothing has happened,
        `psycopg.errors.UniqueViolation` for an id that some other event has, and `ValueError` for no facts, or one
        without id or type.
        """
        from psycopg.pq import TransactionStatus

        if not facts or not stream or expected < 0 or not all(fact.id and fact.type for fact in facts):
            raise ValueError(f"nothing to append to {stream!r} after version {expected}: {facts}")
        if tx is None:
            async with self._connections.one() as session:
                return await _append(session, stream, expected, facts)
        if tx.info.transaction_status == TransactionStatus.IDLE:
            if tx.autocommit:
                raise NoTransaction(f"the transaction that the events of {stream} belong into is not open")
            await tx.execute("SELECT")  # opens it, so that ours is a part of it
        return await _append(tx, stream, expected, facts)

    async def read(self, stream: str, after: int = 0, *, until: datetime | None = None) -> list[Recorded]:
        """The stream's events, by version, in today's shapes: those later than `after`, recorded by `until`.

        Raises `ValueError` for an `until` without a time zone, and what an upcaster raises.
        """
        if until is not None and until.tzinfo is None:
            raise ValueError(f"{until} is no moment without a time zone")
        async with self._connections.one() as session:
            rows = await (await session.execute(READ, (stream, after, until))).fetchall()
        return self._today(rows)

    async def read_all(self, after: Position = START, limit: int = 500) -> list[Recorded]:
        """The next events of all streams, in the order that never changes.

        `limit` is of stored events; none, and there is nothing to read now, though some may be committed already.
        """
        async with self._connections.one() as session:
            rows = await (await session.execute(READ_ALL, (str(after.xid), after.version, limit))).fetchall()
        return self._today(rows)

    async def subscribe(
        self, after: Position = START, *, every: float = 0.05, limit: int = 500
    ) -> AsyncIterator[Recorded]:
        """All events after a position, for ever, asking every so many seconds when there are none.

        Raises the client's errors: go on from the position of the last event that was seen.
        """
        while True:
            events = await self.read_all(after, limit)
            for event in events:
                yield event
                after = event.position
            if not events:
                await asyncio.sleep(every)

    async def behind(self, position: Position) -> int:
        """How many committed events come after it, also those that `read_all` holds back. O(that many)."""
        async with self._connections.one() as session:
            row = await (await session.execute(BEHIND, (str(position.xid), position.version))).fetchone()
        assert row
        return int(row[0])

    def _today(self, rows: Iterable[tuple[Any, ...]]) -> list[Recorded]:
        stored = [_recorded(*row) for row in rows]
        if not self._upcasters:
            return stored
        return [event for old in stored for event in upcast(self._upcasters, old)]


def _recorded(
    stream: str,
    version: int,
    name: str,
    kind: str,
    schema: int,
    data: dict[str, Any],
    headers: dict[str, str],
    recorded_at: datetime,
    xid: int,
) -> Recorded:
    return Recorded(stream, version, name, kind, schema, data, headers, recorded_at, Position(xid, version))


async def _append(session: AsyncConnection, stream: str, expected: int, facts: Sequence[Fact]) -> Position:
    from psycopg.errors import UniqueViolation
    from psycopg.pq import TransactionStatus

    alone = session.info.transaction_status == TransactionStatus.IDLE
    values = {
        "stream": stream,
        "expected": expected,
        "facts": json.dumps(
            [
                {"id": one.id, "type": one.type, "schema": one.schema, "data": one.data, "headers": dict(one.headers)}
                for one in facts
            ]
        ),
    }
    refused = None
    try:
        async with nullcontext() if alone else session.transaction():
            row = await (await session.execute(APPEND, values)).fetchone()
        if row:
            return Position(row[0], expected + len(facts))
    except UniqueViolation as error:
        refused = error
    return await _why_not(session, stream, expected, facts, refused)


async def _why_not(
    session: AsyncConnection, stream: str, expected: int, facts: Sequence[Fact], refused: UniqueViolation | None
) -> Position:
    """The position that these facts have already; else raise why they could not be appended."""
    there = await (await session.execute(WHERE_THEY_ARE, ([fact.id for fact in facts],))).fetchall()
    ours = [(stream, expected + number, fact.id) for number, fact in enumerate(facts, start=1)]
    if [row[:3] for row in there] == ours:
        return Position(there[-1][3], expected + len(facts))
    if refused and refused.diag.constraint_name == "events_id_key":
        raise refused
    row = await (await session.execute(VERSION, (stream,))).fetchone()
    assert row
    actual, first = row
    if not (first or refused):
        raise AppendNotFirst(f"the transaction had written before it appended to {stream}: append first")
    raise VersionConflict(stream, expected, actual)
