"""The prices in PostgreSQL, as the statements in `PriceDatabase` keep them, and what happens on the way there."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from psycopg import AsyncConnection

from faultline.components import Supervisor
from faultline.patterns import PriceRefused

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
    from pathlib import Path

SCHEMA = """
CREATE TABLE price (product_id text PRIMARY KEY, cents bigint NOT NULL, version bigint NOT NULL);
CREATE TABLE stored (number bigserial, product_id text, cents bigint);
CREATE FUNCTION remember() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    INSERT INTO stored (product_id, cents) VALUES (NEW.product_id, NEW.cents); RETURN NEW;
END $$;
CREATE TRIGGER remember AFTER INSERT OR UPDATE ON price FOR EACH ROW EXECUTE FUNCTION remember();
"""
SET = """
INSERT INTO price VALUES (%s, %s, 1) ON CONFLICT (product_id) DO UPDATE
SET cents = EXCLUDED.cents, version = price.version + 1 RETURNING version
"""
SET_ALL = """
INSERT INTO price SELECT * FROM unnest(%s::text[], %s::bigint[], %s::bigint[]) ON CONFLICT (product_id)
DO UPDATE SET cents = EXCLUDED.cents, version = EXCLUDED.version WHERE price.version < EXCLUDED.version
"""


class PriceTable:
    """A `PriceDatabase`; `meanwhile` is awaited before each change, and what it raises is what the change raises."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection
        self.asked = 0
        self.batches: list[list[str]] = []
        self.refuses: set[str] = set()
        self.meanwhile: Callable[[], Awaitable[object]] | None = None

    async def get_price(self, product_id: str) -> Sequence[int] | None:
        self.asked += 1
        found = await self._connection.execute("SELECT cents, version FROM price WHERE product_id = %s", [product_id])
        return await found.fetchone()

    async def set_price(self, product_id: str, cents: int) -> int:
        await self._change([product_id])
        row = await (await self._connection.execute(SET, [product_id, cents])).fetchone()
        assert row
        return int(row[0])

    async def set_prices(self, prices: Sequence[tuple[str, int, int]]) -> None:
        await self._change([price[0] for price in prices])
        await self._connection.execute(SET_ALL, [list(column) for column in zip(*prices, strict=True)])

    async def _change(self, products: list[str]) -> None:
        self.asked += 1
        self.batches.append(products)
        if self.refuses & set(products):
            raise PriceRefused(f"none of {products}")
        if self.meanwhile:
            await self.meanwhile()

    async def price(self, product_id: str) -> int | None:
        """The truth."""
        rows = await self.rows("SELECT cents FROM price WHERE product_id = %s", product_id)
        return rows[0] if rows else None

    async def stored(self, product_id: str) -> list[int]:
        """All that it has ever been."""
        return await self.rows("SELECT cents FROM stored WHERE product_id = %s ORDER BY number", product_id)

    async def rows(self, query: str, *parameters: str) -> list[int]:
        found = await self._connection.execute(query.encode(), parameters)
        return [row[0] for row in await found.fetchall()]


@asynccontextmanager
async def price_table(folder: Path) -> AsyncIterator[PriceTable]:
    """A server of its own, with an empty table."""
    async with Supervisor(folder) as supervisor:
        server = await supervisor.start("postgres", settings={"fsync": False})
        async with await AsyncConnection.connect(server.url, autocommit=True) as connection:
            await connection.execute(SCHEMA)
            yield PriceTable(connection)
