"""What the checkout promises: every order ends, paid and sold, or neither, whoever is killed, silent or late."""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from signal import SIGKILL

import pytest
import pytest_asyncio
from tests.shop.conftest import Reply, Shop, opened, until
from tests.shop.test_orders import ended, order, stocked

from faultline.components.faults import BlackHole, Direction, Refuse
from faultline.components.ports import reserved
from faultline.components.proxy import FaultProxy, Match, saying
from faultline.shop.contracts import Capture, CaptureReplied
from faultline.shop.settings import peer_variable, port_variable, rpc_port_variable
from faultline.shop.topology import replicas

pytestmark = [
    pytest.mark.once,
    pytest.mark.timeout(240),
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.xdist_group("checkout"),  # they share a shop
]
ONE, TWO = "orders-1", "orders-2"
SERVICES = ("catalog", "orders", "inventory", "payment", "provider")


@dataclass(frozen=True, slots=True)
class Edges:
    """A shop, and a proxy before each process that orders asks, by its name."""

    shop: Shop
    before: dict[str, FaultProxy]

    def of(self, service: str) -> list[FaultProxy]:
        return [proxy for name, proxy in self.before.items() if name.startswith(service)]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def edges(shared_broker: tuple[str, int, int], tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Edges]:
    folder = tmp_path_factory.mktemp("checkout")
    folder.chmod(0o755)  # PostgreSQL runs as another user
    async with AsyncExitStack() as stack:
        before: dict[str, FaultProxy] = {}
        environment: dict[str, str] = {}
        for replica in replicas(("catalog", "inventory", "payment")):
            port = stack.enter_context(reserved())
            is_asked_by_grpc = replica.rpc_port is not None
            environment[(rpc_port_variable if is_asked_by_grpc else port_variable)(replica)] = str(port)
            proxy = await stack.enter_async_context(FaultProxy("127.0.0.1", port))
            environment[peer_variable("orders", replica)] = f"127.0.0.1:{proxy.port}"
            before[replica.name] = proxy
        yield Edges(
            await stack.enter_async_context(opened(folder, shared_broker, names=SERVICES, **environment)), before
        )


@pytest_asyncio.fixture(autouse=True, loop_scope="module")
async def healed(edges: Edges) -> AsyncIterator[None]:
    """What one test breaks the next one finds mended."""
    yield
    heal(edges)


def heal(edges: Edges) -> None:
    for proxy in edges.before.values():
        proxy.heal()


async def stock(shop: Shop, sku: str) -> tuple[int, int, int]:
    """Reserved, committed, available."""
    body = (await shop.ask("inventory-1", f"/v1/stock/{sku}")).body
    return body["reserved"], body["committed"], body["available"]


async def captured(shop: Shop, id_: str) -> str | None:
    reply = await shop.ask("payment-1", f"/v1/captures/{id_}")
    return reply.body["state"] if reply.status == 200 else None


async def commands(shop: Shop, id_: str) -> list[str]:
    rows = await shop.rows("orders", "SELECT type FROM commands WHERE subject = %s ORDER BY position", id_)
    return [type_ for (type_,) in rows]


async def saga(shop: Shop, id_: str) -> tuple[str, int, int]:
    """Its status, step and attempts."""
    asked = "SELECT status, step, attempts FROM sagas WHERE id = 'checkout-' || %s"
    status, step, attempts = (await shop.rows("orders", asked, id_))[0]
    return status, step, attempts


async def outcome(shop: Shop, id_: str) -> str:
    """What its checkout came to; that is written down after what the order came to."""

    async def over() -> bool:
        return (await saga(shop, id_))[0] in {"done", "undone", "stuck"}

    await until(over)
    return (await saga(shop, id_))[0]


async def test_an_order_of_more_than_there_is_is_cancelled_and_costs_nothing(edges: Edges) -> None:
    shop = edges.shop
    await stocked(shop, "rare", 2)
    await stocked(shop, "common", 10)
    body = await ended(shop, await order(shop, "rare", ("common", 1), ("rare", 3)))
    assert (body["status"], body["reason"]) == ("cancelled", "out-of-stock")
    assert [await stock(shop, "rare"), await stock(shop, "common")] == [(0, 0, 2), (0, 0, 10)]
    assert await commands(shop, body["id"]) == []
    assert await outcome(shop, body["id"]) == "undone"


async def test_an_order_whose_payment_is_declined_is_cancelled_and_holds_nothing(edges: Edges) -> None:
    shop = edges.shop
    await stocked(shop, "dear", 2)
    await shop.ask("provider-1", "/v1/behaviour", {"decline": {"next": 1}}, method="PUT")
    body = await ended(shop, await order(shop, "dear", ("dear", 2)))
    assert (body["status"], body["reason"]) == ("cancelled", "declined")
    assert await stock(shop, "dear") == (0, 0, 2)
    assert await captured(shop, body["id"]) == "declined"


async def unanswered(edges: Edges, name: str) -> tuple[str, Reply]:
    """An order of 2 of 5 that are reserved, of which orders hears nothing until the proxies are healed; and its sku.

    Where the machine is so busy that the call was given up before it was in there, with another one.
    """
    shop = edges.shop
    for n in range(5):
        sku = f"{name}-{n}"
        await stocked(shop, sku, 5)
        hold = shop.before_postgres.hold(saying("INSERT INTO reservation ("))
        placed = await order(shop, sku, (sku, 2))
        await hold.reached(20)
        for proxy in edges.of("inventory"):
            proxy.add(BlackHole(), Direction.TO_CLIENT)
        hold.release()

        async def unknown(sku: str = sku, id_: str = placed.body["id"]) -> bool:
            return await stock(shop, sku) == (2, 0, 3) and (await saga(shop, id_))[1:] >= (1, 1)

        with suppress(TimeoutError):
            async with asyncio.timeout(5):
                await until(unknown)
            return sku, placed
        heal(edges)
    raise AssertionError("no order was reserved and left without an answer")


async def test_a_reservation_whose_answer_is_lost_is_found_by_asking(edges: Edges) -> None:
    shop = edges.shop
    sku, placed = await unanswered(edges, "lost")
    heal(edges)
    assert (await ended(shop, placed))["status"] == "confirmed"
    assert await stock(shop, sku) == (0, 2, 3)
    moved = "SELECT kind, count(*)::int FROM movement WHERE reference = %s GROUP BY kind ORDER BY kind"
    assert await shop.rows("inventory", moved, placed.body["id"]) == [("committed", 1), ("reserved", 1)]


async def test_prices_come_from_the_other_catalog_or_there_is_no_order(edges: Edges) -> None:
    shop = edges.shop
    await stocked(shop, "priced")
    one, two = edges.of("catalog")
    one.add(Refuse())
    await one.sever()
    for n in range(4):
        assert (await order(shop, f"priced-{n}", ("priced", 1))).status == 202
    two.add(BlackHole())
    body = {"lines": [{"sku": "priced", "quantity": 1}]}
    reply = await shop.ask(ONE, "/v1/orders", body, X_User="ann", Idempotency_Key="priced-4")
    assert (reply.status, reply.body["type"]) == (503, "/problems/unavailable")
    heal(edges)
    assert (await order(shop, "priced-4", ("priced", 1))).status == 202


async def test_a_checkout_that_is_late_turns_back_and_nothing_comes_after_it(edges: Edges) -> None:
    """Inventory was silent for too long: whether it holds anything is unknown, and nothing is paid."""
    shop = edges.shop
    sku, placed = await unanswered(edges, "slow")
    id_ = placed.body["id"]
    await shop.rows("orders", "UPDATE sagas SET late_at = now() WHERE id = 'checkout-' || %s RETURNING id", id_)
    heal(edges)
    body = await ended(shop, placed)
    assert (body["status"], body["reason"]) == ("cancelled", "too-late")
    assert await stock(shop, sku) == (0, 0, 5)
    assert await commands(shop, id_) == []


async def test_a_checkout_that_nobody_began_in_time_is_cancelled(edges: Edges) -> None:
    """As when all processes of orders were down for too long."""
    shop = edges.shop
    await stocked(shop, "down", 1)
    hold = shop.before_postgres.hold(saying("UPDATE sagas SET fence"), n=2)  # neither process finds anything to do
    await hold.reached(20)
    placed = await order(shop, "down", ("down", 1))
    await shop.rows("orders", "UPDATE sagas SET late_at = now() WHERE status = 'running' RETURNING id")
    hold.release()
    body = await ended(shop, placed)
    assert (body["status"], body["reason"]) == ("cancelled", "too-late")
    assert await stock(shop, "down") == (0, 0, 1)


async def test_a_checkout_that_is_stuck_is_seen_and_goes_on_when_it_is_told_to(edges: Edges) -> None:
    shop = edges.shop
    await stocked(shop, "stuck", 1)
    for proxy in edges.of("payment"):
        proxy.add(BlackHole())
    id_ = (placed := await order(shop, "stuck", ("stuck", 1))).body["id"]
    stuck = (
        "UPDATE sagas SET status = 'stuck', fence = fence + 1 WHERE id = 'checkout-' || %s AND step = 2 RETURNING id"
    )

    async def is_stuck() -> bool:  # as if a participant had refused what it must not
        return bool(await shop.rows("orders", stuck, id_))

    await until(is_stuck)
    heal(edges)
    seen = (await shop.ask(ONE, f"/v1/checkouts/{id_}")).body
    assert (seen["status"], seen["direction"], seen["step"]) == ("stuck", "forward", 2)
    assert (await shop.ask(TWO, "/v1/checkouts")).body["stuck"] == 1
    assert (await shop.ask(TWO, f"/v1/checkouts/{id_}/resumptions", method="POST")).status == 204
    assert (await ended(shop, placed))["status"] == "confirmed"
    assert (await shop.ask(ONE, f"/v1/checkouts/{id_}/resumptions", method="POST")).status == 409
    assert (await shop.ask(ONE, "/v1/checkouts/nobody")).status == 404


@asynccontextmanager
async def unbound(shop: Shop, queue: str, word: str) -> AsyncIterator[None]:
    """While it lasts, this queue is not there for whoever says this."""
    async with shop.broker.connected() as connection:
        found = await (await connection.channel()).get_queue(queue)
        await found.unbind("shop.commands", word)
        try:
            yield
        finally:
            await found.bind("shop.commands", word)


async def test_a_command_waits_until_payment_has_a_queue_for_it(edges: Edges) -> None:
    shop = edges.shop
    await stocked(shop, "early", 1)
    async with unbound(shop, "payment.commands", Capture.type):
        placed = await order(shop, "early", ("early", 1))

        async def returned() -> bool:
            return any(
                placed.body["id"] in str(line) and "commands" in str(line) for line in shop.log(ONE) + shop.log(TWO)
            )

        await until(returned)
    assert (await ended(shop, placed))["status"] == "confirmed"


async def test_an_order_whose_reply_is_late_is_confirmed_by_asking(edges: Edges) -> None:
    shop = edges.shop
    await stocked(shop, "mute", 1)
    async with unbound(shop, "orders.replies", CaptureReplied.type):
        assert (await ended(shop, await order(shop, "mute", ("mute", 1))))["status"] == "confirmed"


async def paid_and_not_held(edges: Edges, sku: str) -> Reply:
    """An order that is paid, and whose reservation has expired before orders learns of the money."""
    shop = edges.shop
    await stocked(shop, sku, 1)
    for proxy in edges.of("payment"):
        proxy.add(BlackHole())
    placed = await order(shop, sku, (sku, 1))
    id_ = placed.body["id"]

    async def paid() -> bool:
        return await captured(shop, id_) == "captured"

    await until(paid)
    over = "UPDATE reservation SET expires_at = now() WHERE order_id = %s RETURNING order_id"
    await shop.rows("inventory", over, id_)

    async def free() -> bool:
        return await stock(shop, sku) == (0, 0, 1)

    await until(free)
    return placed


async def test_what_expired_before_it_was_paid_is_not_sold_and_the_money_goes_back(edges: Edges) -> None:
    shop = edges.shop
    placed = await paid_and_not_held(edges, "gone")
    id_ = placed.body["id"]
    heal(edges)
    body = await ended(shop, placed)
    assert (body["status"], body["reason"]) == ("cancelled", "not-held")
    assert await captured(shop, id_) == "refunded"
    assert await stock(shop, "gone") == (0, 0, 1)
    assert await outcome(shop, id_) == "done"


async def test_money_that_will_not_go_back_is_for_a_person_and_says_why(edges: Edges) -> None:
    shop = edges.shop
    placed = await paid_and_not_held(edges, "kept")
    decline = {"decline-refund": {"next": 1}}
    assert (await shop.ask("provider-1", "/v1/behaviour", decline, method="PUT")).status == 200
    heal(edges)
    assert await outcome(shop, placed.body["id"]) == "stuck"
    told = (await shop.ask(ONE, f"/v1/checkouts/{placed.body['id']}")).body
    assert "the money will not go back" in told["error"]
    assert (await shop.ask(ONE, f"/v1/orders/{placed.body['id']}", X_User="ann")).body["status"] == "pending"


SAVE = saying("UPDATE sagas SET status")
EDGES: dict[str, tuple[Match, int, bool]] = {
    "before it is placed": (saying("INSERT INTO", "outbox"), 0, False),
    "placed, and not answered": (saying("FROM snapshots"), 1, False),
    "reserved, and not written down": (SAVE, 1, False),
    "told to capture, and not written down": (saying("INSERT INTO", "commands"), 0, True),
    "sold, and not written down": (saying("UPDATE stock", "committed = committed +"), 0, True),
    "confirmed, and not written down": (saying("INSERT INTO events"), 1, True),
}
"""Which request to PostgreSQL all wait at, after how many others; and whether at the checkout's next note instead."""


@pytest.mark.parametrize("edge", EDGES)
async def test_who_is_killed_between_two_steps_others_go_on_for(edges: Edges, edge: str) -> None:
    shop, proxy, sku = edges.shop, edges.shop.before_postgres, f"kill-{list(EDGES).index(edge)}"
    await stocked(shop, sku, 5)
    match, skip, at_next_note = EDGES[edge]
    hold = proxy.hold(match, skip=skip)
    asked = asyncio.create_task(order(shop, sku, (sku, 2)))
    await hold.reached(20)
    if at_next_note:
        note = proxy.hold(SAVE)
        hold.release()
        hold = note
        await hold.reached(20)
    pids = [shop.process(name).pid for name in (ONE, TWO)]
    for pid in pids:
        assert pid
        os.kill(pid, SIGKILL)
    await asyncio.gather(asked, return_exceptions=True)
    hold.release()
    for name, pid in zip((ONE, TWO), pids, strict=True):
        assert pid
        await shop.again(name, after=pid)
    await shop.rows("orders", "UPDATE sagas SET due_at = now() RETURNING id")  # the lease of the dead is over
    body = await ended(shop, await order(shop, sku, (sku, 2)))
    assert body["status"] == "confirmed"
    assert await stock(shop, sku) == (0, 2, 3)
    assert await commands(shop, body["id"]) == ["payment.capture.v1"]
    events = "SELECT version, type FROM events WHERE stream = 'order-' || %s ORDER BY version"
    assert await shop.rows("orders", events, body["id"]) == [(1, "order-placed"), (2, "order-confirmed")]
    assert await outcome(shop, body["id"]) == "done"
