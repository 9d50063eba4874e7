"""What many ask for and is the same for all of them, kept at the edge until its service says that it is another.

    GET /api/v1/products/hat ──► in Redis? ──► given, with its Age
                                    └ no ──► one request for all who wait ──► catalog
    catalog.price-changed (version 8) ──► nothing below version 8 is kept any more; what is kept is taken away

**What is kept.** Only what the table says (`Route.kept`), so only what is nobody's in particular; asked for without a
word of the caller's, so that nobody's header is in another's answer; and only a 200 that the service lets be kept.

**What comes too late.** A load that had begun before the purge keeps nothing after it: the purge has taken its lease.
One that begins after it may still be told the old version by a replica that has not heard yet: it is given on, since it
is what the service says, and not kept, since it is below the version that the event has named.

**When something is away.** Redis: the service is asked each time. The broker: nothing is purged, so what is kept may be
old for as long as the table says, a few seconds, and no longer.

Sources: RFC 9111, *HTTP Caching*; RFC 9211, *The Cache-Status HTTP Response Header Field*.
"""

from __future__ import annotations

import asyncio
import time
from contextvars import copy_context
from typing import TYPE_CHECKING

import msgspec
from multidict import CIMultiDict
from redis.exceptions import RedisError

from faultline.patterns import CacheAside, NotForgotten
from faultline.shop.gateway.domain import Headers, keepable, same, version
from faultline.shop.gateway.rpc import Answer, Request
from faultline.shop.logs import request_id

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from redis.asyncio import Redis

    from faultline.shop.gateway.domain import Route

PATIENCE = 0.5  # seconds for Redis
PREFIX = "edge:1:"  # 1: what an entry looks like
LEAST = "edge:least:"
NAME = b"faultline"
ASK_AGAIN = [(b"cache-control", b"no-cache")]
"""Whoever keeps it, too, is to ask each time, with its `ETag`: no event reaches them."""


class Kept(msgspec.Struct, frozen=True, array_like=True):
    """An answer, and when its service gave it: seconds since 1970."""

    headers: list[tuple[bytes, bytes]]
    body: bytes
    at: float


class _NotKept(Exception):
    """Everybody who waits is given it, and nobody after them."""

    def __init__(self, answer: Answer) -> None:
        super().__init__(answer.status)
        self.answer = answer


class EdgeCache:
    """Answers to the requests of one route, by what they ask for."""

    def __init__(self, redis: Redis, route: Route, ask: Callable[[Request], Awaitable[Answer]]) -> None:
        """Talk to nobody yet; no deadline is to be set here.

        `redis`: with `PATIENCE` as its timeout. `ask`: the service behind `route`.
        """
        self._redis, self._route, self._ask = redis, route, ask
        self._without_deadline = copy_context()
        self._cache: CacheAside[Kept] = CacheAside(
            redis,
            self._load,
            route.kept,
            prefix=PREFIX,
            encode=msgspec.msgpack.encode,
            decode=msgspec.msgpack.Decoder(Kept).decode,
            jitter=0.0,
            patience=PATIENCE,
        )

    async def answer(self, request: Request) -> Answer:
        """What is kept, or what the service says now. Raises as `Upstream.ask`."""
        began = time.time()
        try:
            kept = await self._cache.get(request.target)
        except _NotKept as other:
            return other.answer
        assert kept, "a load brings an answer, or raises"
        age = max(0, int(time.time() - kept.at))
        told = NAME + (b"; hit" if kept.at < began else b"; fwd=miss")
        headers = [*kept.headers, (b"age", str(age).encode()), (b"cache-status", told)]
        if same(request.headers.get("If-None-Match", ""), kept.headers):
            return Answer(304, [(name, value) for name, value in headers if name != b"content-type"], b"")
        return Answer(200, headers, kept.body)

    async def purge(self, target: str, least: int | None = None) -> None:
        """Keep nothing of it any more, and for a while nothing below the version `least`.

        Raises `NotForgotten` if Redis does not answer: unknown, and safe to repeat.
        """
        if least is not None:
            try:
                await self._redis.set(LEAST + target, least, px=round(2000 * self._route.kept))
            except (RedisError, OSError) as error:
                raise NotForgotten(f"{target}: {error!r}") from error
        await self._cache.forget(target)

    async def _load(self, target: str) -> Kept:
        route = self._route
        request = Request(route=route, target=target, headers=CIMultiDict(), body=b"", repeatable=True)
        # Many may wait for it: it is asked for on behalf of the first, but not by their deadline.
        context = self._without_deadline.copy()
        context.run(request_id.set, request_id.get())
        answer = await asyncio.create_task(self._asked(request), context=context)
        now = time.time()
        if answer.status != 200 or not keepable(answer.headers) or await self._is_old(target, answer.headers):
            raise _NotKept(answer)
        return Kept([*answer.headers, *ASK_AGAIN], answer.body, now)

    async def _asked(self, request: Request) -> Answer:
        return await self._ask(request)

    async def _is_old(self, target: str, headers: Headers) -> bool:
        """Whether the service has said already that there is a newer one; without Redis nothing is kept anyway."""
        try:
            least = await self._redis.get(LEAST + target)
        except (RedisError, OSError):
            return True
        return least is not None and (version(headers) or 0) < int(least)
