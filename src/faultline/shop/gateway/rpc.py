"""One service as the gateway asks it.

    breaker ─► room ─► retry ─► one of two replicas ─► request
       │         │        └ 1 more, at another one, only what may be repeated, and 10 % of all requests at most
       │         └ so many at once, a short queue, the others are refused: a slow service is in nobody else's way
       └ counts what became of the whole, and refuses while the service as such fails

Answers are read whole and then given on, so that a caller who reads slowly holds no place; streams have a room of their
own. A replica that fails three times in a row, or is slow, is left out for 2 s. What a service answers is an answer,
whatever it is, and is not asked for again; a 5xx counts against its replica.
"""

from __future__ import annotations

import asyncio
import random
import time
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import aiohttp
from multidict import CIMultiDict
from yarl import URL

from faultline.patterns import Bulkhead, CircuitBreaker, Retry, RetryBudget, deadline, headers
from faultline.shop.gateway.domain import NOBODY, Headers, Repeat, Replica, Route, Subject, chosen, given_back
from faultline.shop.logs import request_id

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Sequence

PLACES, QUEUE, WAIT = 50, 25, 0.1  # requests to a service at once, those that may wait for a place, seconds
STREAMS = 500  # streams from a service at once
SLOW = 1.0  # seconds after which a request that was given up counts against its replica
OPEN_FOR = 1.0  # seconds for which a service that fails is not asked


@dataclass(frozen=True, slots=True)
class Request:
    """What is to be sent on."""

    route: Route
    target: str
    """Path and query, as they were sent."""
    headers: CIMultiDict[str]
    body: bytes
    repeatable: bool
    subject: Subject = NOBODY


@dataclass(frozen=True, slots=True)
class Answer:
    """What has come back."""

    status: int
    headers: Headers
    body: bytes


class Upstream:
    """One service: its replicas, its room, and what its last answers say."""

    def __init__(self, session: aiohttp.ClientSession, addresses: Sequence[str]) -> None:
        """`addresses`: `host:port` of each replica."""
        self._session = session
        self._replicas = [Replica(address) for address in addresses]
        self._breaker = CircuitBreaker(open_for=OPEN_FOR)
        self._room = Bulkhead(PLACES, queue=QUEUE, wait=WAIT)
        self._streams = Bulkhead(STREAMS)
        self._retry = Retry(attempts=2, base=0.01, total=None, budget=RetryBudget(0.1))

    async def ask(self, request: Request) -> Answer:
        """The whole answer. Raises `NotTried`, `DeadlineExceeded`, or `ConnectionError` if there is none."""
        return await self._breaker.call(self._asked, request)

    async def _asked(self, request: Request) -> Answer:
        async with deadline(request.route.seconds), self._room:
            avoid: list[Replica] = []
            return await self._retry.call(lambda: self._read(request, avoid), idempotent=request.repeatable)

    async def _read(self, request: Request, avoid: list[Replica]) -> Answer:
        # A second try needs time, so the first one does not get all of it.
        share = request.route.seconds / 2 if request.repeatable and not avoid else None
        with self._observed(avoid) as replica:
            async with deadline(share):
                response = await self._sent(request, replica, headers())
                async with response:
                    answer = Answer(response.status, given_back(response.raw_headers), await response.read())
            if answer.status < 500:
                replica.answered()
            else:
                replica.failed(time.monotonic())
        return answer

    @asynccontextmanager
    async def stream(self, request: Request) -> AsyncIterator[aiohttp.ClientResponse]:
        """An answer that has begun, and is read by the block. Raises as `ask`."""
        async with self._streams:
            response = await self._breaker.call(self._begun, request)
            try:
                yield response
            finally:
                response.close()

    async def _begun(self, request: Request) -> aiohttp.ClientResponse:
        avoid: list[Replica] = []

        async def begin() -> aiohttp.ClientResponse:
            with self._observed(avoid) as replica:
                response = await self._sent(request, replica, {})  # it lasts for longer than anybody waits for it
                replica.answered()
                return response

        async with deadline(request.route.seconds):
            return await self._retry.call(begin, idempotent=request.repeatable)

    @contextmanager
    def _observed(self, avoid: list[Replica]) -> Iterator[Replica]:
        """A replica but those that have failed already, and what becomes of it."""
        began = time.monotonic()
        replica = chosen(self._replicas, now=began, avoid=avoid, random=random.random)
        avoid.append(replica)
        replica.in_flight += 1
        try:
            yield replica
        except aiohttp.ClientConnectorError as error:
            replica.failed(time.monotonic())
            raise ConnectionRefusedError(f"{replica.address}: {error}") from error  # certainly nothing was sent
        except aiohttp.ClientError as error:
            replica.failed(time.monotonic())
            raise ConnectionError(f"{replica.address}: {error!r}") from error
        except asyncio.CancelledError:
            if time.monotonic() - began > SLOW:
                replica.failed(time.monotonic())
            raise
        except OSError:  # a deadline, too
            replica.failed(time.monotonic())
            raise
        finally:
            replica.in_flight -= 1

    async def _sent(self, request: Request, replica: Replica, told: dict[str, str]) -> aiohttp.ClientResponse:
        sent = request.headers.copy()
        sent["X-Request-Id"] = request_id.get()
        sent.update(told)
        return await self._session.request(
            request.route.method,
            URL(f"http://{replica.address}{request.target}", encoded=True),
            headers=sent,
            data=request.body or None,
            allow_redirects=False,
        )


def session() -> aiohttp.ClientSession:
    """The one that all upstreams share: no cookies of one caller for another, no limits but those of the rooms."""
    made = aiohttp.ClientSession(
        auto_decompress=False,
        connector=aiohttp.TCPConnector(limit=0),
        cookie_jar=aiohttp.DummyCookieJar(),
        skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding", "Content-Type"),
        timeout=aiohttp.ClientTimeout(total=None),
    )
    # It would send a PUT or DELETE again by itself when a kept connection breaks: that is for the table to say.
    made._retry_connection = False  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]
    return made


def repeatable(route: Route, sent: CIMultiDict[str]) -> bool:
    """Whether it may be sent again when nobody knows what has become of it."""
    return route.repeat is Repeat.ALWAYS or (route.repeat is Repeat.BY_KEY and "Idempotency-Key" in sent)
