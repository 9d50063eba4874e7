"""Hits that a process has borrowed from a shared limit, and admits from memory."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from faultline.patterns.rate_limiter import Decision

if TYPE_CHECKING:
    from faultline.patterns.rate_limiter import RateLimiter


@dataclass(slots=True)
class _Stock:
    """What a process knows of one key. The instants are the clock's."""

    left: int = 0
    """Hits that may be admitted from memory, until `left_until`."""
    left_until: float = 0.0
    full_until: float = 0.0
    """No hit has room before that."""
    silence: Decision | None = None
    """What `on_failure` says, until `silent_until`."""
    silent_until: float = 0.0
    borrowing: asyncio.Lock = field(default_factory=asyncio.Lock)


class BorrowedHits:
    """The hits of a `RateLimiter`, borrowed `batch` at a time: one round trip for so many, about 1 us for the others.

    What it costs in precision: a borrowed hit was counted when it was borrowed and may be admitted up to `keep` seconds
    later, so a window can hold up to `batch` - 1 more than the limit for each process. And what a process has borrowed
    and not used within `keep` seconds is lost: near the limit as many are refused although nobody has used them.

    When there is no room for a batch it asks for a single hit. A refusal is remembered until its `retry_after`, for
    there is no room sooner: refusing is free. So is a server that does not answer: nobody asks it again for as long as
    the limiter's `timeout`.
    """

    def __init__(
        self,
        limiter: RateLimiter,
        batch: int,
        keep: float = 1.0,
        *,
        keys: int = 10_000,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`keep` in seconds; of more than `keys` keys the ones that were used first are forgotten.

        Raises `ValueError` for a `batch` under 2 or above what the limiter could ever admit at once.
        """
        if not 1 < batch <= limiter.most:
            raise ValueError(f"no batch of {batch}: from 2 to {limiter.most}")
        self._limiter = limiter
        self._batch = batch
        self._keep = keep
        self._keys = keys
        self._clock = clock
        self._stocks: dict[str, _Stock] = {}
        # Made once: to make a Decision takes as long as all the rest of a hit from memory.
        self._admitted = tuple(Decision(allowed=True, remaining=left, retry_after=0.0) for left in range(batch))

    async def hit(self, key: str) -> Decision:
        """Admit one hit, from memory if there is some left; `remaining` is what is left in memory.

        Raises `ValueError` for an empty `key`, and otherwise nothing.
        """
        stock = self._stocks.get(key)
        if stock and stock.left and self._clock() < stock.left_until:
            stock.left -= 1
            return self._admitted[stock.left]
        stock = stock or self._new(key)
        decision = self._known(stock)
        if decision is None:
            async with stock.borrowing:  # one asks for all that wait
                decision = self._known(stock) or await self._borrow(key, stock)
        return decision

    def _known(self, stock: _Stock) -> Decision | None:
        """What needs no asking."""
        now = self._clock()
        if stock.left and now < stock.left_until:
            stock.left -= 1
            return self._admitted[stock.left]
        if now < stock.full_until:
            return Decision(allowed=False, remaining=0, retry_after=stock.full_until - now)
        return stock.silence if now < stock.silent_until else None

    async def _borrow(self, key: str, stock: _Stock) -> Decision:
        asked = self._clock()  # before the server counts: what is kept from here on is kept no longer than promised
        decision = await self._limiter.hit(key, self._batch)
        if decision.allowed and decision.answered:
            stock.left, stock.left_until = self._batch - 1, asked + self._keep
            return self._admitted[stock.left]
        if decision.answered:
            decision = await self._limiter.hit(key)
            stock.full_until = asked + decision.retry_after
        if not decision.answered:
            stock.silence, stock.silent_until = decision, self._clock() + self._limiter.timeout
        return decision

    def _new(self, key: str) -> _Stock:
        while len(self._stocks) >= self._keys:
            del self._stocks[next(iter(self._stocks))]
        return self._stocks.setdefault(key, _Stock())
