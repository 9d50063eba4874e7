"""Calls of another service: its replicas in turn, past those that fail.

    catalog = Http(session, settings.peers["catalog"], within=0.5)
    product = await retry.call(lambda: catalog.get("/v1/products/hat"), idempotent=True)

A call that has failed is not tried again here: whoever repeats it gets the next replica by that.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic, TypeVar

import aiohttp

from faultline.patterns import CircuitBreaker, CircuitOpen, deadline, headers
from faultline.shop.logs import request_id

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Sequence

C = TypeVar("C")
T = TypeVar("T")

OPEN_FOR = 1.0  # seconds for which one that fails is left out


class Replicas(Generic[C]):
    """The clients of a service's replicas, each behind a circuit breaker of its own."""

    def __init__(self, clients: Iterable[C], *, slow_after: float) -> None:
        """`slow_after`: seconds after which an answer counts as a failure, also one that nobody waits for any more."""
        self._clients = [
            (client, CircuitBreaker(minimum=5, window=10, open_for=OPEN_FOR, slow_after=slow_after))
            for client in clients
        ]
        self._calls = 0

    async def call(self, fn: Callable[[C], Awaitable[T]]) -> T:
        """What `fn` brings from the next of them; what it raises counts against that one.

        Raises `CircuitOpen` if all are left out, and what `fn` raises.
        """
        self._calls += 1
        first = self._calls % len(self._clients)
        soonest: CircuitOpen | None = None
        for client, breaker in self._clients[first:] + self._clients[:first]:
            try:
                return await breaker.call(fn, client)
            except CircuitOpen as error:
                soonest = error if soonest is None else min(soonest, error, key=lambda one: one.retry_after)
        assert soonest, "a service has a replica"
        raise soonest


class Http:
    """What the replicas of a service answer to GET, each asked with the request's id and what is left of its time."""

    def __init__(self, session: aiohttp.ClientSession, addresses: Sequence[str], *, within: float) -> None:
        """`addresses`: `host:port` of each; `within`: seconds for one answer."""
        self._session = session
        self._within = within
        self._replicas = Replicas([f"http://{address}" for address in addresses], slow_after=within)

    async def get(self, path: str) -> bytes | None:
        """The body; None for 404. Raises `ConnectionError` for every other answer, and for none."""

        async def call(base: str) -> bytes | None:
            async with deadline(self._within):
                told = {"X-Request-Id": request_id.get(), **headers()}
                try:
                    async with self._session.get(base + path, headers=told) as answer:
                        if answer.status == 404:
                            return None
                        if answer.status != 200:
                            raise ConnectionError(f"{base}{path} answers {answer.status}")
                        return await answer.read()
                except aiohttp.ClientError as error:
                    raise ConnectionError(f"{base}{path}: {error!r}") from error

        return await self._replicas.call(call)
