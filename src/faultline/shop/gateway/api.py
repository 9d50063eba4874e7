"""The gateway as an ASGI application: a request in, checked and bounded; an answer out, or a problem."""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from typing import TYPE_CHECKING

import aiohttp
from multidict import CIMultiDict
from starlette.requests import Request as Incoming

from faultline.patterns import BulkheadFull, CircuitOpen, DeadlineExceeded, NotForgotten, NotTried, deadline
from faultline.patterns.deadline import HEADER, from_headers
from faultline.shop import problems
from faultline.shop.callers import ANY, GUEST_USER, USER, WHOSE
from faultline.shop.errors import Problem
from faultline.shop.gateway.domain import (
    CREDENTIALS,
    NOBODY,
    PREFIX,
    WELL_KNOWN,
    Ambiguous,
    Forbidden,
    Route,
    Subject,
    Table,
    Unknown,
    Whose,
    allowed,
    given_back,
    guest,
    passed_on,
    safe,
)
from faultline.shop.gateway.edge_cache import EdgeCache
from faultline.shop.gateway.keys import BadToken, NotKnownYet
from faultline.shop.gateway.pages import PRODUCT, Pages
from faultline.shop.gateway.rpc import Request, repeatable
from faultline.shop.requests import Around

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Mapping, Sequence

    from redis.asyncio import Redis
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from faultline.shop.gateway.keys import Keys
    from faultline.shop.gateway.rpc import Answer, Upstream
    from faultline.shop.gateway.store import Limits

LARGEST = 64 * 1024  # bytes of a request's body
PAGE = "/v1/product-pages/{sku}"
KEEPER = "users"  # whose are the credentials of others
BODILESS = frozenset({204, 304})
SOON = 1.0  # seconds after which who was refused may ask again

log = logging.getLogger(__name__)


class _Left(Exception):
    """The caller has gone."""


class Gateway:
    """Sends on what is in the table; what is outside `/api` and `/.well-known` somebody else answers."""

    def __init__(
        self,
        routes: Sequence[Route],
        upstreams: Mapping[str, Upstream],
        redis: Redis,
        limits: Limits,
        keys: Keys,
    ) -> None:
        """Talk to nobody yet. `redis`: for what is kept, with `edge_cache.PATIENCE` as its timeout."""
        reads = {route.path: route for route in routes if route.method == "GET"}
        self._table, self._upstreams, self._limits, self._keys = Table(routes), upstreams, limits, keys
        self._kept = {path: EdgeCache(redis, route, self._upstream) for path, route in reads.items() if route.kept}
        self._pages = Pages(reads, self._asked)
        self._inside = Around(self._inside_api)
        self._besides: ASGIApp = self._inside

    @property
    def products(self) -> EdgeCache:
        """What is kept of products."""
        return self._kept[PRODUCT]

    def before(self, besides: ASGIApp) -> ASGIApp:
        """Have what is outside `/api` and `/.well-known` answered by that; gives itself back."""
        self._besides = besides
        return self

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """As ASGI has it."""
        if scope["type"] != "http":
            await self._besides(scope, receive, send)
            return

        async def safely(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = safe(list(message.get("headers", ())), secure=scope["scheme"] == "https")
            await send(message)

        mine = scope["path"].startswith((f"{PREFIX}/", WELL_KNOWN))
        await (self._inside if mine else self._besides)(scope, receive, safely)

    async def _inside_api(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            request = await self._understood(scope, receive)
        except Problem as problem:
            answer = problems.answer(Incoming(scope), problem)
            if problem.status == 401:
                answer.headers["WWW-Authenticate"] = "Bearer"
            await answer(scope, receive, send)
        except _Left:
            pass
        else:
            await _while_there(receive, lambda: self._answered(request, scope, receive, send))

    async def _understood(self, scope: Scope, receive: Receive) -> Request:
        """What is to be sent on. Raises `Problem`, and `_Left`."""
        path: str = scope["raw_path"].decode("latin-1").partition("?")[0]
        route, methods = self._table.find(scope["method"], path)
        if route is None:
            if methods:
                raise Problem(405, "method-not-allowed", f"{path} takes {', '.join(methods)}")
            raise Problem(404, "not-found", f"nothing is at {path}")
        sent = _headers(scope, route)
        subject, told = await self._by_whom(route, scope)
        sent.update(told)
        body = await _body(route, scope, receive)
        query: bytes = scope["query_string"]
        target = path.removeprefix(PREFIX) + (f"?{query.decode('latin-1')}" if query else "")
        return Request(route, target, sent, body, repeatable(route, sent), subject)

    async def _by_whom(self, route: Route, scope: Scope) -> tuple[Subject, dict[str, str]]:
        """Who asks, and what the service is told of them, once it is sure that they may. Raises `Problem`."""
        given = {name: value.decode("latin-1") for name, value in scope["headers"] if name in CREDENTIALS}
        before = _guest(given.get(b"x-guest", ""))
        try:
            subject = await self._token(given.get(b"authorization", "")) or before or NOBODY
        except Problem:
            await self._admit(NOBODY, scope)  # whoever makes tokens up is counted, too
            raise
        await self._admit(subject, scope)
        try:
            whose = allowed(subject, route.needs)
        except Unknown as error:
            raise Problem(401, "who-are-you", str(error)) from error
        except Forbidden as error:
            raise Problem(403, "forbidden", str(error)) from error
        told = {USER: subject.id} if subject.id else {}
        told |= {WHOSE: ANY} if whose is Whose.ANY and route.needs.scope else {}
        return subject, told | ({GUEST_USER: before.id} if before and before is not subject else {})

    async def _token(self, authorization: str) -> Subject | None:
        """Who has sent an access token; None if there is none. Raises `Problem` for one that is not good."""
        kind, _, token = authorization.partition(" ")
        if kind.lower() != "bearer":
            return None
        try:
            return await self._keys.verified(token.strip())
        except BadToken as error:
            raise Problem(401, "bad-token", "it has ended, or is none of ours: get another one") from error
        except NotKnownYet as error:
            raise Problem(503, "unavailable", "users does not answer", retry_after=SOON) from error

    async def _admit(self, subject: Subject, scope: Scope) -> None:
        """Whoever has said who they are is counted as that, everybody else by their address."""
        who = f"user:{subject.id}" if subject.id else f"address:{_address(scope)}"
        if wait := await self._limits.wait(who, subject.role):
            raise Problem(429, "too-many-requests", "slow down", retry_after=wait)

    async def _answered(self, request: Request, scope: Scope, receive: Receive, send: Send) -> None:
        told, begun = _caller_waits(scope), False
        try:
            if request.route.streams:
                async with self._upstreams[request.route.service].stream(request) as response:
                    begun = True
                    await _stream(response, send)
            else:
                async with deadline(told):
                    answer = await self._asked(request)
                begun = True
                await _whole(answer, send)
        except (NotTried, DeadlineExceeded, OSError, aiohttp.ClientError) as error:
            if begun:  # the server closes the connection, and so says that it is not whole
                log.warning("an answer broke off", extra={"reason": repr(error)})
                return
            problem = _problem(error, request.route)
            log.warning("not answered", extra={"upstream": request.route.service, "reason": repr(error)})
            await problems.answer(Incoming(scope), problem)(scope, receive, send)

    async def _asked(self, request: Request) -> Answer:
        """What is kept, put together, or asked for. Raises as `Upstream.ask`."""
        route = request.route
        if route.path == PAGE:
            return await self._pages.answer(request)
        if route.kept and "?" not in request.target:
            return await self._kept[route.path].answer(request)
        answer = await self._upstream(request)
        if route.method != "GET" and route.path.startswith(PRODUCT):  # RFC 9111, 4.4: who changes it sees the change
            with suppress(NotForgotten):  # the event comes, too
                await self.products.purge("/".join(request.target.split("/")[:4]))
        return answer

    async def _upstream(self, request: Request) -> Answer:
        return await self._upstreams[request.route.service].ask(request)


async def _while_there(receive: Receive, work: Callable[[], Coroutine[object, object, None]]) -> None:
    """Do it, but not for somebody who has gone: whatever it waits for, or holds, it lets go."""
    async with asyncio.TaskGroup() as tasks:
        both = {tasks.create_task(work()), tasks.create_task(_left(receive))}
        await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        for task in both:
            task.cancel()


async def _left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _guest(secret: str) -> Subject | None:
    """Who has sent `X-Guest`. Raises `Problem` for what somebody could guess."""
    if not secret:
        return None
    if not (found := guest(secret)):
        raise Problem(400, "bad-guest", "X-Guest: 32 to 128 letters, digits, - and _, made by chance")
    return found


def _address(scope: Scope) -> str:
    return scope["client"][0] if scope["client"] else "unknown"


def _headers(scope: Scope, route: Route) -> CIMultiDict[str]:
    drop = frozenset({b"x-guest"}) if route.service == KEEPER else CREDENTIALS
    try:
        kept = passed_on(scope["headers"], drop=drop)
        sent = CIMultiDict((name.decode("ascii"), value.decode()) for name, value in kept)
    except (Ambiguous, UnicodeDecodeError) as error:
        raise Problem(400, "unreadable", f"headers: {error}") from error
    sent["X-Forwarded-For"] = _address(scope)
    sent["X-Forwarded-Proto"] = scope["scheme"]
    return sent


def _caller_waits(scope: Scope) -> float | None:
    """Seconds; only to wait less than the table says: whoever is impatient is so for themselves, and no failure."""
    told = [from_headers({HEADER: value}) for name, value in scope["headers"] if name == HEADER.encode()]
    return min((seconds for seconds in told if seconds is not None), default=None)


async def _body(route: Route, scope: Scope, receive: Receive) -> bytes:
    """All of it, before anybody is asked: a slow caller takes no place from others. Raises `Problem`, and `_Left`."""
    declared = [int(value) for name, value in scope["headers"] if name == b"content-length"]
    if declared and declared[0] > LARGEST:
        raise _too_large()
    read = bytearray()
    try:
        async with deadline(route.seconds):
            more = True
            while more:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise _Left
                read += message.get("body", b"")
                if len(read) > LARGEST:
                    raise _too_large()
                more = message.get("more_body", False)
    except DeadlineExceeded as error:
        raise Problem(408, "slow-request", f"the body was not here within {route.seconds:g} s") from error
    return bytes(read)


def _too_large() -> Problem:
    return Problem(413, "too-large", f"a body has {LARGEST:,} bytes at most")


async def _whole(answer: Answer, send: Send) -> None:
    length = [] if answer.status in BODILESS else [(b"content-length", str(len(answer.body)).encode())]
    await send({"type": "http.response.start", "status": answer.status, "headers": answer.headers + length})
    await send({"type": "http.response.body", "body": answer.body})


async def _stream(response: aiohttp.ClientResponse, send: Send) -> None:
    """Each piece as it comes."""
    passed = given_back(response.raw_headers)
    await send({"type": "http.response.start", "status": response.status, "headers": passed})
    async for piece in response.content.iter_any():
        await send({"type": "http.response.body", "body": piece, "more_body": True})
    await send({"type": "http.response.body", "body": b""})


def _problem(error: Exception, route: Route) -> Problem:
    """What the caller is told. Where it was sent, nobody here knows what has become of it."""
    match error:
        case BulkheadFull():
            return Problem(503, "overloaded", f"too many wait for {route.service}", retry_after=SOON)
        case CircuitOpen():
            return Problem(503, "unavailable", f"{route.service} fails", retry_after=error.retry_after)
        case DeadlineExceeded():
            return Problem(504, "deadline", f"{route.service} has not answered in time; it may have happened")
        case ConnectionRefusedError():
            return Problem(502, "upstream", f"nobody of {route.service} is there; nothing has happened")
        case _:
            return Problem(502, "upstream", f"{route.service} broke off; it may have happened")
