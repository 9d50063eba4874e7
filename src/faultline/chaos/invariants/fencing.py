"""I11: whoever has lost the lease of a flash sale sells no more."""

from __future__ import annotations

from typing import TYPE_CHECKING

from faultline.chaos.finding import Invariant, Violated

if TYPE_CHECKING:
    from faultline.chaos.books import Books
    from faultline.chaos.finding import Findings

BACKWARDS = """
SELECT sku, unit, token, before, order_id FROM (
    SELECT *, max(token) OVER (PARTITION BY sku ORDER BY unit, token ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING)
        AS before FROM flash_sale_unit
) AS sold WHERE token < before ORDER BY sku, unit
"""
BEHIND = """
SELECT sku, fence, max(token) FROM flash_sale JOIN flash_sale_unit USING (sku) GROUP BY sku, fence
HAVING max(token) > fence ORDER BY sku
"""


async def check(books: Books) -> Findings:
    """The tokens by which units were sold, in the order of the units."""
    async with books.of("inventory") as inventory:
        for sku, unit, token, before, order in await inventory.rows(BACKWARDS):
            told = f"flash sale of {sku}: order {order} was sold unit {unit} under token {token}, after token {before}"
            yield Violated(told)
        for sku, fence, token in await inventory.rows(BEHIND):
            yield Violated(f"flash sale of {sku}: its fence is at {fence}, and token {token} has sold")


FENCING = Invariant("I11", "fencing: the tokens that a flash sale has seen never go back", check)
