"""pyrate-limiter, its log in Redis: milliseconds of the client's clock, and nobody removes what is old unless asked."""

from dataclasses import make_dataclass
from inspect import isawaitable

from pyrate_limiter import Rate, RateItem
from pyrate_limiter.buckets.redis_bucket import RedisBucket

Decision = make_dataclass("Decision", ["allowed", "remaining", "retry_after"])


class RateLimiter:
    def __init__(self, redis, limit, per, **_):  # it decides nothing without a server
        self.redis, self.rate = redis, Rate(limit, round(per * 1000))

    async def hit(self, key, cost=1):
        bucket = await RedisBucket.init([self.rate], self.redis, f"rate:{key}")
        item = RateItem(key, bucket.now(), weight=cost)
        await bucket.leak(item.timestamp)
        allowed = await bucket.put(item)
        wait = 0 if allowed else bucket.waiting(item)
        wait = await wait if isawaitable(wait) else wait
        return Decision(allowed, max(self.rate.limit - await bucket.count(), 0), wait / 1000)
