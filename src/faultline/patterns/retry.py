"""Trying again: spread by chance, bounded in number, time and load, and only what is safe to repeat.

    budget = RetryBudget(0.1)  # one for each dependency, shared by all who ask it
    retry = Retry(budget=budget)
    price = await retry.call(lambda: catalog.price("hat"), idempotent=True)

**Promise.** At most `attempts` attempts and `total` seconds, whatever the other side says. Before attempt n + 1, from
n = 0, it waits for a moment chosen evenly between 0 and min(`cap`, `base` · 2ⁿ), or for just what the error asks for by
its `retry_after`; it never waits for an attempt that it will not make. A `deadline` around it counts as `total` does:
the wait by chance is cut so that the next attempt begins with `needs` seconds left, an attempt that would begin later
is not made, and with so little left at the start nothing is tried (`TooLate`). All calls that share a budget make at
most `ratio` retries a call in the long run, and `burst` at once. What may have happened is repeated only if the caller
says that it is `idempotent`; otherwise only what certainly has not happened (`NotTried`, a refused connection).

**What is raised.** The last error, itself, with a note on each earlier one, and on why there was no further attempt.
`TimeoutError` if `total` cut a running attempt: then nobody knows whether that one happened.

**Not promised.** That one layer above or below does not retry, too: attempts multiply, so retry in one layer only. An
open circuit and a full bulkhead are not retried unless `retry_on` says so.

**Cost.** O(1) memory a call, and one timer, if `total` is given. A cancelled caller gives back the token of a
retry that it has not made.

Sources: Brooker, *Exponential Backoff and Jitter* (2015), for full jitter; Finagle's `RetryBudget` and gRPC's retry
throttling (A6), for the budget; RFC 9110, 10.2.3, for Retry-After: turn it into seconds in your client.
"""

from __future__ import annotations

import asyncio
import math
import random as chance
import time
from typing import TYPE_CHECKING, TypeVar

from faultline.patterns.deadline import remaining
from faultline.patterns.errors import NotTried, TooLate

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

T = TypeVar("T")

HAIR = 1e-9  # ten times a tenth of a token is a token
STEEPEST = 64  # doublings: later ones would leave the range of a float before they leave `cap`


class RetryBudget:
    """Tokens: a call brings `ratio`, a retry costs one, and no more than `burst` are kept. It begins full."""

    def __init__(self, ratio: float = 0.1, *, burst: float = 10.0) -> None:
        """Talks to nobody. Raises `ValueError` for a negative `ratio`, or a `burst` of less than one retry."""
        if ratio < 0 or burst < 1:
            raise ValueError(f"no budget of {ratio} retries a call and {burst} at once")
        self._ratio = ratio
        self._burst = burst
        self._tokens = burst

    @property
    def tokens(self) -> float:
        """How many retries it would pay for now."""
        return self._tokens

    def deposit(self) -> None:
        """A call begins."""
        self._tokens = min(self._burst, self._tokens + self._ratio)

    def withdraw(self) -> bool:
        """Pay for one retry; False if it cannot."""
        if self._tokens < 1 - HAIR:
            return False
        self._tokens -= 1
        return True

    def give_back(self) -> None:
        """A retry that was paid for was not made."""
        self._tokens = min(self._burst, self._tokens + 1)


class Retry:
    """How to try again; it remembers nothing between calls but its budget."""

    def __init__(
        self,
        *,
        attempts: int = 4,
        base: float = 0.05,
        cap: float = 2.0,
        total: float | None = 5.0,
        needs: float = 0.0,
        budget: RetryBudget | None = None,
        retry_on: tuple[type[Exception], ...] | Callable[[Exception], bool] = (ConnectionError, TimeoutError),
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
        random: Callable[[], float] = chance.random,
    ) -> None:
        """`base`, `cap`, `total` and `needs` are seconds; without a `budget` it has one of its own, `RetryBudget()`.

        `clock` measures, `sleep` waits between attempts, `random` gives 0 ≤ x < 1; a running attempt is cut by the
        event loop's clock. `retry_on`: which errors may pass by themselves. Raises `ValueError` for no attempt, or
        times that are negative.
        """
        if attempts < 1 or min(base, cap, needs) < 0 or (total is not None and total <= needs):
            raise ValueError(
                f"no retry of {attempts} attempts of at least {needs} s, {base} to {cap} s apart, in {total} s"
            )
        self._attempts = attempts
        self._base = base
        self._cap = cap
        self._total = total
        self._needs = needs
        self._budget = RetryBudget() if budget is None else budget
        self._retry_on = retry_on
        self._clock = clock
        self._sleep = sleep
        self._random = random

    async def call(self, fn: Callable[[], Awaitable[T]], *, idempotent: bool = False) -> T:
        """What `fn` brings, at last; it is called anew for each attempt. `idempotent`: it may happen twice."""
        left = remaining()
        if left is not None and left <= self._needs:
            raise TooLate(left)
        self._budget.deposit()
        if self._total is None:
            return await self._try(fn, idempotent, None, [])
        earlier: list[str] = []
        timer = asyncio.timeout(self._total)
        try:
            async with timer:
                return await self._try(fn, idempotent, self._clock() + self._total, earlier)
        except TimeoutError as error:
            if timer.expired():
                for note in (*earlier, f"cut: the total of {self._total:g} s had run out"):
                    error.add_note(note)
            raise

    async def _try(
        self, fn: Callable[[], Awaitable[T]], idempotent: bool, until: float | None, earlier: list[str]
    ) -> T:
        number = 0
        while True:
            try:
                return await fn()
            except Exception as error:
                room = self._room(until)
                delay = self._delay(number, error, room)
                why = self._why_not(number, error, idempotent, delay, room)
                if why:
                    for note in (*earlier, f"no further attempt: {why}"):
                        error.add_note(note)
                    raise
                number += 1
                earlier.append(f"attempt {number} of {self._attempts}: {type(error).__name__}: {error}")
            await self._wait(delay)

    async def _wait(self, delay: float) -> None:
        try:
            await self._sleep(delay)
        except BaseException:
            self._budget.give_back()
            raise

    def _room(self, until: float | None) -> float:
        """Seconds within which another attempt has to begin."""
        left = [] if until is None else [until - self._clock()]
        theirs = remaining()
        if theirs is not None:
            left.append(theirs)
        return min(left, default=math.inf) - self._needs

    def _delay(self, number: int, error: Exception, room: float) -> float:
        asked: object = getattr(error, "retry_after", None)
        if isinstance(asked, int | float):
            return max(0.0, float(asked))
        return self._random() * max(0.0, min(self._cap, self._base * 2.0 ** min(number, STEEPEST), room))

    def _why_not(self, number: int, error: Exception, idempotent: bool, delay: float, room: float) -> str | None:
        """Why there is no further attempt; None, and it is paid for, if there is one."""
        if not self._may_pass(error):
            return "it will not pass by itself"
        if not idempotent and not isinstance(error, NotTried | ConnectionRefusedError):
            return "it may have happened, and is not idempotent"
        if number + 1 >= self._attempts:
            return "it was the last one"
        if delay >= room:
            return f"the next one would be due in {delay:.3g} s, and would have to begin within {max(0.0, room):.3g} s"
        if not self._budget.withdraw():
            return "the budget for retries is spent"
        return None

    def _may_pass(self, error: Exception) -> bool:
        if callable(self._retry_on):
            return self._retry_on(error)
        return isinstance(error, self._retry_on)
