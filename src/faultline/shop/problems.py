"""Errors as `application/problem+json` (RFC 9457): for every route, and for what no route has foreseen."""

import logging
from http import HTTPStatus
from math import ceil
from typing import Any

import msgspec
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from grpc.aio import AioRpcError
from psycopg import DataError, OperationalError
from psycopg_pool import PoolTimeout
from redis.exceptions import RedisError
from starlette.exceptions import HTTPException

from faultline.patterns import CircuitOpen
from faultline.shop import statuses
from faultline.shop.errors import Problem
from faultline.shop.logs import request_id

SOON = 1.0  # seconds after which a store that does not answer may be asked again
RETRIED = frozenset({429, 503})  # these always say when

SCHEMA: dict[str, Any] = {
    "title": "Problem",
    "type": "object",
    "description": "Why there is no other answer (RFC 9457); programs compare `type`.",
    "properties": {
        "type": {"type": "string", "pattern": "^/problems/[a-z0-9-]+$"},
        "title": {"type": "string"},
        "status": {"type": "integer", "minimum": 400, "maximum": 599},
        "detail": {"type": "string"},
        "instance": {"type": "string", "description": "the path that was asked for"},
        "request_id": {"type": "string", "description": "by which the logs have it"},
        "errors": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {"field": {"type": "string"}, "detail": {"type": "string"}},
                "required": ["field", "detail"],
                "additionalProperties": False,
            },
        },
    },
    "required": ["type", "title", "status", "detail", "instance", "request_id"],
    "additionalProperties": False,
}
"""What `answer` sends, as OpenAPI has it: its one component `Problem`."""
AGAIN = {
    "description": "seconds after which to ask again",
    "required": True,
    "schema": {"type": "integer", "minimum": 0},
}

log = logging.getLogger(__name__)


def raises(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """What a route says of its problems: `router.get("/hats/{hat}", responses=raises(404))(self.hat)`.

    Not to be said are those that `documentation.described` adds by itself: what FastAPI finds wrong with a request, and
    a store that does not answer.
    """
    return {status: _documented(status) for status in statuses}


def _documented(status: int) -> dict[str, Any]:
    content = {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}}
    headers = {"headers": {"Retry-After": AGAIN}} if status in RETRIED else {}
    return {"description": HTTPStatus(status).phrase, "content": content, **headers}


def answer(request: Request, problem: Problem) -> Response:
    """The problem as the caller gets it."""
    body: dict[str, object] = {
        "type": f"/problems/{problem.name}",
        "title": HTTPStatus(problem.status).phrase,
        "status": problem.status,
        "detail": problem.detail,
        "instance": request.url.path,
        "request_id": request_id.get(),
    }
    if problem.violations:
        body["errors"] = [{"field": one.field, "detail": one.detail} for one in problem.violations]
    after = SOON if problem.retry_after is None and problem.status in RETRIED else problem.retry_after
    headers = {} if after is None else {"Retry-After": str(ceil(after))}
    return Response(msgspec.json.encode(body), problem.status, headers, "application/problem+json")


def handle(web: FastAPI) -> None:
    """Have every error of the application end as a problem."""
    web.add_exception_handler(Problem, _foreseen)
    web.add_exception_handler(HTTPException, _of_http)
    web.add_exception_handler(RequestValidationError, _invalid)
    web.add_exception_handler(DataError, _unsayable)
    web.add_exception_handler(AioRpcError, _of_rpc)
    for kind in (OperationalError, PoolTimeout, RedisError, CircuitOpen):
        web.add_exception_handler(kind, _unavailable)


async def _foreseen(request: Request, error: Exception) -> Response:
    assert isinstance(error, Problem)
    return answer(request, error)


async def _of_http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    name = HTTPStatus(error.status_code).name.lower().replace("_", "-")
    return answer(request, Problem(error.status_code, name, str(error.detail)))


async def _invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    seen = "; ".join(f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors())
    return answer(request, Problem(422, "invalid", seen))


async def _unsayable(request: Request, error: Exception) -> Response:
    """PostgreSQL has no such value, for example a text with a zero byte: whoever sent it must change it."""
    return answer(request, Problem(422, "invalid", str(error)))


async def _of_rpc(request: Request, error: Exception) -> Response:
    """What another service has said over gRPC, and the route had no answer for."""
    assert isinstance(error, AioRpcError)
    log.warning("refused by another", extra={"reason": f"{error.code().name}: {error.details()}"})
    return answer(request, statuses.problem(error))


async def _unavailable(request: Request, error: Exception) -> Response:
    """A store that does not answer: for a change of something it is unknown whether it happened."""
    log.warning("unavailable", extra={"reason": repr(error)})
    after = error.retry_after if isinstance(error, CircuitOpen) else SOON
    return answer(request, Problem(503, "unavailable", f"{type(error).__name__}: ask again", retry_after=after))
