"""What inventory promises whoever calls it over gRPC, from two replicas and sometimes a third."""

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from random import random
from signal import SIGKILL, SIGTERM
from typing import TYPE_CHECKING, Any, TypeAlias

import grpc
import psycopg
import pytest
from tests.shop.conftest import DEADLINE, Shop, opened, until

from faultline.components.http import ask
from faultline.components.ports import reserved
from faultline.components.proxy.command import named as command
from faultline.components.proxy.command import saying
from faultline.shop import statuses
from faultline.shop.contracts import inventory_pb2 as pb
from faultline.shop.contracts.inventory_pb2_grpc import InventoryStub
from faultline.shop.database import dsn

if TYPE_CHECKING:  # protoc's stubs know one class more than its code has
    from faultline.shop.contracts.inventory_pb2_grpc import InventoryAsyncStub

Inventory: TypeAlias = "InventoryAsyncStub"
pytestmark = [
    pytest.mark.once,
    pytest.mark.timeout(240),
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.xdist_group("inventory"),  # they share a shop
]
NAMES = ("catalog", "inventory")
ONE, TWO = "inventory-1", "inventory-2"
HELD = 600.0
LEVELS = """
SELECT ARRAY[received, reserved, committed, available], (
    SELECT json_object_agg(kind, n)
    FROM (SELECT kind, sum(quantity)::int AS n FROM movement WHERE sku = %s GROUP BY kind) AS sums
)
FROM stock WHERE sku = %s
"""
WAITING = "SELECT pid FROM pg_stat_activity WHERE datname = 'inventory' AND wait_event_type = 'Lock'"


@asynccontextmanager
async def inventory(port: int | None) -> AsyncIterator[Inventory]:
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield InventoryStub(channel)


@asynccontextmanager
async def at(shop: Shop, name: str = ONE) -> AsyncIterator[Inventory]:
    async with inventory(shop.process(name).rpc_port) as stub:
        yield stub


def wanted(order: str, *lines: tuple[str, int], seconds: float = HELD) -> pb.ReserveRequest:
    asked = [pb.Line(sku=sku, quantity=quantity) for sku, quantity in lines]
    return pb.ReserveRequest(order_id=order, lines=asked, seconds=seconds)


def named(order: str) -> pb.OrderRequest:
    return pb.OrderRequest(order_id=order)


async def receive(shop: Shop, sku: str, quantity: int) -> None:
    path = f"/v1/stock/{sku}/receipts/first"
    assert (await shop.ask(ONE, path, {"quantity": quantity}, method="PUT")).status == 200


async def levels(shop: Shop, sku: str) -> tuple[int, int, int, int]:
    """Received, reserved, committed, available; each as the movements say, too."""
    counters, moved = (await shop.rows("inventory", LEVELS, sku, sku))[0]
    received, committed = moved.get("received", 0), moved.get("committed", 0)
    held = moved.get("reserved", 0) - committed - moved.get("released", 0) - moved.get("expired", 0)
    found: tuple[int, int, int, int] = tuple(counters)
    assert found == (received, held, committed, received - held - committed), "counters and movements disagree"
    return found


async def code(call: "grpc.aio.UnaryUnaryCall[Any, Any]") -> grpc.StatusCode:
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await call
    return raised.value.code()


@asynccontextmanager
async def given_up(shop: Shop, stub: Inventory, sku: str, order: str) -> AsyncIterator[None]:
    """Somebody has the stock locked while the block runs, and who wanted one of it has waited, and gone."""
    async with await psycopg.AsyncConnection.connect(dsn(shop.postgres.url, "inventory")) as other:
        await other.execute("SELECT FROM stock WHERE sku = %s FOR UPDATE", [sku])
        call = stub.Reserve(wanted(order, (sku, 1)), timeout=0.3)
        await until(lambda: shop.rows("inventory", WAITING))
        assert await code(call) is grpc.StatusCode.DEADLINE_EXCEEDED
        yield


async def nobody_waits(shop: Shop) -> bool:
    return not await shop.rows("inventory", WAITING)


async def levels_are(shop: Shop, sku: str, expected: tuple[int, int, int, int]) -> bool:
    return await levels(shop, sku) == expected


async def test_a_receipt_counts_once(shop_: Shop) -> None:
    replies = await asyncio.gather(
        *(shop_.ask(name, "/v1/stock/pen/receipts/tuesday", {"quantity": 5}, method="PUT") for name in (ONE, TWO) * 5)
    )
    assert {reply.status for reply in replies} == {200}
    assert await levels(shop_, "pen") == (5, 0, 0, 5)
    seen = (await shop_.ask(TWO, "/v1/stock/pen")).body
    assert seen == {"sku": "pen", "received": 5, "returned": 0, "reserved": 0, "committed": 0, "available": 5}
    assert (await shop_.ask(ONE, "/v1/stock/nothing")).status == 404


async def test_an_order_holds_all_that_it_wants_or_nothing(shop_: Shop) -> None:
    await receive(shop_, "cup", 3)
    await receive(shop_, "saucer", 2)
    async with at(shop_) as stub:
        short = await stub.Reserve(wanted("tea-for-three", ("cup", 3), ("saucer", 3)))
        assert (short.state, short.short_of) == (pb.STATE_REJECTED, "saucer")
        assert await levels(shop_, "cup") == (3, 0, 0, 3)
        held = await stub.Reserve(wanted("tea-for-two", ("saucer", 1), ("cup", 2), ("saucer", 1)))
        assert [(line.sku, line.quantity) for line in held.lines] == [("cup", 2), ("saucer", 2)]
        assert await levels(shop_, "saucer") == (2, 2, 0, 0)
        unknown = await stub.Reserve(wanted("nowhere", ("unicorn", 1)))
        assert unknown.short_of == "unicorn"


async def test_every_call_may_be_repeated_at_any_replica(shop_: Shop) -> None:
    await receive(shop_, "pot", 10)
    async with at(shop_, ONE) as one, at(shop_, TWO) as two:
        replies = await asyncio.gather(*(stub.Reserve(wanted("same", ("pot", 2))) for stub in (one, two) * 10))
        assert all(reply == replies[0] for reply in replies)
        assert await levels(shop_, "pot") == (10, 2, 0, 8)
        assert await code(two.Reserve(wanted("same", ("pot", 3)))) is grpc.StatusCode.ALREADY_EXISTS
        sold = await asyncio.gather(*(stub.Commit(named("same")) for stub in (one, two) * 10))
        assert {reply.state for reply in sold} == {pb.STATE_COMMITTED}
        assert await levels(shop_, "pot") == (10, 0, 2, 8)
        assert (await two.Reserve(wanted("same", ("pot", 2)))).state == pb.STATE_COMMITTED
        assert (await one.GetReservation(named("same"))).state == pb.STATE_COMMITTED
        said = await shop_.rows("inventory", "SELECT id FROM outbox WHERE subject = 'same' ORDER BY position")
        assert said == [("inventory.stock-reserved.v1/same/1",), ("inventory.reservation-committed.v1/same/2",)]


async def test_what_a_caller_has_given_up_is_done_all_the_same(shop_: Shop) -> None:
    """Cut in the middle of a statement it would cost a connection, for as long as a slow server takes to cancel it."""
    await receive(shop_, "lid", 3)
    async with at(shop_) as stub, given_up(shop_, stub, "lid", "went"):
        pass
    await until(lambda: levels_are(shop_, "lid", (3, 1, 0, 2)))


async def test_what_nobody_waits_for_ends_after_a_while(shop_: Shop) -> None:
    await receive(shop_, "rim", 3)
    async with at(shop_) as stub, given_up(shop_, stub, "rim", "stayed"):
        await until(lambda: nobody_waits(shop_))
        assert await code(stub.GetReservation(named("stayed"))) is grpc.StatusCode.NOT_FOUND
    assert await levels(shop_, "rim") == (3, 0, 0, 3)


async def test_what_contradicts_what_has_happened_is_refused(shop_: Shop) -> None:
    await receive(shop_, "jar", 5)
    async with at(shop_) as stub:
        for order in ("sold", "freed"):
            await stub.Reserve(wanted(order, ("jar", 1)))
        await stub.Commit(named("sold"))
        await stub.Release(named("freed"))
        await stub.Release(named("freed"))
        assert await code(stub.Release(named("sold"))) is grpc.StatusCode.FAILED_PRECONDITION
        assert await code(stub.Commit(named("freed"))) is grpc.StatusCode.FAILED_PRECONDITION
        assert await levels(shop_, "jar") == (5, 0, 1, 4)
        assert await code(stub.Commit(named("never"))) is grpc.StatusCode.NOT_FOUND
        assert await code(stub.GetReservation(named("never"))) is grpc.StatusCode.NOT_FOUND


async def test_an_order_that_has_asked_for_something_else_buys_nothing_in_a_flash_sale(shop_: Shop) -> None:
    for sku in ("lamp", "bulb"):
        await receive(shop_, sku, 3)
        assert (await shop_.ask(ONE, f"/v1/flash-sales/{sku}", {"units": 2}, method="PUT")).status == 200
    async with at(shop_) as stub:
        await stub.Reserve(wanted("plain", ("bulb", 1)))
        assert await code(stub.Buy(buying("plain", "lamp"))) is grpc.StatusCode.ALREADY_EXISTS
        await stub.Buy(buying("flash", "bulb"))
        assert await code(stub.Buy(buying("flash", "lamp"))) is grpc.StatusCode.ALREADY_EXISTS
    assert (await shop_.ask(ONE, "/v1/flash-sales/lamp")).body["sold"] == 0


async def test_what_postgresql_cannot_say_is_refused(shop_: Shop) -> None:
    async with at(shop_) as stub:
        assert await code(stub.GetReservation(named("a\0b"))) is grpc.StatusCode.INVALID_ARGUMENT
    assert (await shop_.ask(ONE, "/v1/stock/a%00b")).status == 422


async def test_an_order_that_was_given_up_holds_nothing_when_its_request_comes_at_last(shop_: Shop) -> None:
    await receive(shop_, "late", 5)
    async with at(shop_, ONE) as one, at(shop_, TWO) as two:
        assert (await two.Release(named("given-up"))).state == pb.STATE_RELEASED
        assert (await one.Reserve(wanted("given-up", ("late", 5)))).state == pb.STATE_RELEASED
    assert await levels(shop_, "late") == (5, 0, 0, 5)


@pytest.mark.parametrize(
    "request_",
    [
        wanted("", ("cup", 1)),
        wanted("nonsense"),
        wanted("nonsense", ("cup", 0)),
        wanted("nonsense", ("cup", -1)),
        wanted("nonsense", ("", 1)),
        wanted("nonsense", ("cup", 1), seconds=0),
        wanted("nonsense", ("cup", 1), seconds=1e9),
        wanted("nonsense", ("cup", 1), seconds=float("nan")),
        wanted("nonsense", ("cup", 10**18)),
    ],
)
async def test_nonsense_is_refused_and_leaves_no_trace(shop_: Shop, request_: pb.ReserveRequest) -> None:
    async with at(shop_) as stub:
        assert await code(stub.Reserve(request_)) is grpc.StatusCode.INVALID_ARGUMENT
        assert await code(stub.GetReservation(named("nonsense"))) is grpc.StatusCode.NOT_FOUND


async def test_what_is_held_too_long_is_free_again(shop_: Shop) -> None:
    await receive(shop_, "milk", 1)
    async with at(shop_) as stub:
        assert (await stub.Reserve(wanted("slow", ("milk", 1), seconds=0.2))).state == pb.STATE_RESERVED
        assert (await stub.Reserve(wanted("other", ("milk", 1)))).state == pb.STATE_REJECTED

        async def free() -> bool:
            return await levels(shop_, "milk") == (1, 0, 0, 1)

        await until(free)
        assert await code(stub.Commit(named("slow"))) is grpc.StatusCode.FAILED_PRECONDITION
        assert (await stub.GetReservation(named("slow"))).state == pb.STATE_EXPIRED
    moved = await shop_.rows("inventory", "SELECT count(*) FROM movement WHERE reference = 'slow' AND kind = 'expired'")
    assert moved == [(1,)], "both replicas have freed it"


async def test_two_who_want_the_same_products_in_another_order_do_not_lock_each_other_out(shop_: Shop) -> None:
    skus = [f"crossed-{n}" for n in range(6)]
    for sku in skus:
        await receive(shop_, sku, 1000)
    async with at(shop_, ONE) as one, at(shop_, TWO) as two:

        async def take(stub: Inventory, order: str, skus: list[str]) -> int:
            request = wanted(order, *((sku, 1) for sku in skus))
            return (await persistent(lambda: stub.Reserve(request))).state

        states = await asyncio.gather(
            *(take(one, f"ahead-{n}", skus) for n in range(40)),
            *(take(two, f"back-{n}", skus[::-1]) for n in range(40)),
        )
    assert set(states) == {pb.STATE_RESERVED}
    assert await levels(shop_, "crossed-3") == (1000, 80, 0, 920)


@asynccontextmanager
async def third(shop: Shop) -> AsyncIterator[tuple["subprocess.Popen[bytes]", int]]:
    """One more process, run alone and by hand."""
    with reserved() as port, reserved() as rpc_port:
        environment = {
            **os.environ,
            "SHOP_REPLICA": "3",
            "SHOP_INVENTORY_3_PORT": str(port),
            "SHOP_INVENTORY_3_RPC_PORT": str(rpc_port),
            "SHOP_POSTGRES_URL": f"postgresql://postgres@127.0.0.1:{shop.before_postgres.port}/postgres",
            "SHOP_REDIS_URL": f"redis://127.0.0.1:{shop.before_redis.port}",
            "SHOP_RABBITMQ_URL": shop.broker.url,
        }
        command = [sys.executable, "-m", "faultline.shop", "inventory"]
        with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL) as process:  # noqa: ASYNC220
            try:

                async def ready() -> bool:
                    assert process.poll() is None
                    try:
                        return (await ask(f"http://127.0.0.1:{port}/ready")).status == 200
                    except OSError:
                        return False

                await until(ready)
                yield process, rpc_port
            finally:
                process.kill()


async def persistent(call: "Callable[[], grpc.aio.UnaryUnaryCall[Any, pb.Reservation]]") -> pb.Reservation:
    """As the edge to inventory has it: a till that is too busy is asked again, by the same key, when it has said."""
    async with asyncio.timeout(3 * DEADLINE):  # 500 at once are much for a machine that has other work, too
        while True:
            try:
                return await call()
            except grpc.aio.AioRpcError as error:
                if error.code() is not grpc.StatusCode.UNAVAILABLE:
                    raise
                await asyncio.sleep(random() * (statuses.problem(error).retry_after or 0.1))


async def test_of_500_buyers_at_three_processes_50_get_one_of_50(shop_: Shop) -> None:
    await receive(shop_, "sneaker", 50)
    async with (
        third(shop_) as (process, port),
        at(shop_, ONE) as one,
        at(shop_, TWO) as two,
        inventory(port) as three,
    ):
        tills: Sequence[Inventory] = (one, two, three)

        async def buy(buyer: str, n: int) -> bool:
            request = wanted(f"{buyer}-{n}", ("sneaker", 1))
            return (await persistent(lambda: tills[n % 3].Reserve(request))).state == pb.STATE_RESERVED

        got = await asyncio.gather(*(buy("buyer", n) for n in range(500)))
        held = [n for n, one in enumerate(got) if one]
        assert len(held) == 50
        assert {n % 3 for n in held} == {0, 1, 2}, "one process has sold nothing: nothing is shown"
        assert await levels(shop_, "sneaker") == (50, 50, 0, 0)
        # Half of them pay, the others go: what those held 25 others get.
        ends = [tills[n % 3].Commit(named(f"buyer-{n}")) for n in held[:25]]
        ends += [tills[n % 3].Release(named(f"buyer-{n}")) for n in held[25:]]
        await asyncio.gather(*ends)
        assert sum(await asyncio.gather(*(buy("second", n) for n in range(100)))) == 25
        assert await levels(shop_, "sneaker") == (50, 25, 25, 0)
        process.send_signal(SIGTERM)
        assert await asyncio.to_thread(process.wait, 20) == 0


def buying(order: str, sku: str) -> pb.BuyRequest:
    return pb.BuyRequest(order_id=order, sku=sku, seconds=HELD)


async def begin(shop: Shop, sku: str, units: int) -> None:
    """A flash sale of all but one that are in stock."""
    await receive(shop, sku, units + 1)
    assert (await shop.ask(ONE, f"/v1/flash-sales/{sku}", {"units": units + 2}, method="PUT")).status == 409
    for _ in range(2):
        reply = await shop.ask(TWO, f"/v1/flash-sales/{sku}", {"units": units}, method="PUT")
        assert reply.body == {"sku": sku, "units": units, "sold": 0}
    assert await levels(shop, sku) == (units + 1, units, 0, 1)


async def units(shop: Shop, sku: str) -> list[int]:
    """The numbers of the units that were sold."""
    return [
        unit
        for (unit,) in await shop.rows("inventory", "SELECT unit FROM flash_sale_unit WHERE sku = %s ORDER BY 1", sku)
    ]


async def test_a_flash_sale_sells_each_unit_once_to_500_buyers_at_three_processes(shop_: Shop) -> None:
    await begin(shop_, "console", 50)
    async with (
        third(shop_) as (_, port),
        at(shop_, ONE) as one,
        at(shop_, TWO) as two,
        inventory(port) as three,
    ):
        tills: Sequence[Inventory] = (one, two, three)

        async def buy(n: int) -> bool:
            reply = await persistent(lambda: tills[n % 3].Buy(buying(f"fan-{n}", "console")))
            return reply.state == pb.STATE_RESERVED

        got = [n for n, one in enumerate(await asyncio.gather(*(buy(n) for n in range(500)))) if one]
        assert len(got) == 50
        assert {n % 3 for n in got} == {0, 1, 2}, "one process has sold nothing: nothing is shown"
        again = await asyncio.gather(*(tills[n % 2].Buy(buying(f"fan-{n}", "console")) for n in got[:10]))
        assert {reply.state for reply in again} == {pb.STATE_RESERVED}
        await asyncio.gather(*(tills[n % 2].Commit(named(f"fan-{n}")) for n in got[:49]))
        await one.Release(named(f"fan-{got[49]}"))
    assert await units(shop_, "console") == list(range(1, 51))
    assert await levels(shop_, "console") == (51, 0, 49, 2)
    assert (await shop_.ask(ONE, "/v1/flash-sales/console")).body["sold"] == 50


async def test_a_till_that_has_lost_its_lease_without_noticing_sells_nothing(shop_: Shop) -> None:
    """It has read what is sold, and its write is on the way for longer than the lease lasts."""
    await begin(shop_, "watch", 2)
    hold = shop_.before_postgres.hold(saying("UPDATE", "flash_sale", "SET sold"))
    async with at(shop_, ONE) as one, at(shop_, TWO) as two:
        late = asyncio.create_task(code(one.Buy(buying("late", "watch"))))
        await hold.reached(10)
        assert (await persistent(lambda: two.Buy(buying("quick", "watch")))).state == pb.STATE_RESERVED
        hold.release()
        assert await late is grpc.StatusCode.UNAVAILABLE
        assert await units(shop_, "watch") == [1]
        assert (await one.Buy(buying("late", "watch"))).state == pb.STATE_RESERVED, "it may ask again"
        assert (await two.Buy(buying("too-many", "watch"))).state == pb.STATE_REJECTED
        assert await code(two.Buy(buying("nobody", "no-such-sale"))) is grpc.StatusCode.NOT_FOUND
    assert await units(shop_, "watch") == [1, 2]


async def test_a_late_write_does_not_come_between_a_read_and_the_write_that_rests_on_it(shop_: Shop) -> None:
    """The next till has read, and not written yet, when the write of the one before it arrives."""
    await begin(shop_, "clock", 2)
    sells = saying("UPDATE", "flash_sale", "SET sold")
    first = shop_.before_postgres.hold(sells)
    async with at(shop_, ONE) as one, at(shop_, TWO) as two:
        late = asyncio.create_task(code(one.Buy(buying("before", "clock"))))
        await first.reached(10)
        second = shop_.before_postgres.hold(sells)
        quick = asyncio.create_task(persistent(lambda: two.Buy(buying("after", "clock"))))
        await second.reached(20)
        first.release()
        assert await late is grpc.StatusCode.UNAVAILABLE
        second.release()
        assert (await quick).state == pb.STATE_RESERVED
    assert await units(shop_, "clock") == [1]


NO_LOCK = """
class LockUnavailable(Exception): pass
class Lease:
    token = 1
    async def __aenter__(self): return self
    async def __aexit__(self, *error): pass
class DistributedLock:
    def __init__(self, clients, name, ttl): pass
    async def acquire(self, timeout): return Lease()
"""


async def test_a_learners_lock_takes_the_place_of_ours_and_a_bad_one_is_seen(
    shared_broker: tuple[str, int, int], tmp_path: Path
) -> None:
    file = tmp_path / "lock.py"
    file.write_text(NO_LOCK)
    tmp_path.chmod(0o755)  # noqa: ASYNC240
    async with (
        opened(tmp_path, shared_broker, NAMES, SHOP_LOCK=str(file)) as shop,
        at(shop, ONE) as one,
        at(shop, TWO) as two,
    ):
        await begin(shop, "phone", 1)
        both = shop.before_postgres.barrier(2, saying("UPDATE", "flash_sale", "SET sold"))
        replies = await asyncio.gather(one.Buy(buying("a", "phone")), two.Buy(buying("b", "phone")))
        await both.met(10)
        assert [reply.state for reply in replies] == [pb.STATE_RESERVED] * 2
        assert await units(shop, "phone") == [1, 1], "the lock of ours was in place"


@pytest.mark.parametrize("call", ["Reserve", "Commit", "Release"])
async def test_a_caller_whose_inventory_was_killed_before_it_answered_asks_again(shop_: Shop, call: str) -> None:
    """Killed between the commit and the answer: the first outcome stands, and happens once."""
    sku, order = f"killed-{call.lower()}", f"order-{call.lower()}"
    await receive(shop_, sku, 5)
    victim = shop_.process(ONE).pid
    assert victim
    async with at(shop_, ONE) as one, at(shop_, TWO) as two:
        if call != "Reserve":
            await two.Reserve(wanted(order, (sku, 2)))

        def work(stub: Inventory) -> "grpc.aio.UnaryUnaryCall[Any, pb.Reservation]":
            return stub.Reserve(wanted(order, (sku, 2))) if call == "Reserve" else getattr(stub, call)(named(order))

        hold = shop_.before_postgres.hold_reply(command("COMMIT"))  # only the call is in a transaction that commits
        asked = asyncio.create_task(code(work(one)))
        await hold.reached(10)
        os.kill(victim, SIGKILL)
        assert await asked is grpc.StatusCode.UNAVAILABLE
        hold.release()

        state = {"Reserve": pb.STATE_RESERVED, "Commit": pb.STATE_COMMITTED, "Release": pb.STATE_RELEASED}[call]
        assert (await two.GetReservation(named(order))).state == state, "the kill came before the commit"
        await shop_.again(ONE, after=victim)
        async with at(shop_, ONE) as successor:
            assert [(await work(stub)).state for stub in (successor, two)] == [state, state]
    expected = {"Reserve": (5, 2, 0, 3), "Commit": (5, 0, 2, 3), "Release": (5, 0, 0, 5)}[call]
    assert await levels(shop_, sku) == expected


async def test_two_processes_never_share_a_port(shop_: Shop) -> None:
    port = shop_.process(ONE).rpc_port
    with reserved() as free:
        environment = {
            **os.environ,
            "SHOP_INVENTORY_1_PORT": str(free),
            "SHOP_INVENTORY_1_RPC_PORT": str(port),
            "SHOP_POSTGRES_URL": shop_.postgres.url,
            "SHOP_REDIS_URL": shop_.redis.url,
            "SHOP_RABBITMQ_URL": shop_.broker.url,
        }
        command = [sys.executable, "-m", "faultline.shop", "inventory"]
        ended = await asyncio.to_thread(
            subprocess.run, command, env=environment, capture_output=True, text=True, check=False, timeout=60
        )
    assert ended.returncode == 1
    assert f"{port} cannot be listened on" in ended.stderr
