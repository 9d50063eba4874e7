"""What the provider keeps: moves by their keys, the statement, webhooks that are to be sent, how it misbehaves."""

from __future__ import annotations

import secrets
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from psycopg.types.json import Jsonb

from faultline.shop.contracts import Money
from faultline.shop.provider.domain import (
    DECLINED,
    GIVEN_BACK,
    Behaviour,
    Fault,
    KeyReused,
    Misbehaviour,
    Move,
    Struck,
    UnknownCharge,
    strikes,
)

if TYPE_CHECKING:
    from psycopg import AsyncConnection
    from psycopg_pool import AsyncConnectionPool

MEET = "SELECT pg_advisory_xact_lock(hashtextextended(%s, 0))"
FIND = "SELECT kind, asked, code, cents, currency, reference FROM move WHERE key = %s"
IS_GIVEN_BACK = "SELECT EXISTS (SELECT FROM move WHERE charge = %s AND code = '')"
MOVE = """
INSERT INTO move (key, kind, asked, charge, code, cents, currency, reference) VALUES (%s, %s, %s, %s, %s, %s, %s, %s)
"""
LINE = """
WITH next AS (UPDATE book SET lines = lines + 1 RETURNING lines)
INSERT INTO statement_line (position, key, cents) SELECT lines, %s, %s FROM next
"""
LINES = """
SELECT position, key, reference, statement_line.cents, currency, at FROM statement_line JOIN move USING (key)
WHERE position > %s ORDER BY position LIMIT %s
"""
NOTIFY = "INSERT INTO webhook (key, due_at) SELECT %s, now() + make_interval(secs => %s) FROM generate_series(1, %s)"
TAKE = """
UPDATE webhook SET attempts = attempts + 1, due_at = now() + make_interval(secs => %s) WHERE id IN (
    SELECT id FROM webhook WHERE acknowledged_at IS NULL AND due_at <= now()
    ORDER BY due_at LIMIT %s FOR UPDATE SKIP LOCKED
) RETURNING id, attempts, key
"""
PUT_OFF = "UPDATE webhook SET due_at = now() + make_interval(secs => %s) WHERE id = %s"
ACKNOWLEDGED = "UPDATE webhook SET acknowledged_at = now() WHERE id = %s"


@dataclass(frozen=True, slots=True)
class Webhook:
    """One that is to be sent now."""

    id: int
    attempts: int
    move: Move


class Moves:
    """All charges and refunds, in PostgreSQL."""

    def __init__(self, pool: AsyncConnectionPool) -> None:
        self._pool = pool

    async def ready(self) -> None:
        """Raises what the pool or the server raises when there is no answer."""
        async with self._pool.connection() as connection:
            await connection.execute("SELECT")

    async def find(self, kind: str, key: str) -> Move | None:
        """What has become of it; None if it was never accepted."""
        async with self._pool.connection() as connection:
            found = await _found(connection, key)
        return found[0] if found and found[0].kind == kind else None

    async def charge(self, key: str, amount: Money, asked: dict[str, Any], struck: Struck) -> Move:
        """Take the money, once. Raises `KeyReused`."""
        async with self._pool.connection() as tx, tx.transaction():
            await tx.execute(MEET, [key])
            if found := await _found(tx, key):
                return _same(found, "charge", asked)
            code = DECLINED if Fault.DECLINE in struck else ""
            move = Move(kind="charge", key=key, amount=amount, reference=_reference("ch"), code=code)
            await _enter(tx, move, asked, None, struck)
        return move

    async def refund(self, key: str, charge: str, asked: dict[str, Any], struck: Struck) -> Move:
        """Give back all of a charge, once. Raises `KeyReused`, `UnknownCharge`."""
        async with self._pool.connection() as tx, tx.transaction():
            await tx.execute(MEET, [charge])  # two refunds of one charge come one after the other
            if found := await _found(tx, key):
                return _same(found, "refund", asked)
            taken = await _found(tx, charge)
            if not taken or taken[0].kind != "charge" or taken[0].code:
                raise UnknownCharge(f"nothing was charged under {charge}")
            row = await (await tx.execute(IS_GIVEN_BACK, [charge])).fetchone()
            code = GIVEN_BACK if row and row[0] else DECLINED if Fault.DECLINE_REFUND in struck else ""
            move = Move(kind="refund", key=key, amount=taken[0].amount, reference=_reference("re"), code=code)
            await _enter(tx, move, asked, charge, struck)
        return move

    async def lines(self, after: int, limit: int) -> list[tuple[Any, ...]]:
        """Position, key, reference, cents, currency and instant of the lines after that position."""
        async with self._pool.connection() as connection:
            return await (await connection.execute(LINES, [after, limit])).fetchall()

    async def behaviour(self) -> Behaviour:
        """How it misbehaves now."""
        async with self._pool.connection() as connection:
            row = await (await connection.execute("SELECT faults FROM behaviour")).fetchone()
        assert row
        return _behaviour(row[0])

    async def behave(self, behaviour: Behaviour) -> None:
        """Misbehave like this from now on, and not as before."""
        async with self._pool.connection() as connection:
            await connection.execute("UPDATE behaviour SET faults = %s", [_json(behaviour)])

    async def strikes(self, faults: frozenset[Fault]) -> Struck:
        """Which of these strike a request that has just come."""
        async with self._pool.connection() as tx, tx.transaction():
            row = await (await tx.execute("SELECT faults FROM behaviour FOR UPDATE")).fetchone()
            assert row
            before = _behaviour(row[0])
            struck, after = strikes(before, faults)
            if after != before:
                await tx.execute("UPDATE behaviour SET faults = %s", [_json(after)])
        return struck

    async def webhooks(self, most: int, *, lease: float) -> list[Webhook]:
        """Take on some that are due, for `lease` seconds."""
        async with self._pool.connection() as tx, tx.transaction():
            rows = await (await tx.execute(TAKE, [lease, most])).fetchall()
            found = [(id_, attempts, await _found(tx, key)) for id_, attempts, key in rows]
        return [Webhook(id_, attempts, move[0]) for id_, attempts, move in found if move]

    async def acknowledged(self, webhook: Webhook) -> None:
        """It need not be sent again."""
        async with self._pool.connection() as connection:
            await connection.execute(ACKNOWLEDGED, [webhook.id])

    async def put_off(self, webhook: Webhook, seconds: float) -> None:
        """It is sent again after so many seconds."""
        async with self._pool.connection() as connection:
            await connection.execute(PUT_OFF, [seconds, webhook.id])


async def _enter(tx: AsyncConnection, move: Move, asked: dict[str, Any], charge: str | None, struck: Struck) -> None:
    amount = move.amount
    row = (move.key, move.kind, Jsonb(asked), charge, move.code, amount.cents, amount.currency, move.reference)
    await tx.execute(MOVE, row)
    times = 2 if Fault.TWICE in struck else 1
    await tx.execute(NOTIFY, [move.key, struck.seconds(Fault.LATE), times])
    if not move.code:
        await tx.execute(LINE, [move.key, move.signed_cents])  # last: whoever charges waits for this row


async def _found(tx: AsyncConnection, key: str) -> tuple[Move, dict[str, Any]] | None:
    row = await (await tx.execute(FIND, [key])).fetchone()
    if row is None:
        return None
    kind, asked, code, cents, currency, reference = row
    return Move(kind=kind, key=key, amount=Money(cents, currency), reference=reference, code=code), asked


def _same(found: tuple[Move, dict[str, Any]], kind: str, asked: dict[str, Any]) -> Move:
    move, before = found
    if move.kind != kind or before != asked:
        raise KeyReused(f"the key {move.key} belongs to another {move.kind}")
    return move


def _reference(kind: str) -> str:
    return f"{kind}_{secrets.token_hex(8)}"


def _behaviour(faults: dict[str, dict[str, Any]]) -> Behaviour:
    return {Fault(name): Misbehaviour(**one) for name, one in faults.items()}


def _json(behaviour: Behaviour) -> Jsonb:
    return Jsonb({fault.value: asdict(one) for fault, one in behaviour.items()})
