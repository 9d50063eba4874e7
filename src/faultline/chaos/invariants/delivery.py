"""I8: what has happened was told, and what was told has had its effect, once."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, LiteralString

from faultline.chaos.finding import Invariant, Violated

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Collection

    from faultline.chaos.books import Books
    from faultline.chaos.finding import Findings

OUTBOX = "SELECT id, subject FROM outbox WHERE sent_at IS NULL ORDER BY position LIMIT 20"
COMMANDS = "SELECT id, subject FROM commands WHERE sent_at IS NULL ORDER BY position LIMIT 20"
REPLIES = "SELECT id, subject FROM replies WHERE sent_at IS NULL ORDER BY position LIMIT 20"
ORDERS_UNTOLD = """
SELECT 'orders.' || type || '.v1/' || substr(stream, 7) || '/' || version AS id FROM events
WHERE recorded_at > now() - interval '20 hours'
    AND type NOT IN ('goods-returned', 'money-returned', 'return-stuck')
EXCEPT SELECT id FROM outbox ORDER BY id
"""
INVENTORY_UNTOLD = """
WITH moved AS (
    SELECT DISTINCT kind, CASE kind WHEN 'received' THEN sku || '/' || reference ELSE reference END AS subject,
        CASE kind WHEN 'received' THEN 'stock-received' WHEN 'reserved' THEN 'stock-reserved'
            WHEN 'returned' THEN 'stock-returned' ELSE 'reservation-' || kind END AS said
    FROM movement WHERE at > now() - interval '20 hours' AND reference NOT LIKE 'flash sale of %%'
)
SELECT said, subject FROM moved
WHERE NOT EXISTS (SELECT FROM outbox WHERE type = 'inventory.' || said || '.v1' AND outbox.subject = moved.subject)
ORDER BY subject, said
"""
SENT_COMMANDS = """
SELECT id FROM commands WHERE sent_at IS NOT NULL AND written_at > now() - interval '20 hours' ORDER BY position
"""
SENT_RETURNS = """
SELECT id FROM outbox WHERE sent_at IS NOT NULL AND written_at > now() - interval '20 hours'
    AND type = 'orders.return-requested.v1' ORDER BY position
"""
PAYMENT_UNTOLD = """
WITH told AS (
    SELECT order_id, 'outbox' AS place, CASE WHEN id LIKE '%%:refund' THEN 'payment.refunded.v1'
        ELSE 'payment.captured.v1' END AS type
    FROM transaction WHERE at > now() - interval '20 hours'
    UNION SELECT order_id, 'replies', 'payment.capture-replied.v1' FROM capture JOIN transaction USING (order_id)
    WHERE at > now() - interval '20 hours' AND until IS NOT NULL
)
SELECT type, order_id FROM told WHERE NOT EXISTS (
    SELECT FROM outbox WHERE outbox.type = told.type AND subject = order_id AND place = 'outbox'
    UNION ALL SELECT FROM replies WHERE replies.type = told.type AND subject = order_id AND place = 'replies'
) ORDER BY order_id, type
"""
USERS_UNTOLD = """
WITH told AS (
    SELECT 'users.user-registered.v1' AS type, id AS subject FROM account WHERE made_at > now() - interval '20 hours'
    UNION ALL SELECT 'users.user-erased.v1', id FROM account WHERE erased_at > now() - interval '20 hours'
)
SELECT type, subject FROM told
WHERE NOT EXISTS (SELECT FROM outbox WHERE outbox.type = told.type AND outbox.subject = told.subject)
ORDER BY subject, type
"""
NOTIFICATIONS_UNTOLD = """
SELECT event, recipient FROM notification WHERE told_at > now() - interval '20 hours' AND NOT EXISTS (
    SELECT FROM outbox WHERE type = 'notifications.sent.v1' AND outbox.subject = recipient
        AND data ->> 'notification' = notification.id)
ORDER BY recipient, number
"""
TOLD_TWICE = """
SELECT template, about, recipient, count(*) FROM notification
GROUP BY template, about, recipient HAVING count(*) > 1 ORDER BY about, template, recipient
"""
NEVER_PLACED = "SELECT event, order_id FROM early ORDER BY event"
WEBHOOKS = "SELECT key, attempts FROM webhook WHERE acknowledged_at IS NULL ORDER BY id"
SENT_SALES = """
SELECT id FROM outbox WHERE sent_at IS NOT NULL AND written_at > now() - interval '20 hours'
    AND type IN ('orders.order-placed.v1', 'orders.order-confirmed.v1', 'orders.return-closed.v1') ORDER BY position
"""
SENT_PAYMENTS = """
SELECT data ->> 'transaction' FROM outbox WHERE sent_at IS NOT NULL AND written_at > now() - interval '20 hours'
    AND type IN ('payment.captured.v1', 'payment.refunded.v1') AND data ? 'transaction' ORDER BY position
"""
SEEN_COMMANDS = "SELECT message_id FROM inbox WHERE consumer = 'payment.commands'"
SEEN_BY_PAYMENT = "SELECT message_id FROM inbox WHERE consumer = 'payment.events'"
SEEN_BY_INVENTORY = "SELECT message_id FROM inbox WHERE consumer = 'inventory.events'"
STAGED_SALES = "SELECT id FROM staged WHERE source = 'orders'"  # heard, or asked for: who came late has heard nothing
STAGED_PAYMENTS = "SELECT data ->> 'transaction' FROM staged WHERE source = 'payment'"
HEARERS: tuple[tuple[str, LiteralString, str, LiteralString], ...] = (
    ("orders", SENT_COMMANDS, "payment", SEEN_COMMANDS),
    ("orders", SENT_RETURNS, "payment", SEEN_BY_PAYMENT),
    ("orders", SENT_RETURNS, "inventory", SEEN_BY_INVENTORY),
    ("orders", SENT_SALES, "analytics", STAGED_SALES),
    ("payment", SENT_PAYMENTS, "analytics", STAGED_PAYMENTS),
)
"""What has left a service, and where whoever hears it has it."""
TO_BE_TOLD = """
SELECT id, data ->> 'user', data ->> 'order' FROM outbox
WHERE sent_at IS NOT NULL AND written_at > greatest(%s, now() - interval '20 hours') AND type IN (
    'orders.order-placed.v1', 'orders.order-confirmed.v1', 'orders.order-cancelled.v1', 'orders.return-requested.v1',
    'orders.return-closed.v1', 'payment.refunded.v1', 'payment.refund-failed.v1', 'users.user-registered.v1')
ORDER BY position
"""
"""What somebody is told of: its id, and whom, by their name or by their order."""
SINCE = "SELECT min(applied_at) FROM migration"
"""Since when there is somebody to tell: a shop that is older has said things before that nobody heard."""
TOLD = "SELECT event, recipient FROM notification ORDER BY recipient"
ERASED = "SELECT recipient FROM mailbox WHERE erased_at IS NOT NULL"
BUYERS = "SELECT order_id, recipient FROM buyer"
EARLY = "SELECT event FROM early"

QUESTIONS: tuple[tuple[str, LiteralString, str], ...] = (
    ("catalog", OUTBOX, "{0} (of {1}) has not left catalog"),
    ("inventory", OUTBOX, "{0} (of {1}) has not left inventory"),
    ("orders", OUTBOX, "{0} (of {1}) has not left orders"),
    ("orders", COMMANDS, "{0} (of {1}) has not left orders"),
    ("payment", OUTBOX, "{0} (of {1}) has not left payment"),
    ("payment", REPLIES, "{0} (of {1}) has not left payment"),
    ("users", OUTBOX, "{0} (of {1}) has not left users"),
    ("users", USERS_UNTOLD, "{0} of {1} has happened, and is not in the outbox of users"),
    ("orders", ORDERS_UNTOLD, "{0} has happened, and is not in the outbox of orders"),
    ("inventory", INVENTORY_UNTOLD, "{0} of {1} has happened, and is not in the outbox of inventory"),
    ("payment", PAYMENT_UNTOLD, "{0} of {1} has happened, and is not in an outbox of payment"),
    ("notifications", OUTBOX, "{0} (of {1}) has not left notifications"),
    ("notifications", NOTIFICATIONS_UNTOLD, "that {1} was told of {0} is not in the outbox of notifications"),
    ("notifications", TOLD_TWICE, "{2} was told {3} times of the {0} of {1}"),
    ("notifications", NEVER_PLACED, "{0} is kept for whoever has placed {1}, and nobody has"),
    ("provider", WEBHOOKS, "the provider has not got its word of {0} through, in {1} attempts"),
)
"""Where something may have got lost, and how that is said."""


async def check(books: Books) -> Findings:
    """From what was changed to the outbox, from there to the broker, to the inbox, to the effect; what lies aside."""
    for service, statement, told in QUESTIONS:
        async with books.of(service) as book:
            for row in await book.rows(statement):
                yield Violated(told.format(*row))
    parked = await _parked(books)
    for sender, sent, hearer, seen in HEARERS:
        for message in await _without_effect(books, sender, sent, hearer, seen):
            if message not in parked:
                yield Violated(f"{message} has left {sender}, and has had no effect in {hearer}")
    async for violated in _untold(books, excused=parked):
        yield violated
    for message, where in parked.items():
        yield Violated(f"{message} is parked in {where}")


async def _without_effect(
    books: Books, sender: str, sent: LiteralString, hearer: str, seen: LiteralString
) -> list[str]:
    """What has left one service, and is not in the other."""
    async with books.of(sender) as book:
        gone = await book.rows(sent)
    async with books.of(hearer) as book:
        there = set(await book.rows(seen))
    return [message for (message,) in gone if (message,) not in there]


async def _untold(books: Books, *, excused: Collection[str]) -> AsyncIterator[Violated]:
    """The effect itself, and not the inbox of notifications: one row for each event, and its recipient's."""
    async with books.of("notifications") as book:
        ((since,),) = await book.rows(SINCE)
    due: list[tuple[str, str | None, str | None]] = []
    for service in ("orders", "payment", "users"):
        async with books.of(service) as sender:
            due += await sender.rows(TO_BE_TOLD, since)
    told: defaultdict[str, list[str]] = defaultdict(list)
    async with books.of("notifications") as book:
        for event, recipient in await book.rows(TOLD):
            told[event].append(recipient)
        erased = set(await book.rows(ERASED))
        waiting = {*excused, *(event for (event,) in await book.rows(EARLY))}
        buyers = dict(await book.rows(BUYERS))
    for event, user, order in due:
        recipient, found = user or buyers.get(order, ""), told[event]
        if event not in waiting and (recipient,) not in erased and found != [recipient]:
            who, were = recipient or "whose order it is", ", ".join(found) or "nobody"
            yield Violated(f"{event} is to be told to {who} once, and was told to {were}")


async def _parked(books: Books) -> dict[str, str]:
    """What lies in parking queues, by id: where, and why."""
    found: dict[str, str] = {}
    for queue in await books.queues():
        if queue.waiting and queue.name.endswith(".parked"):
            for message in await books.peek(queue.name):
                properties = message["properties"]
                reason = properties.get("headers", {}).get("x-reason", "no reason is given")
                found[properties.get("message_id", "a message without id")] = f"{queue.name}: {reason}"
    return found


DELIVERY = Invariant(
    "I8", "delivery: what has happened was told, what was told has had its effect, nothing is parked", check
)
