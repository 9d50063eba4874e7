"""What the catalog promises, from outside: two replicas, one PostgreSQL, one Redis, one RabbitMQ."""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from signal import SIGKILL

import aio_pika
import psycopg
import pytest
from tests.shop.conftest import Shop, until

from faultline.components.proxy.command import named, saying
from faultline.shop.database import dsn

pytestmark = [
    pytest.mark.once,
    pytest.mark.timeout(240),
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.xdist_group("catalog"),  # they share a shop
]
NAMES = ("catalog", "inventory")
BOTH = ("catalog-1", "catalog-2")


def price(cents: int) -> dict[str, object]:
    return {"price": {"cents": cents, "currency": "EUR"}}


async def add(shop: Shop, sku: str, cents: int = 2000, category: str = "hats") -> None:
    reply = await shop.ask("catalog-1", "/v1/products", {"sku": sku, "name": sku, "category": category, **price(cents)})
    assert (reply.status, reply.headers["location"]) == (201, f"/v1/products/{sku}")


async def cents(shop: Shop, name: str, sku: str) -> int:
    reply = await shop.ask(name, f"/v1/products/{sku}")
    assert reply.status == 200, reply.body
    return reply.body["price"]["cents"]


async def warm(shop: Shop, sku: str, now: int) -> bool:
    """Whether both replicas say so, and Redis remembers it: the event of the last change may come between."""
    assert [await cents(shop, name, sku) for name in BOTH] == [now] * 2
    return await remembered(shop, sku)


async def remembered(shop: Shop, sku: str) -> bool:
    import redis.asyncio

    async with redis.asyncio.Redis(host=shop.redis.host, port=shop.redis.port) as client:
        return bool(await client.exists(f"catalog:product:1:{sku}"))


async def forgotten(shop: Shop, sku: str, times: int) -> bool:
    """Whether the product was forgotten so often: by who changed it, and by the event of that, which may come late."""
    key = f"catalog:product:1:{sku}".encode()
    return sum(one.args[0] == b"DEL" and key in one.args for one in shop.before_redis.commands) >= times


async def test_a_product_has_a_version_that_callers_can_hold_it_to(shop_: Shop) -> None:
    await add(shop_, "versioned")
    assert (await shop_.ask("catalog-2", "/v1/products/versioned")).headers["etag"] == '"1"'
    assert (await shop_.ask("catalog-2", "/v1/products/versioned", If_None_Match='"1"')).status == 304

    first = await shop_.ask("catalog-1", "/v1/products/versioned/price", price(10), method="PUT", If_Match='"1"')
    late = await shop_.ask("catalog-2", "/v1/products/versioned/price", price(20), method="PUT", If_Match='"1"')

    assert (first.status, first.headers["etag"]) == (200, '"2"')
    assert (late.status, late.body["type"]) == (412, "/problems/version-mismatch")
    past = (await shop_.ask("catalog-1", "/v1/products/versioned/prices")).body
    assert [one["price"]["cents"] for one in past] == [2000, 10]


async def test_what_is_said_of_a_product_changes_as_a_whole_and_its_price_stays(shop_: Shop) -> None:
    await add(shop_, "renamed")
    new = {"name": "A better name", "brand": "B", "category": "gifts"}
    path = "/v1/products/renamed"
    changed = await shop_.ask("catalog-1", path, new, method="PUT", If_Match='"1"')
    assert (changed.status, changed.headers["etag"], changed.body["price"]["cents"]) == (200, '"2"', 2000)
    assert (await shop_.ask("catalog-2", path)).body == changed.body
    assert (await shop_.ask("catalog-2", path, new, method="PUT")).headers["etag"] == '"2"', "it is that already"
    other = {**new, "name": "Another"}
    assert (await shop_.ask("catalog-1", path, other, method="PUT", If_Match='"1"')).status == 412
    assert (await shop_.ask("catalog-1", "/v1/products/nobody", new, method="PUT")).status == 404
    ((told,),) = await shop_.rows(
        "catalog", "SELECT data FROM outbox WHERE id = 'catalog.product-changed.v1/renamed/2'"
    )
    assert (told["name"], told["category"], told["price"]["cents"]) == ("A better name", "gifts", 2000)


async def test_of_many_who_change_from_the_same_version_one_does(shop_: Shop) -> None:
    await add(shop_, "wanted")
    replies = await asyncio.gather(
        *(
            shop_.ask(BOTH[n % 2], "/v1/products/wanted/price", price(n + 1), method="PUT", If_Match='"1"')
            for n in range(20)
        )
    )
    assert sorted(reply.status for reply in replies) == [200] + [412] * 19


async def test_a_repeated_change_is_no_change(shop_: Shop) -> None:
    await add(shop_, "repeated")
    replies = [
        await shop_.ask(name, "/v1/products/repeated/price", price(99), method="PUT", If_Match='"1"') for name in BOTH
    ]
    assert [(reply.status, reply.body.get("version")) for reply in replies] == [(200, 2), (200, 2)]
    said = await shop_.rows("catalog", "SELECT type FROM outbox WHERE subject = 'repeated' ORDER BY position")
    assert [kind for (kind,) in said] == ["catalog.product-created.v1", "catalog.price-changed.v1"]


async def test_a_price_change_is_seen_by_both_replicas_at_once(shop_: Shop) -> None:
    await add(shop_, "changing", 1)
    for new in range(2, 12):
        await until(partial(warm, shop_, "changing", new - 1))
        await shop_.ask(BOTH[new % 2], "/v1/products/changing/price", price(new), method="PUT")
        assert [await cents(shop_, name, "changing") for name in BOTH] == [new] * 2


async def test_a_writer_that_is_killed_before_the_cache_leaves_no_old_price(shop_: Shop) -> None:
    await add(shop_, "orphaned", 1)
    await until(partial(forgotten, shop_, "orphaned", 2))
    await until(partial(warm, shop_, "orphaned", 1))
    # It has committed, and goes to forget: no further. The relay must not be quicker, so its marks wait, too.
    relays = shop_.before_postgres.hold(saying("SELECT", "outbox", "sent_at IS NULL"), 1)
    await relays.reached(10)
    hold = shop_.before_redis.hold(named("DEL"))
    victim = shop_.process("catalog-1").pid
    assert victim
    change = asyncio.create_task(shop_.ask("catalog-1", "/v1/products/orphaned/price", price(2), method="PUT"))
    await hold.reached(10)
    assert await remembered(shop_, "orphaned"), "the old price was in no cache: nothing is shown"

    os.kill(victim, SIGKILL)
    with pytest.raises(ConnectionError):
        await change
    relays.release()

    async def new() -> bool:
        return await cents(shop_, "catalog-2", "orphaned") == 2

    await until(new)
    hold.release()
    await shop_.again("catalog-1", after=victim)
    repeated = await shop_.ask("catalog-1", "/v1/products/orphaned/price", price(2), method="PUT")
    assert repeated.body["version"] == 2, "the caller, who got no answer, has asked again, and changed it twice"


@asynccontextmanager
async def redis_gone(shop: Shop) -> AsyncIterator[None]:
    await shop.redis.kill()
    try:
        yield
    finally:
        await shop.redis.start()


async def test_without_redis_it_sells_on_and_what_redis_kept_is_not_believed(shop_: Shop) -> None:
    await add(shop_, "kept", 1)
    await until(partial(warm, shop_, "kept", 1))
    async with redis_gone(shop_):
        assert [await cents(shop_, name, "kept") for name in BOTH] == [1, 1]
        assert (await shop_.ask("catalog-1", "/v1/products/kept/price", price(2), method="PUT")).status == 200
        assert [await cents(shop_, name, "kept") for name in BOTH] == [2, 2]
        assert [(await shop_.ask(name, "/ready")).status for name in BOTH] == [200, 200]
        ranking = await shop_.ask("catalog-1", "/v1/trending")
        assert (ranking.status, ranking.body["type"]) == (503, "/problems/unavailable")
        assert int(ranking.headers["retry-after"]) >= 1

        async def waits() -> bool:
            """It, and not the queue: no event is at fault, and none is put off or parked."""
            said = [line for name in BOTH for line in shop_.log(name)]
            return any("catalog.events" in line["event"] and "Away(" in line.get("reason", "") for line in said)

        await until(waits)

    async def new() -> bool:
        return [await cents(shop_, name, "kept") for name in BOTH] == [2, 2] and not await parked(shop_)

    await until(new)


async def parked(shop: Shop) -> int:
    async with shop.broker.connected() as connection:
        queue = await (await connection.channel()).get_queue("catalog.events.parked")
        return queue.declaration_result.message_count or 0


async def test_without_postgres_it_says_so_and_comes_back_by_itself(shop_: Shop) -> None:
    await add(shop_, "patient")
    pids = {name: shop_.process(name).pid for name in BOTH}
    await shop_.postgres.kill()
    try:
        reply = await shop_.ask("catalog-1", "/v1/products/patient/price", price(2), method="PUT")
        assert (reply.status, reply.headers["content-type"]) == (503, "application/problem+json")
        assert (await shop_.ask("catalog-1", "/live")).status == 200
        assert "postgres" in (await shop_.ask("catalog-1", "/ready")).body["detail"]
    finally:
        await shop_.postgres.start()

    async def ready() -> bool:
        return [(await shop_.ask(name, "/ready")).status for name in BOTH] == [200, 200]

    await until(ready)
    assert (await shop_.ask("catalog-1", "/v1/products/patient/price", price(2), method="PUT")).status == 200
    assert {name: shop_.process(name).pid for name in BOTH} == pids, "a process has died of it"


async def test_events_leave_in_their_envelope(shop_: Shop) -> None:
    async with shop_.broker.connected() as connection:
        channel = await connection.channel()
        queue = await channel.declare_queue(exclusive=True)
        await queue.bind("shop.events", "catalog.#")
        await add(shop_, "told")
        await shop_.ask("catalog-2", "/v1/products/told/price", price(1), method="PUT", X_Request_Id="the-caller")
        assert (await shop_.ask("catalog-2", "/v1/products/told", method="DELETE")).status == 204
        heard: list[aio_pika.abc.AbstractIncomingMessage] = []
        async with asyncio.timeout(20), queue.iterator(no_ack=True) as messages:
            async for message in messages:
                if message.headers.get("subject") == "told":
                    heard.append(message)
                if len(heard) == 3:
                    break
    assert [message.message_id for message in heard] == [
        "catalog.product-created.v1/told/1",
        "catalog.price-changed.v1/told/2",
        "catalog.product-retired.v1/told/3",
    ]
    headers = heard[1].headers
    assert (headers["source"], headers["sequence"], headers["correlationid"]) == ("/catalog", "2", "the-caller")
    assert b'"new": {"cents": 1, "currency": "EUR"}' in heard[1].body
    assert [(await shop_.ask(name, "/v1/products/told")).status for name in BOTH] == [404, 404]


@pytest.mark.parametrize("order", ["sku", "price"])
async def test_pages_leave_nothing_out_and_show_nothing_twice_while_products_come_and_go(
    shop_: Shop, order: str
) -> None:
    skus = [f"{order}-{n:02}" for n in range(25)]
    for n, sku in enumerate(skus):
        await add(shop_, sku, 1000 + n // 5, category=order)
    seen: list[str] = []
    path = f"/v1/products?limit=4&order={order}&category={order}"
    for number in range(20):
        page = (await shop_.ask(BOTH[number % 2], path)).body
        seen += [one["sku"] for one in page["items"]]
        await add(shop_, f"{order}-00-{number}", 1, category=order)  # before the place that was reached
        if page["next"] is None:
            break
        path = f"/v1/products{page['next']}"
    assert seen == skus
    assert (await shop_.ask("catalog-1", "/v1/products?after=nonsense")).body["type"] == "/problems/invalid"


async def test_views_of_both_replicas_make_one_ranking(shop_: Shop) -> None:
    for sku in ("seen-once", "seen-twice"):
        await add(shop_, sku)
    for name, sku in (("catalog-1", "seen-once"), ("catalog-1", "seen-twice"), ("catalog-2", "seen-twice")):
        assert (await shop_.ask(name, f"/v1/products/{sku}/views", {})).status == 204
    for name in BOTH:
        ranking = (await shop_.ask(name, "/v1/trending?limit=2")).body
        assert [(one["rank"], one["views"], one["product"]["sku"]) for one in ranking] == [
            (1, 2, "seen-twice"),
            (2, 1, "seen-once"),
        ]
    assert (await shop_.ask("catalog-1", "/v1/products/nobody/views", {})).status == 404


async def test_every_error_is_a_problem_that_the_log_can_be_searched_for(shop_: Shop) -> None:
    for path, body, status, name in (
        ("/nowhere", None, 404, "not-found"),
        ("/v1/products/nobody", None, 404, "unknown-product"),
        ("/v1/products", {"sku": "NOT A SKU"}, 422, "invalid"),
        ("/v1/products?category=a%00b", None, 422, "invalid"),
        ("/live", {}, 405, "method-not-allowed"),
    ):
        reply = await shop_.ask("catalog-1", path, body, X_Request_Id=f"problem-{status}")
        assert (reply.status, reply.headers["content-type"]) == (status, "application/problem+json")
        assert reply.body["type"] == f"/problems/{name}"
        assert reply.body["request_id"] == reply.headers["x-request-id"] == f"problem-{status}"
    answered = [line for line in shop_.log("catalog-1") if line["event"] == "answered"]
    assert {"problem-404", "problem-422"} <= {line["request_id"] for line in answered}
    forged = (await shop_.ask("catalog-1", "/v1/products/nobody", X_Request_Id='"} forged')).headers["x-request-id"]
    assert forged.isalnum(), "a caller has written into the log"


async def test_a_defect_tells_the_caller_nothing_but_where_to_look(shop_: Shop) -> None:
    async with await psycopg.AsyncConnection.connect(dsn(shop_.postgres.url, "catalog"), autocommit=True) as connection:
        await connection.execute("ALTER TABLE price RENAME TO hidden")
        try:
            reply = await shop_.ask("catalog-1", "/v1/products/versioned/prices", X_Request_Id="defect")
        finally:
            await connection.execute("ALTER TABLE hidden RENAME TO price")
    assert (reply.status, reply.body["type"]) == (500, "/problems/failed")
    assert "relation" not in reply.body["detail"]
    failed = [line for line in shop_.log("catalog-1") if line.get("request_id") == "defect"]
    assert "UndefinedTable" in failed[0]["error"]


async def test_its_documentation_needs_no_other_host(shop_: Shop) -> None:
    page = (await shop_.ask("catalog-1", "/docs")).body
    description = (await shop_.ask("catalog-1", "/openapi.json")).body
    assert all(path in page for path in description["paths"])
    assert {"/v1/products", "/v1/products/{sku}/price", "/v1/trending", "/live", "/ready"} <= set(description["paths"])
    assert "//" not in page
    assert "<script" not in page
