"""Where a message goes whose handler has failed: to wait, longer each time, and in the end to be looked at by somebody.

```
exchange ──▶ queue ──▶ handler fails ──▶ queue.retry.1s ──▶ queue.retry.10s ──▶ queue.retry.60s ──▶ queue.parked
               ▲                              │ time is up         │                  │                  │ redrive
               └──────────────────────────────┴────────────────────┴──────────────────┴──────────────────┘
```

A step is a queue without a consumer: what lies there for the step's delay is dead-lettered back into the queue, not
into the exchange, where other consumers would hear it again. One queue a delay: within a queue only the head expires.

All are quorum queues that dead-letter *at least once*, so the broker loses nothing between them. A message that ends
its consumer each time never gets as far as failing: the broker counts its deliveries, and parks it beyond `deliveries`.

RabbitMQ 3.10 (seen in five of five tries): of several quorum queues, the one that was declared last, and less than some
seconds before the broker is killed, comes back without a leader and answers nobody. So the queue is not declared last.

Sources: RabbitMQ, *Time-To-Live and Expiration*, *Dead Letter Exchanges*, *Quorum Queues* (poison message handling).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from aio_pika import Message
    from aio_pika.abc import AbstractChannel, AbstractIncomingMessage, AbstractQueue
    from pamqp.common import FieldValue

TRIES = "x-tries"
REASON = "x-reason"
LOOKS = 10**6  # at what is parked, each a delivery; without a limit of ours RabbitMQ 4 drops a message after 20
LONGEST_REASON = 1000  # characters of an error that go along


@dataclass(frozen=True, slots=True, kw_only=True)
class DelayLadder:
    """The queues of one consumer, named after it."""

    queue: str
    delays: Sequence[float]
    """Seconds to wait before the second try, the third …; after as many further tries a message is parked."""
    deliveries: int
    """After how many deliveries that were never settled the broker parks a message by itself."""

    @property
    def parked(self) -> str:
        """The parking queue, which nobody consumes."""
        return f"{self.queue}.parked"

    async def declare(self, channel: AbstractChannel, exchange: str, types: Iterable[str]) -> AbstractQueue:
        """Make what is not there, and bind the queue; the exchange must be there. Raises the client's errors."""
        counted: dict[str, FieldValue] = {"x-delivery-limit": self.deliveries, "x-single-active-consumer": True}
        queue = await channel.declare_queue(self.queue, durable=True, arguments=_quorum(self.parked) | counted)
        for delay in self.delays:
            ttl: dict[str, FieldValue] = {"x-message-ttl": round(delay * 1000)}
            await channel.declare_queue(self._step(delay), durable=True, arguments=_quorum(self.queue) | ttl)
        looks: dict[str, FieldValue] = {"x-queue-type": "quorum", "x-delivery-limit": LOOKS}
        await channel.declare_queue(self.parked, durable=True, arguments=looks)
        for event_type in types:
            await queue.bind(exchange, event_type)
        return queue

    def after(self, message: AbstractIncomingMessage, reason: str) -> tuple[str, Message]:
        """Where a message goes that has failed, and what is to be published there."""
        tries = tries_of(message) + 1
        copy = _copy(message, tries, reason)
        return (self._step(self.delays[tries - 1]), copy) if tries <= len(self.delays) else (self.parked, copy)

    def aside(self, message: AbstractIncomingMessage, reason: str) -> tuple[str, Message]:
        """The parking queue, and what is to be published there."""
        return self.parked, _copy(message, tries_of(message) + 1, reason)

    def again(self, message: AbstractIncomingMessage) -> tuple[str, Message]:
        """The queue itself, and the message as if it had never been tried."""
        return self.queue, _copy(message, 0, "")

    def _step(self, delay: float) -> str:
        return f"{self.queue}.retry.{delay:g}s"


def tries_of(message: AbstractIncomingMessage) -> int:
    """How often its handler has failed; 0 where that is not a number."""
    tries = message.headers.get(TRIES, 0)
    return tries if isinstance(tries, int) and tries > 0 else 0


def _quorum(then: str) -> dict[str, FieldValue]:
    return {
        "x-queue-type": "quorum",
        "x-overflow": "reject-publish",  # what "at least once" asks for
        "x-dead-letter-strategy": "at-least-once",
        "x-dead-letter-exchange": "",
        "x-dead-letter-routing-key": then,
    }


def _copy(message: AbstractIncomingMessage, tries: int, reason: str) -> Message:
    from aio_pika import DeliveryMode, Message

    kept = {name: value for name, value in message.headers.items() if name not in {TRIES, REASON}}
    noted: dict[str, FieldValue] = {TRIES: tries, REASON: reason[:LONGEST_REASON]} if tries else {}
    return Message(
        message.body,
        headers=kept | noted,
        content_type=message.content_type,
        message_id=message.message_id,
        type=message.type,
        correlation_id=message.correlation_id,
        reply_to=message.reply_to,
        timestamp=message.timestamp,
        delivery_mode=DeliveryMode.PERSISTENT,
    )
