"""I4: who has got the order has paid it, once; who has not, or has given it back, has paid nothing."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

from faultline.chaos.finding import Invariant, Violated

if TYPE_CHECKING:
    from faultline.chaos.books import Books
    from faultline.chaos.finding import Findings

ORDERS = """
SELECT substr(stream, 7), array_agg(type), max(coalesce(data -> 'total' ->> 'cents', data ->> 'total_cents')::bigint)
FROM events GROUP BY stream
"""
STATEMENT = "SELECT key, cents FROM statement_line ORDER BY position"


async def check(books: Books) -> Findings:
    """The provider's own lines, which is where money moves, beside the orders."""
    async with books.of("provider") as provider:
        lines: dict[str, list[int]] = defaultdict(list)
        for key, cents in await provider.rows(STATEMENT):
            lines[key.partition(":")[0]].append(cents)
    async with books.of("orders") as book:  # last: an order is there before its money moves
        orders = {order: (set(types), total) for order, types, total in await book.rows(ORDERS)}
    for order, (types, total) in sorted(orders.items()):
        moved = lines.get(order, [])
        if wrong := _wrong(types, total, moved):
            yield Violated(f"order {order} {wrong}, and what was moved for it is {moved}")
    for order in sorted(lines.keys() - orders.keys()):
        yield Violated(f"{lines[order]} cents were moved for order {order}, which was never placed")


def _wrong(types: set[str], total: int, moved: list[int]) -> str:
    """What the order is, if its money does not go with that."""
    there, back = [total], [total, -total]
    if "order-cancelled" in types:
        return "is cancelled" if sum(moved) != 0 else ""
    if "return-closed" in types:
        return f"is returned at {total} cents" if moved != back else ""
    if "return-requested" in types:
        return f"is to come back at {total} cents" if moved not in (there, back) else ""
    if "order-confirmed" in types:
        return f"is confirmed at {total} cents" if moved != there else ""
    return ""


PAID = Invariant(
    "I4", "paid: confirmed = one capture of the total; cancelled or returned = nothing, or all of it back", check
)
