"""throttled-py, its sliding window: two counters by the client's clock, and windows of whole seconds."""

import datetime
import math
from dataclasses import make_dataclass

from throttled.asyncio import Throttled, rate_limiter, store

Decision = make_dataclass("Decision", ["allowed", "remaining", "retry_after"])


class RateLimiter:
    def __init__(self, redis, limit, per, **_):  # it decides nothing without a server
        to = redis.get_connection_kwargs()
        quota = rate_limiter.per_duration(datetime.timedelta(seconds=math.ceil(per)), limit=limit)
        kept = store.RedisStore(server=f"redis://{to['host']}:{to['port']}")
        self.throttled = Throttled(using="sliding_window", quota=quota, store=kept, key_prefix="rate")

    async def hit(self, key, cost=1):
        answer = await self.throttled.limit(key, cost)
        return Decision(not answer.limited, answer.state.remaining, max(answer.state.retry_after, 0.0))
