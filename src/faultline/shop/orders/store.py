"""Orders as streams of events: `order-ID`, each appended with the version on which it was decided.

The append comes first in its transaction (decision 0015); what is said to others, and the saga that begins, go into the
same one. Two outboxes, since there are two exchanges: events for whoever wants to know, commands for payment.
"""

from __future__ import annotations

from contextlib import suppress
from datetime import UTC, datetime
from functools import reduce
from typing import TYPE_CHECKING

import msgspec
from psycopg import Rollback
from psycopg.errors import UniqueViolation

from faultline.patterns import Fact, Outbox, Snapshots
from faultline.shop.contracts import (
    OrderCancelled,
    OrderConfirmed,
    OrderPlaced,
    ReturnClosed,
    ReturnRequested,
    said,
)
from faultline.shop.logs import request_id
from faultline.shop.orders.domain import GoodsReturned, MoneyReturned, Noted, Order, ReturnStuck, evolve
from faultline.shop.orders.upcasters import PLACED

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Sequence

    from psycopg import AsyncConnection
    from psycopg_pool import AsyncConnectionPool

    from faultline.patterns import EventStore, Loaded, Position, Recorded
    from faultline.shop.contracts import Capture, Contract, Refund
    from faultline.shop.orders.domain import Happened

    Rule = Callable[[Order], Sequence[Happened]]

CONFIRMED, CANCELLED = "order-confirmed", "order-cancelled"
RETURN_REQUESTED, RETURN_CLOSED = "return-requested", "return-closed"
GOODS_RETURNED, MONEY_RETURNED, RETURN_STUCK = "goods-returned", "money-returned", "return-stuck"
KINDS: dict[str, type[Happened]] = {
    PLACED: OrderPlaced,
    CONFIRMED: OrderConfirmed,
    CANCELLED: OrderCancelled,
    RETURN_REQUESTED: ReturnRequested,
    GOODS_RETURNED: GoodsReturned,
    MONEY_RETURNED: MoneyReturned,
    RETURN_STUCK: ReturnStuck,
    RETURN_CLOSED: ReturnClosed,
}
"""What is stored under a type, in the shape of today's schema."""
SCHEMAS = dict.fromkeys(KINDS, 1) | {PLACED: 2}
NAMES = {event: name for name, event in KINDS.items()}
STATE = 2  # the shape of a snapshot: raise it with `Order`, `evolve`, and every upcaster
COMMANDS = "commands"  # the second outbox
RECORDED = "SELECT recorded_at FROM events WHERE stream = %s AND version = %s"
CONNECTIONS = 5  # of each kind, in one process


def stream(order: str) -> str:
    """The order's stream."""
    return f"order-{order}"


def happened(event: Recorded) -> Happened | None:
    """What a stored event says; None for one of a newer version of this service."""
    kind = KINDS.get(event.type)
    return msgspec.convert(event.data, kind) if kind else None


def snapshots(events: EventStore, dsn: str, *, every: int = 100) -> Snapshots[Order | None]:
    """Of orders; None where there is no such order. `every`: how many events of a stream are worth one."""
    return Snapshots(
        events,
        dsn,
        initial=lambda: None,
        evolve=_folded,
        dump=msgspec.to_builtins,
        restore=lambda state: msgspec.convert(state, Order),
        schema=STATE,
        every=every,
        connections=CONNECTIONS,
    )


class Orders:
    """All orders, in PostgreSQL; `events` with `UPCASTERS`."""

    def __init__(self, pool: AsyncConnectionPool, events: EventStore, snapshots: Snapshots[Order | None]) -> None:
        self._pool, self._events, self._snapshots = pool, events, snapshots
        self._outbox, self._commands = Outbox(), Outbox(COMMANDS)

    async def prepare(self) -> None:
        """Make the patterns' own tables."""
        await self._events.create()
        await self._snapshots.create()
        async with self._pool.connection() as connection:
            for outbox in (self._outbox, self._commands):
                await outbox.create(connection)

    async def ready(self) -> None:
        """Raises what the pool or the server raises when there is no answer."""
        async with self._pool.connection() as connection:
            await connection.execute("SELECT")

    async def place(self, placed: OrderPlaced, *, begin: Callable[[AsyncConnection], Awaitable[bool]]) -> bool:
        """Record that it is placed, and `begin` its checkout with that; False, and nothing, if it was placed before.

        Its id follows from its key, so of any number who place it by the same one the stream lets one win.
        """
        new = False
        async with self._pool.connection() as tx, tx.transaction():
            await self._append(tx, placed.order, [placed], after=0)
            new = await begin(tx)
            if not new:
                raise Rollback
            await self._say(tx, placed.order, placed, version=1)
        return new

    async def load(self, order: str) -> Loaded[Order | None]:
        """The order as it stands, and how many events it has; its state is None if there is none."""
        loaded = await self._snapshots.load(stream(order))
        await self._snapshots.maybe_snapshot(stream(order), loaded)
        return loaded

    async def history(self, order: str, *, until: datetime | None) -> list[Recorded]:
        """What had been recorded of it by then. Raises `ValueError` for a moment without a time zone."""
        return await self._events.read(stream(order), until=until)

    async def record(self, order: str, rule: Rule) -> None:
        """Record what happens to it, as the rule says of what it is now.

        Raises what the rule raises, and `VersionConflict` where something else has happened meanwhile.
        """
        loaded = await self.load(order)
        assert loaded.state, f"order {order} was never placed"
        events = rule(loaded.state)
        if not events:
            return
        with suppress(UniqueViolation):  # of the outbox: somebody has recorded the very same at the same time
            async with self._pool.connection() as tx, tx.transaction():
                await self._append(tx, order, events, after=loaded.version)
                for version, event in enumerate(events, loaded.version + 1):
                    if not isinstance(event, Noted):
                        await self._say(tx, order, event, version=version)

    async def log(self, after: Position) -> list[Recorded]:
        """The next events of all orders, in an order that never changes; none where there is no more for now."""
        return await self._events.read_all(after)

    async def command(self, command: Capture | Refund) -> None:
        """Have this sent to payment; once, however often it is asked for here."""
        word = said(command, subject=command.order, sequence=1, time=_now(), correlation=_request(), source="orders")
        try:
            async with self._pool.connection() as tx, tx.transaction():
                await self._commands.append(tx, word)
        except UniqueViolation:
            return  # it is in there since an earlier attempt

    async def _append(self, tx: AsyncConnection, order: str, events: Sequence[Happened], *, after: int) -> None:
        facts = [
            Fact(
                id=f"{NAMES[type(event)]}/{order}/{version}",
                type=NAMES[type(event)],
                data=msgspec.to_builtins(event),
                schema=SCHEMAS[NAMES[type(event)]],
                headers={"correlationid": _request()},
            )
            for version, event in enumerate(events, after + 1)
        ]
        await self._events.append(stream(order), after, facts, tx=tx)

    async def _say(self, tx: AsyncConnection, order: str, event: Contract, *, version: int) -> None:
        """At the time at which it is recorded: whoever reads the log and whoever hears it put it on the same day."""
        row = await (await tx.execute(RECORDED, [stream(order), version])).fetchone()
        assert row, "it was appended in this transaction"
        await self._outbox.append(tx, said(event, subject=order, sequence=version, time=row[0], correlation=_request()))


def folded(events: Iterable[Recorded]) -> Order | None:
    """The order that these make, from its first event on; None if there are none."""
    return reduce(_folded, events, None)


def _folded(order: Order | None, event: Recorded) -> Order | None:
    known = happened(event)
    return order if known is None else evolve(order, known, event.recorded_at)


def _now() -> datetime:
    return datetime.now(UTC)


def _request() -> str:
    return request_id.get()
