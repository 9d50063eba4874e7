"""What lies in a subscriber's parking queue: looked at, and, once the reason is gone, driven again.

    parking = Parking(amqp, queue="notifications")
    for message in await parking.look():
        print(message.type, message.subject, message.reason)
    await parking.redrive()

**Promise.** Looking changes nothing. What is driven again comes to its queue, and its handler, as if it had never been
tried; it is in the parking queue until the broker has confirmed that.

**Not promised.** One copy: killed between the two, a redrive has made a second one of one message, which an inbox
knows, if it still remembers.

Sources: Hohpe and Woolf, *Enterprise Integration Patterns* (2003), *Dead Letter Channel*.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from faultline.patterns.broker_channel import opened
from faultline.patterns.delay_ladder import REASON, DelayLadder

if TYPE_CHECKING:
    from aio_pika.abc import AbstractIncomingMessage


@dataclass(frozen=True, slots=True, kw_only=True)
class ParkedMessage:
    """What was parked, and why."""

    id: str
    type: str
    subject: str
    time: str
    """When it was said, as its envelope says it."""
    reason: str


class Parking:
    """The parking queue of whoever hears in `queue`; connected while it is asked, and no longer."""

    def __init__(self, amqp: str, *, queue: str, timeout: float = 5.0) -> None:
        """Talk to nobody yet. `timeout`: seconds for an answer of the broker."""
        self._amqp, self._timeout = amqp, timeout
        self._ladder = DelayLadder(queue=queue, delays=(), deliveries=1)

    async def look(self, most: int = 100) -> list[ParkedMessage]:
        """What lies there, at most so many.

        Raises the client's errors: `ChannelNotFoundEntity` where nobody has ever heard.
        """
        found: list[ParkedMessage] = []
        async with opened(self._amqp, self._timeout) as channel:  # whose end gives back what was got
            parked = await channel.get_queue(self._ladder.parked)
            while len(found) < most and (message := await parked.get(fail=False, timeout=self._timeout)):
                found.append(_seen(message))
        return found

    async def redrive(self) -> int:
        """Give what is parked now another chance, from the first try on; returns how many.

        Raises the client's errors: `ChannelNotFoundEntity` where nobody has ever heard.
        """
        async with opened(self._amqp, self._timeout) as channel:
            parked = await channel.get_queue(self._ladder.parked)
            waiting = parked.declaration_result.message_count or 0
            for done in range(waiting):
                message = await parked.get(fail=False, timeout=self._timeout)
                if message is None:
                    return done
                where, copy = self._ladder.again(message)
                await channel.default_exchange.publish(copy, where, mandatory=True, timeout=self._timeout)
                await message.ack()
        return waiting


def _seen(message: AbstractIncomingMessage) -> ParkedMessage:
    headers = message.headers
    return ParkedMessage(
        id=message.message_id or "",
        type=message.type or "",
        subject=str(headers.get("subject", "")),
        time=str(headers.get("time", "")),
        reason=str(headers.get(REASON) or "it has ended its process each time"),
    )
