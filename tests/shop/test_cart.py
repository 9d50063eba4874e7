"""What the cart promises, from outside: prices that the catalog's events keep right, and orders that empty it once."""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from signal import SIGCONT, SIGSTOP
from typing import Any

import pytest
import pytest_asyncio
import redis.asyncio
from tests.shop.conftest import Reply, Shop, opened, say, until

from faultline.shop.contracts import Contract, Money, OrderConfirmed, OrderLine, OrderPlaced, PriceChanged

pytestmark = [
    pytest.mark.once,
    pytest.mark.timeout(240),
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.xdist_group("cart"),  # they share a shop
]
CATALOGS = ("catalog-1", "catalog-2")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shop_(shared_broker: tuple[str, int, int], tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Shop]:
    """The cart and the catalog; what orders would say the tests say."""
    folder = tmp_path_factory.mktemp("shop")
    folder.chmod(0o755)  # PostgreSQL runs as another user
    async with opened(folder, shared_broker, names=("catalog", "cart")) as one:
        yield one


async def product(shop: Shop, sku: str, cents: int = 500, currency: str = "EUR") -> None:
    new = {"sku": sku, "name": f"a {sku}", "category": "x", "price": {"cents": cents, "currency": currency}}
    assert (await shop.ask("catalog-1", "/v1/products", new)).status == 201


async def put(shop: Shop, user: str, sku: str, quantity: object) -> Reply:
    return await shop.ask("cart-1", f"/v1/cart/lines/{sku}", {"quantity": quantity}, method="PUT", X_User=user)


async def cart(shop: Shop, user: str) -> dict[str, Any]:
    reply = await shop.ask("cart-1", "/v1/cart", X_User=user)
    assert reply.status == 200, reply.body
    return dict(reply.body)


async def current(shop: Shop, user: str) -> dict[str, Any]:
    """Their cart, when all is known of it: a machine that is busy may have the catalog left out for a second."""
    found: dict[str, Any] = {}

    async def known() -> bool:
        nonlocal found
        found = await cart(shop, user)
        return not {"unknown", "last-known"} & {line["standing"] for line in found["lines"]}

    await until(known)
    return found


async def held(shop: Shop, user: str) -> dict[str, int]:
    return {line["sku"]: line["quantity"] for line in (await cart(shop, user))["lines"]}


@asynccontextmanager
async def catalog_silent(shop: Shop) -> AsyncIterator[None]:
    pids = [pid for name in CATALOGS if (pid := shop.process(name).pid)]
    for pid in pids:
        os.kill(pid, SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            os.kill(pid, SIGCONT)


@asynccontextmanager
async def memory(shop: Shop) -> AsyncIterator[redis.asyncio.Redis]:
    async with redis.asyncio.Redis(host=shop.redis.host, port=shop.redis.port) as client:
        yield client


def placed(order: str, user: str, *lines: tuple[str, int]) -> tuple[Contract, str, int]:
    wanted = tuple(OrderLine(sku=sku, quantity=quantity, unit=Money(500)) for sku, quantity in lines)
    return OrderPlaced(order=order, user=user, lines=wanted, total=Money(500), key=order), order, 1


def confirmed(order: str, user: str) -> tuple[Contract, str, int]:
    return OrderConfirmed(order=order, user=user), order, 2


async def test_a_cart_shows_what_its_lines_are_called_and_cost(shop_: Shop) -> None:
    await product(shop_, "hat", 500)
    await product(shop_, "scarf", 1250)
    await put(shop_, "ann", "scarf", 1)
    await put(shop_, "ann", "hat", 3)
    body = await current(shop_, "ann")
    assert [(line["sku"], line["name"], line["quantity"], line["sum"]["cents"]) for line in body["lines"]] == [
        ("hat", "a hat", 3, 1500),
        ("scarf", "a scarf", 1, 1250),
    ]
    assert body["total"] == {"cents": 2750, "currency": "EUR"}
    await put(shop_, "ann", "hat", 1)
    assert (await current(shop_, "ann"))["total"]["cents"] == 1750, "put sets, and does not add"
    assert await held(shop_, "bob") == {}
    for path, left in (("/v1/cart/lines/hat", {"scarf": 1}), ("/v1/cart/lines/hat", {"scarf": 1}), ("/v1/cart", {})):
        assert (await shop_.ask("cart-1", path, method="DELETE", X_User="ann")).status == 204
        assert await held(shop_, "ann") == left
    async with memory(shop_) as client:
        assert not await client.exists("cart:{ann}:lines")


async def test_a_cart_lives_for_30_days_after_its_last_change(shop_: Shop) -> None:
    await product(shop_, "old")
    await product(shop_, "older")
    async with memory(shop_) as client:
        for change in (
            lambda: put(shop_, "eva", "old", 2),
            lambda: put(shop_, "eva", "older", 2),
            lambda: shop_.ask("cart-1", "/v1/cart/lines/older", method="DELETE", X_User="eva"),
        ):
            await client.expire("cart:{eva}:lines", 5)
            await change()
            assert await client.ttl("cart:{eva}:lines") > 29 * 24 * 3600


async def test_what_is_no_line_is_refused(shop_: Shop) -> None:
    await product(shop_, "shoe")
    for quantity in (0, -1, 1001, 1.5, "2", True, None):
        assert (await put(shop_, "kim", "shoe", quantity)).status == 422
    unsellable = await put(shop_, "kim", "no-such-thing", 1)
    assert (unsellable.status, unsellable.body["type"]) == (422, "/problems/unsellable")
    assert (await put(shop_, "kim", "No_Sku", 1)).status == 422
    assert (await put(shop_, "x" * 101, "shoe", 1)).status == 422
    assert (await shop_.ask("cart-1", "/v1/cart")).status == 422, "whose?"
    assert await held(shop_, "kim") == {}


async def test_of_twenty_who_put_the_last_line_at_once_as_many_do_as_there_is_room_for(shop_: Shop) -> None:
    skus = [f"one-of-many-{n}" for n in range(20)]
    for sku in skus:
        await product(shop_, sku)
    async with memory(shop_) as client:
        await client.hset("cart:{max}:lines", mapping={f"line-{n}": 1 for n in range(95)})
    replies = await asyncio.gather(*(put(shop_, "max", sku, 1) for sku in skus))
    assert sorted(reply.status for reply in replies) == [200] * 5 + [409] * 15
    there = next(sku for sku, reply in zip(skus, replies, strict=True) if reply.status == 200)
    assert (await put(shop_, "max", there, 7)).status == 200, "a line that is there is no line more"


async def test_a_price_that_changes_is_the_new_one_also_while_the_catalog_is_silent(shop_: Shop) -> None:
    await product(shop_, "tea", 300)
    await put(shop_, "joe", "tea", 2)
    assert (await current(shop_, "joe"))["total"]["cents"] == 600
    await shop_.ask("catalog-2", "/v1/products/tea/price", {"price": {"cents": 400}}, method="PUT")

    async def heard() -> bool:
        return (await cart(shop_, "joe"))["total"] == {"cents": 800, "currency": "EUR"}

    await until(heard)
    old = PriceChanged(sku="tea", old=Money(1), new=Money(300), valid_from=datetime.now(UTC), version=1)
    async with catalog_silent(shop_), memory(shop_) as client:
        await say(shop_, (old, "tea", 1), (old, "after", 1))
        await until(lambda: client.exists("cart:product:tea"))
        assert (await cart(shop_, "joe"))["total"]["cents"] == 800, "an event that was late has brought the old price"


async def test_what_is_retired_is_shown_and_costs_nothing(shop_: Shop) -> None:
    await product(shop_, "gone")
    await product(shop_, "stays", 700)
    await put(shop_, "lea", "gone", 1)
    await put(shop_, "lea", "stays", 1)
    assert (await shop_.ask("catalog-1", "/v1/products/gone", method="DELETE")).status == 204

    async def heard() -> bool:
        body = await cart(shop_, "lea")
        return body["total"] == {"cents": 700, "currency": "EUR"} and body["lines"][0]["standing"] == "unsellable"

    await until(heard)
    assert (await put(shop_, "lea", "gone", 2)).status == 422


async def test_while_the_catalog_is_silent_prices_are_the_last_known_with_their_age(shop_: Shop) -> None:
    await product(shop_, "rice", 150)
    await put(shop_, "tom", "rice", 2)
    await current(shop_, "tom")
    async with memory(shop_) as client:
        (now, _) = await client.time()
        await client.hset("cart:product:rice", "seen", now - 90)
    async with catalog_silent(shop_):
        body = await cart(shop_, "tom")
        (line,) = body["lines"]
        assert (line["standing"], line["unit"]["cents"]) == ("last-known", 150)
        assert 90 <= line["age"] < 120
        assert body["total"]["cents"] == 300
        body = (await put(shop_, "tom", "never-heard-of", 1)).body
        assert [line["standing"] for line in body["lines"]] == ["unknown", "last-known"]
        assert body["total"] is None, "what is unknown costs something"

    lines = (await current(shop_, "tom"))["lines"]
    assert [line["standing"] for line in lines] == ["unsellable", "current"]


async def test_a_confirmed_order_leaves_the_cart_once_and_what_was_added_since_stays(shop_: Shop) -> None:
    await product(shop_, "cup")
    await product(shop_, "bowl")
    await product(shop_, "plate")
    for sku, quantity in (("cup", 2), ("bowl", 1), ("plate", 1)):
        await put(shop_, "zoe", sku, quantity)
    await say(shop_, placed("o-1", "zoe", ("cup", 2), ("bowl", 1), ("never-there", 4)))
    await put(shop_, "zoe", "cup", 5)
    assert await held(shop_, "zoe") == {"cup": 5, "bowl": 1, "plate": 1}, "it is only placed"
    twice = [placed("o-1", "zoe", ("cup", 2), ("bowl", 1)), confirmed("o-1", "zoe")] * 2
    await say(shop_, *twice, placed("o-2", "zoe", ("plate", 1)), confirmed("o-2", "zoe"))

    async def taken() -> bool:
        return "plate" not in await held(shop_, "zoe")

    await until(taken)
    await say(shop_, *twice, placed("o-3", "zoe", ("never-there", 1)), confirmed("o-3", "zoe"))
    async with memory(shop_) as client:
        await until(lambda: client.hexists("cart:{zoe}:order:o-3", "taken"))
    assert await held(shop_, "zoe") == {"cup": 3}


async def test_an_order_that_is_heard_of_backwards_leaves_the_cart_too(shop_: Shop) -> None:
    await product(shop_, "mug")
    await put(shop_, "ida", "mug", 3)
    await say(shop_, confirmed("o-b", "ida"), placed("o-b", "ida", ("mug", 2)))

    async def taken() -> bool:
        return await held(shop_, "ida") == {"mug": 1}

    await until(taken)


async def merge(shop: Shop, guest: str, user: str) -> Reply:
    return await shop.ask("cart-1", "/v1/cart/merges", method="POST", X_User=user, X_Guest_User=guest)


async def test_what_a_guest_had_is_the_accounts_once_however_often_it_is_asked_for(shop_: Shop) -> None:
    for sku in ("fork", "knife", "spoon"):
        await product(shop_, sku)
    for user, sku, quantity in (("guest-1", "fork", 2), ("guest-1", "knife", 900), ("una", "knife", 900)):
        await put(shop_, user, sku, quantity)
    await put(shop_, "una", "spoon", 1)
    replies = await asyncio.gather(*(merge(shop_, "guest-1", "una") for _ in range(8)))
    assert {reply.status for reply in replies} == {200}
    for _ in range(2):
        assert await held(shop_, "una") == {"fork": 2, "knife": 1800, "spoon": 1}, "lost, or twice"
        assert await held(shop_, "guest-1") == {}
        assert (await merge(shop_, "guest-1", "una")).status == 200
    refused = await merge(shop_, "guest-1", "bob")
    assert (refused.status, refused.body["type"]) == (409, "/problems/guest-has-gone")
    late = await put(shop_, "guest-1", "fork", 1)
    assert (late.status, late.body["type"]) == (409, "/problems/guest-has-gone"), "it would be in a cart of nobody"
    assert (await merge(shop_, "guest-never-seen", "una")).status == 200
    assert (await shop_.ask("cart-1", "/v1/cart/merges", method="POST", X_User="una")).status == 422
    assert await held(shop_, "una") == {"fork": 2, "knife": 1800, "spoon": 1}


async def test_a_cart_that_becomes_too_long_by_that_loses_nothing(shop_: Shop) -> None:
    await product(shop_, "one-more")
    async with memory(shop_) as client:
        await client.hset("cart:{long}:lines", mapping={f"line-{n}": 1 for n in range(100)})
        await client.hset("cart:{guest-long}:lines", mapping={f"more-{n}": 1 for n in range(100)})
        assert await client.ttl("cart:{long}:lines") == -1
        assert (await merge(shop_, "guest-long", "long")).status == 200
        assert await client.hlen("cart:{long}:lines") == 200
        assert await client.ttl("cart:{long}:lines") > 29 * 24 * 3600
        assert await client.ttl("cart:{guest-long}:into") > 29 * 24 * 3600
    assert (await put(shop_, "long", "one-more", 1)).status == 409


async def test_whatever_is_put_while_a_guest_logs_in_is_in_the_accounts_cart_or_was_refused(shop_: Shop) -> None:
    await product(shop_, "racing")

    async def fill() -> int:
        """How many of it the guest was last told to have."""
        for quantity in range(1, 1000):
            if (await put(shop_, "guest-2", "racing", quantity)).status == 409:
                return quantity - 1
        raise AssertionError("it was never refused")

    filling = asyncio.create_task(fill())
    await until(lambda: held(shop_, "guest-2"))
    await asyncio.gather(*(merge(shop_, "guest-2", "vic") for _ in range(3)))
    assert await held(shop_, "vic") == {"racing": await filling}


async def test_what_a_guest_has_ordered_leaves_the_cart_in_which_it_is_by_then(shop_: Shop) -> None:
    await product(shop_, "tray")
    await put(shop_, "guest-3", "tray", 3)
    await say(shop_, placed("o-g", "guest-3", ("tray", 2)))
    await put(shop_, "wim", "tray", 4)
    assert (await merge(shop_, "guest-3", "wim")).status == 200
    await say(shop_, *[confirmed("o-g", "guest-3")] * 2)

    async def taken() -> bool:
        return await held(shop_, "wim") == {"tray": 5}

    await until(taken)
    async with memory(shop_) as client:
        assert await client.hexists("cart:{guest-3}:order:o-g", "taken")


async def test_without_redis_there_are_no_carts_and_what_was_said_meanwhile_is_heard_later(shop_: Shop) -> None:
    await product(shop_, "pan")
    await put(shop_, "ben", "pan", 2)
    await shop_.redis.kill()
    try:
        assert (await shop_.ask("cart-1", "/v1/cart", X_User="ben")).status == 503
        assert (await put(shop_, "ben", "pan", 1)).status == 503
        assert (await shop_.ask("cart-1", "/ready")).status == 503
        await say(shop_, placed("o-r", "ben", ("pan", 2)), confirmed("o-r", "ben"))
    finally:
        await shop_.redis.start()

    async def taken() -> bool:
        reply = await shop_.ask("cart-1", "/v1/cart", X_User="ben")
        return reply.status == 200 and reply.body["lines"] == []

    await until(taken)
