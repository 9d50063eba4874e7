"""Each invariant tells the defect that it is there for, and no other does; a shop that keeps its word breaks none."""

import asyncio
import json
from dataclasses import dataclass
from datetime import UTC
from typing import Any

import pytest
from redis.asyncio import Redis
from tests.chaos.conftest import Shop

from faultline.chaos import checker
from faultline.components.http import ask
from faultline.patterns.cache_entry import packed
from faultline.shop.seed import product, units

pytestmark = [
    pytest.mark.once,
    pytest.mark.timeout(240),
    pytest.mark.asyncio(loop_scope="package"),
    pytest.mark.xdist_group("chaos"),  # they share a shop
]


async def violated(shop: Shop) -> dict[str, list[str]]:
    verdicts = await checker.check(shop.books)
    assert not [verdict.unreadable for verdict in verdicts if verdict.unreadable]
    return {verdict.invariant.number: verdict.violated for verdict in verdicts if verdict.violated}


def plenty() -> str:
    """A product of which there is enough."""
    number = max(range(1, 21), key=units)
    return product(number).sku


async def test_a_shop_that_has_sold_breaks_none(shop_: Shop) -> None:
    sku = plenty()
    orders = await asyncio.gather(
        *(shop_.buyer(f"buyer-{n}").buy({sku: 1}, key=f"k{n}", within=30) for n in range(3)),
        shop_.buyer("buyer-9").buy({sku: 9_000}, key="too-much", within=30),
    )
    assert [order.status for order in orders] == ["confirmed"] * 3 + ["cancelled"]
    assert orders[3].reason == "out-of-stock"
    await checker.quiet(shop_.books)
    assert await violated(shop_) == {}


async def test_a_cart_that_loses_what_nobody_has_bought_is_told_under_i10(shop_: Shop) -> None:
    sku, filler = plenty(), shop_.filler("filler")
    assert await filler.put(sku, 5)
    await shop_.buyer("filler").buy({sku: 2}, key="cart", within=30)
    await checker.quiet(shop_.books)
    async with asyncio.timeout(10):
        while await filler.see() != {sku: 3}:  # noqa: ASYNC110 -- the cart calls nobody back when it has heard of it
            await asyncio.sleep(0.02)
    assert await violated(shop_) == {}

    async with Redis.from_url(shop_.redis) as redis:
        await redis.hset("cart:{filler}:lines", sku, 1)  # as if the order had been taken out twice
    kept = shop_.history.path.read_bytes()
    try:
        assert await filler.see() == {sku: 1}
        found = await violated(shop_)
    finally:
        shop_.history.path.write_bytes(kept)
    assert list(found) == ["I10"]
    assert f"{sku} in the cart of filler" in found["I10"][0]


async def document(shop: Shop, method: str, sku: str, body: object = None) -> dict[str, Any]:
    """Of the index, changed past every version."""
    answer = await ask(
        f"{shop.opensearch}/{shop.index}/_doc/{sku}?refresh=true",
        method=method,
        body=b"" if body is None else json.dumps(body).encode(),
        headers={"Content-Type": "application/json"},
    )
    assert answer.status in {200, 201}, answer.body
    return dict(json.loads(answer.body))


INDEX_BUGS: dict[str, tuple[dict[str, object], str]] = {
    "a price change was lost": ({"version": 0, "cents": 1}, "version, cents, brand, category are (1, "),
    "an older version has overwritten a newer one": ({"version": 0}, "in the catalog, (0, "),
    "a retired product is still found": ({"sku": "never-sold"}, "never-sold is found by the search"),
    "stock was counted twice": ({"available": 10**6}, "1000000 say so in the index"),
    "a product is in another facet": ({"brand": "Nobody"}, "the facet brand counts 1 of 'Nobody', the catalog sells 0"),
    "an event was not heard": ({"listed": False}, "is sold by the catalog, and not found by the search"),
}


@pytest.mark.parametrize("what", INDEX_BUGS)
async def test_an_index_that_is_not_the_catalog_is_told_under_i9(shop_: Shop, what: str) -> None:
    change, evidence = INDEX_BUGS[what]
    await checker.quiet(shop_.books)
    sku = product(3).sku
    target = str(change.get("sku", sku))
    before = (await document(shop_, "GET", sku))["_source"]
    await document(shop_, "PUT", target, {**before, **change})
    try:
        found = await violated(shop_)
    finally:
        if target != sku:
            await document(shop_, "DELETE", target)
        await document(shop_, "PUT", sku, before)
    assert list(found) == ["I9"]
    assert evidence in "; ".join(found["I9"])
    assert await violated(shop_) == {}


@pytest.mark.parametrize(
    ("seconds", "age", "evidence"),
    [(None, 0, "for ever, not 300 s"), (9000, 0, " s, not 300 s"), (200, 3600, "at version 1, which was replaced ")],
)
async def test_a_cache_that_is_older_than_it_may_be_is_told_under_i9(
    shop_: Shop, seconds: int | None, age: int, evidence: str
) -> None:
    sku = product(4).sku
    old = {"sku": sku, "version": 1 if age else 2}
    key = f"catalog:product:1:{sku}"
    ago = f"now() - interval '{age} seconds'"
    await shop_.run("catalog", f"INSERT INTO price VALUES ('{sku}', 2, 5, 'EUR', {ago})")
    async with Redis.from_url(shop_.redis) as redis:
        try:
            await redis.set(key, packed(json.dumps(old).encode(), 0.0), ex=seconds)
            found = await violated(shop_)
        finally:
            await redis.delete(key)
            await shop_.run("catalog", f"DELETE FROM price WHERE sku = '{sku}' AND version = 2")
    assert list(found) == ["I9"]
    assert evidence in found["I9"][0]
    assert await violated(shop_) == {}


async def test_an_order_that_was_given_back_breaks_none(shop_: Shop) -> None:
    buyer = shop_.buyer("returner")
    bought = await buyer.buy({plenty(): 2}, key="back", within=30)
    assert bought.status == "confirmed"
    assert (await buyer.give_back(bought.order, within=30)).status == "returned"
    await checker.quiet(shop_.books)
    assert await violated(shop_) == {}


@dataclass(frozen=True, slots=True)
class Bug:
    """What a defect leaves behind, and how to take it out again; `{order}` was confirmed, `{sku}` was bought."""

    number: str
    service: str
    plant: tuple[str, ...]
    pull: tuple[str, ...]
    evidence: str
    beside: tuple[tuple[str, str, str], ...] = ()
    """What another service makes of it, which has no defect: whose, how it gets there, and how out again."""


SAGA = "checkout-{order}"
FAMILY = (
    "INSERT INTO family (id, user_id, client_id, scopes, ends_at) VALUES ('bug', 'x', 'x', '{{}}', now() + '1 day')"
)
USED = "INSERT INTO refresh_token VALUES ('1', 'bug', 1, now() + '1 day', now(), {})"
FORGET_FAMILY = ("DELETE FROM refresh_token WHERE family_id = 'bug'", "DELETE FROM family WHERE id = 'bug'")


def happens(version: int, type_: str) -> tuple[str, str]:
    """An event that nobody would have recorded, and that it was told."""
    return (
        (
            "INSERT INTO events (stream, version, id, type, schema, data, headers, recorded_at) "
            f"SELECT stream, {version}, 'bug-{version}', '{type_}', 1, data, headers, now() FROM events "
            "WHERE stream = 'order-{order}' AND version = 2"
        ),
        (
            "INSERT INTO outbox (id, type, subject, data, headers, sent_at) "
            f"VALUES ('orders.{type_}.v1/{{order}}/{version}', 'bug', '{{order}}', '{{{{}}}}', '{{{{}}}}', now())"
        ),
    )


NEVER_HAPPENED = (
    "DELETE FROM events WHERE id LIKE 'bug-_'",
    "DELETE FROM outbox WHERE type = 'bug'",
    "UPDATE my_orders.summary SET status = 'confirmed' WHERE id = '{order}'",
)
BUGS = {
    "a counter is changed without a movement": Bug(
        "I1",
        "inventory",
        ("UPDATE stock SET available = available - 1, reserved = reserved + 1 WHERE sku = '{sku}'",),
        ("UPDATE stock SET available = available + 1, reserved = reserved - 1 WHERE sku = '{sku}'",),
        "{sku}: counted received",
    ),
    "stock is looked at and then sold, without a lock between": Bug(
        "I2",
        "inventory",
        (
            "INSERT INTO reservation VALUES ('bug', 'committed', 2, now(), '')",
            "INSERT INTO reservation_line VALUES ('bug', '{sku}', 100000)",
        ),
        ("DELETE FROM reservation_line WHERE order_id = 'bug'", "DELETE FROM reservation WHERE order_id = 'bug'"),
        "{sku}: orders were sold 100007, ",
    ),
    "two lease holders sell the same unit": Bug(
        "I2",
        "inventory",
        (
            "INSERT INTO flash_sale VALUES ('{sku}', 5, 1, 4)",
            "INSERT INTO reservation SELECT 'bug-' || n, 'released', 2, now(), '' FROM generate_series(1, 2) AS n",
            "INSERT INTO flash_sale_unit VALUES ('bug-1', '{sku}', 1, 4), ('bug-2', '{sku}', 1, 4)",
        ),
        (
            "DELETE FROM flash_sale_unit",
            "DELETE FROM flash_sale",
            "DELETE FROM reservation WHERE order_id LIKE 'bug-_'",
        ),
        "unit 1 was sold to 2 orders: bug-1, bug-2",
    ),
    "a transaction has one entry": Bug(
        "I3",
        "payment",
        (
            "INSERT INTO transaction VALUES ('bug', '{order}', 'bug')",
            "INSERT INTO entry VALUES ('bug', 'revenue', -5, 'EUR')",
            (
                "INSERT INTO outbox (id, type, subject, data, headers, sent_at) "
                "VALUES ('bug', 'payment.captured.v1', '{order}', '{{}}', '{{}}', now())"
            ),
        ),
        (
            "DELETE FROM entry WHERE transaction_id = 'bug'",
            "DELETE FROM transaction WHERE id = 'bug'",
            "DELETE FROM outbox WHERE id = 'bug'",
        ),
        "transaction bug sums to -5 cents",
    ),
    "a capture is booked at another amount than was moved": Bug(
        "I3",
        "payment",
        ("UPDATE entry SET cents = cents + sign(cents) WHERE transaction_id = '{order}:capture'",),
        ("UPDATE entry SET cents = cents - sign(cents) WHERE transaction_id = '{order}:capture'",),
        "{order}:capture: the provider's statement has ",
    ),
    "an order is confirmed at another total than was captured": Bug(
        "I4",
        "orders",
        (
            (
                "UPDATE events SET data = jsonb_set(data, '{{total,cents}}', '1') "
                "WHERE stream = 'order-{order}' AND version = 1"
            ),
            "UPDATE my_orders.summary SET cents = 1 WHERE id = '{order}'",
        ),
        (
            (
                "UPDATE events SET data = jsonb_set(data, '{{total,cents}}', '{cents}') "
                "WHERE stream = 'order-{order}' AND version = 1"
            ),
            "UPDATE my_orders.summary SET cents = {cents} WHERE id = '{order}'",
        ),
        "order {order} is confirmed at 1 cents, and what was moved for it is [{cents}]",
    ),
    "goods come back without a movement": Bug(
        "I1",
        "inventory",
        ("UPDATE stock SET returned = returned + 1, available = available + 1 WHERE sku = '{sku}'",),
        ("UPDATE stock SET returned = returned - 1, available = available - 1 WHERE sku = '{sku}'",),
        "{sku}: counted received, returned",
    ),
    "an order is returned, and its goods are not put back": Bug(
        "I2",
        "inventory",
        ("UPDATE reservation SET state = 'returned' WHERE order_id = '{order}'",),
        ("UPDATE reservation SET state = 'committed' WHERE order_id = '{order}'",),
        "order {order} was sold 1 of {sku}, 1 were taken from the stock, 0 put back",
    ),
    "a return is closed before the money is back": Bug(
        "I4",
        "orders",
        (
            *happens(3, "return-requested"),
            *happens(4, "return-closed"),
            "UPDATE my_orders.summary SET status = 'returned' WHERE id = '{order}'",
        ),
        NEVER_HAPPENED,
        "order {order} is returned at {cents} cents, and what was moved for it is [{cents}]",
        beside=(
            (
                "analytics",
                (
                    "INSERT INTO fact_returns SELECT order_id, line, utc_day(now()), sold_at, now(), sku, "
                    "product_version, customer, quantity, cents, currency FROM fact_sales WHERE order_id = '{order}'"
                ),
                "DELETE FROM fact_returns WHERE order_id = '{order}'",
            ),
        ),
    ),
    "a return that nobody goes on with": Bug(
        "I6",
        "orders",
        (
            *happens(3, "return-requested"),
            "UPDATE my_orders.summary SET status = 'returning' WHERE id = '{order}'",
        ),
        NEVER_HAPPENED,
        "the return of order {order} has not come to its end: order-placed, order-confirmed, return-requested",
    ),
    "a return has left orders, and inventory never hears of it": Bug(
        "I8",
        "orders",
        (
            (
                "INSERT INTO outbox (id, type, subject, data, headers, sent_at) VALUES "
                "('orders.return-requested.v1/bug/3', 'orders.return-requested.v1', 'bug', '{{}}', '{{}}', now())"
            ),
        ),
        ("DELETE FROM outbox WHERE subject = 'bug'",),
        "orders.return-requested.v1/bug/3 has left orders, and has had no effect in inventory",
    ),
    "an order comes to a second end": Bug(
        "I5",
        "orders",
        (
            (
                "INSERT INTO events (stream, version, id, type, schema, data, headers, recorded_at) "
                "SELECT stream, 3, 'bug', 'order-confirmed', 1, data, headers, now() FROM events "
                "WHERE stream = 'order-{order}' AND version = 2"
            ),
            (
                "INSERT INTO outbox (id, type, subject, data, headers, sent_at) "
                "VALUES ('orders.order-confirmed.v1/{order}/3', 'bug', '{order}', '{{}}', '{{}}', now())"
            ),
        ),
        ("DELETE FROM events WHERE id = 'bug'", "DELETE FROM outbox WHERE type = 'bug'"),
        "order {order} has come to 2 ends: confirmed, confirmed",
    ),
    "an order that was acknowledged is under another key": Bug(
        "I5",
        "orders",
        ("UPDATE events SET data = data || '{{\"key\": \"other\"}}' WHERE stream = 'order-{order}' AND version = 1",),
        ("UPDATE events SET data = data || '{{\"key\": \"k0\"}}' WHERE stream = 'order-{order}' AND version = 1",),
        "'k0'",
    ),
    "a checkout is stuck": Bug(
        "I6",
        "orders",
        (f"UPDATE sagas SET status = 'stuck', error = 'a bug' WHERE id = '{SAGA}'",),
        (f"UPDATE sagas SET status = 'done', error = '' WHERE id = '{SAGA}'",),
        f"{SAGA} is stuck",
    ),
    "something is held for nobody": Bug(
        "I6",
        "inventory",
        ("INSERT INTO reservation VALUES ('bug', 'reserved', 1, now() + interval '1 hour', '')",),
        ("DELETE FROM reservation WHERE order_id = 'bug'",),
        "order bug holds stock",
    ),
    "the list of orders has missed an event": Bug(
        "I7",
        "orders",
        ("UPDATE my_orders.summary SET status = 'pending' WHERE id = '{order}'",),
        ("UPDATE my_orders.summary SET status = 'confirmed' WHERE id = '{order}'",),
        "order {order} is buyer-0 confirmed {cents} by its events, buyer-0 pending {cents} in the list",
    ),
    "a snapshot is of another order": Bug(
        "I7",
        "orders",
        (
            (
                "INSERT INTO snapshots (stream, schema, version, state) VALUES ('order-{order}', 9, 2, "
                '\'{{"user": "buyer-0", "total": {{"cents": {cents}}}, "status": "pending", "reason": ""}}\')'
            ),
        ),
        ("DELETE FROM snapshots WHERE schema = 9",),
        "the snapshot of order-{order} (schema 9) says",
    ),
    "an event is changed without a word": Bug(
        "I8",
        "orders",
        ("UPDATE outbox SET id = 'bug' WHERE id = 'orders.order-confirmed.v1/{order}/2'",),
        ("UPDATE outbox SET id = 'orders.order-confirmed.v1/{order}/2' WHERE id = 'bug'",),
        "orders.order-confirmed.v1/{order}/2 has happened, and is not in the outbox",
    ),
    "a command is marked as sent and never was": Bug(
        "I8",
        "orders",
        (
            (
                "INSERT INTO commands (id, type, subject, data, headers, sent_at) "
                "VALUES ('payment.refund.v1/bug/1', 'payment.refund.v1', 'bug', '{{}}', '{{}}', now())"
            ),
        ),
        ("DELETE FROM commands WHERE subject = 'bug'",),
        "payment.refund.v1/bug/1 has left orders, and has had no effect in payment",
    ),
    "an account is made without a word": Bug(
        "I8",
        "users",
        ("INSERT INTO account (id, email, password, role) VALUES ('bug', 'bug@shop.example', '', 'customer')",),
        ("DELETE FROM account WHERE id = 'bug'",),
        "users.user-registered.v1 of bug has happened, and is not in the outbox",
    ),
    "a notification is acknowledged before it is written": Bug(
        "I8",
        "notifications",
        (
            "CREATE TABLE bug AS SELECT * FROM notification WHERE event = 'orders.order-confirmed.v1/{order}/2'",
            "DELETE FROM notification WHERE event = 'orders.order-confirmed.v1/{order}/2'",
        ),
        ("INSERT INTO notification SELECT * FROM bug", "DROP TABLE bug"),
        "orders.order-confirmed.v1/{order}/2 is to be told to buyer-0 once, and was told to nobody",
    ),
    "an event that comes twice is told twice": Bug(
        "I8",
        "notifications",
        (
            (
                "INSERT INTO notification SELECT recipient, 900, 'bug', event || '-copy', template, about, title, text "
                "FROM notification WHERE event = 'orders.order-confirmed.v1/{order}/2'"
            ),
            (
                "INSERT INTO outbox (id, type, subject, data, headers, sent_at) VALUES "
                "('bug', 'notifications.sent.v1', 'buyer-0', '{{\"notification\": \"bug\"}}', '{{}}', now())"
            ),
        ),
        ("DELETE FROM notification WHERE id = 'bug'", "DELETE FROM outbox WHERE id = 'bug'"),
        "buyer-0 was told 2 times of the order-confirmed of {order}",
    ),
    "somebody is told of another's order": Bug(
        "I8",
        "notifications",
        (
            (
                "UPDATE notification SET recipient = 'bug', number = 900 "
                "WHERE event = 'orders.order-placed.v1/{order}/1'"
            ),
            "UPDATE outbox SET subject = 'bug' WHERE id = 'notifications.sent.v1/buyer-0/1'",
        ),
        (
            (
                "UPDATE notification SET recipient = 'buyer-0', number = 1 "
                "WHERE event = 'orders.order-placed.v1/{order}/1'"
            ),
            "UPDATE outbox SET subject = 'buyer-0' WHERE id = 'notifications.sent.v1/buyer-0/1'",
        ),
        "orders.order-placed.v1/{order}/1 is to be told to buyer-0 once, and was told to bug",
    ),
    "somebody is told, and nobody else hears of it": Bug(
        "I8",
        "notifications",
        ("UPDATE outbox SET subject = 'bug' WHERE id = 'notifications.sent.v1/buyer-0/1'",),
        ("UPDATE outbox SET subject = 'buyer-0' WHERE id = 'notifications.sent.v1/buyer-0/1'",),
        "that buyer-0 was told of orders.order-placed.v1/{order}/1 is not in the outbox of notifications",
    ),
    "a refund waits for an order that was never placed": Bug(
        "I8",
        "notifications",
        ("INSERT INTO early VALUES ('payment.refunded.v1/bug/3', 'payment.refunded.v1', 'bug', '{{}}', '')",),
        ("DELETE FROM early WHERE order_id = 'bug'",),
        "payment.refunded.v1/bug/3 is kept for whoever has placed bug, and nobody has",
    ),
    "two tabs get a next token each": Bug(
        "I12",
        "users",
        (
            "DROP INDEX one_live_token_of_a_family",
            FAMILY,
            USED.format("NULL"),
            "INSERT INTO refresh_token VALUES ('2', 'bug', 2, now() + '1 day'), ('3', 'bug', 3, now() + '1 day')",
        ),
        (
            *FORGET_FAMILY,
            "CREATE UNIQUE INDEX one_live_token_of_a_family ON refresh_token (family_id) WHERE used_at IS NULL",
        ),
        "family bug has 2 live refresh tokens",
    ),
    "a stolen token is refused, and the thief's next one is good": Bug(
        "I12",
        "users",
        (
            FAMILY,
            USED.format("now()"),
            "INSERT INTO refresh_token VALUES ('2', 'bug', 2, now() + '1 day')",
        ),
        FORGET_FAMILY,
        "family bug: token 1 was shown after its use, and the family is not revoked",
    ),
    "a fact is lost": Bug(
        "I14",
        "analytics",
        (
            "CREATE TABLE bug AS SELECT * FROM fact_sales WHERE order_id = '{order}'",
            "DELETE FROM fact_sales WHERE order_id = '{order}'",
        ),
        ("INSERT INTO fact_sales SELECT * FROM bug", "DROP TABLE bug"),
        "order {order} was confirmed on {day} at {cents} cents, and fact_sales has it never",
    ),
    "a fact is there twice": Bug(
        "I14",
        "analytics",
        (
            (
                "INSERT INTO fact_sales SELECT order_id, 99, day, sold_at, sku, product_version, customer, quantity, "
                "cents, currency FROM fact_sales WHERE order_id = '{order}'"
            ),
        ),
        ("DELETE FROM fact_sales WHERE line = 99",),
        "order {order} was confirmed on {day} at {cents} cents, and fact_sales has it on {day} at {twice} cents",
    ),
    "a fact is on the day on which it came, and not on that on which it happened": Bug(
        "I14",
        "analytics",
        ("UPDATE fact_sales SET day = day + 1 WHERE order_id = '{order}'",),
        ("UPDATE fact_sales SET day = day - 1 WHERE order_id = '{order}'",),
        "{day}: confirmed less returned is ",
    ),
    "what was given back still counts as sold": Bug(
        "I14",
        "analytics",
        ("CREATE TABLE bug AS SELECT * FROM fact_returns", "DELETE FROM fact_returns"),
        ("INSERT INTO fact_returns SELECT * FROM bug", "DROP TABLE bug"),
        "was given back on {day}",
    ),
    "a lease that is over sells": Bug(
        "I11",
        "inventory",
        (
            "INSERT INTO flash_sale VALUES ('{sku}', 5, 2, 4)",
            "INSERT INTO reservation SELECT 'bug-' || n, 'released', 2, now(), '' FROM generate_series(1, 2) AS n",
            "INSERT INTO flash_sale_unit VALUES ('bug-1', '{sku}', 1, 4), ('bug-2', '{sku}', 2, 3)",
        ),
        (
            "DELETE FROM flash_sale_unit",
            "DELETE FROM flash_sale",
            "DELETE FROM reservation WHERE order_id LIKE 'bug-_'",
        ),
        "order bug-2 was sold unit 2 under token 3, after token 4",
    ),
}


@pytest.mark.parametrize("what", BUGS)
async def test_a_planted_bug_is_told_under_its_number(shop_: Shop, what: str) -> None:
    bug = BUGS[what]
    names = await names_of(shop_)
    await shop_.run(bug.service, *(statement.format(**names) for statement in bug.plant))
    for service, there, _ in bug.beside:
        await shop_.run(service, there.format(**names))
    try:
        found = await violated(shop_)
    finally:
        await shop_.run(bug.service, *(statement.format(**names) for statement in bug.pull))
        for service, _, away in bug.beside:
            await shop_.run(service, away.format(**names))

    assert list(found) == [bug.number]
    assert bug.evidence.format(**names) in "; ".join(found[bug.number])
    assert await violated(shop_) == {}


async def names_of(shop: Shop) -> dict[str, str]:
    """Of the order that `buyer-0` has."""
    found = await shop.rows(
        "orders", "SELECT data ->> 'order', data -> 'total' ->> 'cents' FROM events WHERE data ->> 'key' = 'k0'"
    )
    ((order, cents),) = found
    confirmed = f"SELECT recorded_at FROM events WHERE stream = 'order-{order}' AND type = 'order-confirmed'"
    ((at,),) = await shop.rows("orders", confirmed)
    day = at.astimezone(UTC).date().isoformat()
    return {"order": order, "cents": cents, "twice": str(2 * int(cents)), "day": day, "sku": plenty()}
