"""What was staged, and what reports ask of the star schema; each report reads one moment of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, LiteralString

from psycopg.rows import class_row
from psycopg.types.json import Jsonb

from faultline.shop.analytics.domain import By, Sums

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from datetime import date, datetime

    from psycopg import AsyncConnection
    from psycopg_pool import AsyncConnectionPool

    from faultline.shop.analytics.domain import Staged

KEY = "SELECT key FROM pseudonym_key"
STAGE = """
INSERT INTO staged (id, source, type, subject, sequence, at, customer, data)
VALUES (%s, %s, %s, %s, %s, %s, %s, %s) ON CONFLICT DO NOTHING
"""
KEYS: dict[By, LiteralString] = {
    By.DAY: "day::text",
    By.PRODUCT: "sku",
    By.CATEGORY: "category",
    By.BRAND: "brand",
}
MOVED = """
SELECT day, sku, product_version, currency, quantity, cents, 0::bigint AS returned, 0::bigint AS returned_cents
FROM fact_sales WHERE day BETWEEN %(first)s AND %(last)s
UNION ALL
SELECT day, sku, product_version, currency, 0, 0, quantity, cents
FROM fact_returns WHERE day BETWEEN %(first)s AND %(last)s
"""
SALES: dict[By, LiteralString] = {
    by: f"""
    SELECT {key} AS key, currency, sum(quantity)::bigint AS quantity, sum(cents)::bigint AS cents,
        sum(returned)::bigint AS returned, sum(returned_cents)::bigint AS returned_cents
    FROM ({MOVED}) AS moved JOIN dim_product AS p ON p.sku = moved.sku AND p.version = product_version
    GROUP BY 1, 2 ORDER BY 1, 2
    """.replace("SELECT sku AS key", "SELECT moved.sku AS key")
    for by, key in KEYS.items()
}
DAYS = """
SELECT day.day, closed_at, coalesce(array_agg(ARRAY[reopening.at::text, reason, event] ORDER BY number)
    FILTER (WHERE number IS NOT NULL), '{}') AS reopened
FROM day LEFT JOIN reopening USING (day) WHERE day BETWEEN %s AND %s GROUP BY day.day ORDER BY day.day
"""
WATERMARKS = "SELECT source, at FROM watermark ORDER BY source"
SOLD = "(SELECT order_id, day, cents FROM fact_sales UNION ALL SELECT order_id, day, -cents FROM fact_returns)"
SUMS = f"""
WITH sold AS (SELECT order_id, sum(cents)::bigint AS cents FROM {SOLD} AS s WHERE day = %(day)s GROUP BY order_id),
heard AS (SELECT order_id, sum(cents)::bigint AS cents FROM fact_payments WHERE day = %(day)s GROUP BY order_id),
named AS (
    SELECT order_id FROM sold UNION SELECT order_id FROM heard UNION SELECT unnest(%(orders)s::text[])
)
SELECT order_id, sold.cents, heard.cents,
    (SELECT sum(cents)::bigint FROM {SOLD} AS s WHERE s.order_id = named.order_id),
    (SELECT sum(cents)::bigint FROM fact_payments AS p WHERE p.order_id = named.order_id),
    EXISTS (SELECT FROM fact_sales AS f WHERE f.order_id = named.order_id GROUP BY sku HAVING count(*) > 1)
    OR EXISTS (SELECT FROM fact_returns AS f WHERE f.order_id = named.order_id GROUP BY sku HAVING count(*) > 1)
    OR EXISTS (SELECT FROM fact_payments AS f WHERE f.order_id = named.order_id GROUP BY cents > 0 HAVING count(*) > 1)
FROM named LEFT JOIN sold USING (order_id) LEFT JOIN heard USING (order_id) ORDER BY order_id
"""


class Staging:
    """What was heard, in PostgreSQL, each event once."""

    def __init__(self, pool: AsyncConnectionPool) -> None:
        self._pool = pool
        self._key = b""

    async def key(self) -> bytes:
        """What pseudonyms are made with."""
        if not self._key:
            async with self._pool.connection() as connection:
                row = await (await connection.execute(KEY)).fetchone()
            assert row, "the migration has made one"
            self._key = bytes(row[0])
        return self._key

    async def put(self, tx: AsyncConnection, events: Iterable[Staged]) -> int:
        """Stage these; how many were not there before."""
        new = 0
        for one in events:
            row = (one.id, one.source, one.type, one.subject, one.sequence, one.at, one.customer, Jsonb(one.data))
            new += (await tx.execute(STAGE, row)).rowcount
        return new


@dataclass(frozen=True, slots=True, kw_only=True)
class Sales:
    """What was sold and given back of one day, product, category or brand, in one currency; amounts in cents."""

    key: str
    currency: str
    quantity: int
    cents: int
    returned: int
    returned_cents: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Day:
    """A day, whether it is over, and when, why and by which event it was opened again."""

    day: date
    closed_at: datetime | None
    reopened: list[list[str]]


class Reports:
    """What the star schema says."""

    def __init__(self, pool: AsyncConnectionPool) -> None:
        self._pool = pool

    async def ready(self) -> None:
        """Raises what the pool or the server raises when there is no answer."""
        async with self._pool.connection() as connection:
            await connection.execute("SELECT")

    async def sales(self, by: By, first: date, last: date) -> list[Sales]:
        """From the first of these days to the last."""
        async with self._pool.connection() as connection, connection.cursor(row_factory=class_row(Sales)) as cursor:
            return await (await cursor.execute(SALES[by], {"first": first, "last": last})).fetchall()

    async def days(self, first: date, last: date) -> list[Day]:
        """Those on which something happened."""
        async with self._pool.connection() as connection, connection.cursor(row_factory=class_row(Day)) as cursor:
            return await (await cursor.execute(DAYS, [first, last])).fetchall()

    async def watermarks(self) -> dict[str, datetime]:
        """The time of the newest event of each source that is loaded."""
        async with self._pool.connection() as connection:
            return dict(await (await connection.execute(WATERMARKS)).fetchall())

    async def sums(self, day: date, moved: Mapping[str, int]) -> dict[str, Sums]:
        """What facts say of each order of the day beside what the ledger does, which is `moved`."""
        async with self._pool.connection() as connection:
            rows = await (await connection.execute(SUMS, {"day": day, "orders": sorted(moved)})).fetchall()
        return {
            order: Sums(
                sold=sold,
                heard=heard,
                moved=moved.get(order),
                sold_ever=sold_ever,
                heard_ever=heard_ever,
                is_doubled=is_doubled,
            )
            for order, sold, heard, sold_ever, heard_ever, is_doubled in rows
        }
