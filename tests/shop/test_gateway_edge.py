"""What the gateway keeps of others' answers, what it puts together of them, and what it tells a browser."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from itertools import count

import pytest
import pytest_asyncio
import redis.asyncio
from tests.shop.conftest import Reply, Shop, opened, until
from tests.shop.outside import Behaviour, Heard, Outside, fine, silent
from tests.shop.people import guest
from tests.shop.test_gateway_keys import KEY, token

from faultline.patterns import RateLimiter
from faultline.shop.contracts import Role
from faultline.shop.gateway.store import Limits

pytestmark = [
    pytest.mark.once,
    pytest.mark.timeout(240),
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.xdist_group("gateway_edge"),  # they share a shop
]
ISSUER = "http://faultline.example"
HIT, MISS = "faultline; hit", "faultline; fwd=miss"


@dataclass(slots=True)
class Source:
    """A catalog that says what it is told to, to the gateway; the events are the real one's."""

    outside: Outside
    version: int = 1
    more: str = ""
    """Lines of the answer's head."""
    held: asyncio.Event = field(default_factory=asyncio.Event)
    """Answers wait for it."""

    async def answer(self, heard: Heard, writer: asyncio.StreamWriter) -> None:
        version, more = self.version, self.more  # as of now, however long it takes
        await self.held.wait()
        sku = heard.target.split("?")[0].split("/")[3]
        if sku == "nothing":
            writer.write(
                b"HTTP/1.1 404 Not Found\r\nContent-Type: application/problem+json\r\nContent-Length: 2\r\n\r\n{}"
            )
            return
        said = [] if heard.target.endswith("prices") else {"sku": sku, "version": version, "category": "hats & caps"}
        body = json.dumps(said).encode()
        head = f'HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nETag: "{version}"\r\n{more}'
        writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)

    def loads(self, sku: str) -> int:
        """How often the gateway has asked for this product."""
        return sum(heard.target.split("?")[0] == f"/v1/products/{sku}" for heard in self.outside.heard)


@dataclass(frozen=True, slots=True)
class Edge:
    """A gateway before services that do as they are told, and beside a catalog that is real."""

    shop: Shop
    source: Source
    stock: Outside
    cart: Outside
    search: Outside
    kept: redis.asyncio.Redis

    async def get(self, sku: str, path: str = "/api/v1/products", **headers: str) -> Reply:
        return await self.shop.ask("gateway-1", f"{path}/{sku}", X_Guest=guest("edge"), **headers)

    async def entry(self, sku: str) -> int:
        """Milliseconds for which it is still kept; negative if it is not."""
        return int(await self.kept.pttl(f"edge:1:/v1/products/{sku}"))

    async def new(self, sku: str) -> None:
        """A product, at version 1, with nothing kept of it."""
        self.source.version, self.source.more = 1, ""
        self.source.held.set()
        body = {"sku": sku, "name": sku, "category": "x", "price": {"cents": 1}}
        assert (await self.shop.ask("catalog-1", "/v1/products", body)).status == 201

    async def reprice(self, sku: str, cents: int) -> None:
        """In the real catalog, whose event comes when it comes."""
        reply = await self.shop.ask("catalog-1", f"/v1/products/{sku}/price", {"price": {"cents": cents}}, method="PUT")
        assert reply.status == 200, reply.body

    async def heard_of(self, sku: str, version: int) -> None:
        """Wait until the gateway has heard that there is such a version."""

        async def least() -> bool:
            return int(await self.kept.get(f"edge:least:/v1/products/{sku}") or 0) >= version

        await until(least)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def edge(shared_broker: tuple[str, int, int], tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Edge]:
    """One of all tests of this file."""
    folder = tmp_path_factory.mktemp("shop")
    folder.chmod(0o755)  # PostgreSQL runs as another user
    async with AsyncExitStack() as stack:
        catalog, stock, cart, search, users = [await stack.enter_async_context(Outside()) for _ in range(5)]
        users.does = saying({"keys": [KEY.as_dict(private=False)]})
        source = Source(catalog)
        catalog.does = source.answer
        edges = {
            f"SHOP_GATEWAY_TO_{name}": one.address
            for name, one in {
                "CATALOG_1": catalog,
                "CATALOG_2": catalog,
                "INVENTORY_1": stock,
                "INVENTORY_2": stock,
                "CART_1": cart,
                "SEARCH_1": search,
                "USERS_1": users,
            }.items()
        }
        limits = {"SHOP_RATE_LIMIT": "100000", "SHOP_ISSUER": ISSUER}
        shop = await stack.enter_async_context(
            opened(folder, shared_broker, names=("gateway", "catalog"), **edges, **limits)
        )
        kept = await stack.enter_async_context(redis.asyncio.Redis(host=shop.redis.host, port=shop.redis.port))
        yield Edge(shop, source, stock, cart, search, kept)


async def test_what_many_ask_for_is_asked_for_once_and_kept(edge: Edge) -> None:
    await edge.new("hat")
    edge.source.held.clear()
    asking = [asyncio.create_task(edge.get("hat")) for _ in range(30)]
    await until(lambda: asyncio.sleep(0, edge.source.loads("hat") > 0))
    edge.source.held.set()
    replies = await asyncio.gather(*asking)
    assert {(reply.status, reply.body["version"]) for reply in replies} == {(200, 1)}

    again = await edge.get("hat")
    assert (again.headers["cache-status"], again.headers["etag"]) == (HIT, '"1"')
    assert int(again.headers["age"]) >= 0
    assert again.headers["cache-control"] == "no-cache", "a browser would keep it, and no event reaches a browser"
    assert edge.source.loads("hat") == 1, "it was asked for more than once"
    unchanged = await edge.get("hat", If_None_Match='"0", W/"1"')
    assert (unchanged.status, unchanged.body, unchanged.headers["etag"]) == (304, "", '"1"')


async def test_a_change_takes_away_what_is_kept(edge: Edge) -> None:
    await edge.new("dear")
    await edge.get("dear")
    left = [await edge.entry("dear")]
    edge.source.version = 2
    await edge.reprice("dear", 2)

    async def gone() -> bool:
        left.append(await edge.entry("dear"))
        return left[-1] < 0

    await until(gone)
    assert left[-2] > 500, "it ended by itself: the event has purged nothing"
    fresh = await edge.get("dear")
    assert (fresh.body["version"], fresh.headers["cache-status"]) == (2, MISS)


async def test_an_answer_that_was_on_its_way_when_the_price_changed_is_given_and_not_kept(edge: Edge) -> None:
    await edge.new("late")
    edge.source.held.clear()
    asking = asyncio.create_task(edge.get("late"))
    await until(lambda: asyncio.sleep(0, edge.source.loads("late") > 0))
    await edge.reprice("late", 2)
    await edge.heard_of("late", 2)
    edge.source.held.set()

    assert (await asking).body["version"] == 1
    assert await edge.entry("late") < 0, "the old price came after the purge, and is kept"
    edge.source.version = 2
    assert (await edge.get("late")).body["version"] == 2


async def test_a_replica_that_has_not_heard_yet_has_nothing_old_kept(edge: Edge) -> None:
    await edge.new("behind")
    await edge.reprice("behind", 2)
    await edge.heard_of("behind", 2)

    assert (await edge.get("behind")).body["version"] == 1, "the catalog says so still"
    assert await edge.entry("behind") < 0
    edge.source.version = 2
    assert (await edge.get("behind")).body["version"] == 2
    assert await edge.entry("behind") > 0


async def test_who_changes_it_sees_the_change(edge: Edge) -> None:
    await edge.new("mine")
    await edge.get("mine")
    admin = token(iss=ISSUER, role="admin", scope="products:write")
    edge.source.version = 2
    body = {"price": {"cents": 2}}
    price = "/api/v1/products/mine/price"
    changed = await edge.shop.ask("gateway-1", price, body, method="PUT", Authorization=f"Bearer {admin}")
    assert changed.status == 200, changed.body
    assert (await edge.get("mine")).body["version"] == 2, "no event has come, and the old one was kept"


@pytest.mark.parametrize("more", ["Set-Cookie: a=1\r\n", "Cache-Control: private\r\n", "Vary: Accept-Language\r\n"])
async def test_what_may_be_for_one_caller_is_not_kept_for_others(edge: Edge, more: str) -> None:
    sku = f"own-{more[:3].lower()}"
    await edge.new(sku)
    edge.source.more = more
    assert [(await edge.get(sku)).status for _ in range(2)] == [200, 200]
    assert edge.source.loads(sku) == 2
    assert await edge.entry(sku) < 0


async def test_no_word_of_a_caller_is_in_what_others_are_given(edge: Edge) -> None:
    await edge.new("plain")
    evil = {"X_Forwarded_Host": "evil.example", "Accept_Language": "xx", "Cookie": "c=1", "X_Colour": "red"}
    await edge.get("plain", Authorization=f"Bearer {token(iss=ISSUER)}", **evil)
    (heard,) = [heard for heard in edge.source.outside.heard if heard.target == "/v1/products/plain"]
    told = {name for name, _ in heard.lines}
    assert told <= {"host", "x-request-id", "x-deadline-remaining-ms"}, "this was asked for on behalf of many"

    await edge.get("plain?colour=red")
    await edge.get("plain?colour=red")
    assert edge.source.loads("plain") == 3, "what is asked for in other words is not the same"
    assert [(await edge.get("nothing")).status for _ in range(2)] == [404, 404]
    assert edge.source.loads("nothing") == 2


async def test_who_is_impatient_ends_the_wait_of_nobody_else(edge: Edge) -> None:
    await edge.new("slow")
    edge.source.held.clear()
    first = asyncio.create_task(edge.get("slow", X_Deadline_Remaining_Ms="400"))
    await until(lambda: asyncio.sleep(0, edge.source.loads("slow") > 0))
    other = asyncio.create_task(edge.get("slow"))
    assert (await first).status == 504
    edge.source.held.set()
    assert (await other).status == 200
    assert edge.source.loads("slow") <= 2  # the other may have come only when the first had gone


async def test_without_redis_each_is_asked_for(edge: Edge) -> None:
    await edge.new("bare")
    await edge.get("bare")
    await edge.shop.redis.kill()
    try:
        assert [(await edge.get("bare")).status for _ in range(3)] == [200] * 3
        assert edge.source.loads("bare") == 4
    finally:
        await edge.shop.redis.start()
    await until(lambda: _kept_again(edge))


async def _kept_again(edge: Edge) -> bool:
    return (await edge.get("bare")).headers["cache-status"] == HIT


async def test_who_has_another_plan_may_ask_more_often_and_takes_nothing_from_others(edge: Edge) -> None:
    def counting() -> Limits:
        return Limits(edge.kept, RateLimiter, 2, 60)

    names = count()

    async def exact() -> bool:  # not whenever Redis is slow because the machine is: then it counts nobody
        one, limits = f"of-plan-{next(names)}", counting()
        for role, times in ((Role.GUEST, 1), (Role.CUSTOMER, 1), (Role.PARTNER, 10)):
            waits = [await limits.wait(f"{one}-{role}", role) for _ in range(2 * times + 1)]
            waits.append(await counting().wait(f"{one}-{role}", role))  # another gateway
            if [wait == 0 for wait in waits] != [True] * 2 * times + [False, False]:
                return False
        return True

    await until(exact)


async def page(edge: Edge, sku: str, **headers: str) -> Reply:
    return await edge.get(sku, "/api/v1/product-pages", **headers)


def saying(body: object) -> Behaviour:
    text = json.dumps(body).encode()

    async def say(heard: Heard, writer: asyncio.StreamWriter) -> None:
        head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(text)}\r\n\r\n"
        writer.write(head.encode() + text)

    return say


async def test_a_page_asks_all_at_once_and_says_what_is_missing(edge: Edge) -> None:
    await edge.new("paged")
    edge.stock.anew(saying({"sku": "paged", "available": 7}))
    edge.cart.anew(saying({"lines": [{"sku": "paged", "quantity": 2}, {"sku": "other", "quantity": 1}]}))
    other = {"sku": "other", "name": "Other", "price": {"cents": 1, "currency": "EUR"}, "version": 3}
    edge.search.anew(saying({"items": [{**other, "sku": "paged"}, other], "next": None}))
    edge.source.held.clear()
    asking = asyncio.create_task(page(edge, "paged"))
    await until(lambda: asyncio.sleep(0, bool(edge.stock.heard and edge.cart.heard and edge.source.loads("paged"))))
    edge.source.held.set()
    reply = await asking
    assert reply.status == 200
    assert reply.body == {
        "product": {"sku": "paged", "version": 1, "category": "hats & caps"},
        "stock": {"available": 7},
        "prices": [],
        "in_cart": 2,
        "similar": [{"sku": "other", "name": "Other", "price": {"cents": 1, "currency": "EUR"}}],
        "missing": [],
    }
    assert reply.headers["cache-control"] == "no-store", "somebody's cart is in it"
    assert [heard.target for heard in edge.search.heard] == ["/v1/search?category=hats+%26+caps&limit=5"]

    for one in (edge.stock, edge.search):
        one.anew(silent)
    reply = await page(edge, "paged")
    assert (reply.status, reply.body["stock"], reply.body["similar"]) == (200, None, None)
    assert reply.body["missing"] == ["similar", "stock"]
    assert reply.body["in_cart"] == 2
    for one in (edge.stock, edge.search):
        one.anew(fine)


async def test_a_page_without_a_product_is_none_and_who_has_no_cart_misses_none(edge: Edge) -> None:
    await edge.new("thin")
    edge.stock.anew(fine)
    edge.cart.anew(fine)
    nobody = await edge.shop.ask("gateway-1", "/api/v1/product-pages/thin")
    assert (nobody.body["in_cart"], nobody.body["missing"]) == (None, [])
    narrow = await page(edge, "thin", Authorization=f"Bearer {token(iss=ISSUER, scope='orders:read')}")
    assert (narrow.body["in_cart"], narrow.body["missing"]) == (None, [])
    assert edge.cart.heard == [], "a token that is not good for carts has opened one"
    assert (await page(edge, "nothing")).status == 404
    edge.source.held.clear()
    assert (await page(edge, "unheard", X_Deadline_Remaining_Ms="300")).status == 504
    edge.source.held.set()


async def test_a_browser_is_told_to_do_no_more_than_it_should(edge: Edge) -> None:
    await edge.new("shown")
    for path in ("/api/v1/products/shown", "/api/v1/products?limit=1", "/api/v1/nothing", "/docs", "/live"):
        reply = await edge.shop.ask("gateway-1", path, X_Guest=guest("edge"))
        told = reply.headers
        assert told["x-content-type-options"] == "nosniff", path
        assert "frame-ancestors 'none'" in told["content-security-policy"], path
        assert "'unsafe-inline'" not in told["content-security-policy"].replace("style-src 'unsafe-inline'", "")
        assert told["referrer-policy"] == "no-referrer"
        assert "strict-transport-security" not in told, "this is no TLS"
        assert told["cache-control"] == ("no-cache" if path.endswith("shown") else "no-store"), path
