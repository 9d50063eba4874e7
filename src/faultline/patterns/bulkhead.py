"""A bulkhead: whoever asks one dependency shares a room with nobody else, and waits for it in a short queue, or not.

    room = Bulkhead(8, queue=16, wait=0.2)  # one for each dependency
    receipt = await room.call(provider.charge, order)
    async with room:
        ...

**Promise.** Never more than `limit` are inside. No more than `queue` wait, each for `wait` at most and no longer than
its deadline lasts; all others are refused at once. A place goes from whoever leaves to whoever has waited longest,
directly: nobody overtakes. However a call or a wait ends (an error, a cancellation, even one in the same turn of the
event loop as the place is handed over), the place is there for the next.

**When it refuses.** `BulkheadFull`, or `TooLate` where a `deadline` has run out, also in the queue: both are
`NotTried`, so that no breaker outside of it counts them. Where the deadline is of the waiting task itself, its block
ends the wait, and raises `DeadlineExceeded`.

**Not promised.** That what is inside ends: give it a deadline, or `limit` calls that hang close the room. Fairness
between tenants. That others know: each process has a room of its own. It belongs to one event loop, and is not safe
for threads. Entering it again while inside can wait for itself.

**How long is the queue?** A caller at its end waits for about `queue` / `limit` times what a call takes. A queue longer
than the caller's patience only makes answers that nobody waits for any more.

**Cost.** O(1) a call, no task, no lock and no timer, while there is room; a wait costs a future and, with an end, a
timer; leaving the queue early O(`queue`). Memory: O(those waiting).

Sources: Nygard, *Release It!* (2007), for the pattern; handing places over directly, instead of waking somebody who
must then be faster than newcomers, is what `asyncio.Semaphore` got right with Python 3.11.2 (python/cpython#90155).
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, ParamSpec, Self, TypeVar

from faultline.patterns.deadline import remaining
from faultline.patterns.errors import BulkheadFull, TooLate

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from types import TracebackType

P = ParamSpec("P")
T = TypeVar("T")


class Bulkhead:
    """The room of one dependency in one process, and the queue before it."""

    def __init__(self, limit: int, *, queue: int = 0, wait: float | None = None) -> None:
        """`limit` are inside, `queue` wait, for `wait` seconds each; without `wait` as long as it takes.

        Raises `ValueError` for a room or a queue of less than nobody, or a wait that is none.
        """
        if limit < 1 or queue < 0 or (wait is not None and wait <= 0):
            raise ValueError(f"no room for {limit}, with {queue} who wait for {wait} s")
        self._limit = limit
        self._queue = queue
        self._wait = wait
        self._in_use = 0
        self._waiting: deque[asyncio.Future[None]] = deque()

    @property
    def in_use(self) -> int:
        """How many are inside."""
        return self._in_use

    @property
    def queued(self) -> int:
        """How many wait."""
        return len(self._waiting)

    async def call(self, fn: Callable[P, Awaitable[T]], *args: P.args, **kwargs: P.kwargs) -> T:
        """What `fn` brings, called in the room. Raises `BulkheadFull` or `TooLate` instead of calling it."""
        async with self:
            return await fn(*args, **kwargs)

    async def __aenter__(self) -> Self:
        """Take a place, or raise `BulkheadFull` or `TooLate`."""
        left = remaining()
        if left is not None and left <= 0:
            raise TooLate(left)
        if self._in_use < self._limit:  # then nobody waits: places are handed over
            self._in_use += 1
            return self
        if len(self._waiting) >= self._queue:
            raise BulkheadFull(self._in_use, len(self._waiting))
        await self._wait_for_a_place(left)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._leave()

    async def _wait_for_a_place(self, left: float | None) -> None:
        loop = asyncio.get_running_loop()
        place: asyncio.Future[None] = loop.create_future()
        end = None
        if left is not None and (self._wait is None or left <= self._wait):
            end = loop.call_later(left, self._give_up, place, TooLate(0.0))
        elif self._wait is not None:
            end = loop.call_later(self._wait, self._give_up, place, BulkheadFull(self._limit, len(self._waiting)))
        self._waiting.append(place)
        try:
            await place
        except BaseException:
            if not place.done() or place.cancelled():
                self._waiting.remove(place)
            elif place.exception() is None:  # it was handed over in the turn in which we were cancelled
                self._leave()
            raise
        finally:
            if end:
                end.cancel()

    def _give_up(self, place: asyncio.Future[None], why: Exception) -> None:
        if not place.done():
            self._waiting.remove(place)
            place.set_exception(why)

    def _leave(self) -> None:
        """Hand the place over to whoever has waited longest, or free it."""
        while self._waiting:
            place = self._waiting.popleft()
            if not place.done():
                place.set_result(None)
                return
        self._in_use -= 1
