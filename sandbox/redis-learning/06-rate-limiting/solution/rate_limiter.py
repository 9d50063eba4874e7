"""A rate limiter in Redis that is exact in every window: a list of the instants at which hits were admitted."""

import asyncio
from dataclasses import dataclass
from typing import Literal

from redis.asyncio import Redis
from redis.exceptions import RedisError

# One step, on the server's clock: forget what has left the window, look whether there is room, take it.
# A number of microseconds has 16 digits. Lua would print 14 of them, so it is formatted by hand.
HIT = """
local time = redis.call('TIME')
local now = tonumber(time[1] .. string.format('%06d', time[2]))
local limit, per, cost = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local oldest = redis.call('LINDEX', KEYS[1], 0)
while oldest and tonumber(oldest) <= now - per do
    redis.call('LPOP', KEYS[1])
    oldest = redis.call('LINDEX', KEYS[1], 0)
end
local used = redis.call('LLEN', KEYS[1])
if used + cost > limit then
    local in_the_way = redis.call('LINDEX', KEYS[1], used + cost - limit - 1)
    return {limit - used, in_the_way + per - now}
end
for _ = 1, cost do
    redis.call('RPUSH', KEYS[1], string.format('%.0f', now))
end
redis.call('EXPIRE', KEYS[1], ARGV[4])
return {limit - used - cost, 0}
"""

MICROSECONDS = 1_000_000  # in a second


@dataclass(frozen=True)
class Decision:
    """What became of a hit."""

    allowed: bool
    remaining: int
    retry_after: float


class RateLimiter:
    """At most `limit` in any window of `per` seconds, for each key by itself."""

    def __init__(
        self,
        redis: Redis,
        limit: int,
        per: float,
        on_failure: Literal["open", "closed"] = "open",
        timeout: float = 0.1,
    ) -> None:
        if limit < 1 or per < 0.01 or on_failure not in {"open", "closed"}:
            raise ValueError(f"no limiter of {limit} per {per} s that fails {on_failure}")
        self._redis = redis
        self._limit = limit
        self._window = round(per * MICROSECONDS)
        self._lifetime = int(per) + 1  # seconds: longer than the window, by one at most
        self._otherwise = Decision(allowed=on_failure == "open", remaining=0, retry_after=0.0)
        self._timeout = timeout

    async def hit(self, key: str, cost: int = 1) -> Decision:
        """Count this hit if there is room for it."""
        if not key or not 1 <= cost <= self._limit:
            raise ValueError(f"no hit of {cost} on {key!r}, of {self._limit}")
        arguments = (f"rate:{key}", self._limit, self._window, cost, self._lifetime)
        try:
            async with asyncio.timeout(self._timeout):
                remaining, wait = await self._redis.eval(HIT, 1, *arguments)
        except (OSError, RedisError):  # an OSError too: the TimeoutError of asyncio
            return self._otherwise
        return Decision(allowed=not wait, remaining=remaining, retry_after=wait / MICROSECONDS)
