"""Payments and the ledger: each change is one transaction, with its entries, the events and the replies.

The row of the order is locked first, so commands, answers and webhooks of one order come one after the other. Two
outboxes, since there are two exchanges.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, LiteralString

from psycopg import sql

from faultline.shop.contracts import Capture, Money, Refund, said
from faultline.shop.logs import request_id
from faultline.shop.payment import domain
from faultline.shop.payment.domain import Move, Moved, Payment, State

if TYPE_CHECKING:
    from collections.abc import Sequence

    from psycopg import AsyncConnection
    from psycopg_pool import AsyncConnectionPool

    from faultline.patterns import Outbox

REPLIES = "replies"  # the second outbox
COLUMNS = "state, version, cents, currency, until, code, reference, refund_asked, refund_code, begun"
FIND = f"SELECT {COLUMNS}, correlation FROM capture WHERE order_id = %s"
LOCK = f"{FIND} FOR UPDATE"
# Two first commands of an order meet here: the second waits, and then finds the row.
MEET = "SELECT pg_advisory_xact_lock(hashtextextended('capture ' || %s, 0))"
WRITE = f"""
INSERT INTO capture (order_id, {COLUMNS}, due_at, correlation)
VALUES (%(order)s, %(state)s, %(version)s, %(cents)s, %(currency)s, %(until)s, %(code)s, %(reference)s,
        %(refund_asked)s, %(refund_code)s, %(begun)s, CASE WHEN %(has_work)s THEN now() END, %(correlation)s)
ON CONFLICT (order_id) DO UPDATE SET
    state = EXCLUDED.state, version = EXCLUDED.version, until = EXCLUDED.until, code = EXCLUDED.code,
    reference = EXCLUDED.reference, refund_asked = EXCLUDED.refund_asked, refund_code = EXCLUDED.refund_code,
    begun = EXCLUDED.begun, correlation = EXCLUDED.correlation,
    due_at = CASE WHEN %(goes_on)s THEN capture.due_at ELSE EXCLUDED.due_at END
"""
DUE = f"""
SELECT order_id, claims, {COLUMNS}, correlation FROM capture WHERE due_at <= now()
ORDER BY due_at LIMIT %s FOR UPDATE SKIP LOCKED
"""
CLAIM = """
UPDATE capture SET begun = true, claims = claims + 1, due_at = now() + make_interval(secs => %s) WHERE order_id = %s
"""
PUT_BACK = """
UPDATE capture SET begun = begun AND %s, due_at = now() + make_interval(secs => %s)
WHERE order_id = %s AND claims = %s AND due_at IS NOT NULL
"""
TRANSACTION = "INSERT INTO transaction (id, order_id, reference, at) VALUES (%s, %s, %s, %s)"
ENTRY = "INSERT INTO entry (transaction_id, account, cents, currency) VALUES (%s, %s, %s, %s)"
BOOKED = """
SELECT transaction_id, cents, currency FROM entry WHERE account = 'provider' AND transaction_id > %s
ORDER BY transaction_id LIMIT %s
"""
TRANSACTIONS = """
SELECT id, order_id, at, cents, currency FROM transaction JOIN entry ON transaction_id = id AND account = 'provider'
WHERE id > %(after)s AND at >= coalesce(%(first)s::timestamptz, '-infinity')
    AND at < coalesce(%(end)s::timestamptz, 'infinity')
ORDER BY id LIMIT %(limit)s
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One move that this process has taken on, and nobody else before its lease is over."""

    payment: Payment
    move: Move
    was_begun: bool
    """Somebody may have asked the provider for it before."""
    claim: int
    correlation: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Transaction:
    """A line of the ledger; `amount` is what it has moved at the provider, below zero: given back."""

    id: str
    order: str
    at: datetime
    """The time of the event that tells of it, too."""
    amount: Money


class Payments:
    """All payments and the ledger, in PostgreSQL."""

    def __init__(self, pool: AsyncConnectionPool, *, outbox: Outbox, replies: Outbox) -> None:
        self._pool = pool
        self._outbox = outbox
        self._replies = replies

    async def prepare(self) -> None:
        """Make the outboxes, which are the pattern's own tables."""
        async with self._pool.connection() as connection:
            await self._outbox.create(connection)
            await self._replies.create(connection)

    async def ready(self) -> None:
        """Raises what the pool or the server raises when there is no answer."""
        async with self._pool.connection() as connection:
            await connection.execute("SELECT")

    async def find(self, order: str) -> Payment | None:
        """What is known of the order's money; None if nothing is."""
        async with self._pool.connection() as connection:
            found = await _found(connection, FIND, order)
        return found[0] if found else None

    async def told(self, tx: AsyncConnection, command: Capture | Refund) -> None:
        """Write down a command with all that it means. Raises `AskedOtherwise`."""
        await tx.execute(MEET, [command.order])
        found = await _found(tx, LOCK, command.order)
        before = found[0] if found else None
        match command:
            case Capture():
                now = domain.capturing(before, command)
            case Refund():
                now = domain.refunding(before, command)
        await self._enter(tx, before, now, at=_now(), correlation=request_id.get())

    async def claim(self, most: int, *, lease: float) -> list[Job]:
        """Take on what is due, for `lease` seconds; what is too late by now is declined instead."""
        jobs: list[Job] = []
        async with self._pool.connection() as tx, tx.transaction():
            rows = await (await tx.execute(sql.SQL(DUE), [most])).fetchall()
            for order, claims, *row, correlation in rows:
                found = _payment(order, row)
                now = domain.begun(found, _now())
                if (move := now.next_move) is None:
                    await self._enter(tx, found, now, at=_now(), correlation=correlation)
                    continue
                await tx.execute(CLAIM, [lease, order])
                jobs.append(
                    Job(payment=now, move=move, was_begun=found.begun, claim=claims + 1, correlation=correlation)
                )
        return jobs

    async def put_back(self, job: Job, *, after: float, is_begun: bool) -> None:
        """Let it be taken on again after so many seconds, unless somebody else has by now.

        `is_begun`: the provider may have been asked; if not, a capture can still be too late.
        """
        async with self._pool.connection() as connection:
            await connection.execute(PUT_BACK, [is_begun, after, job.payment.order, job.claim])

    async def settle(self, order: str, move: Move, by: Moved) -> Payment | None:
        """Enter what the provider says of a move, once, whoever has heard of it first; None for an unknown order."""
        async with self._pool.connection() as tx, tx.transaction():
            found = await _found(tx, LOCK, order)
            if found is None:
                return None
            before, correlation = found
            now, at = domain.settled(before, move, by), _now()
            if now != before and not by.code:
                name = domain.key(order, move)
                await tx.execute(TRANSACTION, [name, order, by.reference, at])
                for account, cents in domain.entries(move, now.amount).items():
                    await tx.execute(ENTRY, [name, account, cents, now.amount.currency])
            await self._enter(tx, before, now, at=at, correlation=correlation)
        return now

    async def booked(self, *, page: int = 1000) -> dict[str, Money]:
        """What each transaction has moved at the provider, by its key; below zero: what it gave back."""
        found: dict[str, Money] = {}
        last = ""
        async with self._pool.connection() as connection:
            while rows := await (await connection.execute(BOOKED, [last, page])).fetchall():
                found |= {name: Money(cents, currency) for name, cents, currency in rows}
                last = rows[-1][0]
        return found

    async def transactions(
        self, *, first: datetime | None, end: datetime | None, after: str, limit: int
    ) -> list[Transaction]:
        """Up to `limit` lines of the ledger behind that one, by their names, from `first` until before `end`."""
        values = {"first": first, "end": end, "after": after, "limit": limit}
        async with self._pool.connection() as connection:
            rows = await (await connection.execute(TRANSACTIONS, values)).fetchall()
        return [
            Transaction(id=name, order=order, at=at, amount=Money(cents, currency))
            for name, order, at, cents, currency in rows
        ]

    async def _enter(
        self, tx: AsyncConnection, before: Payment | None, now: Payment, *, at: datetime, correlation: str
    ) -> None:
        if now == before:
            return
        values = {
            "order": now.order,
            "state": now.state,
            "version": now.version,
            "cents": now.amount.cents,
            "currency": now.amount.currency,
            "until": now.until,
            "code": now.code,
            "reference": now.reference,
            "refund_asked": now.refund_asked,
            "refund_code": now.refund_code,
            "begun": now.begun,
            "has_work": now.next_move is not None,
            "goes_on": before is not None and before.next_move is now.next_move,  # who has taken it on keeps it
            "correlation": correlation,
        }
        await tx.execute(sql.SQL(WRITE), values)
        for outbox, words in (
            (self._outbox, domain.events(before, now)),
            (self._replies, domain.replies(before, now)),
        ):
            for word in words:
                event = said(word, subject=now.order, sequence=now.version, time=at, correlation=correlation)
                await outbox.append(tx, event)


async def _found(tx: AsyncConnection, statement: LiteralString, order: str) -> tuple[Payment, str] | None:
    row: tuple[Any, ...] | None = await (await tx.execute(sql.SQL(statement), [order])).fetchone()
    return (_payment(order, row[:-1]), row[-1]) if row else None


def _payment(order: str, row: Sequence[Any]) -> Payment:
    state, version, cents, currency, until, code, reference, refund_asked, refund_code, begun = row
    return Payment(
        order=order,
        state=State(state),
        version=version,
        amount=Money(cents, currency),
        until=until,
        code=code,
        reference=reference,
        refund_asked=refund_asked,
        refund_code=refund_code,
        begun=begun,
    )


def _now() -> datetime:
    return datetime.now(UTC)
