"""The re-publisher: a way between two virtual hosts on which messages come twice, in another order, or spoilt.

```
 producers → exchange ─ broker │ re-publisher │ far broker ─ the same exchange → queues → consumers
```

A consumer that is given the far broker lives behind that way, with every name as it would be without: it may declare,
bind and die as it likes. Nothing is lost on the way; what has come over one goes over no other, so several may
join several brokers.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING

from faultline.testbed.rabbitmq import Broker

if TYPE_CHECKING:  # as there
    from aio_pika import Message
    from aio_pika.abc import AbstractExchange, AbstractIncomingMessage

_MARK = "x-faultline-republished"
_QUIET = 0.3  # seconds after which a message waits no longer for the one that shall overtake it


@dataclass(frozen=True, slots=True, kw_only=True)
class Noise:
    """What happens to messages: of every `every` in a row each kind that is on hits one, chosen by the seed."""

    twice: bool = False
    """It is delivered a second time, right after the first, with the same id."""
    swapped: bool = False
    """It is overtaken by its successor."""
    spoilt: bool = False
    """A copy without its second half comes before it."""
    every: int = 4

    def fate(self, seed: int, number: int) -> "Fate":
        """What happens to the message of that number, counted from 0; the same for the same seed."""
        block, place = divmod(number, self.every)
        chance = Random(f"{seed}:{block}")
        twice, spoilt, swapped = (chance.randrange(span) for span in (self.every, self.every, self.every - 1))
        return Fate(
            twice=self.twice and place == twice,
            swapped=self.swapped and place == swapped,
            spoilt=self.spoilt and place == spoilt,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Fate:
    """What happens to one message."""

    twice: bool
    swapped: bool
    spoilt: bool


class Republisher:
    """One way; `counts` says what it has done until now. `Testbed.republisher` makes it."""

    def __init__(self, noise: Noise, seed: int, far: Broker) -> None:
        self.noise = noise
        self.far = far
        self.counts = {"seen": 0, "twice": 0, "swapped": 0, "spoilt": 0}
        self._seed = seed
        self._arrived: asyncio.Queue[AbstractIncomingMessage] = asyncio.Queue()

    @asynccontextmanager
    async def between(
        self, near: Broker, exchange: str, *, kind: str, keys: Sequence[str]
    ) -> AsyncIterator["Republisher"]:
        """Both exchanges are declared, durable, and messages with these keys go over the way until the block ends."""
        async with near.connected() as here, self.far.connected() as there:
            intake, outlet = await here.channel(), await there.channel(publisher_confirms=True)
            source = await intake.declare_exchange(exchange, kind, durable=True)
            target = await outlet.declare_exchange(exchange, kind, durable=True)
            queue = await intake.declare_queue(exclusive=True)
            for key in keys:
                await queue.bind(source, key)
            await queue.consume(self._arrived.put)
            work = asyncio.create_task(self._work(target), name=f"re-publish {exchange}")
            try:
                yield self
            finally:
                work.cancel()
                await asyncio.wait([work])
                if not work.cancelled():
                    work.result()  # raises what went wrong: then the check has proved nothing

    async def _work(self, target: "AbstractExchange") -> None:
        held: tuple[AbstractIncomingMessage, Fate] | None = None
        while True:
            try:
                async with asyncio.timeout(_QUIET if held else None):
                    message = await self._arrived.get()
            except TimeoutError:  # nobody came to overtake it
                assert held
                await self._deliver(target, *held)
                held = None
                continue
            if _MARK in message.headers:
                await message.ack()
                continue
            fate = self.noise.fate(self._seed, self.counts["seen"])
            self.counts["seen"] += 1
            if fate.swapped:  # never two in a row: it is not the last of its block
                held = message, fate
                continue
            await self._deliver(target, message, fate)
            if held:
                await self._deliver(target, *held)
                self.counts["swapped"] += 1
                held = None

    async def _deliver(self, target: "AbstractExchange", message: "AbstractIncomingMessage", fate: Fate) -> None:
        key = message.routing_key or ""
        if fate.spoilt:
            await target.publish(_copy(message, message.body[: len(message.body) // 2]), key, mandatory=False)
            self.counts["spoilt"] += 1
        for time in range(2 if fate.twice else 1):
            await target.publish(_copy(message, message.body), key, mandatory=False)
            self.counts["twice"] += time
        await message.ack()


def _copy(message: "AbstractIncomingMessage", body: bytes) -> "Message":
    from aio_pika import Message

    return Message(
        body,
        headers={**message.headers, _MARK: True},
        content_type=message.content_type,
        content_encoding=message.content_encoding,
        delivery_mode=message.delivery_mode,
        priority=message.priority,
        correlation_id=message.correlation_id,
        reply_to=message.reply_to,
        expiration=message.expiration,
        message_id=message.message_id,
        timestamp=message.timestamp,
        type=message.type,
        app_id=message.app_id,
    )
