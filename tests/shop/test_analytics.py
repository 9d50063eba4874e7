"""What analytics promises, from outside: reports that agree with orders and with the ledger, and days built again."""

import os
from collections.abc import AsyncIterator, Callable
from datetime import UTC, date, datetime, timedelta
from signal import SIGCONT, SIGKILL, SIGSTOP
from typing import Any
from zlib import crc32

import aio_pika
import msgspec
import pytest
import pytest_asyncio
from psycopg import AsyncConnection
from tests.shop import story
from tests.shop.conftest import Reply, Shop, opened, until
from tests.shop.story import at, day
from tests.shop.test_orders import ended, order
from tests.shop.test_returns import give_back, is_returned

from faultline.components.faults import Refuse
from faultline.components.proxy import Match, saying
from faultline.patterns import Event
from faultline.shop.database import dsn

pytestmark = [
    pytest.mark.once,
    pytest.mark.timeout(240),
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.xdist_group("analytics"),  # they share a shop
]
ONE = "analytics-1"
PAYMENT = "payment-1"
RANGE = "from=2026-01-01&to=2030-12-31"
HAT = ("hat", 2, 500)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def alone(shared_broker: tuple[str, int, int], tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Shop]:
    """Analytics beside the gateway, which has no database: what others would say the tests say."""
    folder = tmp_path_factory.mktemp("alone")
    folder.chmod(0o755)  # PostgreSQL runs as another user
    async with opened(folder, shared_broker, names=("gateway", "analytics")) as one:
        await one.run("analytics", "DELETE FROM backfill")  # which would ask for what nobody answers
        yield one


async def say(shop: Shop, *events: Event) -> None:
    """As a relay would."""
    async with await aio_pika.connect(shop.broker.url) as connection:
        exchange = await (await connection.channel()).get_exchange("shop.events")
        for event in events:
            message = aio_pika.Message(
                msgspec.json.encode(event.data),
                message_id=event.id,
                type=event.type,
                headers={**event.headers, "subject": event.subject},
                delivery_mode=aio_pika.DeliveryMode.PERSISTENT,
            )
            await exchange.publish(message, routing_key=event.type)


async def sales(shop: Shop, by: str, between: str = RANGE) -> dict[str, int]:
    """Net, in cents."""
    reply = await shop.ask(ONE, f"/v1/analytics/sales?{between}&by={by}")
    assert reply.status == 200, reply.body
    return {one["key"]: one["net_cents"] for one in reply.body["items"]}


async def becomes(shop: Shop, by: str, expected: dict[str, int], between: str = RANGE) -> None:
    async def there() -> bool:
        return await sales(shop, by, between) == expected

    try:
        await until(there)
    except TimeoutError:
        assert await sales(shop, by, between) == expected
        raise


async def whole(shop: Shop) -> dict[str, list[tuple[Any, ...]]]:
    async with await AsyncConnection.connect(dsn(shop.postgres.url, "analytics")) as connection:
        return await story.star(connection)


async def is_loaded(shop: Shop, count: int) -> None:
    """Wait until so many events are staged, and loaded."""
    asked = "SELECT count(*)::int, count(loaded_at)::int FROM staged"

    async def there() -> bool:
        return await shop.rows("analytics", asked) == [(count, count)]

    await until(there)


async def killed(shop: Shop) -> None:
    pid = shop.process(ONE).pid
    assert pid
    os.kill(pid, SIGKILL)
    await shop.again(ONE, after=pid)


async def done(shop: Shop, begun: Reply) -> dict[str, Any]:
    """The backfill at its end."""
    assert begun.status == 202, begun.body
    found: dict[str, Any] = {}

    async def is_done() -> bool:
        nonlocal found
        found = (await shop.ask(ONE, begun.headers["location"])).body
        return found["stage"] == "done"

    await until(is_done)
    return found


async def bought(shop: Shop, key: str, *lines: tuple[str, int]) -> str:
    placed = await order(shop, key, *lines)
    assert (await ended(shop, placed))["status"] == "confirmed"
    return str(placed.body["id"])


async def product(shop: Shop, sku: str, category: str, cents: int) -> None:
    new = {"sku": sku, "name": sku, "brand": f"of {sku}", "category": category, "price": {"cents": cents}}
    assert (await shop.ask("catalog-1", "/v1/products", new)).status == 201
    path = f"/v1/stock/{sku}/receipts/first"
    assert (await shop.ask("inventory-1", path, {"quantity": 1000}, method="PUT")).status == 200


def today() -> date:
    return datetime.now(UTC).date()


async def reconciled(shop: Shop) -> dict[str, Any]:
    """Today beside the ledger."""
    reply = await shop.ask(ONE, f"/v1/analytics/reconciliation?day={today()}")
    assert reply.status == 200, reply.body
    return dict(reply.body)


async def test_what_was_sold_and_given_back_is_in_the_reports_and_the_ledger_says_the_same(shop_: Shop) -> None:
    await product(shop_, "hat", "hats", 500)
    await product(shop_, "mug", "mugs", 300)
    first = await bought(shop_, "a1", ("hat", 2), ("mug", 1))
    await becomes(shop_, "product", {"hat": 1000, "mug": 300})
    described = {"name": "hat", "brand": "of hat", "category": "gifts"}
    assert (await shop_.ask("catalog-1", "/v1/products/hat", described, method="PUT")).body["version"] == 2
    await bought(shop_, "a2", ("hat", 1))
    await becomes(shop_, "category", {"gifts": 500, "hats": 1000, "mugs": 300})
    await becomes(shop_, "brand", {"of hat": 1500, "of mug": 300})
    await becomes(shop_, "day", {today().isoformat(): 1800})

    async def agree() -> bool:
        told = await reconciled(shop_)
        return (told["sold"], told["heard"], told["moved"], told["differences"]) == (1800, 1800, 1800, [])

    await until(agree)
    await give_back(shop_, first)
    await is_returned(shop_, first)
    await becomes(shop_, "product", {"hat": 500, "mug": 0})
    reply = await shop_.ask(ONE, f"/v1/analytics/sales?{RANGE}&by=product")
    hat = reply.body["items"][0]
    assert (hat["quantity"], hat["cents"], hat["returned"], hat["returned_cents"]) == (3, 1500, 2, 1000)
    assert set(reply.body["watermarks"]) == {"orders", "payment", "catalog"}
    told = await reconciled(shop_)
    assert (told["closed"], told["sold"], told["moved"], told["differences"]) == (False, 500, 500, [])


@pytest.mark.parametrize(
    ("reason", "spoil"),
    [
        ("missing", "DELETE FROM fact_sales WHERE order_id = '{order}'"),
        ("missing", "DELETE FROM fact_payments WHERE order_id = '{order}'"),
        ("amount", "UPDATE fact_sales SET cents = cents - 1 WHERE order_id = '{order}'"),
        ("amount", "UPDATE fact_payments SET cents = cents + 1 WHERE order_id = '{order}'"),
        ("late", "UPDATE fact_sales SET day = day - 1 WHERE order_id = '{order}'"),
        (
            "duplicate",
            (
                "INSERT INTO fact_sales SELECT order_id, 9, day, sold_at, sku, product_version, customer, quantity, "
                "cents, currency FROM fact_sales WHERE order_id = '{order}'"
            ),
        ),
    ],
)
async def test_a_difference_is_told_order_by_order_with_its_reason_and_a_backfill_mends_it(
    shop_: Shop, reason: str, spoil: str
) -> None:
    sku = f"pen-{crc32(spoil.encode())}"
    await product(shop_, sku, "pens", 200)
    name = await bought(shop_, sku, (sku, 1))

    async def is_sold() -> bool:
        return (await sales(shop_, "product")).get(sku) == 200

    async def is_known() -> bool:
        return bool(await shop_.rows("analytics", "SELECT FROM fact_payments WHERE order_id = %s", name))

    await until(is_sold)
    await until(is_known)
    yesterday = today() - timedelta(days=1)
    await shop_.run("analytics", f"INSERT INTO dim_date VALUES ('{yesterday}', 1, 1, 1, 1, 1)")
    await shop_.run("analytics", spoil.format(order=name))
    told = await reconciled(shop_)
    assert [(one["order"], one["reason"]) for one in told["differences"]] == [(name, reason)]
    await done(shop_, await shop_.ask(ONE, "/v1/analytics/backfills", {"from": str(yesterday), "to": str(today())}))
    assert (await reconciled(shop_))["differences"] == []
    await shop_.run("analytics", "DELETE FROM dim_date WHERE year = 1")


async def test_while_payment_is_silent_reports_go_on_and_reconciliation_says_so(shop_: Shop) -> None:
    pid = shop_.process(PAYMENT).pid
    assert pid
    os.kill(pid, SIGSTOP)
    try:
        assert await sales(shop_, "product")
        reply = await shop_.ask(ONE, f"/v1/analytics/reconciliation?day={today()}")
    finally:
        os.kill(pid, SIGCONT)
    assert (reply.status, reply.body["type"], "retry-after" in reply.headers) == (503, "/problems/unavailable", True)

    async def answers() -> bool:
        return (await shop_.ask(ONE, f"/v1/analytics/reconciliation?day={today()}")).status == 200

    await until(answers)


async def test_what_happened_before_there_was_analytics_is_asked_for(shop_: Shop) -> None:
    """As on a day on which it is new: its database is empty, and its queue has nothing."""
    await product(shop_, "old", "antiques", 900)
    name = await bought(shop_, "old", ("old", 1), ("mug", 2))
    await give_back(shop_, name)
    await is_returned(shop_, name)
    await bought(shop_, "older", ("old", 3))

    async def all_there() -> bool:
        there = "SELECT count(*)::int FROM fact_payments UNION ALL SELECT count(*)::int FROM transaction"
        return (await sales(shop_, "product")).get("old") == 2700 and await shop_.rows(
            "analytics", there.split(" UNION", maxsplit=1)[0]
        ) == await shop_.rows("payment", there.split("ALL ")[1])

    await until(all_there)
    heard = await whole(shop_)
    await shop_.run(
        "analytics", "TRUNCATE staged, fact_sales, fact_returns, fact_payments, dim_product, dim_date, day, watermark"
    )
    await shop_.run("analytics", "DELETE FROM dim_customer WHERE kind <> 'erased'")
    assert await sales(shop_, "product") == {}
    told = await done(shop_, await shop_.ask(ONE, "/v1/analytics/backfills", {"history": True}))
    assert told["events"] > 0
    assert told["days_left"] == 0

    async def loaded() -> bool:
        return await shop_.rows("analytics", "SELECT FROM staged WHERE loaded_at IS NULL") == []

    await until(loaded)
    asked = await whole(shop_)
    for table in ("dim_date", "dim_customer", "fact_payments"):
        assert asked[table] == heard[table], table
    for table, version in (("fact_sales", 5), ("fact_returns", 6)):  # of a product only what it is now is known
        for row, other in zip(heard[table], asked[table], strict=True):
            assert (*row[:version], *row[version + 1 :]) == (*other[:version], *other[version + 1 :])
    assert {sku: category for sku, _, _, _, category, *_ in asked["dim_product"]}["hat"] == "gifts"
    again = await done(shop_, await shop_.ask(ONE, "/v1/analytics/backfills", {"history": True}))
    assert again["events"] == 0
    assert await whole(shop_) == asked


COMMIT, STAGE, LOAD = saying("COMMIT"), saying("INSERT INTO staged"), saying("UPDATE staged SET loaded_at")


def is_reply(held: bool) -> Callable[[Shop], Any]:
    return lambda shop: shop.before_postgres.hold_reply if held else shop.before_postgres.hold


KILLS: dict[str, tuple[Match, int, bool]] = {
    "before it is staged": (STAGE, 0, False),
    "staged, before the commit": (COMMIT, 0, False),
    "staged and committed, before the acknowledgement": (COMMIT, 0, True),
    "loaded, before the commit": (LOAD, 0, False),
    "loaded and committed": (LOAD, 0, True),
}


@pytest.mark.parametrize("where", KILLS)
async def test_killed_anywhere_each_event_has_its_effect_once(alone: Shop, where: str) -> None:
    match, skip, after = KILLS[where]
    name = where.replace(" ", "-").replace(",", "")
    events = [
        story.placed(name, at(0), HAT),
        story.captured(name, 1000, at(0)),
        story.confirmed(name, at(0)),
        story.closed(name, at(1)),
    ]
    hold = is_reply(after)(alone)(match, skip=skip)
    await say(alone, *events, *events)
    await hold.reached(20)
    pid = alone.process(ONE).pid
    assert pid
    os.kill(pid, SIGKILL)
    hold.release()
    await alone.again(ONE, after=pid)
    await say(alone, *reversed(events))

    async def loaded() -> bool:
        rows = await alone.rows("analytics", "SELECT loaded_at FROM staged WHERE subject = %s", name)
        return len(rows) == 4 and all(moment for (moment,) in rows) and not await waiting(alone)

    await until(loaded)
    found = await alone.rows("analytics", "SELECT day, cents::int FROM fact_sales WHERE order_id = %s", name)
    assert found == [(day(0), 1000)]
    found = await alone.rows("analytics", "SELECT day, cents::int FROM fact_returns WHERE order_id = %s", name)
    assert found == [(day(1), 1000)]
    found = await alone.rows("analytics", "SELECT day, cents::int FROM fact_payments WHERE order_id = %s", name)
    assert found == [(day(0), 1000)]


async def waiting(shop: Shop) -> int:
    return await shop.broker.ready_messages("analytics.events")


async def test_readers_never_see_half_a_day_and_a_killed_backfill_goes_on_where_it_was(alone: Shop) -> None:
    between = "from=2026-06-01&to=2026-06-03"
    june = (datetime(2026, 6, 1, 12, tzinfo=UTC) - story.BEGIN).days
    for number in range(3):
        for n in range(4):
            name, when = f"june-{number}-{n}", at(june + number)
            await say(alone, story.placed(name, when, HAT), story.confirmed(name, when))
    right = {f"2026-06-0{number}": 4000 for number in (1, 2, 3)}
    await becomes(alone, "day", right, between)
    await alone.run("analytics", "UPDATE fact_sales SET cents = 1 WHERE order_id LIKE 'june-%%'")
    spoilt = dict.fromkeys(right, 4)
    assert await sales(alone, "day", between) == spoilt

    hold = alone.before_postgres.hold(saying("INSERT INTO", "fact_sales", "EXCEPT"), skip=1)
    begun = await alone.ask(ONE, "/v1/analytics/backfills", {"from": "2026-06-01", "to": "2026-06-03"})
    await hold.reached(20)
    halfway = (await alone.ask(ONE, begun.headers["location"])).body
    assert (halfway["stage"], halfway["days"], halfway["days_left"]) == ("days", 1, 2)
    assert await sales(alone, "day", between) == {**spoilt, "2026-06-01": 4000}, "the old facts are taken out already"
    late = story.placed("meanwhile", at(june), HAT), story.confirmed("meanwhile", at(june))
    await say(alone, *late)

    async def staged() -> bool:
        return len(await alone.rows("analytics", "SELECT FROM staged WHERE subject = 'meanwhile'")) == 2

    await until(staged)
    pid = alone.process(ONE).pid
    assert pid
    os.kill(pid, SIGKILL)
    hold.release()
    await alone.again(ONE, after=pid)
    told = await done(alone, begun)
    assert (told["days"], told["days_left"], told["error"]) == (3, 0, "")
    await becomes(alone, "day", {**right, "2026-06-01": 5000}, between)


async def test_a_backfill_says_what_it_waits_for(alone: Shop) -> None:
    begun = await alone.ask(ONE, "/v1/analytics/backfills", {"history": True})

    async def is_told() -> bool:
        body = (await alone.ask(ONE, begun.headers["location"])).body
        return bool(body["stage"] == "orders" and body["error"].startswith("orders: "))

    await until(is_told)
    await alone.run("analytics", "DELETE FROM backfill")
    assert (await alone.ask(ONE, begun.headers["location"])).status == 404


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("GET", "sales?from=2026-02-02&to=2026-02-01", None),
        ("GET", "sales?from=2026-02-02", None),
        ("GET", "sales?from=1900-01-01&to=2026-02-01", None),
        ("GET", "sales?from=2026-02-01&to=2026-02-02&by=customer", None),
        ("GET", "reconciliation?day=yesterday", None),
        ("GET", "backfills/x", None),
        ("POST", "backfills", {"from": "2026-02-02", "to": "2026-02-01"}),
        ("POST", "backfills", {"form": "2026-02-02"}),
    ],
)
async def test_what_is_no_question_is_refused(alone: Shop, method: str, path: str, body: object) -> None:
    reply = await alone.ask(ONE, f"/v1/analytics/{path}", body, method=method)
    assert (reply.status, reply.body["type"]) == (422, "/problems/invalid")


async def test_while_postgresql_is_away_events_wait_and_readers_are_told_to_come_back(alone: Shop) -> None:
    refuse = alone.before_postgres.add(Refuse())
    await alone.before_postgres.sever()
    await say(alone, story.placed("away", at(2), HAT), story.confirmed("away", at(2)))
    reply = await alone.ask(ONE, f"/v1/analytics/sales?{RANGE}")
    assert (reply.status, reply.body["type"]) == (503, "/problems/unavailable")
    alone.before_postgres.remove(refuse)

    async def there() -> bool:
        return bool(await alone.rows("analytics", "SELECT FROM fact_sales WHERE order_id = 'away'"))

    await until(there)
