"""I14: what analytics says was sold on a day is what was confirmed on it, less what was given back."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any

from faultline.chaos.finding import Invariant, Violated

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import date

    from faultline.chaos.books import Books
    from faultline.chaos.finding import Findings

    Days = dict[date, int]
    """Cents, by the day."""

ORDERS = """
WITH placed AS (
    SELECT stream, (
        SELECT sum((item ->> 'quantity')::bigint * coalesce(item -> 'unit' ->> 'cents', item ->> 'unit_cents')::bigint)
        FROM jsonb_array_elements(data -> 'lines') AS item
    )::bigint AS cents
    FROM events WHERE type = 'order-placed'
), ended AS (
    SELECT stream, (min(recorded_at) FILTER (WHERE type = 'order-confirmed') AT TIME ZONE 'UTC')::date AS sold,
        (min(recorded_at) FILTER (WHERE type = 'return-closed') AT TIME ZONE 'UTC')::date AS given_back
    FROM events GROUP BY stream
)
SELECT substr(stream, 7), cents, sold, given_back FROM placed JOIN ended USING (stream) WHERE sold IS NOT NULL
"""
SALES = "SELECT order_id, day, sum(cents)::bigint FROM fact_sales GROUP BY order_id, day"
RETURNS = "SELECT order_id, day, sum(cents)::bigint FROM fact_returns GROUP BY order_id, day"


async def check(books: Books) -> Findings:
    """Each order by itself, so that two that are wrong do not make a day that is right; then the days they are in."""
    async with books.of("analytics") as analytics:
        sales = _by_order(await analytics.rows(SALES))
        returns = _by_order(await analytics.rows(RETURNS))
    async with books.of("orders") as book:
        rows = await book.rows(ORDERS)
    confirmed: dict[str, Days] = {order: {sold: cents} for order, cents, sold, _ in rows}
    returned: dict[str, Days] = {order: {back: cents} for order, cents, _, back in rows if back}
    for table, said, ours, theirs in (
        ("fact_sales", "confirmed", confirmed, sales),
        ("fact_returns", "given back", returned, returns),
    ):
        for order in sorted(ours.keys() | theirs.keys()):
            told, kept = ours.get(order, {}), theirs.get(order, {})
            if told != kept:
                yield Violated(f"order {order} was {said} {_told(told)}, and {table} has it {_told(kept)}")
    wanted, found = _net(confirmed, returned), _net(sales, returns)
    for day in sorted(wanted.keys() | found.keys()):
        if wanted[day] != found[day]:
            yield Violated(f"{day}: confirmed less returned is {wanted[day]} cents, by the facts it is {found[day]}")


def _by_order(rows: Iterable[tuple[Any, ...]]) -> dict[str, Days]:
    found: dict[str, Days] = defaultdict(dict)
    for order, day, cents in rows:
        found[order][day] = cents
    return dict(found)


def _net(sold: dict[str, Days], returned: dict[str, Days]) -> defaultdict[date, int]:
    sums: defaultdict[date, int] = defaultdict(int)
    for orders, sign in ((sold, 1), (returned, -1)):
        for days in orders.values():
            for day, cents in days.items():
                sums[day] += sign * cents
    return sums


def _told(days: Days) -> str:
    return ", ".join(f"on {day} at {cents} cents" for day, cents in sorted(days.items())) or "never"


SOLD = Invariant(
    "I14", "analytics: the sales of a day are the orders confirmed on it, less those given back, one by one", check
)
