"""Notifications in PostgreSQL: what is told of an event is one transaction, which is that of its inbox.

    inbox (event) ─► mailbox of the recipient, locked ─► notification, number last + 1 ─► outbox, NOTIFY ─► commit

**Numbers.** Those of one recipient are given out under the lock of their mailbox, which is kept until the commit. So
they come without a hole and in the order of commits, and `number > last seen` passes nothing over, which it would with
a sequence: its numbers are given out before commits, in any order. Those of different recipients do not wait for each
other.

**NOTIFY** is said within the transaction: whoever listens hears of it if, and as soon as, that is committed. It takes a
lock of the whole server from before the commit until that is on disk; whoever tells is one process with few events at
a time, and nobody waits for it with a request.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import msgspec

from faultline.shop.contracts import NotificationSent, OrderPlaced, PaymentRefunded, PaymentRefundFailed, said
from faultline.shop.logs import request_id
from faultline.shop.notifications import domain

if TYPE_CHECKING:
    from collections.abc import Collection

    from psycopg import AsyncConnection
    from psycopg_pool import AsyncConnectionPool

    from faultline.patterns import Outbox
    from faultline.shop.notifications.domain import Told

Payment = PaymentRefunded | PaymentRefundFailed
PAYMENTS: dict[str, type[Payment]] = {one.type: one for one in (PaymentRefunded, PaymentRefundFailed)}
CHANNEL = "notifications"
OPEN = """
INSERT INTO mailbox (recipient) VALUES (%s)
ON CONFLICT (recipient) DO UPDATE SET last = mailbox.last RETURNING last, erased_at IS NOT NULL
"""
ADD = """
INSERT INTO notification (recipient, number, id, event, template, about, title, text)
VALUES (%s, %s, %s, %s, %s, %s, %s, %s) ON CONFLICT (event, recipient) DO NOTHING
"""
COUNT = "UPDATE mailbox SET last = %s WHERE recipient = %s"
RING = "SELECT pg_notify(%s, %s)"
# Whose an order is, and what was heard of it before that was known, meet here.
MEET = "SELECT pg_advisory_xact_lock(hashtextextended('order ' || %s, 0))"
BELONGS = "INSERT INTO buyer (order_id, recipient) VALUES (%s, %s) ON CONFLICT DO NOTHING"
BUYER = "SELECT recipient FROM buyer WHERE order_id = %s"
KEEP = """
INSERT INTO early (event, type, order_id, data, correlation) VALUES (%s, %s, %s, %s::jsonb, %s) ON CONFLICT DO NOTHING
"""
TAKE = "DELETE FROM early WHERE order_id = %s RETURNING event, type, data::text, correlation"
ERASE = """
INSERT INTO mailbox (recipient, erased_at) VALUES (%s, clock_timestamp())
ON CONFLICT (recipient) DO UPDATE SET erased_at = coalesce(mailbox.erased_at, clock_timestamp())
"""
FORGET = "DELETE FROM notification WHERE recipient = %s"
COLUMNS = "recipient, number, id, template, about, title, text, told_at, read_at"
PAGE = f"SELECT {COLUMNS} FROM notification WHERE recipient = %s AND number < %s ORDER BY number DESC LIMIT %s"
AFTER = f"SELECT {COLUMNS} FROM notification WHERE recipient = %s AND number > %s ORDER BY number LIMIT %s"
UNREAD = "SELECT count(*) FROM notification WHERE recipient = %s AND read_at IS NULL"
LAST = "SELECT recipient, last FROM mailbox WHERE recipient = ANY (%s)"
READ = f"""
UPDATE notification SET read_at = coalesce(read_at, clock_timestamp()) WHERE id = %s AND recipient = %s
RETURNING {COLUMNS}
"""
READ_ALL = """
UPDATE notification SET read_at = clock_timestamp() WHERE recipient = %s AND number <= %s AND read_at IS NULL
"""
NEWEST = 2**63 - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Notification:
    """Something that somebody was told; `number` counts from 1 for each recipient, without a hole."""

    recipient: str
    number: int
    id: str
    template: str
    about: str
    title: str
    text: str
    told_at: datetime
    read_at: datetime | None


class Notifications:
    """Everybody's."""

    def __init__(self, pool: AsyncConnectionPool, outbox: Outbox) -> None:
        self._pool, self._outbox = pool, outbox

    async def prepare(self) -> None:
        """Make the outbox, which is the pattern's own table."""
        async with self._pool.connection() as connection:
            await self._outbox.create(connection)

    async def ready(self) -> None:
        """Raises what the pool or the server raises when there is no answer."""
        async with self._pool.connection() as connection:
            await connection.execute("SELECT")

    async def tell(self, tx: AsyncConnection, event: str, data: Told, recipient: str) -> None:
        """Tell them of this event, once; nothing, if they were told of it, or were erased."""
        notice = domain.notice(data)
        opened = await (await tx.execute(OPEN, [recipient])).fetchone()
        assert opened
        last, erased = opened
        if erased:
            return
        id_, number = domain.named(event, recipient), last + 1
        row = [recipient, number, id_, event, notice.template, notice.about, notice.title, notice.text]
        if (await tx.execute(ADD, row)).rowcount == 0:  # its inbox has forgotten it since
            return
        await tx.execute(COUNT, [number, recipient])
        sent = NotificationSent(notification=id_, user=recipient, channel=domain.INBOX, template=notice.template)
        now, correlation = datetime.now(UTC), request_id.get()
        word = said(sent, subject=recipient, sequence=number, time=now, correlation=correlation)
        await self._outbox.append(tx, word)
        await tx.execute(RING, [CHANNEL, recipient])

    async def tell_placed(self, tx: AsyncConnection, event: str, data: OrderPlaced) -> None:
        """Tell whose order it is, and remember that; then what was heard of it before."""
        await tx.execute(MEET, [data.order])
        await tx.execute(BELONGS, [data.order, data.user])
        await self.tell(tx, event, data, data.user)
        for early, type_, kept, correlation in await (await tx.execute(TAKE, [data.order])).fetchall():
            held = request_id.set(correlation)
            try:
                await self.tell(tx, early, msgspec.json.decode(kept, type=PAYMENTS[type_]), data.user)
            finally:
                request_id.reset(held)

    async def tell_buyer(self, tx: AsyncConnection, event: str, data: Payment) -> None:
        """Tell whose order it is, now or as soon as it is heard that it was placed."""
        await tx.execute(MEET, [data.order])
        found = await (await tx.execute(BUYER, [data.order])).fetchone()
        if found:
            await self.tell(tx, event, data, found[0])
        else:
            kept = msgspec.json.encode(data).decode()
            await tx.execute(KEEP, [event, data.type, data.order, kept, request_id.get()])

    async def erase(self, tx: AsyncConnection, recipient: str) -> None:
        """Forget what they were told, and tell them nothing any more. That an order was theirs stays, as in orders."""
        await tx.execute(ERASE, [recipient])
        await tx.execute(FORGET, [recipient])

    async def page(self, recipient: str, *, before: int = NEWEST, limit: int) -> tuple[list[Notification], int]:
        """Up to `limit` of theirs, the newest first, and how many they have not read, both of one moment."""
        async with self._pool.connection() as tx, tx.transaction():
            await tx.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
            rows = await (await tx.execute(PAGE, [recipient, before, limit])).fetchall()
            unread = await (await tx.execute(UNREAD, [recipient])).fetchone()
        assert unread
        return [_notification(row) for row in rows], int(unread[0])

    async def after(self, recipient: str, number: int, limit: int) -> list[Notification]:
        """Up to `limit` of theirs that come after that one, the oldest first."""
        async with self._pool.connection() as connection:
            rows = await (await connection.execute(AFTER, [recipient, number, limit])).fetchall()
        return [_notification(row) for row in rows]

    async def last(self, recipients: Collection[str]) -> dict[str, int]:
        """The number of the newest of each of these; those who were never told anything are left out."""
        async with self._pool.connection() as connection:
            return dict(await (await connection.execute(LAST, [list(recipients)])).fetchall())

    async def read(self, id_: str, recipient: str) -> Notification | None:
        """They have read it, since then or before; None if they have no such one."""
        async with self._pool.connection() as connection:
            row = await (await connection.execute(READ, [id_, recipient])).fetchone()
        return _notification(row) if row else None

    async def read_all(self, recipient: str, *, up_to: int) -> int:
        """They have read all up to this number, and not what has come since; how many they had not read before."""
        async with self._pool.connection() as connection:
            return (await connection.execute(READ_ALL, [recipient, up_to])).rowcount


def _notification(row: tuple[Any, ...]) -> Notification:
    recipient, number, id_, template, about, title, text, told_at, read_at = row
    return Notification(
        recipient=recipient,
        number=number,
        id=id_,
        template=template,
        about=about,
        title=title,
        text=text,
        told_at=told_at,
        read_at=read_at,
    )
