"""A flash sale: everybody wants the same few units at once, and one process at a time sells.

The lease keeps the others away while one reads what is sold and writes it back. A process that stands still in between
loses the lease without noticing; then its token is too small, and the write is refused: whoever has the lease after it
shows its own token when it reads, before it writes. This is the place where a
learner's lock of redis/05 is put to work: the setting `SHOP_LOCK`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, Self

from faultline.shop.contracts import Line
from faultline.shop.inventory.domain import repeated

if TYPE_CHECKING:
    from collections.abc import Sequence

    from redis.asyncio import Redis

    from faultline.shop.inventory.domain import Reservation
    from faultline.shop.inventory.store import Stock

LEASE = 2.0  # seconds that one sale may take
QUEUE = 2.0  # seconds that a buyer waits for a turn


class Lease(Protocol):
    """The right to sell, while it lasts."""

    @property
    def token(self) -> int:
        """Larger than those of all leases before it."""
        ...

    async def __aenter__(self) -> Self: ...

    async def __aexit__(self, *error: object) -> None: ...


class Lock(Protocol):
    """One for each product, shared by all tills of all processes."""

    async def acquire(self, timeout: float) -> Lease:
        """Wait at most so many seconds for it."""
        ...


class Locks(Protocol):
    """`faultline.patterns.DistributedLock`, or a learner's."""

    def __call__(self, clients: Sequence[Redis], name: str, ttl: float) -> Lock:
        """The lock of that name; a lease of it lives for `ttl` seconds."""
        ...


class Crowded(Exception):
    """Nothing has happened: too many others want the same. Asking again is safe."""


class Till:
    """Sells the units of flash sales; one a process."""

    def __init__(self, stock: Stock, redis: Redis, locks: Locks, unavailable: type[Exception]) -> None:
        """`unavailable`: what a lock of these raises when it was not acquired."""
        self._stock = stock
        self._redis = redis
        self._make = locks
        self._unavailable = unavailable
        self._locks: dict[str, Lock] = {}

    async def sell(self, order: str, sku: str, *, seconds: float) -> Reservation | None:
        """One unit for the order, or a rejection for good; None if there is no such sale.

        Raises `Crowded` and `TooLate`: nothing has happened then. And `AskedOtherwise`.
        """
        if found := await self._stock.find(order):
            return repeated(found, (Line(sku, 1),))
        sale = await self._stock.sale(sku)
        if sale is None:
            return None
        if sale.next_unit is None:  # for ever: no need of a lease to say so
            return await self._stock.sell(order, sale, token=0, seconds=seconds)
        try:
            lease = await self._lock(sku).acquire(timeout=QUEUE)
        except self._unavailable as error:
            raise Crowded(f"no turn within {QUEUE:g} s: {error}") from error
        async with lease:
            sale = await self._stock.entered(sku, token=lease.token)  # again, now that nobody else sells
            return await self._stock.sell(order, sale, token=lease.token, seconds=seconds)

    def _lock(self, sku: str) -> Lock:
        """One object a product: those of this process who wait for it take turns in there."""
        if sku not in self._locks:
            self._locks[sku] = self._make([self._redis], f"inventory:flash-sale:{sku}", LEASE)
        return self._locks[sku]
