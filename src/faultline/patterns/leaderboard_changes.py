"""What a subscription hears, and the moment from which it cannot be relied on."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from redis.exceptions import RedisError

from faultline.patterns.errors import ChangesLost

if TYPE_CHECKING:
    from redis.asyncio.client import PubSub


@dataclass(frozen=True, slots=True)
class Change:
    """What a record has made of a product's score: all of it, not the difference."""

    sku: str
    score: int


class Changes:
    """An iterator that waits for ever and never leaves a gap; `Trending.changes` makes and ends it.

    It reads when it is asked, and keeps nothing: what nobody has read yet waits in the connection and the server. So a
    wait that is cancelled has taken nothing, and a reader that is too slow is cut off by the server.
    """

    def __init__(self, pubsub: PubSub, quiet: float) -> None:
        self._pubsub = pubsub
        self._quiet = quiet
        self._waiting: set[asyncio.Timeout] = set()
        self._asked = False  # whether the server still lives
        self._lost: BaseException | None = None
        self._ended = False

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Change:
        """The next change; waits for it.

        Raises `StopAsyncIteration` once the block is left, `ChangesLost` once something may be missing: the client
        subscribes again by itself, and would never say what was published meanwhile.
        """
        if self._ended:
            raise StopAsyncIteration
        if self._lost:
            raise ChangesLost(f"{self._lost}; enter again, and read the ranking again") from self._lost
        waiting = asyncio.timeout(None)
        self._waiting.add(waiting)
        try:
            async with waiting:
                return await self._next()
        except (OSError, RedisError) as error:
            if self._ended:  # not lost: left
                raise StopAsyncIteration from None
            self._lost = error
        finally:
            self._waiting.discard(waiting)
        raise ChangesLost(f"{self._lost!r}; enter again, and read the ranking again") from self._lost

    def end(self) -> None:
        """Whoever waits, or comes later, is told that it is over."""
        self._ended = True
        for waiting in self._waiting:
            waiting.reschedule(0)

    async def _next(self) -> Change:
        while True:
            message = await self._pubsub.get_message(timeout=self._quiet)
            if message is None:
                if self._asked:
                    raise ConnectionError(f"no sign of the server for {2 * self._quiet:g} s")
                self._asked = True
                await self._pubsub.ping()
                continue
            self._asked = False
            if message["type"] == "message":
                score, _, sku = text(message["data"]).partition(":")
                return Change(sku, int(score))
            if message["type"] != "pong":  # the client has subscribed again
                raise ConnectionError("the connection was lost, and made again")


def text(value: str | bytes) -> str:
    """What the client has decoded, or not."""
    return value if isinstance(value, str) else value.decode()
