"""pyrate-limiter, its log in Redis: milliseconds of the client's clock; what has left, a task of its own removes."""

from dataclasses import make_dataclass

from pyrate_limiter import Limiter, Rate
from pyrate_limiter.buckets.redis_bucket import RedisBucket

Decision = make_dataclass("Decision", ["allowed", "remaining", "retry_after"])


class RateLimiter:
    def __init__(self, redis, limit, per, **_):  # it decides nothing without a server
        self.redis, self.rate, self.limiters = redis, Rate(limit, round(per * 1000)), {}

    async def hit(self, key, cost=1):
        if key not in self.limiters:
            bucket = await RedisBucket.init([self.rate], self.redis, f"rate:{key}")
            self.limiters[key] = Limiter(bucket, buffer_ms=0), bucket
        limiter, bucket = self.limiters[key]
        allowed = bool(await limiter.try_acquire_async(key, cost, blocking=False))
        remaining = self.rate.limit - await bucket.count()  # a second trip
        wait = 0.0 if allowed else (getattr(bucket, "_last_wait", None) or 0) / 1000
        return Decision(allowed, max(remaining, 0), wait)
