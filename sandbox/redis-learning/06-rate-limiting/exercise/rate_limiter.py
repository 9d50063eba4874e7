"""A rate limiter in Redis that is exact in every window, for any number of processes.

The gateway lets each customer send 100 requests a minute, whichever of its processes they reach. The limit is a
promise to whoever stands behind it: in no 60 seconds, wherever they begin, do more than 100 get through.

Fill in the class. Use redis-py and the standard library; add what you need around it. The checks use only what
stands here.

The server
    One Redis 7 or Valkey 8.
The client
    A `redis.asyncio.Redis` with `decode_responses=False` and redis-py's usual pool, made and closed by the caller. It
    does not retry. A dead server raises `redis.exceptions.ConnectionError` at once; a silent one would raise
    `redis.exceptions.TimeoutError` only after the client's own `socket_timeout` of 5 seconds. A process has at most 100
    hits under way at the same time, for which the pool has connections.
One round trip
    A hit costs one round trip, whether it is admitted or not: the client sends, the server answers, and nothing is
    asked again. What a connection says at its beginning does not count, nor does the first hit of a process (which may
    have to bring a script to the server).
The clock
    The clocks of the processes disagree by minutes. The server's is the one that counts (`TIME`; a script may ask for
    it too). All durations are `float` seconds, exact to about a millisecond.
The keys
    Every key in Redis starts with `rate:`. What is kept for one `key` grows with `limit` at most, however many hits
    are refused, and is gone at most `per` + 1 seconds after its last hit.
"""

from dataclasses import dataclass
from typing import Literal

from redis.asyncio import Redis


@dataclass(frozen=True)
class Decision:
    """What became of a hit."""

    allowed: bool
    remaining: int
    """How many more hits of cost 1 would be admitted right now: 0 to `limit`. 0 when the server did not answer."""
    retry_after: float
    """Seconds after which a hit of the same cost will be admitted, if nobody else hits meanwhile; no sooner.

    0.0 for a hit that was admitted, and when the server did not answer.
    """


class RateLimiter:
    """At most `limit` in any window of `per` seconds, for each key by itself.

    A hit counts from the moment at which the server admits it, and leaves `per` seconds later. A hit that is refused
    counts nothing. As soon as there is room, a hit is admitted: a limiter that is cautious is wrong, too.
    """

    def __init__(
        self,
        redis: Redis,
        limit: int,
        per: float,
        on_failure: Literal["open", "closed"] = "open",
        timeout: float = 0.1,
    ) -> None:
        """Talk to no server yet.

        `per`: seconds, from 0.01 to a day. `timeout`: seconds that a hit waits for the server, whatever the client's
        own limit is; then `on_failure` decides: `open` admits, `closed` refuses. Raises `ValueError` for a `limit`
        under 1, a `per` under 0.01 or another `on_failure`.
        """
        raise NotImplementedError

    async def hit(self, key: str, cost: int = 1) -> Decision:
        """Count this hit if there is room for it; `cost`: as how many hits it counts, all of them or none.

        When the server is dead, or has not answered within `timeout`, the answer is there within `timeout` + 0.1
        seconds, as `on_failure` says; nothing of the server's is raised, and the hit may have been counted or not. So
        it is when the server answers with an error, for example because it takes no writes. Raises `ValueError` and
        counts nothing for an empty `key`, or a `cost` under 1 or above `limit`.
        """
        raise NotImplementedError
