"""Single flight: of all who want the same thing at the same time in one process, one fetches it.

    flights = Flights()
    product = await flights.join("hat", lambda: load("hat"))

**Promise.** Callers of a key while a flight of it is under way share its outcome, value or exception. A caller who is
cancelled takes nobody along; when the last one is, the flight is cancelled, and has ended before its caller has.
**Not promised.** Anything about other processes. Those who share a flight share the object that it gives.
**Cost.** One task a flight; O(1) a caller.

Source: Go's `golang.org/x/sync/singleflight`, whose `Forget` is `drop`, and whose callers cannot be cancelled.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from typing import Any

T = TypeVar("T")

AGAIN = 1.0  # seconds after which a flight is cancelled again: a client may have swallowed the first one


@dataclass(slots=True, eq=False)
class _Flight(Generic[T]):
    task: asyncio.Task[T]
    callers: int = 0


class Flights(Generic[T]):
    """The flights of one process, by key."""

    def __init__(self) -> None:
        self._flights: dict[str, _Flight[T]] = {}

    def __contains__(self, key: str) -> bool:
        return key in self._flights

    async def join(self, key: str, start: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """What the flight of `key` brings; begins one with `start` if there is none."""
        flight = self._flights.get(key)
        if flight is None:
            flight = self._flights[key] = _Flight(asyncio.create_task(start(), name=f"load {key}"))
            flight.task.add_done_callback(lambda _: self._landed(key, flight))
        flight.callers += 1
        try:
            return await asyncio.shield(flight.task)
        finally:
            flight.callers -= 1
            if not flight.callers and not flight.task.done():  # cancelled, the last of them: nobody else waits for it
                self._landed(key, flight)
                while not flight.task.done():
                    flight.task.cancel()
                    await asyncio.wait([flight.task], timeout=AGAIN)
                if not flight.task.cancelled():
                    flight.task.exception()  # nobody is left to hear of it

    def drop(self, key: str) -> None:
        """Whoever comes from now on joins no flight that is under way; those who are on it stay."""
        self._flights.pop(key, None)

    def _landed(self, key: str, flight: _Flight[T]) -> None:
        if self._flights.get(key) is flight:
            del self._flights[key]
