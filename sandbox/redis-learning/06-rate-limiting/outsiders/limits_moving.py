"""limits, its moving window: a log of instants by the client's clock, and windows of whole seconds."""

import math
import time
from dataclasses import make_dataclass

from limits import RateLimitItemPerSecond
from limits.aio.storage import RedisStorage
from limits.aio.strategies import MovingWindowRateLimiter

Decision = make_dataclass("Decision", ["allowed", "remaining", "retry_after"])


class RateLimiter:
    def __init__(self, redis, limit, per, **_):  # it decides nothing without a server
        own = {"implementation": "redispy", "key_prefix": "rate:", "connection_pool": redis.connection_pool}
        storage = RedisStorage("async+redis://localhost:0", **own)
        self.limiter, self.item = MovingWindowRateLimiter(storage), RateLimitItemPerSecond(limit, math.ceil(per))

    async def hit(self, key, cost=1):
        allowed = await self.limiter.hit(self.item, key, cost=cost)
        stats = await self.limiter.get_window_stats(self.item, key)  # a second trip
        return Decision(allowed, stats.remaining, 0.0 if allowed else max(stats.reset_time - time.time(), 0.0))
