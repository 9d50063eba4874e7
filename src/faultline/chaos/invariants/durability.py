"""I5: what a client was told stays true."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, NamedTuple

from faultline.chaos.finding import Invariant, Undecided, Violated
from faultline.chaos.history import Outcome

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from faultline.chaos.books import Books
    from faultline.chaos.finding import Finding, Findings
    from faultline.chaos.history import Operation

STATUSES = {
    "order-confirmed": "confirmed",
    "order-cancelled": "cancelled",
    "return-requested": "returning",
    "return-closed": "returned",
}
STEPS = {"pending": 0, "cancelled": 1, "confirmed": 1, "returning": 2, "returned": 3}
"""How far an order is: it never goes back, nor from one to another of the same step."""
PLACED = """
SELECT substr(stream, 7), data ->> 'user', data ->> 'key', (
    SELECT jsonb_object_agg(line ->> 'sku', line -> 'quantity') FROM jsonb_array_elements(data -> 'lines') AS line
) FROM events WHERE type = 'order-placed' AND version = 1
"""
CHANGED = """
SELECT substr(stream, 7), array_agg(type ORDER BY version) FROM events
WHERE type IN ('order-confirmed', 'order-cancelled', 'return-requested', 'return-closed') GROUP BY stream
"""


class Placed(NamedTuple):
    """Who has ordered what, under which key."""

    user: str
    key: str
    lines: dict[str, int]
    """How many of each product."""


async def check(books: Books) -> Findings:
    """Every answer of the history beside the orders as they are now."""
    async with books.of("orders") as orders:
        placed = {order: Placed(*row) for order, *row in await orders.rows(PLACED)}
        changed = {order: [STATUSES[type_] for type_ in types] for order, types in await orders.rows(CHANGED)}
    for order, statuses in sorted(changed.items()):
        ends = [status for status in statuses if STEPS[status] == 1]
        if len(ends) > 1:
            yield Violated(f"order {order} has come to {len(ends)} ends: {', '.join(ends)}")
    history = books.history
    for finding in (*_acknowledged(history, placed), *_doubtful(history, placed), *_twice(placed)):
        yield finding
    for finding in _seen(history, changed):
        yield finding


def _acknowledged(history: Sequence[Operation], placed: dict[str, Placed]) -> Iterator[Finding]:
    """What a client was told is ordered is there as it was asked for, and the same for one key."""
    given: dict[tuple[str, str], set[str]] = defaultdict(set)
    for one in history:
        if one.what != "place" or one.outcome is not Outcome.OK:
            continue
        order, asked = one.told["id"], Placed(one.client, one.asked["key"], one.asked["lines"])
        given[one.client, asked.key].add(order)
        if order not in placed:
            yield Violated(f"{one.client} was told that order {order} is placed (key {asked.key}), and there is none")
        elif placed[order] != asked:
            yield Violated(f"order {order} is {tuple(placed[order])}, {tuple(asked)} was acknowledged")
    for (client, key), orders in given.items():
        if len(orders) > 1:
            yield Violated(f"{client} was given {len(orders)} orders for key {key}: {', '.join(sorted(orders))}")


def _doubtful(history: Sequence[Operation], placed: dict[str, Placed]) -> Iterator[Finding]:
    """Of a request that never had an answer either is right, of one that was refused only one."""
    outcomes: dict[tuple[str, str], set[Outcome]] = defaultdict(set)
    for one in history:
        if one.what == "place":
            outcomes[one.client, one.asked["key"]].add(one.outcome)
    there = {(one.user, one.key) for one in placed.values()}
    for (client, key), seen in outcomes.items():
        if seen == {Outcome.FAILED} and (client, key) in there:
            yield Violated(f"{client} was refused the order of key {key}, and it is there")
        elif Outcome.UNKNOWN in seen and Outcome.OK not in seen:
            found = "it is" if (client, key) in there else "it is not"
            yield Undecided(f"{client} never learned whether the order of key {key} is placed; {found}")


def _twice(placed: dict[str, Placed]) -> Iterator[Finding]:
    orders: dict[tuple[str, str], list[str]] = defaultdict(list)
    for order, one in placed.items():
        orders[one.user, one.key].append(order)
    for (user, key), several in orders.items():
        if len(several) > 1:
            yield Violated(f"key {key} of {user} has {len(several)} orders: {', '.join(sorted(several))}")


def _seen(history: Sequence[Operation], changed: dict[str, list[str]]) -> Iterator[Finding]:
    """What a client has seen is not undone later, and is what is recorded."""
    furthest: dict[str, Operation] = {}
    for one in sorted(history, key=lambda one: one.ended):
        if one.what != "see" or one.outcome is not Outcome.OK:
            continue
        order, status = one.asked["order"], one.told["status"]
        if status not in ["pending", *changed.get(order, [])]:
            recorded = ", ".join(changed.get(order, [])) or "pending"
            yield Violated(f"order {order} was shown as {status}, it is {recorded}")
        before = furthest.get(order)
        was = before.told["status"] if before else "pending"
        if before and one.invoked > before.ended and status != was and STEPS[status] <= STEPS[was]:
            yield Violated(f"order {order} was {was}, for good, and later {status}")
        if STEPS[status] > STEPS[was]:
            furthest[order] = one


DURABILITY = Invariant("I5", "durability: what was acknowledged is there, once a key; an end is final", check)
