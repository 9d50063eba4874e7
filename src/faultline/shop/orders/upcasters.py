"""What orders once wrote, read as it is written today.

`order-placed`, schema 1, had amounts as plain cents: the shop sold in euros only, and nobody thought of saying so.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from faultline.patterns import Recorded, Upcasters

PLACED = "order-placed"


def with_currency(old: Recorded) -> Iterable[Recorded]:
    """Schema 2: every amount says its currency."""
    lines = [
        {"sku": line["sku"], "quantity": line["quantity"], "unit": _euros(line["unit_cents"])}
        for line in old.data["lines"]
    ]
    rest = {name: old.data[name] for name in ("order", "user", "key")}
    yield replace(old, schema=2, data={**rest, "lines": lines, "total": _euros(old.data["total_cents"])})


def _euros(cents: int) -> dict[str, object]:
    return {"cents": cents, "currency": "EUR"}


UPCASTERS: Upcasters = {(PLACED, 1): with_currency}
