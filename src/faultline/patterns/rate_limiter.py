"""A rate limiter in Redis, for any number of processes, in one round trip a hit."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from redis.exceptions import RedisError

from faultline.patterns.rate_limits import MICROSECONDS, Exact, Gcra

if TYPE_CHECKING:
    from redis.asyncio import Redis

SHORTEST = 0.01  # seconds of a window: the clocks and waits around it are not finer than milliseconds


@dataclass(frozen=True, slots=True)
class Decision:
    """What became of a hit."""

    allowed: bool
    remaining: int
    """How many more hits of cost 1 would be admitted right now. 0 when the server did not answer."""
    retry_after: float
    """Seconds after which a hit of the same cost will be admitted, if nobody else hits meanwhile; no sooner.

    0.0 for a hit that was admitted, and when the server did not answer.
    """
    answered: bool = True
    """False when the server did not answer, and `on_failure` has decided."""


class RateLimiter:
    """At most `limit` in any window of `per` seconds, for each key by itself; with `burst` a cheaper, weaker promise.

    **Exact** (no `burst`): the limit holds in every window, wherever it begins, and a hit is refused only when there is
    no room for it. O(limit) bytes a key. **GCRA** (`burst` given): that many at once, then `limit` in `per` seconds
    evenly, so up to `burst` + `limit` in one window. O(1) bytes a key. Both count by the server's clock, and what was
    refused does not count.

    It costs one round trip a hit, two when the server does not know the script yet. What a fail-over to a replica
    makes the server forget is admitted again. A server clock that is set back keeps hits in their window for longer,
    one that is set ahead lets them go.
    """

    def __init__(
        self,
        redis: Redis,
        limit: int,
        per: float,
        on_failure: Literal["open", "closed"] = "open",
        timeout: float = 0.1,
        *,
        burst: int | None = None,
        prefix: str = "rate:",
    ) -> None:
        """`per` and `timeout` in seconds; keys in Redis start with `prefix`.

        `timeout` is how long a hit waits for the server, whatever the client's own limit is; then `on_failure`
        decides: `open` admits, `closed` refuses. Raises `ValueError` for a `limit` or `burst` under 1, a `per` under
        0.01 or another `on_failure`.
        """
        if limit < 1 or per < SHORTEST or on_failure not in {"open", "closed"} or (burst is not None and burst < 1):
            raise ValueError(f"no limiter of {limit} per {per} s (burst {burst}) that fails {on_failure!r}")
        self._redis = redis
        self._promise = Exact(limit, per) if burst is None else Gcra(limit, per, burst)
        self._otherwise = Decision(allowed=on_failure == "open", remaining=0, retry_after=0.0, answered=False)
        self._prefix = prefix
        self.timeout = timeout
        self.most = self._promise.most
        """The largest cost of a hit."""

    async def hit(self, key: str, cost: int = 1) -> Decision:
        """Count this hit if there is room for it; `cost`: as how many hits it counts, all of them or none.

        Raises nothing of the server's: without an answer the decision is `on_failure`'s, and the hit may have been
        counted or not. Raises `ValueError`, and counts nothing, for an empty `key`, or a `cost` under 1 or above what
        could ever be admitted at once.
        """
        if not key or not 1 <= cost <= self.most:
            raise ValueError(f"no hit of {cost} on {key!r}: from 1 to {self.most}")
        arguments = self._promise.arguments(cost)
        try:
            async with asyncio.timeout(self.timeout):
                room, wait = await self._promise.script.run(self._redis, (self._prefix + key,), *arguments)
        except (OSError, RedisError):  # an OSError too: the TimeoutError of asyncio
            return self._otherwise
        return Decision(allowed=not wait, remaining=room, retry_after=wait / MICROSECONDS)
