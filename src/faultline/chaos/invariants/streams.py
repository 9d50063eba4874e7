"""I7: the orders' streams have no hole, and all that follows from them does."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from faultline.chaos.finding import Invariant, Violated

if TYPE_CHECKING:
    from faultline.chaos.books import Books
    from faultline.chaos.finding import Findings

HOLES = """
SELECT stream, array_agg(version ORDER BY version) FROM events GROUP BY stream
HAVING min(version) <> 1 OR max(version) <> count(*) ORDER BY stream
"""
READ_MODEL = """
WITH placed AS (
    SELECT substr(stream, 7) AS id, data ->> 'user' AS buyer,
        coalesce(data -> 'total' ->> 'cents', data ->> 'total_cents')::bigint AS cents
    FROM events WHERE type = 'order-placed'
), ended AS (
    SELECT DISTINCT ON (stream) substr(stream, 7) AS id, CASE type WHEN 'order-confirmed' THEN 'confirmed'
        WHEN 'order-cancelled' THEN 'cancelled' WHEN 'return-closed' THEN 'returned' ELSE 'returning' END AS status,
        CASE type WHEN 'return-stuck' THEN 'the money will not go back: ' || (data ->> 'code')
        ELSE coalesce(data ->> 'reason', '') END AS reason
    FROM events WHERE type NOT IN ('order-placed', 'goods-returned', 'money-returned') ORDER BY stream, version DESC
), fold AS (
    SELECT id, buyer, coalesce(status, 'pending') AS status, coalesce(reason, '') AS reason, cents
    FROM placed LEFT JOIN ended USING (id)
)
SELECT id, ARRAY[f.buyer, f.status, f.reason, f.cents::text], ARRAY[s.buyer, s.status, s.reason, s.cents::text]
FROM fold AS f FULL JOIN my_orders.summary AS s USING (id)
WHERE (f.buyer, f.status, f.reason, f.cents) IS DISTINCT FROM (s.buyer, s.status, s.reason, s.cents) ORDER BY id
"""
STATUSES = {
    "order-confirmed": "confirmed",
    "order-cancelled": "cancelled",
    "return-requested": "returning",
    "return-closed": "returned",
}
SNAPSHOTS = "SELECT stream, schema, version, state FROM snapshots ORDER BY stream, schema"
EVENTS = "SELECT type, data FROM events WHERE stream = %s AND version <= %s ORDER BY version"


async def check(books: Books) -> Findings:
    """Streams, the list of orders, snapshots: each beside a fold of the events by the checker's own hand."""
    async with books.of("orders") as orders:
        for stream, versions in await orders.rows(HOLES):
            yield Violated(f"{stream} has versions {versions}")
        for order, folded, listed in await orders.rows(READ_MODEL):
            yield Violated(f"order {order} is {_said(folded)} by its events, {_said(listed)} in the list of orders")
        for stream, schema, version, state in await orders.rows(SNAPSHOTS):
            events = await orders.rows(EVENTS, stream, version)
            if len(events) != version:
                yield Violated(f"the snapshot of {stream} is of version {version}, there are {len(events)} events")
            elif (kept := _essence(state)) != (folded := _fold(events)):
                yield Violated(f"the snapshot of {stream} (schema {schema}) says {kept}, its events {folded}")


def _said(values: list[str] | None) -> str:
    return "nothing" if values is None or values[1] is None else " ".join(filter(None, values))


def _fold(events: list[tuple[str, dict[str, Any]]] | list[tuple[Any, ...]]) -> tuple[object, ...]:
    user, cents, status, reason = None, None, "pending", ""
    for type_, data in events:
        if type_ == "order-placed":
            user, cents = data["user"], data["total"]["cents"] if "total" in data else data["total_cents"]
        elif type_ in STATUSES:
            status, reason = STATUSES[type_], data.get("reason", "")
        elif type_ == "return-stuck":
            reason = f"the money will not go back: {data['code']}"
    return user, cents, status, reason


def _essence(state: dict[str, Any] | None) -> tuple[object, ...]:
    if state is None:
        return None, None, "pending", ""
    return state["user"], state["total"]["cents"], state["status"], state["reason"]


STREAMS = Invariant("I7", "streams: versions without a hole; lists and snapshots are what the events fold to", check)
