"""I6: all that was begun has come to its end."""

from __future__ import annotations

from typing import TYPE_CHECKING, LiteralString

from faultline.chaos.finding import Invariant, Violated

if TYPE_CHECKING:
    from faultline.chaos.books import Books
    from faultline.chaos.finding import Findings

SAGAS = """
SELECT id, status, direction, step, attempts, coalesce(nullif(error, ''), '-') FROM sagas
WHERE status NOT IN ('done', 'undone') ORDER BY id
"""
ENDLESS = """
SELECT substr(stream, 7) FROM events GROUP BY stream
HAVING bool_and(type NOT IN ('order-confirmed', 'order-cancelled')) AND NOT EXISTS (
    SELECT FROM sagas WHERE id = 'checkout-' || substr(stream, 7) AND status NOT IN ('done', 'undone')
) ORDER BY 1
"""
COMING_BACK = """
SELECT substr(stream, 7), string_agg(type, ', ' ORDER BY version) FROM events
GROUP BY stream HAVING bool_or(type = 'return-requested') AND NOT bool_or(type = 'return-closed') ORDER BY 1
"""
QUESTIONS: tuple[tuple[LiteralString, str], ...] = (
    (SAGAS, "{0} is {1}, {2}, at step {3} after {4} attempts: {5}"),
    (ENDLESS, "order {0} is pending, and no checkout is at work on it"),
    (COMING_BACK, "the return of order {0} has not come to its end: {1}"),
)
"""What orders may have begun and not ended, and how that is said."""
LIVING = "SELECT substr(id, 10) FROM sagas WHERE status NOT IN ('done', 'undone')"
HELD = "SELECT order_id FROM reservation WHERE state = 'reserved' ORDER BY order_id"
PENDING = "SELECT order_id, begun FROM capture WHERE state = 'pending' OR due_at IS NOT NULL ORDER BY order_id"
ASIDE = (".parked", "shop.unheard")  # where messages lie that are not on their way


async def check(books: Books) -> Findings:
    """Checkouts, orders, reservations, queues."""
    async with books.of("orders") as orders:
        for statement, told in QUESTIONS:
            for row in await orders.rows(statement):
                yield Violated(told.format(*row))
        living = {order for (order,) in await orders.rows(LIVING)}
    async with books.of("inventory") as inventory:
        for (order,) in await inventory.rows(HELD):
            if order not in living:
                yield Violated(f"order {order} holds stock, and no checkout is at work on it")
    async with books.of("payment") as payment:
        for order, begun in await payment.rows(PENDING):
            yield Violated(
                f"the payment of order {order} has not come to its end, and it was {'' if begun else 'not '}begun"
            )
    for queue in await books.queues():
        if queue.waiting and not queue.name.endswith(ASIDE):
            yield Violated(f"{queue.waiting} messages wait in {queue.name}")


LIVENESS = Invariant(
    "I6", "liveness: every checkout and return has ended, nothing is held for nobody, nothing waits", check
)
