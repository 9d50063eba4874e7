"""How often each caller may ask, counted in Redis for all gateways; without Redis as often as they like."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, Protocol

from faultline.patterns import CircuitBreaker, CircuitOpen
from faultline.shop.gateway.domain import PLANS

if TYPE_CHECKING:
    from redis.asyncio import Redis

    from faultline.shop.contracts import Role

PATIENCE = 0.1  # seconds for Redis


class Decision(Protocol):
    """What became of a hit."""

    @property
    def allowed(self) -> bool:
        """Whether it was counted."""
        ...

    @property
    def retry_after(self) -> float:
        """Seconds until there is room for a hit that was refused; 0 where the server did not answer."""
        ...


class Limiter(Protocol):
    """Counts for all gateways."""

    async def hit(self, key: str) -> Decision:
        """Count one, if there is room for it."""
        ...


class Limiters(Protocol):
    """`faultline.patterns.RateLimiter`, or a learner's."""

    def __call__(
        self, redis: Redis, limit: int, per: float, on_failure: Literal["open", "closed"], timeout: float
    ) -> Limiter:
        """At most `limit` in any window of `per` seconds; `timeout`: seconds for the server."""
        ...


class _Silent(Exception):
    """Redis has not answered."""


class Limits:
    """So many requests for each caller, as their plan has it, in any window.

    A breaker spares them the wait for a silent Redis.
    """

    def __init__(self, redis: Redis, limiters: Limiters, limit: int, per: float) -> None:
        """`limit`: for whom no plan says otherwise."""
        # Closed, as only a refusal without an end tells that there was no answer.
        self._by_plan = {
            times: limiters(redis, times * limit, per, "closed", PATIENCE) for times in {1, *PLANS.values()}
        }
        self._breaker = CircuitBreaker(minimum=3, window=6, open_for=1.0)

    async def wait(self, who: str, role: Role) -> float:
        """Count one request, if there is room for it; otherwise the seconds after which there is. Raises nothing."""
        try:
            return await self._breaker.call(self._hit, self._by_plan[PLANS.get(role, 1)], who)
        except (_Silent, CircuitOpen):
            return 0.0

    async def _hit(self, limiter: Limiter, who: str) -> float:
        decision = await limiter.hit(who)
        if not decision.allowed and not decision.retry_after:
            raise _Silent
        return decision.retry_after
