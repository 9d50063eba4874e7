"""Messages from a queue are handled at least once, in the order of their subject; one that fails is tried later.

    async def forget(event: Event) -> None:
        await cache.forget(event.data["sku"])

    subscriber = Subscriber(amqp, queue="catalog.events", exchange="shop.events", handlers={"catalog.changed": forget})
    await subscriber.run(on_error=log)

What a `Consumer` is without its inbox, for handlers that stand doing the same twice by themselves.

**Promise.** Each event of these types that the exchange has taken since the queue is there is handled to the end, or
lies in the parking queue with the reason, whoever is killed where. It is acknowledged after that. Events of one subject
are handled one after the other as they arrive, those of others meanwhile, `prefetch` at a time. Any number of processes
may run: one at a time works (*single active consumer*), the others are for availability.

**How.** What a handler raises sends a copy to the next step of the `DelayLadder`; the copy is confirmed before the
original is acknowledged, so a death between them makes two.

**Not promised.** Once: whoever dies before the acknowledgement has it handled again. Order for an event that had to be
tried again: those after it do not wait. If that matters, let the handler look at the event's `sequence`.

**Cost.** An acknowledgement an event.

**When something fails**

- No JSON object, no id, a type without a handler, or `NotUnderstood` by the handler: parked at once, since no time will
  help. `on_error` is told `Parked`.
- A handler raises: tried again after each of the ladder's delays, then parked. `on_error` is told each time, with the
  message's name as a note.
- A handler raises `Away`: no message's fault. What is at work tries again until it is back (a pause of 0.1 s, then
  twice as long each time, at most 5 s); nothing is put off or parked.
- The broker goes away, cancels us or hangs up: handlers are cancelled, and the loop connects and declares anew.
- What is parked somebody looks at, and drives again: `Parking`.
- A message ends the process each time: the broker parks it after `deliveries` (header `x-death`).
- `run` is cancelled: nothing new is begun, handlers have `farewell` seconds to end and are acknowledged, then are
  cancelled; then the channel is closed, and only then the broker gives the rest, and what was cancelled, to another.
  (Cancelling the subscription first would let another begin with the second event of a subject before the first ended.)

Sources: RabbitMQ, *Consumer Acknowledgements and Publisher Confirms*, *Consumer Prefetch*, *Single Active Consumer*;
Hohpe and Woolf, *Enterprise Integration Patterns* (2003), *Invalid Message Channel*.
"""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any, NoReturn

from faultline.patterns.broker_channel import opened
from faultline.patterns.delay_ladder import DelayLadder
from faultline.patterns.errors import Away, NotUnderstood, Parked
from faultline.patterns.outbox import Event
from faultline.patterns.run_loop import LONGEST_PAUSE, run_loop

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from aio_pika import Message
    from aio_pika.abc import AbstractChannel, AbstractIncomingMessage

    Handler = Callable[[Event], Awaitable[object]]
    OnError = Callable[[Exception], None]
    Prepare = Callable[[AbstractChannel], Awaitable[object]]

DELAYS = (1.0, 10.0, 60.0)  # seconds
SHORTEST_PAUSE = 0.1  # seconds between two tries of what is nobody's fault


class Subscriber:
    """What hears the events of an exchange in a queue of its own; connected while it runs, and no longer."""

    def __init__(
        self,
        amqp: str,
        *,
        queue: str,
        exchange: str,
        handlers: Mapping[str, Handler],
        prepare: Prepare | None = None,
        delays: Sequence[float] = DELAYS,
        deliveries: int = 20,
        prefetch: int = 10,
        timeout: float = 5.0,
        farewell: float = 5.0,
    ) -> None:
        """Talk to nobody yet. The queues are made when it runs; the exchange must be there after `prepare`.

        `handlers`: by the event's type, which is its routing key, too. `prepare`: what to do on each new channel before
        it subscribes. `delays`: seconds before each further try. `deliveries`: how often a message may end its process.
        `prefetch`: how many events at work at a time. `timeout`: seconds for an answer of the broker. `farewell`:
        seconds for handlers to end when `run` is cancelled. Raises `ValueError` for what makes no sense of these.
        """
        if not queue or not handlers or min(deliveries, prefetch) < 1 or min(timeout, farewell, *delays, 1.0) <= 0:
            raise ValueError(f"no consumer of {queue!r}: a name, a handler, and figures above 0 are needed")
        self._amqp, self._exchange, self._handlers = amqp, exchange, dict(handlers)
        self._prepare = prepare
        self._prefetch, self._timeout, self._farewell = prefetch, timeout, farewell
        self._ladder = DelayLadder(queue=queue, delays=tuple(delays), deliveries=deliveries)
        self._registered = False

    @property
    def registered(self) -> bool:
        """Whether the broker has it as a consumer: it is given events, or will be when those before it have gone."""
        return self._registered

    async def run(self, *, on_error: OnError) -> NoReturn:
        """Hear until it is cancelled; `on_error` is told whatever goes wrong, and nothing of it ends this."""

        async def once() -> bool:
            async with opened(self._amqp, self._timeout) as channel:
                if self._prepare:
                    await self._prepare(channel)
                await self._hear(channel, on_error)
            return False

        await run_loop(once, every=SHORTEST_PAUSE, on_error=on_error)

    async def _handle(self, delivery: AbstractIncomingMessage, channel: AbstractChannel, on_error: OnError) -> None:
        """Let one delivery have its effect, or send it on its way; then acknowledge it.

        `channel` confirms what is published. Raises the client's errors: the delivery is not settled then.
        """
        try:
            event = _read(delivery)
            await _take_effect(event, self._handlers.get(event.type, _nobody), on_error)
        except NotUnderstood as error:
            await self._put(channel, *self._ladder.aside(delivery, str(error)), on_error, error)
        except Exception as error:  # the handler's, whatever it is  # noqa: BLE001, RUF100
            error.add_note(f"{delivery.type} {delivery.message_id}")
            await self._put(channel, *self._ladder.after(delivery, repr(error)), on_error, error)
        await delivery.ack()

    async def _put(
        self, channel: AbstractChannel, where: str, copy: Message, on_error: OnError, error: Exception
    ) -> None:
        await self._publish(channel, where, copy)
        told = error
        if where == self._ladder.parked:
            told = Parked(f"{copy.type} {copy.message_id} is in {where}: {error!r}")
            told.__cause__ = error
        on_error(told)

    async def _publish(self, channel: AbstractChannel, where: str, copy: Message) -> None:
        await channel.default_exchange.publish(copy, where, mandatory=True, timeout=self._timeout)

    async def _hear(self, channel: AbstractChannel, on_error: OnError) -> None:
        """Hand each arrival to a task until something ends the session, which `on_error` is told."""
        arrived: asyncio.Queue[AbstractIncomingMessage | Exception] = asyncio.Queue()
        await channel.set_qos(prefetch_count=self._prefetch, timeout=self._timeout)
        underlay = await channel.get_underlay_channel()
        ends = f"of {self._ladder.queue}: the broker has"
        channel.close_callbacks.add(lambda _, why: arrived.put_nowait(ConnectionError(f"{ends} hung up ({why!r})")))
        underlay.on_consumer_cancel_callbacks.add(
            lambda _: arrived.put_nowait(ConnectionError(f"{ends} ended our subscription"))
        )
        queue = await self._ladder.declare(channel, self._exchange, self._handlers)
        await queue.consume(arrived.put, timeout=self._timeout)
        self._registered = True
        at_work = _AtWork(lambda delivery: self._handle(delivery, channel, on_error), arrived.put_nowait)
        patience = self._farewell
        try:
            while not isinstance(arrival := await arrived.get(), Exception):
                at_work.begin(arrival)
            patience = 0.0  # nobody would hear an acknowledgement
            on_error(arrival)
        finally:
            self._registered = False
            await at_work.end(patience)


class _AtWork:
    """The deliveries at work, those of one subject one after the other."""

    def __init__(
        self, handle: Callable[[AbstractIncomingMessage], Awaitable[None]], failed: Callable[[Exception], None]
    ) -> None:
        self._handle = handle
        self._failed = failed
        self._last: dict[str, asyncio.Task[None]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._ending = False

    def begin(self, delivery: AbstractIncomingMessage) -> None:
        """Handle it as soon as those before it of its subject are done."""
        subject = str(delivery.headers.get("subject", delivery.message_id))
        task = asyncio.create_task(self._in_turn(delivery, self._last.get(subject)))
        self._last[subject] = task
        self._tasks.add(task)
        task.add_done_callback(lambda task: self._done(subject, task))

    async def end(self, patience: float) -> None:
        """Begin nothing more, wait so many seconds for what is at work, then cancel it; returns when all is over."""
        self._ending = True
        try:
            if self._tasks and patience:
                await asyncio.wait(self._tasks, timeout=patience)
        finally:
            for task in self._tasks:
                task.cancel()
            if self._tasks:
                await asyncio.wait(self._tasks)

    async def _in_turn(self, delivery: AbstractIncomingMessage, before: asyncio.Task[None] | None) -> None:
        if before:
            await asyncio.wait([before])
        if not self._ending:
            await self._handle(delivery)

    def _done(self, subject: str, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if self._last.get(subject) is task:
            del self._last[subject]
        if not task.cancelled() and isinstance(error := task.exception(), Exception):
            self._failed(error)


async def _nobody(event: Event) -> None:
    raise NotUnderstood(f"no handler for {event.type}")


async def _take_effect(event: Event, handler: Handler, on_error: OnError) -> None:
    """As soon as what the handler works on is there."""
    pause = SHORTEST_PAUSE
    while True:
        try:
            await handler(event)
        except Away as error:
            on_error(error)
        else:
            return
        await asyncio.sleep(pause)
        pause = min(2 * pause, LONGEST_PAUSE)


def _read(delivery: AbstractIncomingMessage) -> Event:
    """Raises `NotUnderstood`, also for what is nested too deeply."""
    try:
        data: Any = json.loads(delivery.body)
    except (ValueError, RecursionError) as error:
        raise NotUnderstood(str(error)) from error
    if not (isinstance(data, dict) and delivery.message_id and delivery.type):
        raise NotUnderstood("not an event: an id, a type and a JSON object are needed")
    headers = {name: value for name, value in delivery.headers.items() if isinstance(value, str)}
    subject = headers.pop("subject", "")
    return Event(id=delivery.message_id, type=delivery.type, subject=subject, data=data, headers=headers)
