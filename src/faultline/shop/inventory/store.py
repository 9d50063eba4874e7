"""Stock and reservations: each method is one transaction, with its movements and what it tells of.

The row of the reservation is taken first, then those of the stock in the order of their skus: so two requests for one
order wait for each other, and no two orders that want the same products lock each other out for ever. A product that
everybody wants is locked last, and for two round trips however many lines an order has (a pipeline and the commit).
"""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, LiteralString, NamedTuple

from psycopg import sql

from faultline.shop.contracts import Line, StockReceived, StockSetAside, said
from faultline.shop.inventory.domain import (
    FlashSale,
    Level,
    Refused,
    Reservation,
    Snapshot,
    State,
    TooLate,
    committed,
    expired,
    released,
    repeated,
    reserved,
    returned,
    told,
)
from faultline.shop.logs import request_id

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

    from psycopg import AsyncConnection
    from psycopg_pool import AsyncConnectionPool

    from faultline.patterns import Outbox
    from faultline.shop.contracts import Contract

CLAIM = """
INSERT INTO reservation (order_id, state, version, expires_at)
VALUES (%s, %s, 1, now() + make_interval(secs => %s)) ON CONFLICT DO NOTHING RETURNING expires_at
"""
LINE = "INSERT INTO reservation_line (order_id, sku, quantity) VALUES (%s, %s, %s)"
FIND = "SELECT state, version, expires_at, short_of FROM reservation WHERE order_id = %s"
LOCK = f"{FIND} FOR UPDATE"
LINES = "SELECT sku, quantity FROM reservation_line WHERE order_id = %s ORDER BY sku"
ANY_OVERDUE = "SELECT EXISTS (SELECT FROM reservation WHERE state = 'reserved' AND expires_at <= now())"
OVERDUE = """
SELECT order_id FROM reservation WHERE state = 'reserved' AND expires_at <= now()
ORDER BY expires_at LIMIT %s FOR UPDATE SKIP LOCKED
"""
CHANGE = "UPDATE reservation SET state = %s, version = %s, short_of = %s WHERE order_id = %s"
MOVED = "INSERT INTO movement (sku, kind, quantity, reference) VALUES (%s, %s, %s, %s)"
RECEIVED = (
    "INSERT INTO movement (sku, kind, quantity, reference) VALUES (%s, 'received', %s, %s) ON CONFLICT DO NOTHING"
)
KNOWN = "INSERT INTO stock (sku) VALUES (%s) ON CONFLICT DO NOTHING"
RECEIVE = "UPDATE stock SET received = received + %(n)s, available = available + %(n)s WHERE sku = %(sku)s"
THERE = "SELECT sku, available FROM stock WHERE sku = ANY (%s) ORDER BY sku FOR UPDATE"
TAKE = "UPDATE stock SET reserved = reserved + %(n)s, available = available - %(n)s WHERE sku = %(sku)s"
SELL = "UPDATE stock SET reserved = reserved - %(n)s, committed = committed + %(n)s WHERE sku = %(sku)s"
FREE = "UPDATE stock SET reserved = reserved - %(n)s, available = available + %(n)s WHERE sku = %(sku)s"
TAKE_BACK = "UPDATE stock SET returned = returned + %(n)s, available = available + %(n)s WHERE sku = %(sku)s"
MOVE: dict[State, LiteralString] = {
    State.RESERVED: TAKE,
    State.COMMITTED: SELL,
    State.RELEASED: FREE,
    State.EXPIRED: FREE,
    State.RETURNED: TAKE_BACK,
}
SALE = "SELECT units, sold FROM flash_sale WHERE sku = %s"
ENTER = """
UPDATE flash_sale SET fence = %(token)s WHERE sku = %(sku)s AND fence <= %(token)s RETURNING units, sold
"""
OPEN = "INSERT INTO flash_sale (sku, units) VALUES (%s, %s) ON CONFLICT DO NOTHING"
SELL_UNIT = "UPDATE flash_sale SET sold = %(unit)s, fence = %(token)s WHERE sku = %(sku)s AND fence <= %(token)s"
UNIT = "INSERT INTO flash_sale_unit (order_id, sku, unit, token) VALUES (%s, %s, %s, %s)"
# Only rows that may have changed since are brought; which of them have is decided by `Snapshot`. One statement has one
# snapshot, and one that begins later sees at least as much, on whichever connection.
CHANGED = """
SELECT pg_current_snapshot()::text, (SELECT id::text FROM history),
    sku, received, returned, reserved, committed, available, changed_by::text
FROM (SELECT) AS one LEFT JOIN stock
ON sku = ANY (%(skus)s) AND (changed_by >= pg_snapshot_xmin(%(since)s::pg_snapshot) OR sku = ANY (%(all_of)s))
"""
ONE_AT_A_TIME = "SELECT pg_advisory_xact_lock(hashtextextended('import ' || %s, 0))"
ROWS = "SELECT reference, sku, quantity FROM movement WHERE reference = ANY (%s) AND kind = 'received'"
RECEIVE_ALL = """
INSERT INTO stock (sku, received, available)
SELECT sku, n, n FROM unnest(%s::text[], %s::bigint[]) AS came (sku, n) ORDER BY sku
ON CONFLICT (sku) DO UPDATE
SET received = stock.received + excluded.received, available = stock.available + excluded.available
"""
MOVED_ALL = """
INSERT INTO movement (sku, kind, quantity, reference)
SELECT sku, 'received', n, reference FROM unnest(%s::text[], %s::bigint[], %s::text[]) AS came (sku, n, reference)
"""
RING = "SELECT pg_notify(%s, %s)"
STOCK = "SELECT sku, received, returned, reserved, committed, available FROM stock WHERE sku = ANY (%s) ORDER BY sku"


class Seen(NamedTuple):
    """Levels at one moment, each with the transaction that has changed it last."""

    snapshot: Snapshot
    history: str
    levels: list[tuple[Level, int]]


class Counted(NamedTuple):
    """What has become of rows of an import; those that are in neither were counted before."""

    fresh: int
    otherwise: frozenset[int]
    """Numbers of rows that were other ones when they came before."""


class Stock:
    """All stock and all reservations, in PostgreSQL."""

    def __init__(self, pool: AsyncConnectionPool, outbox: Outbox, changed: Callable[[], None]) -> None:
        """`changed` is called after every commit that may have changed a level."""
        self._pool = pool
        self._outbox = outbox
        self._changed = changed

    async def prepare(self) -> None:
        """Make the outbox, which is the pattern's own table."""
        async with self._pool.connection() as connection:
            await self._outbox.create(connection)

    async def ready(self) -> None:
        """Raises what the pool or the server raises when there is no answer."""
        async with self._pool.connection() as connection:
            await connection.execute("SELECT")

    async def levels(self, skus: Collection[str]) -> list[Level]:
        """How many of these products there are, at one moment; of which there never was one, nothing."""
        async with self._pool.connection() as connection:
            rows = await (await connection.execute(STOCK, [list(skus)])).fetchall()
        return [_level(row) for row in rows]

    async def changes(self, skus: Collection[str], *, since: Snapshot, all_of: Collection[str]) -> Seen:
        """Which of these levels have changed since, and how all levels of `all_of` are, at one moment."""
        values = {"skus": [*skus, *all_of], "since": str(since), "all_of": list(all_of)}
        async with self._pool.connection() as connection:
            rows: list[tuple[Any, ...]] = await (await connection.execute(CHANGED, values)).fetchall()
        levels = [(_level(row[2:8]), int(row[8])) for row in rows if row[2] is not None]
        return Seen(Snapshot.read(rows[0][0]), rows[0][1], levels)

    async def ring(self, channel: str, who: str) -> None:
        """Wake the other processes that listen on the channel; nothing is in it but who rings."""
        async with self._pool.connection() as connection:
            await connection.execute(RING, [channel, who])

    async def receive(self, lines: Sequence[Line], receipt: str) -> int:
        """Put these into the stock; how many products of this receipt were not in there already."""
        count = 0
        async with self._pool.connection() as tx, tx.transaction():
            for line in sorted(lines, key=lambda line: line.sku):
                await tx.execute(KNOWN, [line.sku])
                if (await tx.execute(RECEIVED, [line.sku, line.quantity, receipt])).rowcount:
                    await tx.execute(RECEIVE, {"n": line.quantity, "sku": line.sku})
                    event = StockReceived(sku=line.sku, quantity=line.quantity, receipt=receipt)
                    await self._say(tx, event, f"{line.sku}/{receipt}", 1)
                    count += 1
        self._changed()
        return count

    async def count(self, import_id: str, rows: Mapping[int, Line]) -> Counted:
        """Put these rows of an import into the stock, by number, each once."""
        names = {f"import/{import_id}/{number}": number for number in rows}
        async with self._pool.connection() as tx, tx.transaction():
            await tx.execute(ONE_AT_A_TIME, [import_id])
            found = await (await tx.execute(ROWS, [list(names)])).fetchall()
            known = {names[reference]: Line(sku, quantity) for reference, sku, quantity in found}
            fresh = {name: rows[number] for name, number in names.items() if number not in known}
            if fresh:
                await self._count(tx, fresh)
        self._changed()
        return Counted(len(fresh), frozenset(number for number, line in known.items() if line != rows[number]))

    async def _count(self, tx: AsyncConnection, rows: Mapping[str, Line]) -> None:
        total: Counter[str] = Counter()
        for line in rows.values():
            total[line.sku] += line.quantity
        await tx.execute(RECEIVE_ALL, [list(total), list(total.values())])
        skus, quantities = [line.sku for line in rows.values()], [line.quantity for line in rows.values()]
        await tx.execute(MOVED_ALL, [skus, quantities, list(rows)])
        async with tx.pipeline():
            for name, line in rows.items():
                event = StockReceived(sku=line.sku, quantity=line.quantity, receipt=name)
                await self._say(tx, event, f"{line.sku}/{name}", 1)

    async def find(self, order: str) -> Reservation | None:
        """What has become of the order; None if nothing is known of it."""
        async with self._pool.connection() as connection:
            return await _found(connection, FIND, order)

    async def reserve(self, order: str, lines: tuple[Line, ...], *, seconds: float) -> Reservation:
        """Hold all of these, or none; lines as `domain.asked` gives them. Raises `AskedOtherwise`."""
        async with self._pool.connection() as tx, tx.transaction():
            claim = await (await tx.execute(CLAIM, [order, State.RESERVED, seconds])).fetchone()
            if claim is None:  # it was here before; by now its transaction is over
                found = await _found(tx, FIND, order)
                assert found
                return repeated(found, lines)
            async with tx.pipeline():
                for line in lines:
                    await tx.execute(LINE, [order, line.sku, line.quantity])
            rows = await (await tx.execute(THERE, [[line.sku for line in lines]])).fetchall()
            there: dict[str, int] = dict(rows)
            reservation = reserved(order, lines, there, expires_at=claim[0])
            await self._enter(tx, reservation)
        self._changed()
        return reservation

    async def commit(self, order: str) -> Reservation | None:
        """Sell what it holds; None if nothing is known of it. Raises `Refused`."""
        async with self._pool.connection() as tx, tx.transaction():
            found = await self._change(tx, order, committed)
        self._changed()
        return found

    async def release(self, order: str) -> Reservation:
        """Free what it holds, and let it hold nothing later. Raises `Refused`.

        Of an order that is unknown it is remembered that it was released: its request to reserve may still be on the
        way, and whoever gave up on it will not come again.
        """
        async with self._pool.connection() as tx, tx.transaction():
            claim = await (await tx.execute(CLAIM, [order, State.RELEASED, 0])).fetchone()
            if claim:
                return Reservation(order=order, state=State.RELEASED, version=1, lines=(), expires_at=claim[0])
            found = await self._change(tx, order, released)
        self._changed()
        assert found
        return found

    async def take_back(self, tx: AsyncConnection, order: str) -> None:
        """Put what the order was sold into the stock again, in your transaction. Raises `Refused`.

        Who watches hears of it within a second: only you know when it is committed.
        """
        if await self._change(tx, order, returned) is None:
            raise Refused(f"order {order} was sold nothing: nothing is known of it")

    async def expire(self, limit: int = 100) -> int:
        """Free what was held too long; how many orders that was. Any number of processes may do so at once."""
        async with self._pool.connection() as tx:
            if not (await (await tx.execute(ANY_OVERDUE)).fetchone() or [False])[0]:  # nearly always
                return 0
            async with tx.transaction():
                count = await self._expire(tx, limit)
        self._changed()
        return count

    async def _expire(self, tx: AsyncConnection, limit: int) -> int:
        orders = [order for (order,) in await (await tx.execute(OVERDUE, [limit])).fetchall()]
        for order in orders:
            await self._change(tx, order, expired)
        return len(orders)

    async def open_sale(self, sku: str, units: int) -> FlashSale:
        """Set so many units of the stock aside, unless there is such a sale; raises `Refused` if there are fewer."""
        async with self._pool.connection() as tx, tx.transaction():
            there: dict[str, int] = dict(await (await tx.execute(THERE, [[sku]])).fetchall())
            if there.get(sku, 0) < units and await _sale(tx, sku) is None:
                raise Refused(f"of {sku} {there.get(sku, 0)} are available, not {units}")
            if (await tx.execute(OPEN, [sku, units])).rowcount:
                await tx.execute(TAKE, {"n": units, "sku": sku})
                await tx.execute(MOVED, [sku, State.RESERVED, units, f"flash sale of {sku}"])
                await self._say(tx, StockSetAside(sku=sku, quantity=units), sku, 1)
            sale = await _sale(tx, sku)
        self._changed()
        assert sale
        return sale

    async def sale(self, sku: str) -> FlashSale | None:
        """How it stands; None if there is none."""
        async with self._pool.connection() as connection:
            return await _sale(connection, sku)

    async def entered(self, sku: str, *, token: int) -> FlashSale:
        """How it stands, read under the lease with this token, and from then on no earlier lease writes.

        To compare tokens when it is written is not enough: a late write of an earlier lease may come between this read
        and the write that rests on it. Raises `TooLate` where a later lease has been here.
        """
        async with self._pool.connection() as connection:
            row = await (await connection.execute(ENTER, {"sku": sku, "token": token})).fetchone()
        if row is None:
            raise TooLate(f"lease {token} of the flash sale of {sku} is over")
        return FlashSale(sku=sku, units=row[0], sold=row[1])

    async def sell(self, order: str, sale: FlashSale, *, token: int, seconds: float) -> Reservation:
        """Let the order hold the next unit of a sale that was read under the lease with this token.

        Rejected for good if none is left. Raises `TooLate` where a later lease has written already: what was read may
        be old by now.
        """
        lines = (Line(sale.sku, 1),)
        async with self._pool.connection() as tx, tx.transaction():
            claim = await (await tx.execute(CLAIM, [order, State.RESERVED, seconds])).fetchone()
            if claim is None:
                found = await _found(tx, FIND, order)
                assert found
                return repeated(found, lines)
            await tx.execute(LINE, [order, sale.sku, 1])
            unit = sale.next_unit
            now = reserved(order, lines, {sale.sku: int(unit is not None)}, expires_at=claim[0])
            if unit is not None:
                written = await tx.execute(SELL_UNIT, {"unit": unit, "token": token, "sku": sale.sku})
                if written.rowcount == 0:
                    raise TooLate(f"lease {token} of the flash sale of {sale.sku} is over")
                await tx.execute(UNIT, [order, sale.sku, unit, token])
            await tx.execute(CHANGE, [now.state, now.version, now.short_of, order])
            await self._say(tx, told(now), order, now.version)  # what it holds was set aside when the sale began
        return now

    async def _change(
        self, tx: AsyncConnection, order: str, rule: Callable[[Reservation], Reservation]
    ) -> Reservation | None:
        found = await _found(tx, LOCK, order)
        if found is None:
            return None
        now = rule(found)
        if now == found:
            return found
        await self._enter(tx, now)
        return now

    async def _enter(self, tx: AsyncConnection, now: Reservation) -> None:
        """Write down all that the reservation's new state means."""
        async with tx.pipeline():
            await tx.execute(CHANGE, [now.state, now.version, now.short_of, now.order])
            for line in now.lines if now.state in MOVE else ():
                await tx.execute(MOVE[now.state], {"n": line.quantity, "sku": line.sku})
                await tx.execute(MOVED, [line.sku, now.state, line.quantity, now.order])
            await self._say(tx, told(now), now.order, now.version)

    async def _say(self, tx: AsyncConnection, event: Contract, subject: str, version: int) -> None:
        time = datetime.now(UTC)
        word = said(event, subject=subject, sequence=version, time=time, correlation=request_id.get())
        await self._outbox.append(tx, word)


def _level(row: tuple[Any, ...]) -> Level:
    sku, received, returned, reserved, committed, available = row
    return Level(
        sku=sku, received=received, returned=returned, reserved=reserved, committed=committed, available=available
    )


async def _sale(tx: AsyncConnection, sku: str) -> FlashSale | None:
    row: tuple[int, int] | None = await (await tx.execute(SALE, [sku])).fetchone()
    return FlashSale(sku=sku, units=row[0], sold=row[1]) if row else None


async def _found(tx: AsyncConnection, statement: LiteralString, order: str) -> Reservation | None:
    row: tuple[Any, ...] | None = await (await tx.execute(sql.SQL(statement), [order])).fetchone()
    if row is None:
        return None
    state, version, expires_at, short_of = row
    lines = await (await tx.execute(LINES, [order])).fetchall()
    return Reservation(
        order=order,
        state=State(state),
        version=version,
        lines=tuple(Line(sku, quantity) for sku, quantity in lines),
        expires_at=expires_at,
        short_of=short_of,
    )
