"""Events of a shop that never was, as they are said; and the whole of analytics' star schema, to be compared."""

from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Any

from psycopg import AsyncConnection, sql

from faultline.patterns import Event
from faultline.shop.contracts import (
    Contract,
    Money,
    OrderConfirmed,
    OrderLine,
    OrderPlaced,
    PaymentCaptured,
    PaymentRefunded,
    ProductChanged,
    ProductCreated,
    ReturnClosed,
    UserErased,
    UserRegistered,
    said,
)

BEGIN = datetime(2026, 3, 1, 12, tzinfo=UTC)
STAR = {
    "dim_date": "day",
    "dim_product": "sku, version",
    "dim_customer": "customer",
    "fact_sales": "order_id, line",
    "fact_returns": "order_id, line",
    "fact_payments": "transaction_id",
}
"""Its tables, and what a row of each is known by."""


def at(days: float) -> datetime:
    """So many days after noon of 1 March 2026."""
    return BEGIN + timedelta(days=days)


def day(number: int) -> date:
    """1 March 2026 is day 0."""
    return BEGIN.date() + timedelta(days=number)


def told(event: Contract, subject: str, sequence: int, when: datetime) -> Event:
    return said(event, subject=subject, sequence=sequence, time=when, correlation="a-test")


def product(sku: str, category: str, when: datetime, *, version: int = 1, brand: str = "b") -> Event:
    kind = ProductCreated if version == 1 else ProductChanged
    described: Contract = kind(
        sku=sku,
        name=f"a {sku}",
        description="",
        brand=brand,
        category=category,
        attributes={},
        price=Money(1),
        version=version,
    )
    return told(described, sku, version, when)


def placed(order: str, when: datetime, *lines: tuple[str, int, int], user: str = "ann") -> Event:
    ordered = tuple(OrderLine(sku=sku, quantity=quantity, unit=Money(cents)) for sku, quantity, cents in lines)
    total = Money(sum(quantity * cents for _, quantity, cents in lines))
    return told(OrderPlaced(order=order, user=user, lines=ordered, total=total, key=f"key of {order}"), order, 1, when)


def confirmed(order: str, when: datetime, *, user: str = "ann") -> Event:
    return told(OrderConfirmed(order=order, user=user), order, 2, when)


def closed(order: str, when: datetime, *, user: str = "ann") -> Event:
    return told(ReturnClosed(order=order, user=user), order, 6, when)


def captured(order: str, cents: int, when: datetime) -> Event:
    transaction = f"{order}:capture"
    event = PaymentCaptured(order=order, amount=Money(cents), reference="r", transaction=transaction)
    return told(event, order, 2, when)


def refunded(order: str, cents: int, when: datetime) -> Event:
    transaction = f"{order}:refund"
    event = PaymentRefunded(order=order, amount=Money(cents), reference="r", transaction=transaction)
    return told(event, order, 4, when)


def registered(user: str, when: datetime) -> Event:
    return told(UserRegistered(user=user, email_hash="0" * 64, role="customer"), user, 1, when)


def erased(user: str, when: datetime) -> Event:
    return told(UserErased(user=user), user, 2, when)


async def star(connection: AsyncConnection, tables: Sequence[str] = tuple(STAR)) -> dict[str, list[tuple[Any, ...]]]:
    """Every row of it."""
    found: dict[str, list[tuple[Any, ...]]] = {}
    for table in tables:
        statement = sql.SQL("SELECT * FROM {} ORDER BY " + STAR[table]).format(sql.Identifier(table))  # pyright: ignore
        found[table] = await (await connection.execute(statement)).fetchall()
    return found
