"""Events that leave a service if, and only if, the transaction that they tell of was committed.

    outbox = Outbox()
    async with connection.transaction():
        await connection.execute("UPDATE orders SET state = 'placed' WHERE id = %s", [order])
        await outbox.append(connection, Event(id=new_id, type="orders.order-placed.v1", subject=order, data={...}))

    async with Relay(dsn, amqp, exchange="shop.events") as relay:  # relay.py
        await relay.run(on_error=log)

**Promise.** An event of a committed transaction is in the table until the broker has confirmed it; one of a transaction
that was rolled back never was. `position` gives the order of what one subject says, if whoever appends holds that
subject: has locked its row, or written its next version. Append after that, not before.

**Not promised.** That a position is visible once a higher one is: numbers are given out before commits, in any order,
so `position > last` skips rows for good. The relay does not read that way.

**Cost.** One INSERT in your transaction, no lock that others wait for. Rows are kept until `Relay.forget`.

Sources: Richardson, *Microservices Patterns* (2018), chapter 3; CloudEvents 1.0 for the names of what an event carries.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from faultline.patterns.errors import NoTransaction

if TYPE_CHECKING:
    from collections.abc import Mapping

    from psycopg import AsyncConnection

SCHEMA = """
CREATE TABLE IF NOT EXISTS {table} (
    position bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    id text NOT NULL UNIQUE,
    type text NOT NULL,
    subject text NOT NULL,
    data jsonb NOT NULL,
    headers jsonb NOT NULL,
    written_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    sent_at timestamptz
);
CREATE INDEX IF NOT EXISTS {unsent} ON {table} (position) WHERE sent_at IS NULL;
"""
MOST_DATA = 16 * 1024**2  # bytes; RabbitMQ 4 takes no larger message unless it is told to
MOST_HEADERS = 64 * 1024  # bytes; AMQP has no room for more than one frame, which is twice as large
LONGEST_NAME = 255  # bytes of AMQP's short strings
APPEND = "INSERT INTO {table} (id, type, subject, data, headers) VALUES (%s, %s, %s, %s::jsonb, %s::jsonb)"


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Something that has happened."""

    id: str
    """The same in every delivery, and nobody else's: what an `Inbox` knows it by."""
    type: str
    """What happened; its routing key, too."""
    subject: str
    """To which aggregate; events of one subject arrive in order."""
    data: Mapping[str, Any]
    """What JSON can say."""
    headers: Mapping[str, str] = field(default_factory=dict[str, str])
    """The rest of the envelope, such as `time`, `correlationid`, `traceparent`."""


class Outbox:
    """The table in which a service's events wait for a `Relay`."""

    def __init__(self, table: str = "outbox") -> None:
        """Talk to nobody yet; `table` is a name on the search path of the connections that are handed in."""
        self.table = table

    async def create(self, tx: AsyncConnection) -> None:
        """Make the table unless it is there; any number of processes may do so at once."""
        from psycopg import sql

        names = {"table": sql.Identifier(self.table), "unsent": sql.Identifier(self.table + "_unsent")}
        async with tx.transaction():
            await tx.execute("SELECT pg_advisory_xact_lock(hashtextextended(%s, 0))", [f"create {self.table}"])
            await tx.execute(sql.SQL(SCHEMA).format(**names))

    async def append(self, tx: AsyncConnection, event: Event) -> None:
        """Add the event to the transaction that is open on `tx`: it leaves if that commits.

        Raises `NoTransaction` when none is open, `psycopg.errors.UniqueViolation` for an id that is in the table, and
        `ValueError` for what no broker would take, and which would hold up its subject for ever: an event without id,
        type or subject, a name over 255 bytes, headers (the subject is one) over 64 KiB, data over 16 MiB.
        """
        from psycopg import sql
        from psycopg.pq import TransactionStatus

        data, headers = json.dumps(event.data), json.dumps(dict(event.headers))
        _require_room(event, data, headers)
        if tx.autocommit and tx.info.transaction_status == TransactionStatus.IDLE:
            raise NoTransaction(f"{event.type} of {event.subject} belongs into the transaction that it tells of")
        row = (event.id, event.type, event.subject, data, headers)
        await tx.execute(sql.SQL(APPEND).format(table=sql.Identifier(self.table)), row)


def _require_room(event: Event, data: str, headers: str) -> None:
    if not (event.id and event.type and event.subject):
        raise ValueError(f"no event to send: id {event.id!r}, type {event.type!r}, subject {event.subject!r}")
    longest = max((event.id, event.type, *event.headers), key=lambda name: len(name.encode()))
    if len(longest.encode()) > LONGEST_NAME:
        raise ValueError(f"{longest[:40]}… has {len(longest.encode())} bytes, and AMQP room for {LONGEST_NAME}")
    if len(headers) + len(event.subject.encode()) > MOST_HEADERS or len(data) > MOST_DATA:
        raise ValueError(
            f"{event.type} {event.id} has {len(data)} bytes of data and {len(headers)} of headers: "
            f"at most {MOST_DATA} and {MOST_HEADERS} fit into a message; send where the rest lies"
        )
