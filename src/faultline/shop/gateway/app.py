"""The gateway, wired."""

from __future__ import annotations

import asyncio
import logging
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from faultline.patterns.run_loop import run_loop
from faultline.shop import messages, redis_client, seam
from faultline.shop.gateway import events
from faultline.shop.gateway.api import KEEPER, PAGE, Gateway
from faultline.shop.gateway.domain import GUEST, PART
from faultline.shop.gateway.edge_cache import PATIENCE as SLOWER
from faultline.shop.gateway.keys import EVERY, Keys
from faultline.shop.gateway.routes import ROUTES
from faultline.shop.gateway.rpc import Upstream, session
from faultline.shop.gateway.store import PATIENCE, Limits
from faultline.shop.peers import Http
from faultline.shop.problems import raises
from faultline.shop.service import Service

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from faultline.shop.settings import Settings

JWKS, WITHIN = "/v1/oauth/jwks", 1.0  # seconds for the keys of users

ALWAYS = {
    400,
    401,
    408,
    413,
    429,
    502,
    503,
    504,
}  # the gateway's own, of every route: a bad token is refused everywhere
PRODUCT_PAGE: dict[str, Any] = {
    "description": "what several services know of a product; null: it is `missing`",
    "content": {
        "application/json": {
            "schema": {
                "type": "object",
                "properties": {
                    "product": {"type": "object"},
                    "stock": {"type": ["object", "null"]},
                    "prices": {"type": ["array", "null"]},
                    "in_cart": {"type": ["integer", "null"]},
                    "missing": {"type": "array", "items": {"type": "string"}},
                },
                "required": ["product", "stock", "prices", "in_cart", "missing"],
            }
        }
    },
}

log = logging.getLogger(__name__)


@asynccontextmanager
async def opened(settings: Settings) -> AsyncIterator[Service]:
    """The gateway's connections to everybody. Ready without any of them: without Redis it neither counts nor keeps."""
    limiter = seam.loaded(settings.rate_limiter)
    async with (
        redis_client.client(settings.redis, patience=PATIENCE) as redis,
        redis_client.client(settings.redis, patience=SLOWER) as kept,
        session() as client,
        asyncio.TaskGroup() as tasks,
    ):
        upstreams = {name: Upstream(client, addresses) for name, addresses in settings.peers.items()}
        limits = Limits(redis, limiter.RateLimiter, settings.rate_limit, settings.rate_seconds)
        users = Http(client, settings.peers[KEEPER], within=WITHIN)
        keys = Keys(lambda: users.get(JWKS), issuer=settings.issuer)

        async def look() -> bool:
            await keys.learn()
            return False

        looking = tasks.create_task(run_loop(look, every=EVERY, on_error=_unknown))
        gateway = Gateway(ROUTES, upstreams, kept, limits, keys)
        hears = events.hears(gateway.products)
        ear = tasks.create_task(
            messages.hear(settings.rabbitmq, queue="gateway.events", handlers=hears, ears=messages.Ears())
        )
        yield Service(title="gateway", before=gateway.before, paths=paths())
        looking.cancel()
        ear.cancel()


def _unknown(error: Exception) -> None:
    log.warning("the keys of users are not to be had", extra={"reason": repr(error)})


def paths() -> dict[str, Any]:
    """The table as OpenAPI has it: what the gateway itself may answer; the rest its services say themselves."""
    found: dict[str, Any] = {}
    for route in ROUTES:
        may = ", ".join(f"{role} ({whose.value})" for role, whose in route.needs.may.items()) or "everybody"
        told = f"By {route.service}, within {route.seconds:g} s. Sent again: {route.repeat.value}. For {may}."
        names = [part[1:-1] for part in route.outside.split("/") if part.startswith("{")]
        statuses = ALWAYS | ({403} if route.needs.scope else set()) | ({404} if names else set())
        theirs = {"default": {"description": f"what {route.service} answers"}}
        found.setdefault(route.outside, {})[route.method.lower()] = {
            "description": told,
            "parameters": [_parameter("path", name, PART.pattern) for name in names]
            + [_parameter("header", "X-Guest", f"({GUEST.pattern})?")],
            "responses": {str(status): one for status, one in raises(*sorted(statuses)).items()}
            | ({"200": PRODUCT_PAGE} if route.path == PAGE else {})
            | theirs,
        }
    return found


def _parameter(where: str, name: str, pattern: str) -> dict[str, Any]:
    schema = {"type": "string", "pattern": f"^{pattern}$"}
    return {"name": name, "in": where, "required": where == "path", "schema": schema}
