"""A deadline: how long anybody still waits for this, known to all who work on it, here and behind the next call.

    async with deadline(from_headers(request.headers)), deadline(3.0):  # whichever is over first
        async with deadline(0.5):
            stock = await client.get(url, headers=headers())
        price = await retry.call(ask, idempotent=True)  # asks `remaining()`, and begins nothing that comes too late

**Promise.** The body is cancelled when the time is up, whatever it waits for (a connect, a handshake, one byte a
second), and `DeadlineExceeded` leaves the block. A deadline inside another one only shrinks it. With nothing left, the
block is not entered and `headers` gives nothing to send: `TooLate`, and nothing has happened.

**Whose deadline it was.** It is raised by the block whose time is up: an inner one that would have lasted longer than
the one around it lets that one speak. A cancellation from elsewhere stays a `CancelledError`, also when both come at
once; a `TimeoutError` of the body's own stays itself.

**On the wire.** What is left, in whole milliseconds rounded down, less a margin for the way back; never the moment of
its end: two hosts' clocks differ by more than a call takes, and a moment would mean something else on each. In return
the time on the way is not counted. That is little over HTTP; in a queue it may be all: give an AMQP message the same
number as its `expiration`, so that the broker drops it when nobody waits any more. gRPC carries the same by itself:
pass `timeout=remaining()`, and enter `deadline(context.time_remaining())`. Over AMQP and as gRPC metadata the header
is good as it is: its name is in lower case.

**Not promised.** That somebody who has sent no header, or nonsense, waits for ever or not at all: it says nothing, and
the limit that you put around it holds. That work is stopped which is not awaited here: a thread, or a server that goes
on after its client has left. Tasks that you start inside know the deadline, but only what they await inside of a
`deadline` of their own is ended. Nothing measures while the loop is blocked.

**Cost.** O(1): one timer a block; none, and no system call, for one that shrinks nothing in its task. `remaining`: a
context variable and a clock.

Sources: gRPC, *Deadlines* and the `grpc-timeout` of its protocol, which is relative for the same reason; Dean and
Barroso, *The Tail at Scale* (2013), for work that nobody waits for. No header for it is standard; Envoy's
`x-envoy-expected-rq-timeout-ms` is the nearest.
"""

from __future__ import annotations

import asyncio
import time
from contextvars import ContextVar
from typing import TYPE_CHECKING, NamedTuple

from faultline.patterns.errors import DeadlineExceeded, TooLate

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from contextvars import Token
    from types import TracebackType

HEADER = "x-deadline-remaining-ms"
MARGIN = 0.01  # seconds for an answer's way back
LONGEST = 10  # digits that anybody has waited for


class _Limit(NamedTuple):
    """What a block has set: until when, by which clock, and which task ends by it."""

    until: float | None
    clock: Callable[[], float]
    task: asyncio.Task[object] | None

    def remaining(self) -> float | None:
        return None if self.until is None else max(0.0, self.until - self.clock())


_current: ContextVar[_Limit | None] = ContextVar("deadline", default=None)


class deadline:  # noqa: N801 - used like a function, as `asyncio.timeout`
    """An `async with` that lasts for `seconds` at most, and no longer than those around it."""

    __slots__ = ("_clock", "_seconds", "_timer", "_token")

    def __init__(self, seconds: float | None, *, clock: Callable[[], float] = time.monotonic) -> None:
        """`None` shrinks nothing. `clock` measures seconds, and must not go back; the event loop's timer ends the body.

        The clock is that of the outermost block: those inside follow it. Nothing runs before the block is entered;
        each object is for one block.
        """
        self._seconds = seconds
        self._clock = clock
        self._timer: asyncio.Timeout | None = None
        self._token: Token[_Limit | None] | None = None

    async def __aenter__(self) -> None:
        """Raise `TooLate`, and do not run the body, if no time is left."""
        if self._token is not None:
            raise RuntimeError("a deadline is for one block: make another")
        outer, task = _current.get() or _Limit(None, self._clock, None), asyncio.current_task()
        now = outer.clock()
        mine = None if self._seconds is None else now + self._seconds
        until = outer.until if mine is None or (outer.until is not None and outer.until < mine) else mine
        if until is not None and until <= now:
            raise TooLate(until - now)
        covered = outer.task is task and until == outer.until  # the block around it ends this one, too
        if until is not None and not covered:
            self._seconds = until - now
            self._timer = asyncio.timeout(self._seconds)
            await self._timer.__aenter__()
        self._token = _current.set(_Limit(until, outer.clock, task))

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Raise `DeadlineExceeded` if the time is up, and nothing else has ended the body."""
        assert self._token
        _current.reset(self._token)
        if self._timer:
            try:
                await self._timer.__aexit__(kind, error, trace)
            except TimeoutError as expired:
                raise DeadlineExceeded(self._seconds or 0) from expired.__cause__


def remaining() -> float | None:
    """How many seconds are left of the innermost deadline, 0 if none; `None` where nobody has set one."""
    current = _current.get()
    return None if current is None else current.remaining()


def headers(*, margin: float = MARGIN) -> dict[str, str]:
    """What tells the next one how long we wait: nothing without a deadline, else one header.

    `margin`: seconds that its answer needs to come back, at most a tenth of what is left. Raises `TooLate` when there
    is not a millisecond to give: send nothing then.
    """
    left = remaining()
    if left is None:
        return {}
    milliseconds = int((left - min(margin, left / 10)) * 1000)
    if milliseconds < 1:
        raise TooLate(left)
    return {HEADER: str(milliseconds)}


def from_headers(headers: Mapping[str, object]) -> float | None:
    """How many seconds the caller still waits; `None` if it says nothing, or nonsense.

    The name is found in any case; of several the least counts. Bytes and numbers are read, too (AMQP).
    """
    told = [_seconds(value) for name, value in headers.items() if name.lower() == HEADER]
    return min((seconds for seconds in told if seconds is not None), default=None)


def _seconds(value: object) -> float | None:
    text = value.decode("latin-1") if isinstance(value, bytes) else str(value)
    return int(text) / 1000 if text.isascii() and text.isdigit() and len(text) <= LONGEST else None
