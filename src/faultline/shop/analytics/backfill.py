"""Backfills: what happened before, asked of whoever knows it; and days built again from what was staged.

    orders ─► payment ─► catalog ─► days ─► done
    (its log)  (its ledger) (its products)   │
    a page, staged, and the place behind it, │ a day, all of it, and which one it was,
    in one transaction                       │ in one transaction

So whoever is killed leaves whole pages and whole days, and the next one goes on there, in this process or another. What
was staged or built twice is the same as once. Meanwhile events come in, and are loaded between two days.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from psycopg.rows import class_row

from faultline.patterns import NotTried
from faultline.shop.analytics import star
from faultline.shop.analytics.domain import CATALOG, ORDERS, PAYMENT, Late

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import date, datetime

    from psycopg import AsyncConnection
    from psycopg_pool import AsyncConnectionPool

    from faultline.shop.analytics.rpc import Sources
    from faultline.shop.analytics.store import Staging

DAYS, DONE = "days", "done"
STAGES = (ORDERS, PAYMENT, CATALOG, DAYS, DONE)
COLUMNS = "id, history, first, last, asked_at, stage, place, events, days, ended_at, error"
ADD = f"INSERT INTO backfill (history, first, last, stage) VALUES (%s, %s, %s, %s) RETURNING {COLUMNS}"  # noqa: S608
FIND = f"SELECT {COLUMNS} FROM backfill WHERE id = %s"  # noqa: S608
NEXT = f"SELECT {COLUMNS} FROM backfill WHERE ended_at IS NULL ORDER BY id LIMIT 1"  # noqa: S608
MOVE = """
UPDATE backfill SET stage = %s, place = %s, events = events + %s, days = days + %s, error = '',
    ended_at = CASE WHEN %s THEN clock_timestamp() END
WHERE id = %s AND stage = %s AND place = %s
"""
FAILED = "UPDATE backfill SET error = %s WHERE id = %s"
TOUCHED = """
SELECT utc_day(at) AS day FROM staged WHERE source IN ('orders', 'payment')
UNION SELECT day FROM fact_sales UNION SELECT day FROM fact_returns UNION SELECT day FROM fact_payments
"""
LEFT = f"""
SELECT count(*) FROM ({TOUCHED}) AS touched
WHERE (%(first)s::date IS NULL OR day >= %(first)s) AND (%(last)s::date IS NULL OR day <= %(last)s)
    AND (%(behind)s = '' OR day > %(behind)s::date)
"""  # noqa: S608
NEXT_DAY = LEFT.replace("count(*)", "min(day)")
ORDERS_OF = """
SELECT subject FROM staged WHERE source IN ('orders', 'payment') AND utc_day(at) = %(day)s
UNION SELECT order_id FROM fact_sales WHERE day = %(day)s
UNION SELECT order_id FROM fact_returns WHERE day = %(day)s
UNION SELECT order_id FROM fact_payments WHERE day = %(day)s
"""
PRODUCTS_OF = """
SELECT DISTINCT item ->> 'sku' FROM staged CROSS JOIN LATERAL jsonb_array_elements(data -> 'lines') AS item
WHERE source = 'orders' AND subject = ANY (%(orders)s)
    AND EXISTS (SELECT FROM staged AS s WHERE s.subject = item ->> 'sku' AND s.source = 'catalog')
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Backfill:
    """One of them, and how far it is; without `first` and `last` of all days that there are."""

    id: int
    history: bool
    first: date | None
    last: date | None
    asked_at: datetime
    stage: str
    place: str
    events: int
    days: int
    ended_at: datetime | None
    error: str


class Backfills:
    """All of them, one after the other; any number of processes may work on them."""

    def __init__(
        self, pool: AsyncConnectionPool, staging: Staging, sources: Sources, now: Callable[[], datetime]
    ) -> None:
        self._pool, self._staging, self._sources, self._now = pool, staging, sources, now

    async def add(self, *, history: bool, first: date | None, last: date | None) -> Backfill:
        """Ask for one."""
        async with self._pool.connection() as connection, connection.cursor(row_factory=class_row(Backfill)) as cursor:
            await cursor.execute(ADD, [history, first, last, STAGES[0] if history else DAYS])
            added = await cursor.fetchone()
        assert added
        return added

    async def find(self, number: int) -> Backfill | None:
        """How far it is; None if nobody has asked for it."""
        async with self._pool.connection() as connection, connection.cursor(row_factory=class_row(Backfill)) as cursor:
            return await (await cursor.execute(FIND, [number])).fetchone()

    async def left(self, one: Backfill) -> int:
        """How many days it still has to build, as things are now."""
        if one.ended_at:
            return 0
        async with self._pool.connection() as connection:
            row = await (await connection.execute(LEFT, _range(one))).fetchone()
        return row[0] if row else 0

    async def run_once(self) -> bool:
        """Take the next step of the oldest that is not at its end; False if there is none.

        Raises `OSError` or `NotTried` while a source does not answer: the step is still to be taken.
        """
        async with self._pool.connection() as connection, connection.cursor(row_factory=class_row(Backfill)) as cursor:
            one = await (await cursor.execute(NEXT)).fetchone()
        if one is None:
            return False
        if one.stage == DAYS:
            await self._build(one)
        else:
            await self._ask(one)
        return True

    async def _ask(self, one: Backfill) -> None:
        """A page of a source: asked for without a transaction, so that nobody waits for it."""
        try:
            page = await self._sources.page(one.stage, one.place, key=await self._staging.key(), now=self._now())
        except (OSError, NotTried) as error:
            async with self._pool.connection() as connection:
                await connection.execute(FAILED, [f"{one.stage}: {error}", one.id])
            raise
        stage = one.stage if page.next else STAGES[STAGES.index(one.stage) + 1]
        async with self._pool.connection() as tx, tx.transaction():
            new = await self._staging.put(tx, page.events)
            await _move(tx, one, stage=stage, place=page.next or "", events=new)

    async def _build(self, one: Backfill) -> None:
        """The next day, whole."""
        async with star.held(self._pool) as tx:
            row = await (await tx.execute(NEXT_DAY, _range(one))).fetchone()
            day = row[0] if row else None
            if day is None:
                await _move(tx, one, stage=DONE, place=one.place)
            elif await _move(tx, one, stage=DAYS, place=day.isoformat(), days=1):
                await build(tx, day, f"backfill {one.id}", self._now())


async def build(tx: AsyncConnection, day: date, reason: str, now: datetime) -> None:
    """Make the facts of a day, and what they point to, what was staged of its orders."""
    orders = [order for (order,) in await (await tx.execute(ORDERS_OF, {"day": day})).fetchall()]
    products = [sku for (sku,) in await (await tx.execute(PRODUCTS_OF, {"orders": orders})).fetchall()]
    await star.forget(tx)
    changes = await star.describe(tx, products) | await star.refresh(tx, orders)
    await star.reopen(tx, {change.day: (Late.BACKFILL, reason) for change in changes}, now)


async def _move(tx: AsyncConnection, one: Backfill, *, stage: str, place: str, events: int = 0, days: int = 0) -> bool:
    """Go on to there, unless somebody else has since it was looked at."""
    values = [stage, place, events, days, stage == DONE, one.id, one.stage, one.place]
    return (await tx.execute(MOVE, values)).rowcount == 1


def _range(one: Backfill) -> dict[str, object]:
    return {"first": one.first, "last": one.last, "behind": one.place if one.stage == DAYS else ""}
