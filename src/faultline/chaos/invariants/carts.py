"""I10: a cart holds what its user has put there, and loses it only to an order that was confirmed.

Each line of a cart is a register. Some order of what was done to it, which keeps to real time, must explain everything
that was seen of it. A confirmed order takes what it had of a line, once, at any time after it was asked for. What a
client never learned the end of may take effect at any time after its call, or never.

The search is Wing and Gong's (1993) with a memory of where it has been; the testbed's judges registers that are only
written, while an order subtracts.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from itertools import islice
from math import inf
from typing import TYPE_CHECKING, Literal

from faultline.chaos.finding import Invariant, Undecided, Violated
from faultline.chaos.history import Outcome

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from faultline.chaos.books import Books
    from faultline.chaos.finding import Findings
    from faultline.chaos.history import Operation

CONFIRMED = """
SELECT DISTINCT substr(stream, 7) FROM events WHERE type = 'order-confirmed'
"""
MOST = 100_000  # configurations of one line, before it is given up


@dataclass(frozen=True, slots=True)
class Step:
    """Something that happened to one line; without an `end` perhaps never."""

    kind: Literal["put", "see", "take"]
    quantity: int
    start: float
    end: float

    def after(self, value: int) -> int | None:
        """What the line holds then; None if this cannot happen now."""
        if self.kind == "put":
            return self.quantity
        if self.kind == "take":
            return max(value - self.quantity, 0)
        return value if value == self.quantity else None


async def check(books: Books) -> Findings:
    """Line by line, from the history alone, and which orders were confirmed."""
    if not any(one.what.startswith("cart") for one in books.history):
        return
    async with books.of("orders") as orders:
        confirmed = {order for (order,) in await orders.rows(CONFIRMED)}
    for (user, sku), steps in sorted(lines(books.history, confirmed).items()):
        explained = explain(steps)
        if explained is None:
            yield Undecided(f"{sku} in the cart of {user}: more than {MOST} ways to order {len(steps)} steps")
        elif not explained:
            yield Violated(f"{sku} in the cart of {user}: no order of these explains what was seen: {_told(steps)}")


def lines(history: Sequence[Operation], confirmed: set[str]) -> dict[tuple[str, str], list[Step]]:
    """What happened to each line, by user and product."""
    found: dict[tuple[str, str], list[Step]] = defaultdict(list)
    known: dict[str, set[str]] = defaultdict(set)  # the products that each user has had to do with
    for one in history:
        known[one.client] |= set(one.asked.get("lines", ())) | set(one.told.get("lines", ()))
        known[one.client] |= {one.asked["sku"]} if "sku" in one.asked else set()
    for one in history:
        for sku, step in _steps(one, known[one.client], confirmed):
            found[one.client, sku].append(step)
    return found


def _steps(one: Operation, known: set[str], confirmed: set[str]) -> Iterator[tuple[str, Step]]:
    if one.what == "place":
        if one.outcome is Outcome.OK and one.told["id"] in confirmed:
            for sku, quantity in one.asked["lines"].items():
                yield sku, Step("take", quantity, one.invoked, inf)
    elif one.what == "cart-see":
        if one.outcome is Outcome.OK:
            for sku in known:
                yield sku, Step("see", one.told["lines"].get(sku, 0), one.invoked, one.ended)
    elif one.what == "cart-put" and one.outcome is not Outcome.FAILED:
        end = one.ended if one.outcome is Outcome.OK else inf
        yield one.asked["sku"], Step("put", one.asked["quantity"], one.invoked, end)


def explain(steps: Sequence[Step]) -> bool | None:
    """Whether some order does; None if there are too many to look at. A line begins with nothing."""
    certain = sum(1 << number for number, step in enumerate(steps) if step.end < inf)
    seen: set[tuple[int, int]] = set()
    open_ = [(0, 0)]
    while open_:
        taken, value = open_.pop()
        if taken & certain == certain:
            return True
        if (taken, value) in seen:
            continue
        seen.add((taken, value))
        if len(seen) > MOST:
            return None
        left = [(number, step) for number, step in enumerate(steps) if not taken >> number & 1]
        first = min(step.end for _, step in left)
        for number, step in left:
            if step.start <= first and (then := step.after(value)) is not None:
                open_.append((taken | 1 << number, then))
    return False


def _told(steps: Sequence[Step]) -> str:
    ordered = sorted(steps, key=lambda step: step.start)
    began = ordered[0].start
    shown = [f"{step.kind} {step.quantity} at {step.start - began:.3f} s" for step in islice(ordered, 20)]
    return ", ".join(shown) + (f" and {len(steps) - 20} more" if len(steps) > 20 else "")


CARTS = Invariant("I10", "carts: what is seen of a line is what was put there, less what was bought, once", check)
