"""A circuit breaker: whoever fails too often is not asked for a while, and then by a few, carefully.

    breaker = CircuitBreaker(open_for=10.0, slow_after=1.0, ignore=(CardDeclined,))  # one for each dependency
    receipt = await breaker.call(provider.charge, order)

                    failure_rate of the window
         closed ───────────────────────────────► open ◄───────────┐
           ▲                                      │ open_for,     │ one probe fails
           │ all probes succeed                   ▼ next call     │
           └────────────────────────────────── half-open ─────────┘

**Promise.** While it is open, a call is refused at once, without a turn of the event loop, and the dependency sees
nothing. Half-open lets `probes` calls out, however many come; the others are refused. A call that was let out before
the last change of state changes nothing, whenever it ends. A probe that is cancelled gives its place back, and one that
hangs holds it for `open_for` at most.

**What counts.** The last `window` calls that ended. A failure is an `Exception`, or a call that took longer than
`slow_after`, also one that was cancelled meanwhile: so a deadline around the breaker cannot hide a dependency that
hangs, provided that `slow_after` is shorter than the deadline. Without `slow_after` whoever hangs and is cancelled is
never counted. An error in `ignore` is an answer: it is not in the window, and a probe that ends by it has succeeded.
What was never sent (`NotTried`, as of a full bulkhead inside) and other cancelled calls count as if they had not been
made.

**Not promised.** That others know: each process has a breaker of its own, and finds out by itself. That a call ends:
it ends nothing; give calls a time limit. It belongs to one event loop, and is not safe for threads.

**Cost.** O(1) a call: no task, no lock, no timer; the clock is read twice with `slow_after`, and else not at all while
closed. Memory: O(window).

Sources: Nygard, *Release It!* (2007); the sliding window and slow calls are Resilience4j's. Of the Python libraries
that we measured none limits how many are let out half-open, and wedging on a probe that never settles is a defect found
time and again (monix/monix#1080, getnora-io/nora#585).
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from functools import wraps
from typing import TYPE_CHECKING, Any, Literal, ParamSpec, TypeAlias, TypeVar

from faultline.patterns.errors import CircuitOpen, NotTried

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine

P = ParamSpec("P")
T = TypeVar("T")

CircuitState: TypeAlias = Literal["closed", "open", "half-open"]
OnChange: TypeAlias = "Callable[[CircuitState, CircuitState], object]"


class CircuitBreaker:
    """What the calls of one process to one dependency have learnt of it."""

    def __init__(
        self,
        *,
        failure_rate: float = 0.5,
        window: int = 20,
        minimum: int = 10,
        open_for: float = 30.0,
        probes: int = 1,
        slow_after: float | None = None,
        ignore: tuple[type[Exception], ...] = (),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Opens when, of the last `window` calls and at least `minimum`, `failure_rate` (0 to 1) or more have failed.

        `open_for` and `slow_after` are seconds of the `clock`, which must not go back. `probes` is how many calls must
        succeed half-open. Raises `ValueError` for what could never open, or never close again.
        """
        if not (0 < failure_rate <= 1 and 1 <= minimum <= window and open_for > 0 and probes >= 1):
            raise ValueError(
                f"no breaker that opens at {failure_rate} of {minimum} to {window} calls,"
                f" for {open_for} s, with {probes} probes"
            )
        if slow_after is not None and slow_after <= 0:
            raise ValueError(f"every call takes longer than {slow_after} s")
        self._failure_rate = failure_rate
        self._minimum = minimum
        self._open_for = open_for
        self._probes = probes
        self._slow_after = slow_after
        self._ignore = ignore
        self._clock = clock
        self._listeners: list[OnChange] = []
        self._state: CircuitState = "closed"
        self._since = 0.0  # when it opened, or let the first of its probes out
        self._generation = 0  # grows with every change: whose call is of an older one comes too late
        self._failed: deque[bool] = deque(maxlen=window)
        self._failures = 0  # in there
        self._out = 0  # probes that were let out and not given back
        self._succeeded = 0  # of them

    @property
    def state(self) -> CircuitState:
        """What it is. Time alone changes nothing: it is open until a call is let out as a probe."""
        return self._state

    def on_change(self, callback: Callable[[CircuitState, CircuitState], object]) -> None:
        """Have `callback(before, after)` called at every change of state, when it has happened.

        What it raises does not reach the caller: it goes to the event loop's exception handler.
        """
        self._listeners.append(callback)

    def __call__(self, fn: Callable[P, Awaitable[T]]) -> Callable[P, Coroutine[Any, Any, T]]:
        """The function, with all its calls through this breaker: a decorator."""

        @wraps(fn)
        async def guarded(*args: P.args, **kwargs: P.kwargs) -> T:
            return await self.call(fn, *args, **kwargs)

        return guarded

    async def call(self, fn: Callable[P, Awaitable[T]], *args: P.args, **kwargs: P.kwargs) -> T:
        """What `fn` brings. Raises `CircuitOpen` instead of calling it, or what `fn` raises, unchanged."""
        if self._state != "closed":
            self._admit(self._clock())
        generation = self._generation
        started = 0.0 if self._slow_after is None else self._clock()
        try:
            result = await fn(*args, **kwargs)
        except self._ignore:
            self._answered(generation)
            raise
        except NotTried:
            self._withdrawn(generation)
            raise
        except Exception:
            self._ended(generation, failed=True)
            raise
        except BaseException:  # cancelled, or thrown away
            if self._is_slow(started):
                self._ended(generation, failed=True)
            else:
                self._withdrawn(generation)
            raise
        self._ended(generation, failed=self._is_slow(started))
        return result

    def _is_slow(self, started: float) -> bool:
        return self._slow_after is not None and self._clock() - started > self._slow_after

    def _admit(self, now: float) -> None:
        """Take a probe's place, or raise `CircuitOpen`."""
        over = self._since + self._open_for
        if now >= over:  # open for long enough; or half-open, and its probes hang
            self._since, self._out, self._succeeded = now, 0, 0
            self._change("half-open")
        elif self._state == "open" or self._out >= self._probes:
            raise CircuitOpen(over - now)
        self._out += 1

    def _ended(self, generation: int, *, failed: bool) -> None:
        if generation != self._generation:
            return
        if self._state == "half-open":
            if failed:
                self._open()
            else:
                self._answered(generation)
            return
        if len(self._failed) == self._failed.maxlen:
            self._failures -= self._failed[0]
        self._failed.append(failed)
        self._failures += failed
        ended = len(self._failed)
        if ended >= self._minimum and self._failures / ended >= self._failure_rate:
            self._open()

    def _answered(self, generation: int) -> None:
        """A probe has succeeded; otherwise this means nothing."""
        if self._state == "half-open" and generation == self._generation:
            self._succeeded += 1
            if self._succeeded == self._probes:
                self._failed.clear()
                self._failures = 0
                self._change("closed")

    def _withdrawn(self, generation: int) -> None:
        """It was as if the call had not been made."""
        if self._state == "half-open" and generation == self._generation:
            self._out -= 1

    def _open(self) -> None:
        self._since = self._clock()
        self._change("open")

    def _change(self, state: CircuitState) -> None:
        before, self._state = self._state, state
        self._generation += 1
        if before == state:
            return
        for listener in self._listeners:
            try:
                listener(before, state)
            except Exception as error:  # a listener is supervised: it must not cost a call its result
                asyncio.get_running_loop().call_exception_handler(
                    {"message": f"a listener of a circuit breaker failed ({before} → {state})", "exception": error}
                )
