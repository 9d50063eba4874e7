"""I2: nothing is sold that was not there."""

from __future__ import annotations

from typing import TYPE_CHECKING

from faultline.chaos.finding import Invariant, Violated

if TYPE_CHECKING:
    from faultline.chaos.books import Books
    from faultline.chaos.finding import Findings

OVERSOLD = """
WITH sold AS (
    SELECT sku, sum(quantity)::bigint AS units FROM reservation JOIN reservation_line USING (order_id)
    WHERE state IN ('committed', 'returned') GROUP BY sku
), came AS (
    SELECT sku, sum(quantity)::bigint AS units FROM movement WHERE kind IN ('received', 'returned') GROUP BY sku
)
SELECT sku, sold.units, coalesce(came.units, 0) FROM sold LEFT JOIN came USING (sku)
WHERE sold.units > coalesce(came.units, 0) ORDER BY sku
"""
UNMOVED = """
SELECT order_id, line.sku, line.quantity, coalesce(sold.quantity, 0), coalesce(back.quantity, 0)
FROM reservation JOIN reservation_line AS line USING (order_id)
LEFT JOIN movement AS sold ON sold.reference = order_id AND sold.sku = line.sku AND sold.kind = 'committed'
LEFT JOIN movement AS back ON back.reference = order_id AND back.sku = line.sku AND back.kind = 'returned'
WHERE state IN ('committed', 'returned') AND (coalesce(sold.quantity, 0), coalesce(back.quantity, 0))
    <> (line.quantity, CASE state WHEN 'returned' THEN line.quantity ELSE 0 END) ORDER BY order_id, line.sku
"""
UNITS_TWICE = """
SELECT sku, unit, array_agg(order_id ORDER BY order_id) FROM flash_sale_unit JOIN reservation USING (order_id)
GROUP BY sku, unit HAVING count(*) > 1 ORDER BY sku, unit
"""
UNITS_BEYOND = """
SELECT sku, units, array_agg(order_id ORDER BY order_id) FROM flash_sale_unit JOIN flash_sale USING (sku)
WHERE unit NOT BETWEEN 1 AND units GROUP BY sku, units ORDER BY sku
"""


async def check(books: Books) -> Findings:
    """What orders were promised for good, beside what has come in; each unit of a flash sale has one order."""
    async with books.of("inventory") as inventory:
        for sku, sold, came in await inventory.rows(OVERSOLD):
            yield Violated(f"{sku}: orders were sold {sold}, {came} have come in")
        for order, sku, promised, taken, back in await inventory.rows(UNMOVED):
            told = f"order {order} was sold {promised} of {sku}, {taken} were taken from the stock, {back} put back"
            yield Violated(told)
        for sku, unit, orders in await inventory.rows(UNITS_TWICE):
            yield Violated(f"flash sale of {sku}: unit {unit} was sold to {len(orders)} orders: {', '.join(orders)}")
        for sku, units, orders in await inventory.rows(UNITS_BEYOND):
            yield Violated(f"flash sale of {sku}: {units} units, and others were sold to {', '.join(orders)}")


OVERSELL = Invariant("I2", "no oversell: sold <= received + returned, and no unit of a flash sale twice", check)
