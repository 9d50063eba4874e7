"""Events from a queue take effect once each, in the order of their subject; one that fails is tried later, then parked.

    async def mail(tx: AsyncConnection, event: Event) -> None:
        await tx.execute("INSERT INTO mails …")  # its effect, and by `Outbox.append` what follows from it

    handlers = {"orders.order-placed.v1": mail}
    async with Consumer(dsn, amqp, queue="notifications", exchange="shop.events", handlers=handlers) as consumer:
        await consumer.run(on_error=log)

A `Subscriber` whose handlers work in the transaction of an `Inbox`; what that says of order, of failing and of ending
holds here, too.

**Promise.** Each event of these types that the exchange has taken since the queue is there has its effect once,
whoever is killed where, or lies in the parking queue with the reason. It is acknowledged after the commit.

**Not promised.** Once for effects elsewhere than in the database: give those the event's id as a key. Once for a copy
that comes after its id was forgotten (`forget`): a copy may lie in the parking queue, so remember for as long as
somebody may take to look there (`Parking`).

**Cost.** A transaction and an acknowledgement an event; up to `prefetch` connections to PostgreSQL.

**When something fails.** PostgreSQL is away: no message's fault. What is at work tries again until it is back; nothing
is put off or parked, and `on_error` is told `Away`.

Sources: Hohpe and Woolf, *Enterprise Integration Patterns* (2003), *Idempotent Receiver*.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

from faultline.patterns.connections import saying_away
from faultline.patterns.inbox import Inbox
from faultline.patterns.subscriber import DELAYS, Subscriber

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence
    from types import TracebackType

    from aio_pika.abc import AbstractChannel
    from psycopg import AsyncConnection

    from faultline.patterns.outbox import Event
    from faultline.patterns.subscriber import Prepare

    Effect = Callable[[AsyncConnection, Event], Awaitable[object]]


class Consumer(Subscriber):
    """A subscriber with an inbox. An `async with` closes its connections."""

    def __init__(
        self,
        dsn: str,
        amqp: str,
        *,
        queue: str,
        exchange: str,
        handlers: Mapping[str, Effect],
        prepare: Prepare | None = None,
        delays: Sequence[float] = DELAYS,
        deliveries: int = 20,
        prefetch: int = 10,
        timeout: float = 5.0,
        farewell: float = 5.0,
    ) -> None:
        """As a subscriber; the inbox's table is made in the database `dsn` when it runs."""
        self._inbox = inbox = Inbox(dsn, consumer=queue, connections=prefetch)

        async def prepared(channel: AbstractChannel) -> None:
            await inbox.create()
            if prepare:
                await prepare(channel)

        super().__init__(
            amqp,
            queue=queue,
            exchange=exchange,
            handlers={event_type: _once(inbox, effect) for event_type, effect in handlers.items()},
            prepare=prepared,
            delays=delays,
            deliveries=deliveries,
            prefetch=prefetch,
            timeout=timeout,
            farewell=farewell,
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._inbox.__aexit__(kind, error, trace)

    async def forget(self, older: float) -> int:
        """Forget what took effect more than `older` seconds ago; returns how much. Copies of it would count as new."""
        await self._inbox.create()
        return await self._inbox.forget(older)


def _once(inbox: Inbox, effect: Effect) -> Callable[[Event], Awaitable[object]]:
    """The effect, with the event's id in one transaction. Raises `Away` while there is no database to do it in."""

    async def handle(event: Event) -> None:
        with saying_away():
            await inbox.process(event.id, lambda tx: effect(tx, event))

    return handle
