"""The exact limiter with a sorted set: each unit is a member with a number of its own, its score the instant.

Milliseconds and their fractions instead of microseconds, `EVALSHA` instead of `EVAL`, and the answer as text.
"""

import asyncio
from dataclasses import dataclass

import redis.exceptions as trouble
from redis.asyncio import Redis

SCRIPT = """
local t = redis.call('TIME')
local now, per = t[1] * 1e3 + t[2] / 1e3, ARGV[2] * 1e3
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', string.format('%.3f', now - per))
local room = ARGV[1] - redis.call('ZCARD', KEYS[1])
local short = ARGV[3] - room
if short > 0 then
    local last = redis.call('ZRANGE', KEYS[1], short - 1, short - 1, 'WITHSCORES')
    return {'no', room, string.format('%.6f', (last[2] + per - now) / 1e3)}
end
local ticket = redis.call('ZREVRANGE', KEYS[1], 0, 0)[1]
ticket = ticket and tonumber(string.match(ticket, '%d+$')) or 0
for unit = 1, ARGV[3] do
    redis.call('ZADD', KEYS[1], string.format('%.3f', now), string.format('%.3f:%012d', now, ticket + unit))
end
redis.call('EXPIRE', KEYS[1], math.ceil(ARGV[2]))
return {'yes', room - ARGV[3], '0'}
"""


@dataclass(frozen=True)
class Decision:
    """What became of a hit."""

    allowed: bool
    remaining: int = 0
    retry_after: float = 0.0


class RateLimiter:
    """At most `limit` in any window of `per` seconds."""

    def __init__(self, redis: Redis, limit: int, per: float, on_failure: str = "open", timeout: float = 0.1) -> None:
        if limit < 1:
            raise ValueError("limit")
        if not per >= 0.01:
            raise ValueError("per")
        if on_failure not in ("open", "closed"):
            raise ValueError("on_failure")
        self.limit, self.per, self.timeout = limit, per, timeout
        self.blind = Decision(on_failure == "open")
        self.script = redis.register_script(SCRIPT)

    async def hit(self, key: str, cost: int = 1) -> Decision:
        """Count this hit if there is room for it."""
        if key == "":
            raise ValueError("key")
        if cost < 1 or cost > self.limit:
            raise ValueError("cost")
        try:
            word, room, wait = await asyncio.wait_for(
                self.script(keys=[b"rate:{" + key.encode() + b"}"], args=[self.limit, self.per, cost]), self.timeout
            )
        except (TimeoutError, trouble.RedisError):
            return self.blind
        return Decision(word == b"yes", int(room), float(wait))
