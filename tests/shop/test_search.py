"""What the search promises, from outside: an index that follows from events, on a real OpenSearch."""

import asyncio
import contextlib
import json
import math
import os
import random
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import count
from signal import SIGCONT, SIGKILL, SIGSTOP
from typing import Any
from urllib.parse import urlencode, urlsplit

import msgspec
import pytest
import pytest_asyncio
from tests.shop.conftest import Reply, Shop, an_index, opened, say, until

from faultline.components import ports
from faultline.components.faults import Refuse, Reset
from faultline.components.http import ask
from faultline.components.proxy import FaultProxy
from faultline.components.proxy.command import saying
from faultline.engine import shop as shops
from faultline.shop import seed
from faultline.shop.contracts import Money, PriceChanged, ProductCreated, ProductRetired, StockReceived
from faultline.shop.topology import SERVICES, Replica

pytestmark = [
    pytest.mark.once,
    pytest.mark.timeout(240),
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.xdist_group("search"),  # they share a shop
]
CATALOGS = ("catalog-1", "catalog-2")
GOODS = 40
HOSTILE = ('"', "AND (", "*", "name:hat OR", "\\", "hat~9", "a" * 200, "  ", "🎩", "-hat +", "[1 TO", "x " * 100)


@dataclass(frozen=True, slots=True)
class Town:
    """The catalog, inventory and the search, with a proxy before OpenSearch and before what the search asks of them."""

    shop: Shop
    before_opensearch: FaultProxy
    before_catalog: FaultProxy
    """One for both replicas: it leads to the first."""
    opensearch: str
    index: str

    async def look(self, q: str = "", **wanted: Any) -> Reply:
        """Lists are repeated parameters."""
        pairs = [("q", q), *((key, one) for key, some in wanted.items() for one in _listed(some))]
        return await self.shop.ask("search-1", f"/v1/search?{urlencode(pairs)}")

    async def skus(self, q: str = "", **wanted: Any) -> list[str]:
        reply = await self.look(q, limit=100, **wanted)
        assert reply.status == 200, reply.body
        return [one["sku"] for one in reply.body["items"]]

    async def shown(self, sku: str) -> dict[str, Any] | None:
        """The product as the search has it."""
        path = f"{self.opensearch}/{self.index}/_search"
        query = {"query": {"bool": {"filter": [{"term": {"sku": sku}}, {"term": {"listed": True}}]}}}
        found = await self.direct("POST", f"{self.index}/_search", query)
        assert found is not None, path
        hits = found["hits"]["hits"]
        return hits[0]["_source"] if hits else None

    async def direct(self, method: str, path: str, body: object = None) -> dict[str, Any] | None:
        """What OpenSearch itself answers; None where there is no such thing."""
        answer = await ask(
            f"{self.opensearch}/{path}",
            method=method,
            body=b"" if body is None else json.dumps(body).encode(),
            headers={"Content-Type": "application/json"},
        )
        assert answer.status in {200, 201, 404}, answer.body
        return json.loads(answer.body) if answer.status != 404 else None

    async def indices(self) -> set[str]:
        return set(await self.direct("GET", f"{self.index}-*/_alias") or ())

    async def agrees(self) -> bool:
        """Whether what the search finds is what the catalog sells, at its version and price, and its stock."""
        products = await self.shop.rows(
            "catalog", "SELECT sku, version, price_cents FROM product WHERE retired_at IS NULL"
        )
        stock = dict(await self.shop.rows("inventory", "SELECT sku, available FROM stock"))
        expected = {(sku, version, cents, stock.get(sku, 0)) for sku, version, cents in products}
        query = {"size": 1000, "query": {"term": {"listed": True}}}
        found = await self.direct("POST", f"{self.index}/_search", query)
        if found is None:
            return False
        documents = [hit["_source"] for hit in found["hits"]["hits"]]
        return expected == {(one["sku"], one["version"], one["cents"], one["available"] or 0) for one in documents}

    async def work(self, what: str, *, begin: bool = True) -> dict[str, Any]:
        """Begin a rebuild or a check, and wait for its end."""
        if begin:
            reply = await self.shop.ask("search-1", f"/v1/search/{what}", {})
            assert reply.status == 202, reply.body
        last: dict[str, Any] = {}

        async def ended() -> bool:
            nonlocal last
            last = (await self.shop.ask("search-1", f"/v1/search/{what}/last")).body
            return last.get("state") not in {None, "running"}  # None: it has not begun

        await until(ended)
        return last


def _listed(some: Any) -> list[Any]:
    return some if isinstance(some, list) else [some]


@asynccontextmanager
async def town_of(
    folder: Any, broker: tuple[str, int, int], opensearch: str, **environment: str
) -> AsyncIterator[Town]:
    index, parts = an_index(), urlsplit(opensearch)
    assert parts.hostname
    assert parts.port
    async with AsyncExitStack() as stack:
        enter = stack.enter_async_context
        port = stack.enter_context(ports.reserved())
        before_opensearch = await enter(FaultProxy(parts.hostname, parts.port, protocol="turns"))
        before_catalog = await enter(FaultProxy(ports.HOST, port, protocol="turns"))
        catalogs = [Replica(SERVICES["catalog"], number) for number in (1, 2)]
        environment |= shops.at(catalogs[0], port)
        for one in catalogs:
            environment |= shops.led("search", one, f"{ports.HOST}:{before_catalog.port}")
        url = f"http://{ports.HOST}:{before_opensearch.port}"
        names = ("catalog", "inventory", "search")
        shop = await enter(opened(folder, broker, names, opensearch=url, SHOP_SEARCH_INDEX=index, **environment))
        town = Town(shop, before_opensearch, before_catalog, opensearch, index)
        await town.work("rebuilds", begin=False)  # a search without an index begins one by itself
        yield town


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def town(
    shared_broker: tuple[str, int, int], shared_opensearch: str, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Town]:
    folder = tmp_path_factory.mktemp("shop")
    folder.chmod(0o755)  # PostgreSQL runs as another user
    async with town_of(folder, shared_broker, shared_opensearch) as one:
        yield one


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def goods(town: Town) -> list[Mapping[str, Any]]:
    """Some of the products that seeding makes, in the catalog and in the index; of every third there is nothing."""
    found = []
    for number in range(1, GOODS + 1):
        one = seed.product(number)
        new = {
            "sku": one.sku,
            "name": one.name,
            "description": one.description,
            "brand": one.brand,
            "category": one.category,
            "attributes": one.attributes,
            "price": {"cents": one.price.cents},
        }
        assert (await town.shop.ask("catalog-1", "/v1/products", new)).status == 201
        if number % 3:
            await receive(town, one.sku, number)
        found.append({**new, "cents": one.price.cents, "in_stock": number % 3 > 0})
    await until(town.agrees)
    return found


async def add(town: Town, sku: str, cents: int = 2000, **more: Any) -> None:
    new = {"sku": sku, "name": sku, "category": "things", "price": {"cents": cents}, **more}
    reply = await town.shop.ask("catalog-1", "/v1/products", new)
    assert reply.status == 201, reply.body


async def reprice(town: Town, sku: str, cents: int) -> None:
    body = {"price": {"cents": cents}}
    assert (await town.shop.ask("catalog-1", f"/v1/products/{sku}/price", body, method="PUT")).status == 200


async def retire(town: Town, sku: str) -> None:
    assert (await town.shop.ask("catalog-1", f"/v1/products/{sku}", method="DELETE")).status == 204


async def receive(town: Town, sku: str, quantity: int, receipt: str = "first") -> None:
    path = f"/v1/stock/{sku}/receipts/{receipt}"
    reply = await town.shop.ask("inventory-1", path, {"quantity": quantity}, method="PUT")
    assert reply.status == 200, reply.body


async def test_what_the_catalog_and_inventory_say_is_found_a_moment_later(town: Town) -> None:
    await add(town, "a-lighthouse", 2000, brand="Corvane", attributes={"colour": "navy"})

    async def has(**expected: object) -> bool:
        found = (await town.look("lighthouse")).body["items"]
        seen = [(one["version"], one["price"]["cents"], one["in_stock"]) for one in found]
        return seen == ([tuple(expected.values())] if expected else [])

    await until(lambda: has(version=1, cents=2000, in_stock=False))
    await receive(town, "a-lighthouse", 3)
    await until(lambda: has(version=1, cents=2000, in_stock=True))
    await reprice(town, "a-lighthouse", 999)
    await until(lambda: has(version=2, cents=999, in_stock=True))
    await retire(town, "a-lighthouse")
    await until(has)


async def test_a_product_that_is_called_otherwise_is_found_by_its_new_name_at_its_old_price(town: Town) -> None:
    await add(town, "renamed", 1234, name="Zeppelin")
    await until(lambda: _found(town, "zeppelin", ["renamed"]))
    said = {"name": "Gondola", "category": "things"}
    assert (await town.shop.ask("catalog-1", "/v1/products/renamed", said, method="PUT")).status == 200

    await until(lambda: _found(town, "gondola", ["renamed"]))
    assert await town.skus("zeppelin") == []
    document = await town.shown("renamed")
    assert document
    assert (document["cents"], document["version"]) == (1234, 2)


async def _found(town: Town, words: str, skus: list[str]) -> bool:
    return await town.skus(words) == skus


async def test_stock_that_is_set_aside_for_a_flash_sale_is_not_in_stock(town: Town) -> None:
    await add(town, "set-aside")
    await receive(town, "set-aside", 5)
    await until(town.agrees)
    sale = await town.shop.ask("inventory-1", "/v1/flash-sales/set-aside", {"units": 5}, method="PUT")
    assert sale.status == 200
    await until(town.agrees)
    shown = await town.shown("set-aside")
    assert shown
    assert (shown["available"], shown["in_stock"]) == (0, False)
    await retire(town, "set-aside")


async def test_news_that_come_late_twice_or_out_of_order_change_nothing(town: Town) -> None:
    created = ProductCreated(
        sku="shuffled", name="x", description="", brand="", category="c", attributes={}, price=Money(1), version=1
    )
    changes = [
        PriceChanged(sku="shuffled", old=Money(1), new=Money(version), valid_from=datetime.now(UTC), version=version)
        for version in range(2, 6)
    ]
    chance = random.Random(7)
    for number in range(5):
        sku = f"shuffled-{number}"
        events = [created, *changes]
        told = [(_of(sku, one), sku, one.version) for one in chance.sample(events * 2, 2 * len(events))]
        await say(town.shop, *told)

        async def newest(sku: str = sku) -> bool:
            shown = await town.shown(sku)
            return shown is not None and (shown["version"], shown["cents"], shown["name"]) == (5, 5, "x")

        await until(newest)
        await say(town.shop, (ProductRetired(sku=sku, version=6), sku, 6), (_of(sku, created), sku, 1))

        async def gone(sku: str = sku) -> bool:
            return await town.shown(sku) is None

        await until(gone)
        await say(town.shop, (_of(sku, created), sku, 1), (_of(sku, changes[-1]), sku, 5))
    assert await town.shop.broker.ready_messages("search.events.parked") == 0


def _of(sku: str, event: ProductCreated | PriceChanged) -> ProductCreated | PriceChanged:
    return msgspec.structs.replace(event, sku=sku)


async def test_what_no_document_can_be_is_parked_and_holds_up_nobody(town: Town) -> None:
    impossible = ProductCreated(
        sku="impossible", name="x", description="", brand="", category="c", attributes={}, price=Money(2**70), version=1
    )
    possible = ProductCreated(
        sku="possible", name="x", description="", brand="", category="c", attributes={}, price=Money(3), version=1
    )
    hold = town.before_opensearch.hold(saying("POST /_bulk"))  # so that these two are written together
    await add(town, "before-them")
    await hold.reached(20)
    await say(town.shop, (impossible, "impossible", 1), (possible, "possible", 1))

    async def delivered() -> bool:
        return await town.shop.broker.ready_messages("search.events") == 0

    await until(delivered)
    hold.release()

    async def parked() -> bool:
        found = await town.shown("possible")
        return found is not None and await town.shop.broker.ready_messages("search.events.parked") == 1

    await until(parked)
    await retire(town, "before-them")  # which comes after them

    async def gone() -> bool:
        return await town.shown("before-them") is None

    await until(gone)
    assert await town.shop.broker.ready_messages("search.events.parked") == 1
    assert await town.shown("impossible") is None
    async with town.shop.broker.connected() as connection:
        queue = await (await connection.channel()).get_queue("search.events.parked")
        await queue.purge()
    await say(town.shop, (ProductRetired(sku="possible", version=2), "possible", 2))


async def test_words_are_found_in_all_their_forms_and_fields(town: Town, goods: list[Mapping[str, Any]]) -> None:
    for wanted, category in (
        ("hat", "hats"),
        ("HATS", "hats"),
        ("cap", "hats"),
        ("sneakers", "shoes"),
        ("rucksack", "bags"),
        ("cups", "mugs"),
        ("knife", "knives"),
    ):
        found = await town.skus(wanted)
        assert set(found) == {one["sku"] for one in goods if one["category"] == category}, wanted
    for one in goods[:10]:
        text = f"{one['attributes']['colour']} {one['brand']} {one['name']}"
        assert one["sku"] in await town.skus(text), text
        assert (await town.skus(one["name"].lower()))[0].startswith(one["sku"].partition("-")[0])
    assert await town.skus("xylophone") == []


async def test_who_has_mistyped_is_asked_what_was_meant(town: Town, goods: list[Mapping[str, Any]]) -> None:
    assert goods
    reply = await town.look("hta")
    assert (reply.body["items"], reply.body["did_you_mean"]) == ([], "hat")
    first = next(one for one in goods if one["brand"] == "Halvorsen")
    noun = first["name"].split()[-1].lower()
    assert (await town.look(f"halvorson {noun}")).body["did_you_mean"] == f"halvorsen {noun}"
    assert (await town.look(noun)).body["did_you_mean"] is None


@pytest.mark.parametrize("text", HOSTILE)
async def test_no_text_is_an_error(town: Town, goods: list[Mapping[str, Any]], text: str) -> None:
    assert goods
    reply = await town.look(text)
    assert reply.status == 200, reply.body
    suggested = await town.shop.ask("search-1", f"/v1/search/suggestions?{urlencode({'q': text[:50].ljust(2)})}")
    assert suggested.status == 200, suggested.body


def chosen_at_random(goods: list[Mapping[str, Any]], chance: random.Random) -> dict[str, Any]:
    wanted: dict[str, Any] = {}
    if chance.random() < 0.6:
        wanted["brand"] = chance.sample(sorted({one["brand"] for one in goods}), chance.randint(1, 3))
    if chance.random() < 0.6:
        wanted["category"] = chance.sample(sorted({one["category"] for one in goods}), chance.randint(1, 4))
    if chance.random() < 0.6:
        wanted["price"] = chance.sample(["0-1000", "1000-2500", "2500-5000", "5000-10000", "10000-25000"], 2)
    if chance.random() < 0.3:
        wanted["in_stock"] = "true"
    if chance.random() < 0.3:
        wanted["attribute"] = [f"colour:{one}" for one in chance.sample(sorted(seed.COLOURS), 3)]
    return wanted


def fits(one: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
    ranges = [name.split("-") for name in wanted.get("price", [])]
    colours = {name.partition(":")[2] for name in wanted.get("attribute", [])}
    return (
        one["brand"] in wanted.get("brand", [one["brand"]])
        and one["category"] in wanted.get("category", [one["category"]])
        and (not ranges or any(int(low) <= one["cents"] < int(high) for low, high in ranges))
        and (not colours or one["attributes"]["colour"] in colours)
        and (not wanted.get("in_stock") or one["in_stock"])
    )


async def test_a_facet_counts_what_is_there_once_it_is_clicked(town: Town, goods: list[Mapping[str, Any]]) -> None:
    chance = random.Random(11)
    mine = {one["sku"] for one in goods}
    for _ in range(60):
        wanted = chosen_at_random(goods, chance)
        page = (await town.look(limit=100, **wanted)).body
        expected = {one["sku"] for one in goods if fits(one, wanted)}
        assert {one["sku"] for one in page["items"]} & mine == expected, wanted
        assert page["total"] == len(page["items"])
        facet = chance.choice(["brand", "category", "price"])
        values = page["facets"][facet]
        without = {name: some for name, some in wanted.items() if name != facet}
        for value in {one[facet] for one in goods} if facet != "price" else ():
            there = sum(fits(one, without) for one in goods if one[facet] == value)
            assert next((one["count"] for one in values if one["value"] == value), 0) == there, (wanted, facet, value)
        assert {one["value"] for one in values if one["chosen"]} == set(wanted.get(facet, []))
        if values:
            clicked = chance.choice(values)
            after = (await town.look(**{**wanted, facet: [clicked["value"]]})).body
            assert after["total"] == clicked["count"], (wanted, facet, clicked)


async def test_what_makes_no_sense_is_said(town: Town) -> None:
    wrongs: tuple[tuple[dict[str, Any], str], ...] = (
        ({"price": "0-7"}, "price"),
        ({"attribute": "colour"}, "attribute"),
        ({"order": "random"}, "order"),
        ({"limit": 0}, "limit"),
        ({"after": "nonsense"}, "after"),
        ({"q": "x" * 201}, "q"),
    )
    for wrong, word in wrongs:
        reply = await town.look(**wrong)
        assert (reply.status, reply.headers["content-type"]) == (422, "application/problem+json"), wrong
        assert word in reply.body["detail"]


@pytest.mark.parametrize("order", ["cheapest", "dearest"])
async def test_pages_by_price_leave_nothing_out_and_show_nothing_twice(town: Town, order: str) -> None:
    skus = [f"{order}-{n:02}" for n in range(15)]
    for n, sku in enumerate(skus):
        await add(town, sku, 1000 + n // 4, category=order)
    await until(town.agrees)
    expected = sorted(skus, key=lambda sku: ((1 if order == "cheapest" else -1) * (1000 + skus.index(sku) // 4), sku))
    seen: list[str] = []
    path = f"/v1/search?{urlencode({'category': order, 'order': order, 'limit': 4})}"
    for number in count():
        page = (await town.shop.ask("search-1", path)).body
        seen += [one["sku"] for one in page["items"]]
        assert (page["facets"] is None) == bool(number)
        if page["next"] is None:
            break
        before = 1 if order == "cheapest" else 10**6  # before the place that was reached
        await add(town, f"{order}-new-{number}", before, category=order)
        await until(town.agrees)
        path = f"/v1/search{page['next']}"
    assert seen == expected
    other = await town.shop.ask("search-1", path.replace(f"order={order}", "order=relevance"))
    assert (other.status, other.body["type"]) == (422, "/problems/invalid")
    for sku in await town.skus(category=order):
        await retire(town, sku)
    await until(town.agrees)


async def test_pages_by_relevance_are_the_whole_list_cut_up(town: Town, goods: list[Mapping[str, Any]]) -> None:
    assert goods
    whole = await town.skus("hat mug bag lamp navy")
    seen: list[str] = []
    path = f"/v1/search?{urlencode({'q': 'hat mug bag lamp navy', 'limit': 3})}"
    while path:
        page = (await town.shop.ask("search-1", path)).body
        seen += [one["sku"] for one in page["items"]]
        path = page["next"] and f"/v1/search{page['next']}"
    assert seen == whole


async def test_every_beginning_of_a_word_suggests_it(town: Town, goods: list[Mapping[str, Any]]) -> None:
    async def suggested(text: str) -> list[tuple[str, str, int]]:
        reply = await town.shop.ask("search-1", f"/v1/search/suggestions?{urlencode({'q': text, 'limit': 20})}")
        assert reply.status == 200, reply.body
        return [(one["text"], one["kind"], one["count"]) for one in reply.body]

    for one in goods[:12]:
        make, noun = one["name"].split()
        named = sum(other["name"] == one["name"] for other in goods)
        for text in [make[:n] for n in range(2, len(make) + 1)] + [noun.upper(), f"{noun[:2]} {make[:3]}"]:
            assert (one["name"], "product", named) in await suggested(text), text
        of_brand = sum(other["brand"] == one["brand"] for other in goods)
        assert (one["brand"], "brand", of_brand) in await suggested(one["brand"][:3].lower())
        of_category = sum(other["category"] == one["category"] for other in goods)
        assert (one["category"], "category", of_category) in await suggested(one["category"][:4])
    assert await suggested("atxyz") == []
    assert (await town.shop.ask("search-1", "/v1/search/suggestions?q=a")).status == 422


@asynccontextmanager
async def changes(town: Town, prefix: str) -> AsyncIterator[list[int]]:
    """Products are added, repriced, retired and received all the time; how many changes there were is told."""
    done, chance, living = [0], random.Random(prefix), list[str]()

    async def change() -> None:
        for number in count():
            sku = f"{prefix}-{number:04}"
            await add(town, sku)
            living.append(sku)
            await receive(town, sku, chance.randint(1, 9))
            await reprice(town, chance.choice(living), chance.randint(1, 10**5))
            if len(living) > 8:
                await retire(town, living.pop(chance.randrange(len(living))))
            done[0] += 1

    task = asyncio.create_task(change())
    try:
        yield done
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
    for sku in living:
        await retire(town, sku)


HELD = {
    "before the first page": lambda town: town.before_catalog.hold(saying("GET /v1/products?limit")),
    "with the first page read": lambda town: town.before_catalog.hold_reply(saying("GET /v1/products?limit")),
    "between two pages": lambda town: town.before_catalog.hold(saying("GET /v1/products?limit"), skip=1),
    "before it is put in place": lambda town: town.before_opensearch.hold(saying("POST /_aliases")),
    "with it in place, untold": lambda town: town.before_opensearch.hold_reply(saying("POST /_aliases")),
    "before the old one is removed": lambda town: town.before_opensearch.hold(saying(f"DELETE /{town.index}-")),
}


@pytest.mark.slow
@pytest.mark.parametrize("where", HELD)
async def test_a_rebuild_misses_nothing_that_happens_meanwhile(town: Town, where: str) -> None:
    for n in range(120):  # a second page
        with contextlib.suppress(AssertionError):  # it is there
            await add(town, f"filler-{n:03}", category="fillers")
    before = await town.indices()
    async with changes(town, f"during-{list(HELD).index(where)}") as done:
        hold = HELD[where](town)
        assert (await town.shop.ask("search-1", "/v1/search/rebuilds", {})).status == 202
        await hold.reached(20)
        reached = done[0]
        await until(lambda: asyncio.sleep(0, done[0] >= reached + 3))
        assert (await town.look("hat")).status == 200
        hold.release()
        work = await town.work("rebuilds", begin=False)
    assert (work["state"], work["error"]) == ("done", "")
    assert work["products"] >= 120
    await until(town.agrees)
    assert not await town.indices() & before, "an old index is left"
    assert len(await town.indices()) == 1


async def test_what_was_retired_before_a_rebuild_does_not_come_back_after_it(town: Town) -> None:
    created = ProductCreated(
        sku="undead", name="x", description="", brand="", category="c", attributes={}, price=Money(1), version=1
    )
    await say(town.shop, (created, "undead", 1), (ProductRetired(sku="undead", version=2), "undead", 2))

    async def kept() -> bool:
        found = await town.direct("GET", f"{town.index}/_doc/undead")
        return found is not None and found["_source"]["gone_version"] == 2

    await until(kept)
    assert (await town.work("rebuilds"))["state"] == "done"
    await say(town.shop, (created, "undead", 1))
    await add(town, "after-the-undead")
    await until(town.agrees)
    assert await kept()
    assert await town.shown("undead") is None


async def test_one_rebuild_at_a_time_and_a_check_waits_too(town: Town) -> None:
    hold = town.before_catalog.hold(saying("GET /v1/products?limit"))
    assert (await town.shop.ask("search-1", "/v1/search/rebuilds", {})).status == 202
    await hold.reached(20)
    for what in ("rebuilds", "checks"):
        reply = await town.shop.ask("search-1", f"/v1/search/{what}", {})
        assert (reply.status, reply.body["type"]) == (409, "/problems/busy")
    hold.release()
    assert (await town.work("rebuilds", begin=False))["state"] == "done"


async def test_what_a_rebuild_leaves_that_is_killed_is_removed_and_the_old_one_serves(town: Town) -> None:
    await until(town.agrees)
    before = await town.indices()
    hold = town.before_catalog.hold(saying("GET /v1/products?limit"))
    assert (await town.shop.ask("search-1", "/v1/search/rebuilds", {})).status == 202
    await hold.reached(20)
    assert len(await town.indices()) == 2
    victim = town.shop.process("search-1").pid
    assert victim
    os.kill(victim, SIGKILL)
    await add(town, "while-it-was-dead")
    hold.release()
    await town.shop.again("search-1", after=victim)

    async def removed() -> bool:
        return await town.indices() == before

    await until(removed)
    await until(town.agrees)
    assert (await town.shop.ask("search-1", "/v1/search/rebuilds/last")).status == 404
    assert (await town.work("rebuilds"))["state"] == "done"
    await until(town.agrees)


async def test_a_rebuild_that_the_catalog_breaks_off_says_so_and_leaves_nothing(town: Town) -> None:
    await until(town.agrees)
    before = await town.indices()
    refused = town.before_catalog.add(Refuse())
    broken = town.before_catalog.add(Reset())
    try:
        work = await town.work("rebuilds")
    finally:
        town.before_catalog.remove(refused)
        town.before_catalog.remove(broken)
    assert work["state"] == "failed"
    assert "the catalog" in work["error"]
    assert await town.indices() == before
    await until(town.agrees)


async def test_an_index_that_is_lost_is_filled_again_by_itself(town: Town) -> None:
    await until(town.agrees)
    for index in await town.indices():
        await town.direct("DELETE", index)
    await until(town.agrees)

    async def ready() -> bool:
        return (await town.shop.ask("search-1", "/ready")).status == 200

    await until(ready)


async def test_while_opensearch_is_gone_it_lives_says_so_and_events_wait(town: Town) -> None:
    await until(town.agrees)
    pid = town.shop.process("search-1").pid
    refused = town.before_opensearch.add(Refuse())
    broken = town.before_opensearch.add(Reset())
    try:
        await add(town, "in-the-dark")
        await receive(town, "in-the-dark", 2)
        reply = await town.look("hat")
        assert (reply.status, reply.headers["content-type"]) == (503, "application/problem+json")
        assert int(reply.headers["retry-after"]) >= 1
        assert (await town.shop.ask("search-1", "/live")).status == 200
        ready = await town.shop.ask("search-1", "/ready")
        assert ready.status == 503
        assert "opensearch" in ready.body["detail"]

        async def waits() -> bool:
            return any(
                "search.events" in line["event"] and "Away(" in line.get("reason", "")
                for line in town.shop.log("search-1")
            )

        await until(waits)
    finally:
        town.before_opensearch.remove(refused)
        town.before_opensearch.remove(broken)

    async def ready_again() -> bool:
        return (await town.shop.ask("search-1", "/ready")).status == 200

    await until(town.agrees)
    await until(ready_again)
    assert town.shop.process("search-1").pid == pid
    for queue in ("search.events.parked", "search.events.retry.1s"):
        assert await town.shop.broker.ready_messages(queue) == 0
    assert (await town.look("hat")).status == 200


async def test_while_inventory_is_silent_only_what_is_to_be_counted_waits(town: Town) -> None:
    await add(town, "counted-later")
    await until(town.agrees)
    pids = [pid for name in ("inventory-1", "inventory-2") if (pid := town.shop.process(name).pid)]
    for pid in pids:
        os.kill(pid, SIGSTOP)
    try:
        received = StockReceived(sku="counted-later", quantity=1, receipt="never-was")
        await say(town.shop, (received, "counted-later/never-was", 1))
        await add(town, "not-to-be-counted", 77)

        async def found() -> bool:
            shown = await town.shown("not-to-be-counted")
            return shown is not None and shown["cents"] == 77

        await until(found)
    finally:
        for pid in pids:
            os.kill(pid, SIGCONT)
    await receive(town, "counted-later", 3)
    await until(town.agrees)
    assert await town.shop.broker.ready_messages("search.events.parked") == 0


async def test_who_is_killed_while_it_writes_hears_it_again(town: Town) -> None:
    await until(town.agrees)
    for held in (town.before_opensearch.hold, town.before_opensearch.hold_reply):
        hold = held(saying("POST /_bulk"))
        await add(town, f"written-{an_index()}")
        await hold.reached(60)  # it may have waited for somebody who was away in the test before
        victim = town.shop.process("search-1").pid
        assert victim
        os.kill(victim, SIGKILL)
        hold.release()
        await town.shop.again("search-1", after=victim)
        await until(town.agrees)


async def test_a_level_that_was_asked_for_earlier_does_not_overwrite_a_later_one(town: Town) -> None:
    """A check is about to write a level when an event brings a newer one."""
    await add(town, "counted")
    await receive(town, "counted", 1, "one")
    await until(town.agrees)
    document = await town.direct("GET", f"{town.index}/_doc/counted")
    assert document
    wrong = {**document["_source"], "available": 5}
    await town.direct("PUT", f"{town.index}/_doc/counted?refresh=true", wrong)
    hold = town.before_opensearch.hold(saying("POST /_bulk"))  # with level 1 in its hands
    assert (await town.shop.ask("search-1", "/v1/search/checks", {})).status == 202
    await hold.reached(20)
    await receive(town, "counted", 10, "two")
    await until(town.agrees)
    hold.release()
    assert (await town.work("checks", begin=False))["differing"] == {"stock": ["counted"]}
    await town.direct("POST", f"{town.index}/_refresh")
    assert await town.agrees()


async def test_a_check_says_what_differs_and_mends_it(town: Town) -> None:
    for sku in ("lost", "aged", "counted-wrong"):
        await add(town, sku)
        await receive(town, sku, 7)
        await reprice(town, sku, 4321)
    await until(town.agrees)
    assert (await town.work("checks"))["counts"] == {}

    documents = {
        sku: (await town.direct("GET", f"{town.index}/_doc/{sku}") or {})["_source"]
        for sku in ("lost", "aged", "counted-wrong")
    }
    await town.direct("DELETE", f"{town.index}/_doc/lost?refresh=true")
    aged = {**documents["aged"], "cents": 2000, "price_version": 1, "details_version": 1, "version": 1}
    await town.direct("PUT", f"{town.index}/_doc/aged?refresh=true", aged)
    wrong = {**documents["counted-wrong"], "available": 1}
    await town.direct("PUT", f"{town.index}/_doc/counted-wrong?refresh=true", wrong)
    await town.direct("PUT", f"{town.index}/_doc/never-sold?refresh=true", {**documents["aged"], "sku": "never-sold"})
    expected = {"missing": ["lost"], "old": ["aged"], "stock": ["counted-wrong"], "surplus": ["never-sold"]}

    reply = await town.shop.ask("search-1", "/v1/search/checks?mend=false", {})
    assert reply.status == 202
    looked = await town.work("checks", begin=False)
    assert (looked["differing"], looked["mended"]) == (expected, 0)
    assert not await town.agrees()

    mended = await town.work("checks")
    assert (mended["state"], mended["differing"], mended["mended"]) == ("done", expected, 4)
    await until(town.agrees)
    assert (await town.work("checks"))["counts"] == {}


async def test_what_is_on_its_way_is_no_difference(town: Town) -> None:
    await until(town.agrees)
    hold = town.before_opensearch.hold(saying("POST /_bulk"))
    await add(town, "on-its-way")
    await hold.reached(20)
    assert (await town.shop.ask("search-1", "/v1/search/checks?mend=false", {})).status == 202
    look = town.before_opensearch.hold_reply(saying(f"POST /{town.index}/_search"))  # it has seen that it is missing
    await look.reached(20)
    hold.release()
    await until(town.agrees)
    look.release()
    assert (await town.work("checks", begin=False))["counts"] == {}


async def test_its_documentation_names_what_it_answers(town: Town) -> None:
    paths = (await town.shop.ask("search-1", "/openapi.json")).body["paths"]
    assert {"/v1/search", "/v1/search/suggestions", "/v1/stores", "/v1/search/rebuilds"} <= set(paths)
    assert {"200", "422", "503"} <= set(paths["/v1/search"]["get"]["responses"])
    assert {"202", "409"} <= set(paths["/v1/search/rebuilds"]["post"]["responses"])


def straight(here: tuple[float, float], there: tuple[float, float]) -> float:
    """Kilometres on a sphere."""
    (a, b), (c, d) = [(math.radians(x), math.radians(y)) for x, y in (here, there)]
    half = math.sin((c - a) / 2) ** 2 + math.cos(a) * math.cos(c) * math.sin((d - b) / 2) ** 2
    return 2 * 6371.0 * math.asin(math.sqrt(half))


async def test_the_nearest_store_is_the_nearest_on_a_sphere(town: Town) -> None:
    async def near(latitude: float, longitude: float, **more: Any) -> list[dict[str, Any]]:
        query = urlencode({"latitude": latitude, "longitude": longitude, **more})
        reply = await town.shop.ask("search-1", f"/v1/stores?{query}")
        assert reply.status == 200, reply.body
        return list(reply.body)

    assert await near(52.5, 13.4) == []
    environment = {"SHOP_OPENSEARCH_URL": town.opensearch, "SHOP_SEARCH_INDEX": town.index}
    for _ in range(2):
        await seed.place_stores(environment)
    chance = random.Random(5)
    somewhere = [(chance.uniform(-89, 89), chance.uniform(-180, 180)) for _ in range(50)]
    for here in [*somewhere, (-17.0, -179.5), (80.0, -170.0)]:
        found = await near(*here, kilometres=20_100, limit=50)
        far = {one.id: straight(here, (one.latitude, one.longitude)) for one in seed.stores()}
        assert len(found) == len(far)
        for one in found:
            assert abs(one["kilometres"] - far[one["id"]]) <= 0.005 * far[one["id"]]
        assert [one["kilometres"] for one in found] == sorted(one["kilometres"] for one in found)
    assert [one["city"] for one in await near(-17.0, -179.5)] == ["Suva"], "across the date line"
    assert [one["city"] for one in await near(52.5, 13.4, kilometres=400)] == ["Berlin", "Copenhagen"]
    query = urlencode({"latitude": 91, "longitude": 0})
    assert (await town.shop.ask("search-1", f"/v1/stores?{query}")).status == 422
