"""I1: what is counted is what has moved."""

from __future__ import annotations

from typing import TYPE_CHECKING

from faultline.chaos.finding import Invariant, Violated

if TYPE_CHECKING:
    from faultline.chaos.books import Books
    from faultline.chaos.finding import Findings

DIFFERENT = """
WITH sums AS (
    SELECT sku,
        coalesce(sum(quantity) FILTER (WHERE kind = 'received'), 0)::bigint AS received,
        coalesce(sum(quantity) FILTER (WHERE kind = 'returned'), 0)::bigint AS returned,
        coalesce(sum(quantity) FILTER (WHERE kind = 'committed'), 0)::bigint AS committed,
        coalesce(sum(CASE WHEN kind = 'reserved' THEN quantity WHEN kind IN ('received', 'returned') THEN 0
            ELSE -quantity END), 0)::bigint AS reserved
    FROM movement GROUP BY sku
), moved AS (SELECT *, received + returned - reserved - committed AS available FROM sums)
SELECT sku, ARRAY[s.received, s.returned, s.reserved, s.committed, s.available],
    ARRAY[m.received, m.returned, m.reserved, m.committed, m.available]
FROM stock AS s FULL JOIN moved AS m USING (sku)
WHERE (s.received, s.returned, s.reserved, s.committed, s.available) IS DISTINCT FROM (coalesce(m.received, 0),
        coalesce(m.returned, 0), coalesce(m.reserved, 0), coalesce(m.committed, 0), coalesce(m.available, 0))
    OR least(m.received, m.reserved, m.committed - m.returned, m.available) < 0
ORDER BY sku
"""


async def check(books: Books) -> Findings:
    """Each product's counters beside the sums of its movements."""
    async with books.of("inventory") as inventory:
        for sku, counted, moved in await inventory.rows(DIFFERENT):
            told = f"{sku}: counted received, returned, reserved, committed, available = {counted}, moved = {moved}"
            yield Violated(told)


STOCK = Invariant(
    "I1", "stock: received + returned - reserved - committed = available, none below 0, as the movements say", check
)
