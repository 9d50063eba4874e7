"""What follows from the events, beside the orders themselves: who has ordered what, and who waits for what comes next.

`my_orders` can be built again from the first event at any time: `POST /v1/projections/my-orders/rebuilds`.
"""

from __future__ import annotations

import asyncio
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from faultline.patterns import Projector
from faultline.patterns.run_loop import run_loop
from faultline.shop.contracts import Money, OrderCancelled, OrderPlaced
from faultline.shop.orders.domain import ReturnStuck, Status
from faultline.shop.orders.store import (
    CANCELLED,
    CONFIRMED,
    RETURN_CLOSED,
    RETURN_REQUESTED,
    RETURN_STUCK,
    happened,
    stream,
)
from faultline.shop.orders.upcasters import PLACED

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from datetime import datetime

    from psycopg import AsyncConnection
    from psycopg_pool import AsyncConnectionPool

    from faultline.patterns import EventStore, Position, Recorded

NAME = "my_orders"
CREATE = """
CREATE TABLE summary (
    id text PRIMARY KEY,
    buyer text NOT NULL,
    status text NOT NULL,
    reason text NOT NULL DEFAULT '',
    cents bigint NOT NULL,
    currency text NOT NULL,
    placed_at timestamptz NOT NULL
);
CREATE INDEX summary_by_buyer ON summary (buyer, placed_at DESC, id DESC);
"""
ADD = "INSERT INTO summary (id, buyer, status, cents, currency, placed_at) VALUES (%s, %s, %s, %s, %s, %s)"
MOVE = "UPDATE summary SET status = %s, reason = %s WHERE id = %s"
STATUSES = {
    CONFIRMED: Status.CONFIRMED,
    CANCELLED: Status.CANCELLED,
    RETURN_REQUESTED: Status.RETURNING,
    RETURN_STUCK: Status.RETURNING,
    RETURN_CLOSED: Status.RETURNED,
}
"""What an order is after such an event."""
PAGE = """
SELECT id, status, reason, cents, currency, placed_at FROM my_orders.summary
WHERE buyer = %s AND (placed_at, id) < (coalesce(%s::timestamptz, 'infinity'), %s)
ORDER BY placed_at DESC, id DESC LIMIT %s
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """An order in a list."""

    id: str
    status: Status
    reason: str
    total: Money
    placed_at: datetime


class MyOrders:
    """Who has ordered what, the newest first: a moment behind the orders themselves."""

    def __init__(self, pool: AsyncConnectionPool) -> None:
        self._pool = pool

    async def page(self, user: str, *, after: tuple[datetime, str] | None, limit: int) -> list[Summary]:
        """Up to `limit` orders of the user, older than that one."""
        moment, order = after or (None, "")
        async with self._pool.connection() as connection:
            rows = await (await connection.execute(PAGE, [user, moment, order, limit])).fetchall()
        return [
            Summary(id=one, status=Status(status), reason=reason, total=Money(cents, currency), placed_at=at)
            for one, status, reason, cents, currency, at in rows
        ]


def projector(events: EventStore, dsn: str) -> Projector:
    """Keeps `my_orders`."""
    handlers = {PLACED: _placed, **dict.fromkeys(STATUSES, _moved)}
    return Projector(events, dsn, name=NAME, create=_create, handlers=handlers)


async def _create(tx: AsyncConnection) -> None:
    await tx.execute(CREATE)


async def _placed(tx: AsyncConnection, event: Recorded) -> None:
    order = happened(event)
    assert isinstance(order, OrderPlaced)
    total = order.total
    row = [order.order, order.user, Status.PENDING, total.cents, total.currency, event.recorded_at]
    await tx.execute(ADD, row)


async def _moved(tx: AsyncConnection, event: Recorded) -> None:
    order = happened(event)
    assert order
    reason = order.reason if isinstance(order, OrderCancelled | ReturnStuck) else ""
    await tx.execute(MOVE, [STATUSES[event.type], reason, order.order])


class Changes:
    """Tells those who wait for an order that something has happened to it: one reader of all events a process.

    A hint: who waits reads the order, and now and then without being told.
    """

    def __init__(self, events: EventStore) -> None:
        self._events = events
        self._waiting: dict[str, set[asyncio.Event]] = {}

    async def run(self, after: Position, *, on_error: Callable[[Exception], None]) -> None:
        """Look for what is new until cancelled."""

        async def more() -> bool:
            nonlocal after
            found = await self._events.read_all(after)
            for event in found:
                for waiting in self._waiting.get(event.stream, ()):
                    waiting.set()
                after = event.position
            return bool(found)

        await run_loop(more, every=0.1, on_error=on_error)

    @contextmanager
    def of(self, order: str) -> Iterator[asyncio.Event]:
        """Set when something has happened to the order; whoever waits clears it."""
        changed = asyncio.Event()
        self._waiting.setdefault(stream(order), set()).add(changed)
        try:
            yield changed
        finally:
            left = self._waiting[stream(order)]
            left.discard(changed)
            if not left:
                del self._waiting[stream(order)]
