"""What orders promises who orders: one order a key, its history, and a list that can be built again."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from typing import Any

import psycopg
import pytest
from tests.shop.conftest import DEADLINE, Reply, Shop, until
from tests.shop.people import guest

from faultline.patterns import EventStore, Fact, VersionConflict
from faultline.shop import database
from faultline.shop.contracts import Line, Money, OrderLine
from faultline.shop.orders import domain, store
from faultline.shop.orders.domain import Happened, Order, Part, Reason, Status
from faultline.shop.orders.saga import PAY_WITHIN
from faultline.shop.orders.upcasters import UPCASTERS

pytestmark = [
    pytest.mark.once,
    pytest.mark.timeout(240),
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.xdist_group("orders"),  # they share a shop
]
ONE, TWO = "orders-1", "orders-2"


async def stocked(shop: Shop, sku: str, quantity: int = 1000, *, cents: int = 500, currency: str = "EUR") -> None:
    new = {"sku": sku, "name": sku, "category": "things", "price": {"cents": cents, "currency": currency}}
    assert (await shop.ask("catalog-1", "/v1/products", new)).status == 201
    path = f"/v1/stock/{sku}/receipts/first"
    assert (await shop.ask("inventory-1", path, {"quantity": quantity}, method="PUT")).status == 200


async def order(shop: Shop, key: str, *lines: tuple[str, int], at: str = ONE, user: str = "ann", **more: str) -> Reply:
    body = {"lines": [{"sku": sku, "quantity": quantity} for sku, quantity in lines]}
    async with asyncio.timeout(DEADLINE):
        while (reply := await shop.ask(at, "/v1/orders", body, X_User=user, Idempotency_Key=key, **more)).status == 503:
            pass  # a busy machine: asked again, with the same key
    return reply


async def ended(shop: Shop, placed: Reply, *, user: str = "ann") -> dict[str, Any]:
    """The order when it has come to its end."""
    assert placed.status == 202, placed.body
    async with asyncio.timeout(DEADLINE):
        stream = await shop.ask(TWO, f"/v1/orders/{placed.body['id']}/stream", X_User=user)
    told = [json.loads(line.removeprefix("data: ")) for line in stream.body.splitlines() if line.startswith("data")]
    assert told[-1]["status"] != "pending"
    return dict(told[-1])


async def test_an_order_is_confirmed_when_it_is_paid_and_sold(shop_: Shop) -> None:
    await stocked(shop_, "hat", 10, cents=500)
    await stocked(shop_, "scarf", 5, cents=1250)
    placed = await order(shop_, "first", ("scarf", 1), ("hat", 2), ("hat", 1), at=TWO, X_Request_Id="the-first")
    assert placed.body["status"] == "pending"
    assert placed.body["total"] == {"cents": 2750, "currency": "EUR"}
    assert placed.headers["location"] == f"/v1/orders/{placed.body['id']}"
    body = await ended(shop_, placed)
    assert body == {**placed.body, "status": "confirmed"}
    assert (await shop_.ask(ONE, placed.headers["location"], X_User="ann")).body == body
    hats = (await shop_.ask("inventory-1", "/v1/stock/hat")).body
    assert (hats["reserved"], hats["committed"]) == (0, 3)
    id_ = body["id"]
    said = "SELECT id, headers->>'correlationid' FROM outbox WHERE subject = %s ORDER BY position"
    assert await shop_.rows("orders", said, id_) == [
        (f"orders.order-placed.v1/{id_}/1", "the-first"),
        (f"orders.order-confirmed.v1/{id_}/2", "the-first"),
    ]
    ((told, request),) = await shop_.rows("orders", "SELECT data, headers->>'correlationid' FROM commands")
    assert (told["order"], told["amount"], request) == (id_, body["total"], "the-first")
    time_to_pay = datetime.fromisoformat(told["until"]) - datetime.fromisoformat(body["placed_at"])
    assert abs(time_to_pay.total_seconds() - PAY_WITHIN) < 1


async def test_the_log_has_all_that_was_told_under_the_same_ids_at_the_same_times(shop_: Shop) -> None:
    await stocked(shop_, "logged")
    await ended(shop_, await order(shop_, "logged", ("logged", 1)))
    logged: list[dict[str, Any]] = []
    path = "/v1/log"
    while path:
        page = (await shop_.ask(TWO, path)).body
        logged += page["items"]
        path = f"/v1/log?after={page['next']}" if page["next"] else ""
    told = await shop_.rows("orders", "SELECT id, type, subject, data, headers FROM outbox ORDER BY id")
    assert told
    assert sorted(
        (one["id"], one["type"], one["subject"], one["data"], datetime.fromisoformat(one["time"]), one["sequence"])
        for one in logged
    ) == [
        (id_, type_, subject, data, datetime.fromisoformat(headers["time"]), int(headers["sequence"]))
        for id_, type_, subject, data, headers in told
    ]
    assert (await shop_.ask(ONE, "/v1/log?after=nonsense")).status == 422


async def test_an_order_is_known_as_of_any_moment_since_it_was_placed(shop_: Shop) -> None:
    await stocked(shop_, "clock")
    before = datetime.now(UTC).isoformat().replace("+00:00", "Z")
    body = await ended(shop_, await order(shop_, "clock", ("clock", 1)))
    path = f"/v1/orders/{body['id']}/history"
    whole = (await shop_.ask(TWO, path, X_User="ann")).body
    assert [event["type"] for event in whole["events"]] == ["order-placed", "order-confirmed"]
    assert whole["order"] == body
    at = whole["events"][0]["at"]
    then = (await shop_.ask(ONE, f"{path}?until={at}", X_User="ann")).body
    assert ([event["version"] for event in then["events"]], then["order"]["status"]) == ([1], "pending")
    assert (await shop_.ask(ONE, f"{path}?until={before}", X_User="ann")).body == {"order": None, "events": []}
    assert (await shop_.ask(ONE, f"{path}?until=2026-01-01T00:00:00", X_User="ann")).status == 422


async def test_of_twenty_who_order_by_one_key_all_get_the_same_order(shop_: Shop) -> None:
    await stocked(shop_, "same")
    replies = await asyncio.gather(*(order(shop_, "key", ("same", 2), at=at, user="bob") for at in (ONE, TWO) * 10))
    assert {reply.status for reply in replies} == {202}
    assert len({reply.body["id"] for reply in replies}) == 1
    body = await ended(shop_, replies[0], user="bob")
    assert body["status"] == "confirmed"
    counts = """
    SELECT (SELECT count(*) FROM events WHERE stream = 'order-' || %(id)s AND type = 'order-placed'),
        (SELECT count(*) FROM outbox WHERE subject = %(id)s AND type = 'orders.order-placed.v1'),
        (SELECT count(*) FROM sagas WHERE data->>'order' = %(id)s),
        (SELECT count(*) FROM commands WHERE subject = %(id)s)
    """.replace("%(id)s", f"'{body['id']}'")
    assert await shop_.rows("orders", counts) == [(1, 1, 1, 1)]
    assert (await order(shop_, "key", ("same", 2), user="bob")).body == body, "asked again when all is over"
    assert (await order(shop_, "key", ("same", 2), user="eve")).body["id"] != body["id"], "a key is its user's own"


async def test_a_key_is_for_one_order_at_its_first_prices(shop_: Shop) -> None:
    await stocked(shop_, "tea", cents=300)
    first = await order(shop_, "tea", ("tea", 2))
    for other in ((("tea", 3),), (("tea", 2), ("same", 1))):
        reply = await order(shop_, "tea", *other)
        assert (reply.status, reply.body["type"]) == (409, "/problems/key-reused")
    dearer = {"price": {"cents": 400}}
    assert (await shop_.ask("catalog-1", "/v1/products/tea/price", dearer, method="PUT")).status == 200
    again = await order(shop_, "tea", ("tea", 1), ("tea", 1))
    assert (again.status, again.body["total"]) == (202, first.body["total"])
    assert (await order(shop_, "tea-2", ("tea", 1))).body["total"]["cents"] == 400


async def test_nobody_sees_anothers_order(shop_: Shop) -> None:
    await stocked(shop_, "secret")
    placed = await order(shop_, "mine", ("secret", 1))
    path = placed.headers["location"]
    for one in (path, f"{path}/history", f"{path}/stream"):
        assert (await shop_.ask(ONE, one, X_User="eve")).status == 404
        assert (await shop_.ask(ONE, one)).status == 422, "who asks?"
    assert (await shop_.ask(ONE, "/v1/orders/never-placed", X_User="ann")).status == 404
    assert placed.body["id"] not in str((await shop_.ask(ONE, "/v1/orders?limit=100", X_User="eve")).body)


async def test_what_cannot_be_bought_is_refused(shop_: Shop) -> None:
    await stocked(shop_, "euro-thing")
    await stocked(shop_, "dollar-thing", currency="USD")
    for lines in (
        (("nothing", 1),),
        (("euro-thing", 0),),
        (("euro-thing", 9999), ("euro-thing", 9999)),
        (("euro-thing", 1), ("dollar-thing", 1)),
        (),
    ):
        assert (await order(shop_, "nonsense", *lines)).status == 422
    assert (await shop_.ask(ONE, "/v1/orders", {"lines": []}, X_User="ann")).status == 422, "no key"


async def test_the_list_is_paged_the_newest_first(shop_: Shop) -> None:
    await stocked(shop_, "page")
    placed = [(await order(shop_, f"page-{n}", ("page", 1), user="zoe")).body["id"] for n in range(5)]

    async def listed() -> bool:
        return len((await shop_.ask(TWO, "/v1/orders", X_User="zoe")).body["items"]) == 5

    await until(listed)
    found: list[str] = []
    path: str | None = "/v1/orders?limit=2"
    while path:
        page = (await shop_.ask(ONE, path, X_User="zoe")).body
        found += [item["id"] for item in page["items"]]
        path = page["next"] and f"/v1/orders{page['next']}"
    assert found == placed[::-1]
    assert (await shop_.ask(ONE, "/v1/orders?after=nonsense", X_User="zoe")).status == 422


SUMMARIES = "SELECT id, buyer, status, reason, cents, currency, placed_at FROM my_orders.summary ORDER BY id"
SETTLED = """
SELECT (SELECT count(*) FROM my_orders.summary WHERE status <> 'pending')
    = (SELECT count(*) FROM events WHERE type = 'order-placed')
"""


async def test_the_list_can_be_built_again_while_orders_come_in(shop_: Shop) -> None:
    await stocked(shop_, "often")
    over = asyncio.Event()

    async def buy(user: str) -> int:
        count = 0
        while not over.is_set():
            assert (await order(shop_, f"often-{count}", ("often", 1), user=user)).status == 202
            count += 1
        return count

    async def look() -> None:
        """It is never behind what was seen before."""
        seen = 0
        while not over.is_set():
            page = await shop_.ask(TWO, "/v1/orders?limit=100", X_User="buyer-0")
            assert page.status == 200
            assert len(page.body["items"]) >= seen
            seen = len(page.body["items"])

    async def rebuild() -> list[int]:
        try:
            asked = "/v1/projections/my-orders/rebuilds"
            return [(await shop_.ask(at, asked, method="POST")).body["events"] for at in (ONE, TWO, ONE)]
        finally:
            over.set()

    applied, *bought = await asyncio.gather(rebuild(), buy("buyer-0"), buy("buyer-1"), look())
    assert applied == sorted(applied)
    assert applied[0] > 0
    assert (bought[0] or 0) + (bought[1] or 0) > 2, "none came in meanwhile: nothing is shown"

    async def settled() -> bool:
        return await shop_.rows("orders", SETTLED) == [(True,)]

    await until(settled)
    before = await shop_.rows("orders", SUMMARIES)
    await shop_.ask(ONE, "/v1/projections/my-orders/rebuilds", method="POST")
    assert await shop_.rows("orders", SUMMARIES) == before
    async with kept(shop_, "orders") as (orders, _):
        for id_, buyer, status, reason, cents, currency, placed_at in before:
            found = (await orders.load(id_)).state
            assert found
            assert (found.user, found.status, found.reason) == (buyer, status, reason)
            assert (found.total, found.placed_at) == (Money(cents, currency), placed_at)


def where(shop: Shop, name: str) -> str:
    return database.dsn(shop.postgres.url, name)


@asynccontextmanager
async def kept(shop: Shop, name: str) -> AsyncIterator[tuple[store.Orders, EventStore]]:
    """The store itself, with a snapshot of every two events, in a database of this name."""
    dsn = where(shop, name)
    async with (
        database.opened(shop.postgres.url, name) as pool,
        EventStore(dsn, upcasters=UPCASTERS) as events,
        store.snapshots(events, dsn, every=2) as snapshots,
    ):
        orders = store.Orders(pool, events, snapshots)
        await orders.prepare()
        yield orders, events


def late(order: Order) -> list[Happened]:
    return domain.cancelled(order, Reason.TOO_LATE)


async def begun(_tx: object) -> bool:
    return True


PLACED = domain.placed("ann", "key", (Line("hat", 2),), {"hat": Money(250)})


async def test_of_two_who_end_an_order_at_once_one_does(shop_: Shop) -> None:
    async with kept(shop_, "two_writers") as (orders, events):
        await orders.place(PLACED, begin=begun)
        assert not await orders.place(PLACED, begin=lambda _tx: asyncio.sleep(0, result=False))
        ends = await asyncio.gather(
            *(orders.record(PLACED.order, rule) for rule in (domain.confirmed, late)),
            return_exceptions=True,
        )
        (loser,) = [end for end in ends if end]
        assert isinstance(loser, VersionConflict | domain.Ended)
        assert [event.version for event in await events.read(store.stream(PLACED.order))] == [1, 2]
        final = (await orders.load(PLACED.order)).state
        assert final
        other = domain.confirmed if final.status is Status.CANCELLED else late
        with pytest.raises(domain.Ended):
            await orders.record(PLACED.order, other)
        assert (await orders.load(PLACED.order)).state == final, "an end is final"


async def both_wait(shop: Shop) -> bool:
    return len(await shop.rows("two_parts", "SELECT FROM pg_locks WHERE NOT granted")) == 2


async def test_of_two_parts_of_a_return_that_are_heard_at_once_none_is_lost(shop_: Shop) -> None:
    async with kept(shop_, "two_parts") as (orders, events):
        await orders.place(PLACED, begin=begun)
        for rule in (domain.confirmed, domain.return_requested):
            await orders.record(PLACED.order, rule)

        heard = {part: orders.record(PLACED.order, partial(domain.part_returned, part=part)) for part in Part}
        async with await psycopg.AsyncConnection.connect(where(shop_, "two_parts")) as other:
            await other.execute("LOCK TABLE events IN SHARE MODE")  # both read, and then want to write
            recording = asyncio.gather(*heard.values(), return_exceptions=True)
            await until(lambda: both_wait(shop_))
        for part, refused in zip(heard, await recording, strict=True):
            if refused:
                assert isinstance(refused, VersionConflict)
                await orders.record(PLACED.order, partial(domain.part_returned, part=part))
        types = [event.type for event in await events.read(store.stream(PLACED.order))]
        assert sorted(types[3:5]) == ["goods-returned", "money-returned"]
        assert types[5:] == ["return-closed"]


async def test_a_snapshot_is_what_the_events_fold_to(shop_: Shop) -> None:
    async with kept(shop_, "snapshots") as (orders, _):
        await orders.place(PLACED, begin=begun)
        await orders.record(PLACED.order, lambda order: domain.cancelled(order, Reason.DECLINED))
        whole = await orders.load(PLACED.order)
        short = await orders.load(PLACED.order)
        assert (whole.read, short.read) == (2, 0), "nothing was kept: nothing is shown"
        assert short.state == whole.state == store.folded(await orders.history(PLACED.order, until=None))


async def test_an_order_of_the_first_schema_is_read_in_euros(shop_: Shop) -> None:
    old = {
        "order": "old",
        "user": "ann",
        "key": "k",
        "lines": [{"sku": "hat", "quantity": 2, "unit_cents": 250}],
        "total_cents": 500,
    }
    async with kept(shop_, "first_schema") as (orders, events):
        await events.append("order-old", 0, [Fact(id="1", type="order-placed", data=old, schema=1)])
        found = (await orders.load("old")).state
        assert found
        assert (found.total, found.status) == (Money(500, "EUR"), Status.PENDING)
        assert found.lines == (OrderLine(sku="hat", quantity=2, unit=Money(250, "EUR")),)
        await orders.record("old", domain.confirmed)
        assert (await orders.load("old")).state == replace(found, status=Status.CONFIRMED)


async def test_what_is_ordered_through_the_gateway_leaves_the_cart_when_it_is_confirmed(shop_: Shop) -> None:
    await stocked(shop_, "whole-way", cents=700)

    async def ask(path: str, body: object = None, **more: str) -> Reply:
        return await shop_.ask("gateway-1", path, body, X_Guest=guest("way"), **more)

    cart = await ask("/api/v1/cart/lines/whole-way", {"quantity": 3}, method="PUT")
    assert cart.status == 200, cart.body
    lines = {"lines": [{"sku": "whole-way", "quantity": 2}]}
    placed = await ask("/api/v1/orders", lines, Idempotency_Key="way")
    assert placed.status == 202, placed.body
    stream = await ask(f"{placed.headers['location']}/stream")
    assert '"confirmed"' in stream.body

    async def left() -> bool:
        found = (await ask("/api/v1/cart")).body["lines"]
        return [(line["sku"], line["quantity"]) for line in found] == [("whole-way", 1)]

    await until(left)
    assert (await ask("/api/v1/stock/whole-way")).body["committed"] == 2
