"""The catalog's tables: each method is one transaction, and what it tells of goes into the outbox with it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, LiteralString, Protocol

from psycopg.types.json import Jsonb

from faultline.patterns import Outbox
from faultline.shop.catalog.domain import Order, Product, created, described, repriced, retired
from faultline.shop.contracts import Money, said
from faultline.shop.logs import request_id

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from psycopg import AsyncConnection
    from psycopg_pool import AsyncConnectionPool

    from faultline.shop.catalog.domain import Description, Place
    from faultline.shop.contracts.events import Contract

COLUMNS = "sku, name, description, brand, category, attributes, price_cents, currency, version"
FIND = f"SELECT {COLUMNS} FROM product WHERE sku = %s AND retired_at IS NULL"
LOCK = f"{FIND} FOR UPDATE"
ADD = f"""
INSERT INTO product ({COLUMNS}) SELECT {COLUMNS} FROM jsonb_populate_recordset(NULL::product, %s)
ON CONFLICT (sku) DO NOTHING RETURNING sku
"""
PRICE = "INSERT INTO price (sku, version, cents, currency, valid_from) VALUES (%s, %s, %s, %s, %s)"
REPRICE = "UPDATE product SET price_cents = %s, version = %s WHERE sku = %s"
DESCRIBE = """
UPDATE product SET name = %(name)s, description = %(description)s, brand = %(brand)s, category = %(category)s,
    attributes = %(attributes)s, version = %(version)s WHERE sku = %(sku)s
"""
RETIRE = "UPDATE product SET retired_at = now(), version = %s WHERE sku = %s"
HISTORY = "SELECT cents, currency, valid_from FROM price WHERE sku = %s ORDER BY version"
PAGES: dict[Order, LiteralString] = {
    Order.SKU: f"""
        SELECT {COLUMNS} FROM product
        WHERE retired_at IS NULL AND (%(category)s::text IS NULL OR category = %(category)s) AND sku > %(sku)s
        ORDER BY sku LIMIT %(limit)s
    """,
    Order.PRICE: f"""
        SELECT {COLUMNS} FROM product
        WHERE retired_at IS NULL AND (%(category)s::text IS NULL OR category = %(category)s)
          AND (price_cents, sku) > (%(cents)s, %(sku)s)
        ORDER BY price_cents, sku LIMIT %(limit)s
    """,
}


class Entry(Protocol):
    """A product in the ranking."""

    @property
    def sku(self) -> str:
        """Which."""
        ...

    @property
    def score(self) -> int:
        """How often it was looked at."""
        ...

    @property
    def rank(self) -> int:
        """1 for the best."""
        ...


class Trending(Protocol):
    """What was looked at within the last hour: `faultline.patterns.Trending`, or a learner's of redis/08."""

    async def record(self, sku: str) -> None:
        """Somebody looks at it, now."""
        ...

    async def top(self, n: int) -> Sequence[Entry]:
        """The best `n`, the best first."""
        ...


class Products:
    """All products, in PostgreSQL."""

    def __init__(self, pool: AsyncConnectionPool, outbox: Outbox) -> None:
        self._pool = pool
        self._outbox = outbox

    async def prepare(self) -> None:
        """Make the outbox, which is the pattern's own table."""
        async with self._pool.connection() as connection:
            await self._outbox.create(connection)

    async def ready(self) -> None:
        """Raises what the pool or the server raises when there is no answer."""
        async with self._pool.connection() as connection:
            await connection.execute("SELECT")

    async def find(self, sku: str) -> Product | None:
        """The product; None if it is unknown or retired."""
        async with self._pool.connection() as connection:
            row = await (await connection.execute(FIND, [sku])).fetchone()
        return _product(row) if row else None

    async def page(self, *, order: Order, category: str | None, after: Place | None, limit: int) -> list[Product]:
        """Up to `limit` products behind `after`, in this order."""
        values = {
            "category": category,
            "cents": after.cents if after else 0,
            "sku": after.sku if after else "",
            "limit": limit,
        }
        async with self._pool.connection() as connection:
            rows = await (await connection.execute(PAGES[order], values)).fetchall()
        return [_product(row) for row in rows]

    async def history(self, sku: str) -> list[tuple[Money, datetime]]:
        """What it has cost, and since when, the oldest first; also of a product that is retired."""
        async with self._pool.connection() as connection:
            rows = await (await connection.execute(HISTORY, [sku])).fetchall()
        return [(Money(cents, currency), since) for cents, currency, since in rows]

    async def add(self, products: Sequence[Product], *, at: datetime) -> list[str]:
        """Add those whose sku is not taken, in one transaction; which these were."""
        rows = Jsonb([_row(product) for product in products])
        async with self._pool.connection() as connection, connection.transaction():
            added = {sku for (sku,) in await (await connection.execute(ADD, [rows])).fetchall()}
            async with connection.pipeline():
                for product in products:
                    if product.sku in added:
                        await self._priced(connection, product, at)
                        await self._say(connection, created(product), product, at)
        return sorted(added)

    async def reprice(self, sku: str, price: Money, *, seen: int | None, at: datetime) -> Product | None:
        """The product at its new price; None if it is unknown or retired. Raises what `domain.repriced` does."""
        async with self._pool.connection() as connection, connection.transaction():
            row = await (await connection.execute(LOCK, [sku])).fetchone()
            if not row:
                return None
            product, event = repriced(_product(row), price, seen=seen, at=at)
            if event:
                await connection.execute(REPRICE, [product.price.cents, product.version, sku])
                await self._priced(connection, product, at)
                await self._say(connection, event, product, at)
        return product

    async def describe(self, sku: str, as_: Description, *, seen: int | None, at: datetime) -> Product | None:
        """The product under that description; None if it is unknown or retired. Raises `VersionMismatch`."""
        async with self._pool.connection() as connection, connection.transaction():
            row = await (await connection.execute(LOCK, [sku])).fetchone()
            if not row:
                return None
            product, event = described(_product(row), as_, seen=seen)
            if event:
                await connection.execute(DESCRIBE, _row(product) | {"attributes": Jsonb(product.attributes)})
                await self._say(connection, event, product, at)
        return product

    async def retire(self, sku: str, *, at: datetime) -> bool:
        """Take it out of the catalog; False if it is not in there."""
        async with self._pool.connection() as connection, connection.transaction():
            row = await (await connection.execute(LOCK, [sku])).fetchone()
            if not row:
                return False
            product, event = retired(_product(row))
            await connection.execute(RETIRE, [product.version, sku])
            await self._say(connection, event, product, at)
        return True

    async def _priced(self, tx: AsyncConnection, product: Product, at: datetime) -> None:
        await tx.execute(PRICE, [product.sku, product.version, product.price.cents, product.price.currency, at])

    async def _say(self, tx: AsyncConnection, event: Contract, product: Product, at: datetime) -> None:
        """While the product's row is locked, so that what is said of one product is in order."""
        word = said(event, subject=product.sku, sequence=product.version, time=at, correlation=request_id.get())
        await self._outbox.append(tx, word)


def _product(row: tuple[Any, ...]) -> Product:
    sku, name, description, brand, category, attributes, cents, currency, version = row
    return Product(
        sku=sku,
        name=name,
        description=description,
        brand=brand,
        category=category,
        attributes=attributes,
        price=Money(cents, currency),
        version=version,
    )


def _row(product: Product) -> dict[str, object]:
    row = {name: getattr(product, name) for name in ("sku", "name", "description", "brand", "category", "attributes")}
    return row | {"price_cents": product.price.cents, "currency": product.price.currency, "version": product.version}
