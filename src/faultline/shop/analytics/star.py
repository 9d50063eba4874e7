"""Transform and load: the tables of the star schema are made what their `due_…` views say, for the orders that changed.

    staged ──► due_product, due_sales, due_returns, due_payments (views)
                    └─ what differs is taken out, or put in ─► dim_product, fact_sales, fact_returns, fact_payments

All of it in one transaction under one lock, so there is one loader or backfill at a time, and readers see before or
after. Extraction does not wait for it. Doing it again changes nothing.
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, LiteralString

from psycopg import sql
from psycopg.rows import class_row

from faultline.shop.analytics.domain import CATALOG, USERS, Staged, lateness, over

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
    from datetime import date, datetime

    from psycopg import AsyncConnection
    from psycopg_pool import AsyncConnectionPool

AT_ONCE = 200  # events in one transaction
HOLD = "SELECT pg_advisory_lock(hashtextextended('the star schema', 0))"
LET_GO = "SELECT pg_advisory_unlock_all()"
SILENCE = "SET LOCAL idle_in_transaction_session_timeout = '30s'"  # of a process that was stopped: others go on
IS_WORK = """
SELECT EXISTS (SELECT FROM staged WHERE loaded_at IS NULL) OR EXISTS (
    SELECT FROM day WHERE closed_at IS NULL AND day < %s
)
"""
TO_LOAD = """
SELECT id, source, type, subject, sequence, at, customer, data FROM staged WHERE loaded_at IS NULL
ORDER BY position LIMIT %s
"""
LOADED = "UPDATE staged SET loaded_at = %s WHERE id = ANY (%s)"
WATERMARKS = "SELECT source, at FROM watermark"
ADVANCE = """
INSERT INTO watermark VALUES (%s, %s) ON CONFLICT (source) DO UPDATE SET at = greatest(watermark.at, EXCLUDED.at)
"""

FORGET = """
INSERT INTO erased SELECT customer FROM staged
WHERE loaded_at IS NULL AND type = 'users.user-erased.v1' AND customer <> 'erased' ON CONFLICT DO NOTHING
"""
ARE_NOBODY = """
SELECT customer FROM erased WHERE customer IN (SELECT customer FROM staged WHERE loaded_at IS NULL)
"""
FORGOTTEN: tuple[LiteralString, ...] = (
    "UPDATE staged SET customer = 'erased' WHERE customer = ANY (%s)",
    "UPDATE fact_sales SET customer = 'erased' WHERE customer = ANY (%s)",
    "UPDATE fact_returns SET customer = 'erased' WHERE customer = ANY (%s)",
    "DELETE FROM dim_customer WHERE customer = ANY (%s)",
)
CUSTOMERS = """
INSERT INTO dim_customer
SELECT customer, CASE WHEN bool_or((data ->> 'guest')::boolean) THEN 'guest' ELSE 'account' END,
    min(utc_day(at)) FILTER (WHERE source = 'users')
FROM staged WHERE customer = ANY (%s) AND customer <> 'erased' GROUP BY customer
ON CONFLICT (customer) DO UPDATE SET kind = EXCLUDED.kind, registered_on = EXCLUDED.registered_on
"""

OLD_VERSIONS = "DELETE FROM dim_product WHERE sku = ANY (%s)"
VERSIONS = "INSERT INTO dim_product SELECT * FROM due_product WHERE sku = ANY (%s)"
UNKNOWN = """
INSERT INTO dim_product
SELECT DISTINCT item ->> 'sku', 0, 'unknown', 'unknown', 'unknown', 'epoch'::timestamptz, NULL::timestamptz
FROM staged CROSS JOIN LATERAL jsonb_array_elements(data -> 'lines') AS item
WHERE source = 'orders' AND subject = ANY (%s) AND NOT EXISTS (SELECT FROM dim_product WHERE sku = item ->> 'sku')
"""
POINT: tuple[LiteralString, ...] = tuple(
    f"""
    UPDATE {table} SET product_version = version_at(sku, sold_at)
    WHERE sku = ANY (%s) AND product_version <> version_at(sku, sold_at) RETURNING day, sku
    """  # noqa: S608
    for table in ("fact_sales", "fact_returns")
)

DAYS = """
INSERT INTO dim_date
SELECT DISTINCT day, date_part('year', day), date_part('quarter', day), date_part('month', day),
    date_part('week', day), date_part('isodow', day)
FROM (
    SELECT day FROM due_sales WHERE order_id = ANY (%(orders)s)
    UNION SELECT day FROM due_returns WHERE order_id = ANY (%(orders)s)
    UNION SELECT day FROM due_payments WHERE order_id = ANY (%(orders)s)
) AS days ON CONFLICT DO NOTHING
"""
FACTS = (
    ("fact_sales", "due_sales", ("order_id", "line")),
    ("fact_returns", "due_returns", ("order_id", "line")),
    ("fact_payments", "due_payments", ("transaction_id",)),
)
TAKE_OUT = """
DELETE FROM {facts} AS fact USING (
    SELECT * FROM {facts} WHERE order_id = ANY (%(orders)s) EXCEPT SELECT * FROM {due} WHERE order_id = ANY (%(orders)s)
) AS old WHERE ({fact_key}) = ({old_key}) RETURNING fact.day, fact.order_id
"""
PUT_IN = """
INSERT INTO {facts} (
    SELECT * FROM {due} WHERE order_id = ANY (%(orders)s) EXCEPT SELECT * FROM {facts} WHERE order_id = ANY (%(orders)s)
) RETURNING day, order_id
"""

BEGIN_DAY = "INSERT INTO day SELECT unnest(%s::date[]) ON CONFLICT DO NOTHING"
CLOSED = "SELECT day FROM day WHERE day = ANY (%s) AND closed_at IS NOT NULL"
REOPEN = "UPDATE day SET closed_at = NULL WHERE day = %s"
WHY = "INSERT INTO reopening (day, at, reason, event) VALUES (%s, %s, %s, %s)"
CLOSE = "UPDATE day SET closed_at = %s WHERE closed_at IS NULL AND day < %s"


@dataclass(frozen=True, slots=True)
class Change:
    """A day that is another now, and the order or the product by which it is."""

    day: date
    subject: str


class Loader:
    """Brings what was staged into the star schema; any number of processes may have one."""

    def __init__(self, pool: AsyncConnectionPool) -> None:
        self._pool = pool

    async def run_once(self, now: datetime, *, limit: int = AT_ONCE) -> int:
        """Load up to `limit` events, and close the days that are over, in one transaction; returns how many events.

        Whoever is killed has loaded nothing, and the next one loads the same.
        """
        async with self._pool.connection() as connection:
            if not await _is_work(connection, now):
                return 0
        async with held(self._pool) as tx:
            events = await _to_load(tx, limit)
            await _load(tx, events, now)
            await tx.execute(CLOSE, [now, over(await _watermarks(tx), now)])
        return len(events)


@asynccontextmanager
async def held(pool: AsyncConnectionPool) -> AsyncIterator[AsyncConnection]:
    """A transaction that sees one moment of what was staged, and that nobody else loads beside.

    The lock comes before the transaction: who had to wait for it sees what the one before has done.
    """
    async with pool.connection() as connection:
        try:
            await connection.execute(HOLD)
            async with connection.transaction():
                await connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
                await connection.execute(SILENCE)
                yield connection
        finally:
            if not connection.closed:
                await connection.execute(LET_GO)


async def _to_load(tx: AsyncConnection, limit: int) -> list[Staged]:
    async with tx.cursor(row_factory=class_row(Staged)) as cursor:
        return await (await cursor.execute(TO_LOAD, [limit])).fetchall()


async def _is_work(tx: AsyncConnection, now: datetime) -> bool:
    row = await (await tx.execute(IS_WORK, [over(await _watermarks(tx), now)])).fetchone()
    return bool(row and row[0])


async def _watermarks(tx: AsyncConnection) -> dict[str, datetime]:
    return dict(await (await tx.execute(WATERMARKS)).fetchall())


async def _load(tx: AsyncConnection, events: Sequence[Staged], now: datetime) -> None:
    of = {event.subject: event for event in events}
    skus = {event.subject for event in events if event.source == CATALOG}
    users = {event.subject for event in events if event.source == USERS}
    orders = of.keys() - skus - users
    await forget(tx)
    changes = await describe(tx, skus) | await refresh(tx, orders, customers=users)
    await reopen(
        tx,
        {change.day: (lateness(of[change.subject].source), of[change.subject].id) for change in changes},
        now,
    )
    for source in {event.source for event in events}:
        newest = max(event.at for event in events if event.source == source)
        await tx.execute(ADVANCE, [source, newest])
    await tx.execute(LOADED, [now, [event.id for event in events]])


async def forget(tx: AsyncConnection) -> None:
    """Make those who were erased nobody in particular: all that was staged of them, and all that comes now."""
    await tx.execute(FORGET)
    gone = [customer for (customer,) in await (await tx.execute(ARE_NOBODY)).fetchall()]
    if gone:
        for statement in FORGOTTEN:
            await tx.execute(statement, [gone])


async def describe(tx: AsyncConnection, skus: Iterable[str]) -> set[Change]:
    """Bring these products' versions up to date, and have facts point to the one of their time."""
    names = sorted(skus)
    if not names:
        return set()
    await tx.execute(OLD_VERSIONS, [names])
    await tx.execute(VERSIONS, [names])
    return {
        Change(day, sku) for statement in POINT for day, sku in await (await tx.execute(statement, [names])).fetchall()
    }


async def refresh(tx: AsyncConnection, orders: Iterable[str], *, customers: Iterable[str] = ()) -> set[Change]:
    """Make the facts of these orders what their events say, with all that they point to."""
    names = sorted(orders)
    known = "SELECT customer FROM staged WHERE subject = ANY (%s) AND customer IS NOT NULL"
    buyers = {customer for (customer,) in await (await tx.execute(known, [names])).fetchall()}
    await tx.execute(CUSTOMERS, [sorted(buyers | set(customers))])
    await tx.execute(UNKNOWN, [names])
    values = {"orders": names}
    await tx.execute(DAYS, values)
    changes: set[Change] = set()
    for facts, due, key in FACTS:
        parts = {
            "facts": sql.Identifier(facts),
            "due": sql.Identifier(due),
            "fact_key": sql.SQL(", ").join(sql.Identifier("fact", name) for name in key),
            "old_key": sql.SQL(", ").join(sql.Identifier("old", name) for name in key),
        }
        for statement in (TAKE_OUT, PUT_IN):
            rows = await (await tx.execute(sql.SQL(statement).format(**parts), values)).fetchall()
            changes |= {Change(day, order) for day, order in rows}
    return changes


async def reopen(tx: AsyncConnection, why: Mapping[date, tuple[str, str]], now: datetime) -> None:
    """See that these days are there; those that were closed are open again, for this reason, by this event."""
    days = sorted(why)
    await tx.execute(BEGIN_DAY, [days])
    for (day,) in await (await tx.execute(CLOSED, [days])).fetchall():
        await tx.execute(REOPEN, [day])
        await tx.execute(WHY, [day, now, *why[day]])
