"""Hearing what others have invalidated: a subscription that knows when it is deaf.

Pub/Sub keeps nothing: what is published while the connection is broken is lost, and a network that swallows everything
looks like one on which nothing happens. So silence is broken by a PING, whoever does not answer is not there, and
`heard` is called with every sign of life: what was known before may be trusted that much longer, and no more.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Protocol

from redis.exceptions import RedisError

if TYPE_CHECKING:
    from redis.asyncio import Redis
    from redis.asyncio.client import PubSub

SILENCE = 1.0
"""Seconds without a sign of life, after which nobody is there."""
_PAUSE = SILENCE / 4  # without a message, after which it asks
_AGAIN = (0.05, 1.0)  # seconds between tries to connect: doubled each time, up to the second


class Listener(Protocol):
    """Who wants to hear."""

    def gap(self) -> None:
        """Something may have been missed: from now on nothing is, while `heard` is called."""

    def deaf(self) -> None:
        """Nothing is heard from now on."""

    def heard(self) -> None:
        """The server is there."""

    def told(self, message: str) -> None:
        """A message was published."""


class Subscription:
    """Keeps one connection of the client's pool subscribed to a channel, from `listen` until that is cancelled.

    It subscribes again after 0.05 s, then 0.1 s, and so on up to 1 s, for as long as the server is away. A client that
    reconnects by itself is noticed by the second confirmation, which is a gap like the first.
    """

    def __init__(self, client: Redis, channel: str, listener: Listener) -> None:
        self._client = client
        self._channel = channel
        self._listener = listener
        self._pause = _AGAIN[0]

    async def listen(self) -> None:
        """Tell the listener, until it is cancelled."""
        while True:
            try:
                async with self._client.pubsub() as channel:
                    try:
                        await self._hear(channel)
                    finally:
                        self._listener.deaf()
            except (RedisError, OSError):  # an OSError too: TimeoutError, the silence
                pass
            await asyncio.sleep(self._pause)
            self._pause = min(2 * self._pause, _AGAIN[1])

    async def _hear(self, channel: PubSub) -> None:
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(SILENCE) as limit:
            await channel.subscribe(self._channel)
            while True:
                message = await channel.get_message(timeout=_PAUSE)
                if message is None:
                    await channel.ping()
                    continue
                limit.reschedule(loop.time() + SILENCE)
                self._take(message)

    def _take(self, message: dict[str, object]) -> None:
        if message["type"] == "subscribe":
            self._pause = _AGAIN[0]
            self._listener.gap()
        self._listener.heard()
        if message["type"] == "message":
            told = message["data"]
            self._listener.told(told.decode() if isinstance(told, bytes) else str(told))
