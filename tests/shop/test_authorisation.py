"""Who may what: every line of the gateway's table, as every role, for what is its own and for what is another's.

What the running services answer is compared with docs/authorisation.md, cell by cell.
"""

import asyncio
import json
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from signal import SIGCONT, SIGSTOP
from typing import Any
from urllib.parse import urlencode

import aiohttp
import pytest
import pytest_asyncio
from joserfc.jwk import ECKey
from tests.shop.conftest import DEADLINE, Reply, Shop, until
from tests.shop.people import BACK, BUSY, PASSWORD, Person, Program, access, asked, form, guest, log_in, person, program
from tests.shop.test_gateway_keys import token

from faultline.components import Clone
from faultline.shop.contracts import Role
from faultline.shop.gateway.domain import Route
from faultline.shop.gateway.policy import DOCUMENT
from faultline.shop.gateway.routes import ROUTES
from faultline.shop.topology import SERVICES

pytestmark = [
    pytest.mark.once,
    pytest.mark.timeout(240),
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.xdist_group("authorisation"),  # they share a shop
]
NAMES = tuple(SERVICES)
OBJECTS = {"order", "user", "session", "key", "notification"}
"""Parts of a path that are somebody's."""
REFUSALS = {"/problems/who-are-you": 401, "/problems/forbidden": 403}
LISTS = ("/v1/cart", "/v1/orders", "/v1/sessions", "/v1/api-keys", "/v1/notifications")
"""What has no name in its path, since everybody has their own."""
LINES = {"lines": [{"sku": "hat", "quantity": 1}]}


@dataclass(frozen=True, slots=True, kw_only=True)
class Party:
    """Somebody who asks, and what is theirs."""

    role: Role
    headers: Mapping[str, str]
    person: Person | None = None


@dataclass(frozen=True, slots=True)
class Town:
    """The shop, and those who have to do with it."""

    shop: Shop
    machine: Program
    stranger: Person
    strangers: str
    """An access token of theirs."""

    async def party(self, role: Role) -> Party:
        """A new one of that role."""
        match role:
            case Role.NOBODY:
                return Party(role=role, headers={})
            case Role.GUEST:
                return Party(role=role, headers={"X_Guest": guest(f"guest-{id(object())}")})
            case Role.PARTNER:
                reply = await self.machine.token(grant_type="client_credentials")
                return Party(role=role, headers=bearer(reply.body["access_token"]))
            case _:
                who = await person(self.shop, role)
                return Party(role=role, headers=bearer(await access(self.shop, who)), person=who)

    async def ordered(self, headers: Mapping[str, str], key: str) -> str:
        """An order that has come to its end."""
        reply = await asked(self.shop, "/api/v1/orders", LINES, Idempotency_Key=key, **headers)
        assert reply.status == 202, reply.body
        stream = await asked(self.shop, f"/api/v1/orders/{reply.body['id']}/stream", **headers)
        assert '"confirmed"' in stream.body
        return str(reply.body["id"])

    async def told(self, headers: Mapping[str, str], key: str) -> str:
        """Something that these were told."""
        if "X_Guest" in headers:
            await self.ordered(headers, key)
        items: list[dict[str, str]] = []

        async def there() -> bool:
            reply = await asked(self.shop, "/api/v1/notifications", **headers)
            assert reply.status == 200, reply.body
            items[:] = reply.body["items"]
            return bool(items)

        await until(there)
        return items[0]["id"]


def bearer(value: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {value}"}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def town(shop_: Shop) -> Town:
    new = {"sku": "hat", "name": "hat", "category": "x", "price": {"cents": 500}}
    assert (await shop_.ask("catalog-1", "/v1/products", new)).status == 201
    stock = await shop_.ask("inventory-1", "/v1/stock/hat/receipts/1", {"quantity": 1000}, method="PUT")
    assert stock.status == 200
    stranger = await person(shop_)
    machine = await program(shop_, scopes=["stock:write", "orders:read"], keeps_secrets=True)
    return Town(shop_, machine, stranger, await access(shop_, stranger))


def golden() -> dict[tuple[str, str, str], str]:
    """The page, by method, path and role."""
    text = (Clone.here().root / DOCUMENT).read_text()
    rows = [[cell.strip(" `") for cell in line.strip("|").split("|")] for line in text.splitlines() if line[:1] == "|"]
    head, _, *lines = rows
    found: dict[tuple[str, str, str], str] = {}
    for route, _, *cells in lines:
        method, path = route.split(" ")
        found |= {(method, path, role): cell for role, cell in zip(head[2:], cells, strict=True)}
    return found


class Busy(Exception):
    """The gateway has not waited for the answer."""


class Asking:
    """One party at every line of the table."""

    def __init__(self, town: Town, party: Party) -> None:
        self.town, self.party, self.shop = town, party, town.shop
        self.tries = 0

    async def cell(self, route: Route) -> str:
        """What the services let them do there, in the page's word; again, where the machine was too busy to say."""
        async with asyncio.timeout(2 * DEADLINE):
            while True:
                with suppress(Busy):
                    return await self.told(route)

    async def told(self, route: Route) -> str:
        """Likewise, in one go. Raises `Busy`."""
        names = [part[1:-1] for part in route.path.split("/") if part.startswith("{")]
        if not OBJECTS & set(names):
            reply = await self.ask(route, await self.filled(route, own=True))
            if self.refused(reply):
                return "-"
            assert 200 <= reply.status < 400, (route, reply)
            if route.needs.scope is None:
                return "all"
            if not route.path.startswith(LISTS):
                return "any"
            assert self.town.stranger.id not in str(reply.body)
            return "own"
        other = await self.ask(route, await self.filled(route, own=False))
        if self.refused(other):
            assert self.refused(await self.ask(route, await self.filled(route, own=False)))
            return "-"
        own = await self.ask(route, await self.filled(route, own=True))
        assert 200 <= own.status < 300, (route, own)
        if other.status == 404:
            return "own"
        assert 200 <= other.status < 300, (route, other)
        return "any"

    def refused(self, reply: Reply) -> bool:
        """Whether the gateway has sent them away, in the right way."""
        kind = reply.body.get("type", "") if isinstance(reply.body, dict) else ""
        if kind not in REFUSALS:
            return False
        assert reply.status == REFUSALS[kind]
        assert (reply.status == 401) == (self.party.role is Role.NOBODY)
        assert (reply.headers.get("www-authenticate") == "Bearer") == (reply.status == 401)
        return True

    async def filled(self, route: Route, *, own: bool) -> str:
        """The path, with names of things that are there; what is to go away is new."""
        self.tries += 1
        path = route.path.replace("{receipt}", f"{self.party.role}-{self.tries}")
        path = path.replace("{backfill}", "1")  # there is one from the beginning
        if "{sku}" in path:
            path = path.replace("{sku}", await self.product() if route.method == "DELETE" else "hat")
        mine = self.party.headers if own else bearer(self.town.strangers)
        if "{order}" in path:
            path = path.replace("{order}", await self.town.ordered(mine, f"{self.party.role}-{self.tries}"))
        if "{notification}" in path:
            path = path.replace("{notification}", await self.town.told(mine, f"{self.party.role}-{self.tries}"))
        who = self.party.person if own and self.party.person else self.town.stranger
        if "{user}" in path:
            if route.method == "DELETE":
                who = await self.same_as(who)
            path = path.replace("{user}", who.id)
        if "{session}" in path:
            path = path.replace("{session}", (await log_in(self.shop, who.email)).partition("=")[2].partition(".")[0])
        if "{key}" in path:
            new = {"name": "k", "scopes": ["cart"]}
            path = path.replace(
                "{key}", (await self.shop.ask("users-1", "/v1/api-keys", new, X_User=who.id)).body["id"]
            )
        return path

    async def product(self) -> str:
        sku = f"to-go-{self.party.role}-{self.tries}"
        new = {"sku": sku, "name": "x", "category": "x", "price": {"cents": 1}}
        assert (await self.shop.ask("catalog-1", "/v1/products", new)).status == 201
        return sku

    async def same_as(self, who: Person) -> Person:
        """The one who asks, if it is to be their own; otherwise somebody new."""
        return who if who is self.party.person else await person(self.shop)

    async def ask(self, route: Route, path: str) -> Reply:
        if route.method == "POST" and route.service == "search":
            await until(self.search_rests)  # one rebuild or check at a time
        if (reply := await self.once(route, path)).status in BUSY:
            raise Busy
        return reply

    async def search_rests(self) -> bool:
        last = [(await self.shop.ask("search-1", f"/v1/search/{what}/last")).body for what in ("rebuilds", "checks")]
        return "running" not in {one.get("state") for one in last}

    async def once(self, route: Route, path: str) -> Reply:
        outside = path if path.startswith("/.") else f"/api{path}"
        headers = dict(self.party.headers)
        if pairs := await self.fields(route, headers):
            if route.method == "GET":
                return await self.shop.ask("gateway-1", f"{outside}?{urlencode(pairs)}", **headers)
            return await form(self.shop, outside, pairs.items(), "gateway-1", **headers)
        if route.path == "/v1/sessions/current/tokens":
            headers["Cookie"] = await log_in(self.shop, self.town.stranger.email)
        if route.path == "/v1/cart/merges" and self.party.person:
            headers["X_Guest"] = guest(self.party.person.id)
        if route.path == "/v1/orders" and route.method == "POST":
            headers["Idempotency_Key"] = f"{self.party.role}-{self.tries}"
        if route.path == "/v1/notifications/stream":
            return await self.begun(outside, headers)
        return await self.shop.ask("gateway-1", outside, self.body(route), method=route.method, **headers)

    async def begun(self, outside: str, headers: Mapping[str, str]) -> Reply:
        """An answer that does not end by itself: how it begins."""
        url = f"http://127.0.0.1:{self.shop.process('gateway-1').port}{outside}"
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        async with aiohttp.ClientSession() as session, session.get(url, headers=sent) as response:
            if response.status == 200:
                return Reply(200, response.headers, (await response.content.readuntil(b"\n\n")).decode())
            return Reply(response.status, response.headers, await response.json(content_type=None))

    async def fields(self, route: Route, headers: dict[str, str]) -> dict[str, str]:
        """Of a form."""
        machine = {"client_id": self.town.machine.id, "client_secret": str(self.town.machine.secret)}
        match route.path:
            case "/v1/oauth/authorize":
                headers["Cookie"] = await log_in(self.shop, self.town.stranger.email)
                return {"client_id": self.town.machine.id, "redirect_uri": BACK, "response_type": "code"}
            case "/v1/search/suggestions":
                return {"q": "hat"}
            case "/v1/stores":
                return {"latitude": "52.5", "longitude": "13.4"}
            case "/v1/oauth/token":
                return {"grant_type": "client_credentials", **machine}
            case "/v1/oauth/revoke":
                return {"token": "rt_none", **machine}
            case "/v1/analytics/sales" | "/v1/analytics/days":
                return {"from": "2026-01-01", "to": "2026-01-31"}
            case "/v1/analytics/reconciliation":
                return {"day": "2026-01-01"}
            case _:
                return {}

    def body(self, route: Route) -> Any:
        name = f"{self.party.role}-{self.tries}"
        price = {"price": {"cents": 500}}
        return {
            ("POST", "/v1/products"): {"sku": f"new-{name}", "name": "x", "category": "x", **price},
            ("PUT", "/v1/products/{sku}"): {"name": name, "category": "x"},
            ("PUT", "/v1/products/{sku}/price"): price,
            ("POST", "/v1/products/{sku}/views"): {},
            ("PUT", "/v1/cart/lines/{sku}"): {"quantity": 1},
            ("POST", "/v1/orders"): LINES,
            ("PUT", "/v1/notifications/read"): {"up_to": 0},
            ("PUT", "/v1/stock/{sku}/receipts/{receipt}"): {"quantity": 1},
            ("POST", "/v1/users"): {"email": f"new-{name}@shop.example", "password": PASSWORD},
            ("PUT", "/v1/users/{user}/role"): {"role": self.party.role if self.party.person else "customer"},
            ("POST", "/v1/sessions"): {"email": self.town.stranger.email, "password": PASSWORD},
            ("POST", "/v1/sessions/current/tokens"): {},
            ("POST", "/v1/api-keys"): {"name": "k", "scopes": ["cart"]},
            ("POST", "/v1/analytics/backfills"): {"from": "2026-01-01", "to": "2026-01-02"},
            ("POST", "/v1/search/rebuilds"): {},
            ("POST", "/v1/search/checks"): {},
            ("POST", "/v1/oauth/clients"): {"name": "c", "scopes": ["cart"]},
        }.get((route.method, route.path))


@pytest.mark.parametrize("role", list(Role))
async def test_each_line_is_open_to_whom_the_page_says_and_to_nobody_else(town: Town, role: Role) -> None:
    asking, found = Asking(town, await town.party(role)), {}
    last = [route for route in ROUTES if route.path == "/v1/users/{user}" and route.method == "DELETE"]
    for route in [*(route for route in ROUTES if route not in last), *last]:  # it ends who asks
        found[route.method, route.outside, str(role)] = await asking.cell(route)
    expected = {key: cell for key, cell in golden().items() if key[2] == role}
    assert found == expected


async def test_nobody_is_another_by_what_they_say(town: Town) -> None:
    mine, theirs = {"X_Guest": guest("ann")}, {"X_Guest": guest("eve")}
    order = await town.ordered(mine, "k")
    put = await asked(town.shop, "/api/v1/cart/lines/hat", {"quantity": 3}, method="PUT", **mine)
    assert put.status == 200
    me = (await town.shop.rows("orders", "SELECT data ->> 'user' FROM events WHERE data ->> 'order' = %s", order))[0][0]
    assert guest("ann") not in me
    for headers in (
        theirs,
        {**theirs, "X_User": me},
        {**theirs, "X_Whose": "any"},
        {**theirs, "X_Guest_User": me},
        {"X_Guest": me},
        {"X_User": me, **bearer(town.strangers)},
        {"X_Whose": "any", **bearer(town.strangers)},
        {**mine, **bearer(town.strangers)},
    ):
        reply = await asked(town.shop, f"/api/v1/orders/{order}", **headers)
        assert reply.status == 404, headers
        cart = await asked(town.shop, "/api/v1/cart", **headers)
        assert cart.body["lines"] == [], headers
        listed = await asked(town.shop, "/api/v1/orders", **headers)
        assert order not in str(listed.body)
    assert (await asked(town.shop, f"/api/v1/orders/{order}", X_User=me)).status == 401
    for short in ("x" * 31, "ann", "a b" * 20):
        assert (await asked(town.shop, "/api/v1/cart", X_Guest=short)).status == 400
    assert (await asked(town.shop, f"/api/v1/orders/{order}", **mine)).status == 200


async def test_a_program_reads_what_its_user_has_allowed_and_no_more_until_that_is_revoked(town: Town) -> None:
    who, partner = await person(town.shop), await program(town.shop)
    order = await town.ordered(bearer(await access(town.shop, who)), "k")
    tokens = await partner.tokens(who)
    theirs = bearer(tokens["access_token"])
    path = f"/api/v1/orders/{order}"
    assert (await asked(town.shop, path, **theirs)).status == 200
    for method, other, body in (
        ("POST", "/api/v1/orders", LINES),
        ("GET", "/api/v1/cart", None),
        ("GET", f"/api/v1/users/{who.id}", None),
        ("GET", "/api/v1/sessions", None),
    ):
        reply = await asked(town.shop, other, body, method=method, Idempotency_Key="x", **theirs)
        assert (reply.status, reply.body["type"]) == (403, "/problems/forbidden"), other
    pairs = [("client_id", partner.id), ("token", tokens["refresh_token"])]
    assert (await form(town.shop, "/v1/oauth/revoke", pairs)).status == 200
    assert (await partner.refresh(tokens["refresh_token"])).status == 400


async def test_a_bad_token_is_refused_also_where_none_is_needed(town: Town) -> None:
    issuer = f"http://127.0.0.1:{town.shop.process('gateway-1').port}"
    for bad in ("nonsense", token(iss=issuer), f"{town.strangers}x", town.strangers.replace(".", ".e30", 1)):
        reply = await town.shop.ask("gateway-1", "/api/v1/products", **bearer(bad))
        assert (reply.status, reply.body["type"]) == (401, "/problems/bad-token")
        assert reply.headers["www-authenticate"] == "Bearer"
        assert bad not in str(reply.body)
    assert (await asked(town.shop, "/api/v1/orders", **bearer(town.strangers))).status == 200


async def test_while_users_stands_still_those_who_have_a_token_and_guests_go_on(town: Town) -> None:
    fresh = ECKey.generate_key("P-256", {"kid": "a-key-that-nobody-has-heard-of"})
    unheard = bearer(token(fresh, {"kid": "a-key-that-nobody-has-heard-of"}))
    pid = town.shop.process("users-1").pid
    assert pid
    os.kill(pid, SIGSTOP)
    try:
        for headers in (bearer(town.strangers), {"X_Guest": guest("still")}):
            assert (await asked(town.shop, "/api/v1/cart", **headers)).status == 200

        # A moment ago users may have said that there is no such key. Seldom, since who makes tokens up is counted.
        async with asyncio.timeout(DEADLINE):
            while (reply := await town.shop.ask("gateway-1", "/api/v1/cart", **unheard)).status != 503:
                assert reply.status == 401
                await asyncio.sleep(1)
        assert (await asked(town.shop, "/api/v1/cart", **bearer(town.strangers))).status == 200
    finally:
        os.kill(pid, SIGCONT)


async def test_what_opens_something_is_in_no_log(town: Town) -> None:
    logged = "".join(file.read_text() for file in town.shop.services.folder.glob("*.log"))
    assert "/api/v1/cart" in logged
    for secret in (town.strangers, town.strangers.rpartition(".")[2], guest("ann"), guest("still"), PASSWORD):
        assert secret not in logged
    events = json.dumps(await town.shop.rows("orders", "SELECT data::text FROM events"))
    assert guest("ann") not in events


async def test_who_makes_many_tokens_up_is_counted_by_where_they_are(town: Town) -> None:
    async def counted() -> bool:
        return (await town.shop.ask("gateway-1", "/api/v1/products", **bearer("nonsense"))).status == 429

    await until(counted)
