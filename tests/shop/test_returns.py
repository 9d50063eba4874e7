"""A return: nobody leads it, and goods and money come back once, whoever is heard first, twice, late, or was killed."""

import asyncio
import os
from signal import SIGKILL, SIGSTOP

import pytest
from tests.shop.conftest import Reply, Shop, until
from tests.shop.test_orders import ended, order, stocked

pytestmark = [
    pytest.mark.once,
    pytest.mark.timeout(240),
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.xdist_group("returns"),  # they share a shop
]
LEVELS = "SELECT received, returned, reserved, committed, available FROM stock WHERE sku = %s"
MOVED = "SELECT key, cents FROM statement_line WHERE key LIKE %s ORDER BY position"
TOLD = "SELECT type FROM outbox WHERE subject = %s ORDER BY position"


async def bought(shop: Shop, sku: str, key: str, *, quantity: int = 2) -> str:
    """The id of a confirmed order."""
    await stocked(shop, sku, 10, cents=500)
    placed = await order(shop, key, (sku, quantity))
    assert (await ended(shop, placed))["status"] == "confirmed"
    return str(placed.body["id"])


async def give_back(shop: Shop, id_: str, *, at: str = "orders-1", user: str = "ann") -> Reply:
    return await shop.ask(at, f"/v1/orders/{id_}/return", method="PUT", X_User=user)


async def is_returned(shop: Shop, id_: str) -> None:
    async def returned() -> bool:
        return (await shop.ask("orders-2", f"/v1/orders/{id_}", X_User="ann")).body.get("status") == "returned"

    await until(returned)


async def test_goods_and_money_come_back_and_then_the_order_is_returned(shop_: Shop) -> None:
    id_ = await bought(shop_, "hat", "r1")
    asked = await give_back(shop_, id_)
    assert (asked.status, asked.body["status"], asked.headers["location"]) == (202, "returning", f"/v1/orders/{id_}")
    assert (await ended(shop_, asked))["status"] == "returned"

    assert await shop_.rows("inventory", LEVELS, "hat") == [(10, 2, 0, 2, 10)]
    assert await shop_.rows("provider", MOVED, f"{id_}:%") == [(f"{id_}:capture", 1000), (f"{id_}:refund", -1000)]
    told = [type_ for (type_,) in await shop_.rows("orders", TOLD, id_)]
    assert told == [f"orders.{what}.v1" for what in ("order-placed", "order-confirmed")] + [
        "orders.return-requested.v1",
        "orders.return-closed.v1",
    ]
    history = (await shop_.ask("orders-1", f"/v1/orders/{id_}/history", X_User="ann")).body["events"]
    types = [one["type"] for one in history]
    assert sorted(types[3:5]) == ["goods-returned", "money-returned"], types

    async def listed() -> bool:
        page = await shop_.ask("orders-1", "/v1/orders", X_User="ann")
        return any((one["id"], one["status"]) == (id_, "returned") for one in page.body["items"])

    await until(listed)


async def test_asking_twice_at_once_and_afterwards_is_asking_once(shop_: Shop) -> None:
    id_ = await bought(shop_, "cap", "r2")
    asked = await asyncio.gather(*(give_back(shop_, id_, at=f"orders-{n % 2 + 1}") for n in range(10)))
    assert {one.status for one in asked} == {202}
    await is_returned(shop_, id_)
    again = await give_back(shop_, id_)
    assert (again.status, again.body["status"]) == (202, "returned")
    assert await shop_.rows("inventory", LEVELS, "cap") == [(10, 2, 0, 2, 10)]
    assert len(await shop_.rows("provider", MOVED, f"{id_}:%")) == 2


async def test_what_came_back_can_be_sold_again(shop_: Shop) -> None:
    id_ = await bought(shop_, "one-off", "r3", quantity=10)
    assert (await ended(shop_, await order(shop_, "r3b", ("one-off", 1))))["reason"] == "out-of-stock"
    await give_back(shop_, id_)
    await is_returned(shop_, id_)
    assert (await ended(shop_, await order(shop_, "r3c", ("one-off", 10))))["status"] == "confirmed"


async def test_only_what_was_sold_comes_back_and_only_from_who_has_it(shop_: Shop) -> None:
    id_ = await bought(shop_, "shoe", "r4")
    assert (await give_back(shop_, id_, user="eve")).status == 404
    refused = await order(shop_, "r4b", ("shoe", 9_000))
    assert (await ended(shop_, refused))["status"] == "cancelled"
    told = await give_back(shop_, refused.body["id"])
    assert (told.status, told.body["type"]) == (409, "/problems/not-returnable")
    assert "cancelled" in told.body["detail"]


@pytest.mark.parametrize("who", ["inventory-1", "payment-1", "orders-1"])
async def test_whoever_is_killed_in_a_return_it_comes_to_its_end_and_happens_once(shop_: Shop, who: str) -> None:
    """It is stopped before the return is asked for, and killed while what it has to do waits for it."""
    sku = f"mug-{who}"
    id_ = await bought(shop_, sku, f"r5-{who}")
    victim = shop_.process(who)
    assert victim.pid
    os.kill(victim.pid, SIGSTOP)
    asked = await give_back(shop_, id_, at="orders-2")
    assert asked.status == 202
    os.kill(victim.pid, SIGKILL)
    await shop_.again(who, after=victim.pid)

    await is_returned(shop_, id_)
    assert await shop_.rows("inventory", LEVELS, sku) == [(10, 2, 0, 2, 10)]
    assert len(await shop_.rows("provider", MOVED, f"{id_}:%")) == 2


async def test_a_refund_that_the_provider_refuses_is_shown_and_the_goods_are_back_all_the_same(shop_: Shop) -> None:
    id_ = await bought(shop_, "vase", "r6")
    misbehave = {"decline-refund": {"next": 1}}
    assert (await shop_.ask("provider-1", "/v1/behaviour", misbehave, method="PUT")).status == 200
    await give_back(shop_, id_)

    async def is_stuck() -> bool:
        one = (await shop_.ask("orders-1", f"/v1/orders/{id_}", X_User="ann")).body
        back = await shop_.rows("inventory", LEVELS, "vase") == [(10, 2, 0, 2, 10)]
        return bool(back and one["status"] == "returning" and one["reason"].startswith("the money will not go back"))

    await until(is_stuck)
