"""What each service says of itself in OpenAPI holds, whatever it is sent: schemathesis reads it, and asks.

No answer is a server error, or has a status that is not written down. Each is of the kind and the shape that is, and
what is not as described is refused. 503 is no error where it is a problem that says when to come back: the machine may
be busy. The examples are the same each time.

What is asked at random is hardly ever there. So half of the requests that are as described are for things that are.
"""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.core.result import Ok
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from tests.shop.conftest import Shop, an_index, opened, until
from tests.shop.people import BACK, PASSWORD, access, person, program

from faultline.shop.bodies import token
from faultline.shop.gateway.routes import ROUTES
from faultline.shop.signatures import Signatures
from faultline.shop.topology import SERVICES

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from requests import PreparedRequest
    from schemathesis import APIOperation, Case, CheckContext, Response
    from schemathesis.core.result import Result
    from schemathesis.errors import InvalidSchema

pytestmark = [pytest.mark.once, pytest.mark.slow, pytest.mark.xdist_group("openapi")]  # they share a shop

SECRET = "of the tests"
USER = "lea"
EXAMPLES, FEW = 8, 3
GATEWAY = "gateway"
PRICE = b'{"price": {"cents": 1}}'
EARLY = token("0001-01-01T00:00:00+14:00", "first")
REFRESH = b"grant_type=refresh_token"
FORM = {"Content-Type": "application/x-www-form-urlencoded"}
FRAMING = ("Content-Length", "Transfer-Encoding")  # of HTTP itself: uvicorn reads them, and no document tells of them
BUSY = frozenset({503, 504})  # 504 is the gateway's: it has waited as long as it may
PATIENCE = 30.0  # seconds for one answer
ENDLESS = frozenset({"GET /v1/notifications/stream", "GET /api/v1/notifications/stream"})
"""They last for minutes; `test_notification_stream` reads them."""


@dataclass(frozen=True, slots=True)
class There:
    """A shop in which something is there: by the name of a path's parameter."""

    shop: Shop
    things: dict[str, dict[str, str]]
    headers: dict[str, dict[str, str]]
    """What to say besides, by the name of a service."""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def there(
    shared_broker: tuple[str, int, int], shared_opensearch: str, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[There]:
    folder = tmp_path_factory.mktemp("openapi")
    folder.chmod(0o755)  # PostgreSQL runs as another user
    settings = {"SHOP_PROVIDER_SECRET": SECRET, "SHOP_RATE_LIMIT": "1000000", "SHOP_SEARCH_INDEX": an_index()}
    async with opened(folder, shared_broker, tuple(SERVICES), opensearch=shared_opensearch, **settings) as shop:
        yield await _filled(shop)


async def _filled(shop: Shop) -> There:
    for sku in ("hat", "cap"):
        product = {"sku": sku, "name": f"A {sku}", "category": "hats", "price": {"cents": 1999}}
        assert (await shop.ask("catalog-1", "/v1/products", product)).status == 201
    came = await shop.ask("inventory-1", "/v1/stock/hat/receipts/first", {"quantity": 1000}, method="PUT")
    assert came.status == 200, came.body
    lines = {"lines": [{"sku": "hat", "quantity": 1}]}
    placed = await shop.ask("orders-1", "/v1/orders", lines, X_User=USER, Idempotency_Key="first")
    assert placed.status == 202, placed.body
    order = placed.body["id"]

    async def confirmed() -> bool:
        return bool((await shop.ask("orders-1", f"/v1/orders/{order}", X_User=USER)).body["status"] == "confirmed")

    async def told() -> list[dict[str, Any]]:
        return list((await shop.ask("notifications-1", "/v1/notifications", X_User=USER)).body["items"])

    await until(confirmed)
    await until(told)
    begun = await shop.ask("analytics-1", "/v1/analytics/backfills", {"from": "2026-01-01", "to": "2026-01-02"})
    assert begun.status == 202, begun.body
    somebody, else_ = await person(shop), await person(shop)
    client = await program(shop)
    things = {
        "catalog": {"sku": "cap"},
        "cart": {"sku": "hat"},
        "inventory": {"sku": "hat", "receipt": "second"},
        "orders": {"order": order},
        "payment": {"order": order},
        "notifications": {"notification": (await told())[0]["id"]},
        "analytics": {"backfill": str(begun.body["id"])},
        "search": {},
        "provider": {"key": f"{order}:capture", "charge": f"{order}:capture"},
        "users": {
            "user": else_.id,
            "email": somebody.email,
            "password": PASSWORD,
            "client_id": client.id,
            "redirect_uri": BACK,
            "grant_type": "authorization_code",
        },
    }
    headers = {service: {"X-User": USER} for service in things}
    headers["users"] = {"X-User": somebody.id, "X-Whose": "any", "Cookie": somebody.cookie}
    admin = await person(shop, "admin")
    headers[GATEWAY] = {"Authorization": f"Bearer {await access(shop, admin)}", "Cookie": admin.cookie}
    return There(shop, things, headers)


@pytest.mark.parametrize("service", sorted(SERVICES.keys() - {GATEWAY}))
@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.timeout(120)
async def test_what_it_says_of_itself_holds(there: There, service: str) -> None:
    await _hold(there, service, EXAMPLES)


@pytest.mark.parametrize("service", sorted(SERVICES.keys() - {GATEWAY, "payment", "provider"}))
@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.timeout(120)
async def test_the_gateway_answers_as_it_says_or_as_its_service_does(there: There, service: str) -> None:
    outside, theirs = await _description(there, GATEWAY), await _description(there, service)
    await asyncio.to_thread(_asked, there, service, _through(outside, theirs, service), FEW, at=GATEWAY)


STRANGE = {
    "a name that is no text": ("catalog-1", "POST", "/v1/products", b'{"attributes": {"\\ud800": 1}}', {}),
    "a body that is no text": ("catalog-1", "POST", "/v1/products", b'{"sku": "\xff"}', {}),
    "a body that is too deep": ("catalog-1", "POST", "/v1/products", b"[" * 100_000, {}),
    "a number that is too long": ("inventory-1", "PUT", "/v1/flash-sales/hat", b'{"units": ' + b"9" * 5000 + b"}", {}),
    "a zero byte": ("catalog-1", "GET", "/v1/products?category=%00", b"", {}),
    "a version that never was": ("catalog-1", "PUT", "/v1/products/hat/price", PRICE, {"If-Match": "9" * 5000}),
    "a page before all time": ("orders-1", "GET", f"/v1/orders?after={EARLY}", b"", {"X-User": USER}),
    "a secret that is no base64": (
        "users-1",
        "POST",
        "/v1/oauth/token",
        REFRESH,
        FORM | {"Authorization": "Basic \xe9"},
    ),
}


@pytest.mark.parametrize("name", STRANGE)
@pytest.mark.asyncio(loop_scope="module")
async def test_strange_input_is_no_defect(there: There, name: str) -> None:
    process, method, path, body, headers = STRANGE[name]
    url = f"http://127.0.0.1:{there.shop.process(process).port}{path}"
    told = {"Content-Type": "application/json", **headers}
    answer = await asyncio.to_thread(requests.request, method, url, data=body, headers=told, timeout=PATIENCE)
    assert answer.status_code < 500, answer.text


async def _hold(there: There, service: str, examples: int) -> None:
    try:
        await asyncio.to_thread(_asked, there, service, await _description(there, service), examples)
    finally:
        await there.shop.ask("provider-1", "/v1/behaviour", {}, method="PUT")


async def _description(there: There, service: str) -> dict[str, Any]:
    reply = await there.shop.ask(f"{service}-1", "/openapi.json")
    assert reply.status == 200
    return dict(reply.body)


def _through(outside: dict[str, Any], theirs: dict[str, Any], service: str) -> dict[str, Any]:
    """The gateway's document of a service's routes, with what that answers in the place of `default`."""
    inner = {_bare(path): operations for path, operations in theirs["paths"].items()}
    paths: dict[str, Any] = {}
    for route in (one for one in ROUTES if one.service == service):
        method = route.method.lower()
        own = outside["paths"][route.outside][method]
        its: dict[str, Any] = inner.get(_bare(route.path), {}).get(method, {"responses": {}})
        answers = {status: one for status, one in own["responses"].items() if status != "default"}
        for status, one in its["responses"].items():
            content = answers.get(status, {}).get("content", {}) | one.get("content", {})
            answers[status] = answers.get(status, {}) | one | ({"content": content} if content else {})
        queries = [one for one in its.get("parameters", ()) if one["in"] == "query"]
        body = {"requestBody": its["requestBody"]} if "requestBody" in its else {}
        merged = {"parameters": own["parameters"] + queries, "responses": answers, **body}
        paths.setdefault(route.outside, {})[method] = merged
    return {**theirs, "paths": paths}


def _bare(path: str) -> str:
    """Without the names of its parameters: the gateway calls some otherwise."""
    return re.sub(r"{[a-z_]+}", "{}", path)


def _asked(there: There, service: str, description: dict[str, Any], examples: int, *, at: str = "") -> None:
    schema = schemathesis.openapi.from_dict(description)
    schema.config.generation.update(with_security_parameters=False)  # here they are the right ones, or none
    at = at or service
    base = f"http://127.0.0.1:{there.shop.process(f'{at}-1').port}"
    operations = [one for found in schema.get_all_operations() if (one := _sure(found)).label not in ENDLESS]
    for operation in sorted(operations, key=_takes_away):
        seen: Counter[int] = Counter()
        for mode in GenerationMode:
            _try(there, service, operation, mode, base, examples, seen, at)
        print(f"{operation.label}: {dict(seen)}")
        assert set(seen) - BUSY, f"{operation.label} has never answered: the machine is too busy to tell"


def _try(
    there: There,
    service: str,
    operation: APIOperation[Any, Any, Any, Any],
    mode: GenerationMode,
    base: str,
    examples: int,
    seen: Counter[int],
    at: str,
) -> None:
    @settings(
        max_examples=examples,
        derandomize=True,
        deadline=None,
        database=None,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
    )
    @given(case=operation.as_strategy(generation_mode=mode), real=st.booleans())
    def ask(case: Case, real: bool) -> None:
        if real and mode is GenerationMode.POSITIVE:
            things = there.things[service]
            case.path_parameters |= {name: things[name] for name in case.path_parameters if name in things}
            case.query |= {name: things[name] for name in case.query if name in things}
            case.headers.update(there.headers[at])
            case.body = _with(things, case.body)
        for name in FRAMING:
            case.headers.pop(name, None)
        is_signed = at in SIGNED and (real or mode is GenerationMode.NEGATIVE)
        answer = case.call(base_url=base, timeout=PATIENCE, auth=_signed if is_signed else None)
        seen[answer.status_code] += 1
        case.validate_response(answer, checks=CHECKS)

    with suppress(Unsatisfiable) if mode is GenerationMode.NEGATIVE else nullcontext():  # where nothing can be wrong
        ask()


def _sure(found: Result[APIOperation[Any, Any, Any, Any], InvalidSchema]) -> APIOperation[Any, Any, Any, Any]:
    assert isinstance(found, Ok), f"the document is none: {found.err()}"
    return found.ok()


def _takes_away(operation: APIOperation[Any, Any, Any, Any]) -> bool:
    """It is asked last, for after that there is less to be asked for."""
    return operation.method == "delete" or operation.label == "PUT /v1/behaviour"


def _with(things: dict[str, str], value: Any) -> Any:
    """A body in which what is real has its place."""
    match value:
        case dict():
            return {name: things.get(name) or _with(things, one) for name, one in value.items()}
        case list():
            return [_with(things, one) for one in value]
        case _:
            return value


def _signed(request: PreparedRequest) -> PreparedRequest:
    """As the other of the two would."""
    body = request.body.encode() if isinstance(request.body, str) else request.body or b""
    key = request.headers.get("Idempotency-Key", "")
    told = Signatures(SECRET).headers(str(request.method), request.path_url, bytes(body), key=str(key))
    request.headers["X-Signature"] = told["x-signature"]
    return request


def is_no_server_error(context: CheckContext, response: Response, case: Case) -> bool | None:
    """`not_a_server_error`, but for a service that says when to come back."""
    kind = response.headers.get("content-type", [""])[0]
    if (
        response.status_code in BUSY
        and kind == "application/problem+json"
        and ("retry-after" in response.headers or response.status_code == 504)
    ):
        return None
    return not_a_server_error(context, response, case)


SIGNED = frozenset({"payment", "provider"})
CHECKS = [
    is_no_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    negative_data_rejection,
]
