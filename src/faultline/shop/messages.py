"""Events between services, over the topic exchange `shop.events`: how they leave, and how a service hears them.

    shop.events (topic) ── catalog.price-changed.v1 ──► catalog.events (quorum queue, one a service, for all replicas)
         │                                                    └─ failed four times ─► catalog.events.parked
         └─ what no queue is bound for ─► shop.unheard (the last 1,000, to be looked at)

An outbox keeps what the broker returns, and everything of that subject behind it. So what no service hears (yet) must
not be returned: the alternate exchange takes it. `shop.commands` has none: a command waits in the outbox until there is
a queue of whoever is to carry it out.

A handler says `Away` while what it works on is gone (of PostgreSQL this is said for it), and is asked again until it is
back; what else it raises is tried after 1, 10 and 60 s, then parked. Data that break their contract are parked at once.
"""

from __future__ import annotations

import logging
from asyncio import TaskGroup
from contextlib import contextmanager
from typing import TYPE_CHECKING, NoReturn

from faultline.patterns import Consumer, Parked, PatternError, Relay, Subscriber
from faultline.patterns.connections import saying_away
from faultline.patterns.run_loop import run_loop
from faultline.shop.contracts.envelope import understood
from faultline.shop.logs import request_id

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Mapping

    from aio_pika.abc import AbstractChannel
    from psycopg import AsyncConnection

    from faultline.patterns import Event
    from faultline.shop.contracts import Said

    Handler = Callable[[Said], Awaitable[None]]
    Effect = Callable[[AsyncConnection, Said], Awaitable[None]]

EVENTS, COMMANDS = "shop.events", "shop.commands"
UNHEARD = "shop.unheard"
LOOK_EVERY = 0.1  # seconds between looks into an outbox
FORGET_EVERY = 3600.0  # seconds
SENT_IS_KEPT = 24 * 3600.0  # seconds; for whoever looks what has left
SEEN_IS_KEPT = 7 * 24 * 3600.0
"""Seconds for which an inbox remembers. A copy of what it has seen may lie in the parking queue, put there by a process
that died before it could acknowledge; so whoever re-drives that has a week to do so. A relay that died between confirm
and mark sends a copy, too, but as soon as there is the next one."""

log = logging.getLogger(__name__)


class Ears:
    """Whether the broker knows this process as one that hears: for `/ready`.

    One process of a service is given the events, the others are there to take over: they are ready, too.
    """

    def __init__(self) -> None:
        self._on: list[Subscriber] = []

    async def ready(self) -> None:
        """Raises `ConnectionError` while it hears nothing, or not all that it is meant to."""
        if not self._on or not all(subscriber.registered for subscriber in self._on):
            raise ConnectionError("no consumer at the broker")

    @contextmanager
    def on(self, subscriber: Subscriber) -> Iterator[None]:
        """Count it among what this process is meant to hear."""
        self._on.append(subscriber)
        try:
            yield
        finally:
            self._on.remove(subscriber)


async def relay(amqp: str, database: str, *, exchange: str = EVENTS, table: str = "outbox") -> NoReturn:
    """Bring what is in an outbox of `database` to the exchange, until this is cancelled; forget what has left."""
    async with Relay(database, amqp, exchange=exchange, table=table, prepare=_declare) as one, TaskGroup() as tasks:
        tasks.create_task(_now_and_then(lambda: one.forget(SENT_IS_KEPT), _told(f"forgetting what has left {table}")))
        await one.run(on_error=_told(f"relay of {table}"), every=LOOK_EVERY)


async def hear(
    amqp: str,
    *,
    queue: str,
    handlers: Mapping[str, Handler],
    ears: Ears,
    exchange: str = EVENTS,
    at_once: int = 10,
) -> NoReturn:
    """Give each message of these types to its handler, those of one subject in order, until this is cancelled.

    It is acknowledged when the handler has returned, so whoever dies before that hears it again: a handler must stand
    hearing a message twice. `at_once`: how many messages are given before the first is acknowledged.
    """

    def heard(handler: Handler) -> Callable[[Event], Awaitable[None]]:
        async def handle(event: Event) -> None:
            with _understood(event) as said, saying_away():
                await handler(said)

        return handle

    told = {type_: heard(handler) for type_, handler in handlers.items()}
    subscriber = Subscriber(amqp, queue=queue, exchange=exchange, handlers=told, prepare=_declare, prefetch=at_once)
    with ears.on(subscriber):
        await subscriber.run(on_error=_told(f"hearing {queue}"))


async def consume(
    amqp: str, database: str, *, queue: str, handlers: Mapping[str, Effect], ears: Ears, exchange: str = EVENTS
) -> NoReturn:
    """Let each message of these types have its effect in `database` once, those of one subject in order.

    Until this is cancelled. The handler's transaction has the message's id in it: a copy finds that, and does nothing.
    """

    def heard(effect: Effect) -> Callable[[AsyncConnection, Event], Awaitable[None]]:
        async def handle(tx: AsyncConnection, event: Event) -> None:
            with _understood(event) as said:
                await effect(tx, said)

        return handle

    told = {type_: heard(effect) for type_, effect in handlers.items()}
    one = Consumer(database, amqp, queue=queue, exchange=exchange, handlers=told, prepare=_declare)
    async with one, TaskGroup() as tasks:
        tasks.create_task(_now_and_then(lambda: one.forget(SEEN_IS_KEPT), _told(f"forgetting what {queue} has seen")))
        with ears.on(one):
            await one.run(on_error=_told(f"hearing {queue}"))


@contextmanager
def _understood(event: Event) -> Iterator[Said]:
    """What it says, on behalf of the request that it comes from."""
    said = understood(event)
    held = request_id.set(said.headers.get("correlationid", ""))
    try:
        yield said
    finally:
        request_id.reset(held)


async def _declare(channel: AbstractChannel) -> None:
    """The exchanges, and where goes what nobody hears; any number of processes may do so at once."""
    unheard = await channel.declare_exchange(UNHEARD, "fanout", durable=True)
    await (await channel.declare_queue(UNHEARD, durable=True, arguments={"x-max-length": 1000})).bind(unheard)
    await channel.declare_exchange(EVENTS, "topic", durable=True, arguments={"alternate-exchange": UNHEARD})
    await channel.declare_exchange(COMMANDS, "topic", durable=True)


async def _now_and_then(forget: Callable[[], Awaitable[int]], on_error: Callable[[Exception], None]) -> NoReturn:
    async def once() -> bool:
        await forget()
        return False

    await run_loop(once, every=FORGET_EVERY, on_error=on_error)


def _told(what: str) -> Callable[[Exception], None]:
    """Into the log: an error that somebody has to look at with all that is known of it, others with their reason."""

    def tell(error: Exception) -> None:
        if isinstance(error, Parked):
            log.error("%s: parked", what, exc_info=error)
        elif isinstance(error, PatternError | OSError):
            log.warning("%s: to be tried again", what, extra={"reason": repr(error)})
        else:
            log.warning("%s: failed, and is tried again", what, exc_info=error)

    return tell
