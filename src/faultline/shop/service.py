"""What every service is around its own routes: health, problems, documentation, logs, and an end in order.

    async with catalog.opened(settings) as service:      # stores, relay, consumers: all that lives as long as it does
        await serve(service, settings)                   # until SIGTERM

**Who reads nothing.** A caller that takes nothing of what it is sent for `stalled` seconds is hung up on, by the kernel
(TCP_USER_TIMEOUT): what waits for it is no more than the buffers of its connection.

**The end.** On SIGTERM (or Ctrl-C) it stops accepting, has streams end, lets the requests that are there end for
`drain` seconds, and leaves the block: consumers and relay stop, pools close. What a killed process leaves is the
stores' and the broker's to undo, and nothing else: that is what every pattern inside is for.
"""

from __future__ import annotations

import asyncio
import gc
import socket
from contextlib import AbstractAsyncContextManager, contextmanager
from dataclasses import dataclass, field
from functools import cache
from signal import SIGINT, SIGTERM
from typing import TYPE_CHECKING, Any, TypeAlias

import uvicorn
from fastapi import APIRouter, FastAPI
from starlette.responses import HTMLResponse, JSONResponse, Response

from faultline.shop import documentation, logs, problems
from faultline.shop.errors import Problem
from faultline.shop.requests import Around
from faultline.shop.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Mapping

    from starlette.types import ASGIApp

    Check = Callable[[], Awaitable[object]]

Opened: TypeAlias = "Callable[[Settings], AbstractAsyncContextManager[Service]]"
"""What each service's `app.py` has: everything that lives as long as the service."""

PATIENCE = 0.5  # seconds for one of the things that `/ready` asks
READY = "ready"


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """One service, ready to be served."""

    title: str
    routes: APIRouter = field(default_factory=APIRouter)
    ready: Mapping[str, Check] = field(default_factory=dict[str, "Check"])
    """What it cannot work without, by name; each raises when that is not there."""
    end: Callable[[], None] = lambda: None
    """Has streams end that would not by themselves; called when the process is to end."""
    before: Callable[[ASGIApp], ASGIApp] | None = None
    """What stands before all that, where a service has its own application: the gateway."""
    paths: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """What that answers, as OpenAPI has it."""


def web(service: Service) -> ASGIApp:
    """The service's routes, with what all services have: `/live`, `/ready`, `/docs`, `/openapi.json`."""
    app = FastAPI(title=service.title, version="1", openapi_url=None)
    app.include_router(service.routes)
    app.add_middleware(Around)
    problems.handle(app)

    @cache
    def description() -> dict[str, Any]:  # made when it is asked for: a start does not pay for it
        made = app.openapi()
        made["paths"] |= service.paths
        return documentation.described(made)

    @app.get("/docs", include_in_schema=False)
    async def docs() -> Response:
        return HTMLResponse(documentation.page(description()))

    @app.get("/openapi.json", include_in_schema=False)
    async def openapi() -> Response:
        return JSONResponse(description())

    @app.get("/live", tags=["health"])
    async def live() -> dict[str, bool]:
        """The process turns its event loop: one that does not answer here is to be killed."""
        return {"live": True}

    @app.get("/ready", tags=["health"])
    async def ready() -> dict[str, str]:
        """It can do its work: while it cannot, send it nothing, and leave it alone."""
        states = await asked(service.ready)
        if failing := [f"{name}: {state}" for name, state in states.items() if state != READY]:
            raise Problem(503, "not-ready", "; ".join(failing), retry_after=1.0)
        return states

    return service.before(app) if service.before else app


async def asked(ready: Mapping[str, Check]) -> dict[str, str]:
    """What each of these says of itself now: `READY`, or what it raises."""
    found = await asyncio.gather(*(_state(check) for check in ready.values()))
    return dict(zip(ready, found, strict=True))


async def _state(check: Check) -> str:
    try:
        async with asyncio.timeout(PATIENCE):
            await check()
    except Exception as error:  # whatever a client raises, it is not ready  # noqa: BLE001, RUF100
        return repr(error)
    return READY


async def serve(service: Service, settings: Settings) -> None:
    """Answer until SIGTERM or SIGINT, then end in order. Raises `OSError` if the address is taken."""
    config = uvicorn.Config(
        web(service),
        log_config=None,
        access_log=False,
        lifespan="off",
        timeout_graceful_shutdown=round(settings.drain),
        timeout_keep_alive=75,  # longer than the callers': who closes first does not lose a request on the way
        server_header=False,
        proxy_headers=False,  # who calls is who is connected, whatever they say
    )
    server = _Server(config)
    loop = asyncio.get_running_loop()

    def end() -> None:
        service.end()
        server.should_exit = True

    for number in (SIGTERM, SIGINT):
        loop.add_signal_handler(number, end)
    with socket.create_server((settings.host, settings.port), backlog=config.backlog) as listener:
        # What is accepted inherits it: also where the caller's kernel answers, and only its program does not read.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, round(settings.stalled * 1000))
        await server.serve(sockets=[listener])


class _Server(uvicorn.Server):
    """Signals are the process's, not the server's: it raises none again."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def run(opened: Opened, settings: Settings) -> None:
    """Be this service until it is asked to end; the whole of its process."""
    logs.configure(settings.replica.name)
    gc.freeze()  # what was imported lives as long as the process, and is shared with its siblings while not written to

    async def alive() -> None:
        async with opened(settings) as service:
            await serve(service, settings)

    with asyncio.Runner(loop_factory=_loop) as runner:
        runner.run(alive())


def _loop() -> asyncio.AbstractEventLoop:
    import uvloop

    return uvloop.new_event_loop()
