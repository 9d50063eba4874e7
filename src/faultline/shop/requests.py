"""What happens around every request: it has an id, ends as an answer, and is logged."""

from __future__ import annotations

import logging
import re
import secrets
from time import perf_counter
from typing import TYPE_CHECKING

from starlette.datastructures import MutableHeaders
from starlette.requests import Request

from faultline.shop import problems
from faultline.shop.errors import Problem
from faultline.shop.logs import request_id

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

ID = re.compile(r"[A-Za-z0-9_.-]{1,64}")
QUIET = frozenset({"/live", "/ready"})  # asked every second

log = logging.getLogger(__name__)


def identity(asked: str) -> str:
    """The id of a request: what the caller has named it, if that is a good one, otherwise a new one."""
    return asked if ID.fullmatch(asked) else secrets.token_hex(8)


class Around:
    """ASGI middleware: `X-Request-Id` is the caller's, if it is a good one, otherwise ours, and is sent back."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """As ASGI has it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request, began, status = Request(scope), perf_counter(), 0
        mine = identity(request.headers.get("x-request-id", ""))

        async def answered(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)["X-Request-Id"] = mine
            await send(message)

        held = request_id.set(mine)
        try:
            await self._app(scope, receive, answered)
        except Exception:  # the last line of defence: whoever asked gets an answer, and no word of what is inside
            log.exception("failed")
            if not status:
                problem = Problem(500, "failed", "this is a defect of the service; its log has the request's id")
                await problems.answer(request, problem)(scope, receive, answered)
        finally:
            if request.url.path not in QUIET:
                taken = round((perf_counter() - began) * 1000, 1)
                told = {"method": request.method, "path": request.url.path, "status": status, "milliseconds": taken}
                log.info("answered", extra=told)
            request_id.reset(held)
