"""What inventory promises whoever sends it stock row by row, over calls that break and calls that are repeated."""

import asyncio
import os
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from signal import SIGKILL
from typing import TYPE_CHECKING, Any, TypeAlias

import grpc
import psutil
import pytest
from tests.shop.conftest import DEADLINE, Shop, until

from faultline.components.faults import BlackHole
from faultline.components.proxy.command import saying
from faultline.shop import statuses
from faultline.shop.contracts import inventory_pb2 as pb
from faultline.shop.contracts.inventory_pb2_grpc import InventoryStub
from faultline.shop.inventory import imports

if TYPE_CHECKING:  # protoc's stubs know one class more than its code has
    from faultline.shop.contracts.inventory_pb2_grpc import InventoryAsyncStub

Inventory: TypeAlias = "InventoryAsyncStub"
Call: TypeAlias = "grpc.aio.StreamUnaryCall[pb.ImportStockRequest, pb.ImportSummary]"
Row = tuple[str, int]

pytestmark = [
    pytest.mark.once,
    pytest.mark.timeout(240),
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.xdist_group("import-stock"),  # they share a shop
]
NAMES = ("catalog", "inventory")
ONE, TWO = "inventory-1", "inventory-2"
COUNTED = "SELECT count(*)::int, coalesce(sum(quantity), 0)::int FROM movement WHERE reference LIKE %s"
STOCK = "SELECT coalesce(sum(received), 0)::int, coalesce(sum(available), 0)::int FROM stock WHERE sku LIKE %s"
OPEN = """
SELECT FROM pg_stat_activity WHERE datname = 'inventory' AND xact_start IS NOT NULL AND pid <> pg_backend_pid()
"""
TOLD = "SELECT count(*)::int FROM outbox WHERE subject LIKE %s"


@asynccontextmanager
async def at(shop: Shop, name: str = ONE) -> AsyncIterator[Inventory]:
    async with grpc.aio.insecure_channel(f"127.0.0.1:{shop.process(name).rpc_port}") as channel:
        yield InventoryStub(channel)


def messages(name: str, rows: Iterable[Row], *, each: int = 100) -> list[pb.ImportStockRequest]:
    """So many rows a message."""
    made = [pb.ImportRow(sku=sku, quantity=quantity) for sku, quantity in rows]
    return [pb.ImportStockRequest(import_id=name, rows=made[n : n + each]) for n in range(0, len(made), each)]


def call(stub: Inventory, requests: Sequence[pb.ImportStockRequest]) -> Call:
    return stub.ImportStock(iter(requests), timeout=240)  # type: ignore[return-value]  # pyright: ignore


def many(prefix: str, number: int) -> list[Row]:
    return [(f"{prefix}-{n % 50}", 1 + n % 3) for n in range(number)]


async def counted(shop: Shop, name: str, prefix: str) -> tuple[int, int]:
    """How many rows of the import there are, and their sum, which is also in the stock and in what was told."""
    rows, total = (await shop.rows("inventory", COUNTED, f"import/{name}/%"))[0]
    assert await shop.rows("inventory", STOCK, f"{prefix}-%") == [(total, total)]
    assert await shop.rows("inventory", TOLD, f"{prefix}-%/import/{name}/%") == [(rows,)]
    return rows, total


async def failure(call: Any) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await call
    return raised.value


async def test_rows_count_once_and_bad_ones_are_named(shop_: Shop) -> None:
    rows = [("mix-1", 5), ("", 1), ("mix-2", 0), ("mix-1", 2), ("x" * 101, 1), ("a\0b", 1), ("mix-3", 10**9 + 1)]
    async with at(shop_, ONE) as one, at(shop_, TWO) as two:
        first = await call(one, messages("mixed", rows, each=2))
        assert (first.rows, first.counted, first.counted_now, first.refused) == (7, 2, 2, 5)
        assert [(error.row, error.name) for error in first.errors] == [(n, "invalid") for n in (2, 3, 5, 6, 7)]
        assert await counted(shop_, "mixed", "mix") == (2, 7)
        again = await call(two, messages("mixed", rows, each=7))
        assert (again.counted, again.counted_now, list(again.errors)) == (2, 0, list(first.errors))
        assert await counted(shop_, "mixed", "mix") == (2, 7)
        other = await call(two, messages("mixed", [("mix-1", 6), *rows[1:]]))
        assert (other.counted, other.refused) == (1, 6)
        assert [error.row for error in other.errors if error.name == "asked-otherwise"] == [1]
        assert await counted(shop_, "mixed", "mix") == (2, 7)


async def test_the_same_import_at_both_replicas_at_once_counts_once(shop_: Shop) -> None:
    sent = messages("both", many("both", 3000))
    async with at(shop_, ONE) as one, at(shop_, TWO) as two:
        summaries = await asyncio.gather(*(call(stub, sent) for stub in (one, two) * 2))
    assert {summary.counted for summary in summaries} == {3000}
    assert sum(summary.counted_now for summary in summaries) == 3000
    assert (await counted(shop_, "both", "both"))[0] == 3000


async def test_different_imports_and_receipts_of_the_same_products_do_not_lock_each_other_out(shop_: Shop) -> None:
    async def receipts(n: int) -> None:
        for sku in (f"cross-{m}" for m in range(20)):
            path = f"/v1/stock/{sku}/receipts/r{n}"
            assert (await shop_.ask(TWO, path, {"quantity": 1}, method="PUT")).status == 200

    async with at(shop_, ONE) as one, at(shop_, TWO) as two:
        turned = [call((one, two)[n % 2], messages(f"cross{n}", many("cross", 1000)[:: (-1) ** n])) for n in range(6)]
        summaries = await asyncio.gather(*turned, receipts(1), receipts(2))
    assert [summary.counted_now for summary in summaries[:6]] == [1000] * 6  # type: ignore[union-attr]  # pyright: ignore


@pytest.mark.parametrize("batch", [1, 2, 4])
async def test_a_call_that_breaks_is_sent_again_whole_and_nothing_counts_twice(shop_: Shop, batch: int) -> None:
    """Killed between the commit of a batch and the next one."""
    name = f"cut{batch}"
    rows = many(name, 2200)
    victim = shop_.process(ONE).pid
    assert victim
    async with at(shop_, ONE) as one, at(shop_, TWO) as two:
        hold = shop_.before_postgres.hold_reply(saying("INSERT", "movement", "unnest"), skip=batch - 1)
        broken = asyncio.create_task(failure(call(one, messages(name, rows))))
        await hold.reached(DEADLINE)
        os.kill(victim, SIGKILL)
        assert (await broken).code() is grpc.StatusCode.UNAVAILABLE
        hold.release()
        await until(lambda: nobody_works(shop_))
        before, _ = await counted(shop_, name, name)
        assert before == (batch - 1) * imports.BATCH
        summary = await call(two, messages(name, rows, each=77))
        assert (summary.counted, summary.counted_now) == (2200, 2200 - before)
    assert await counted(shop_, name, name) == (2200, sum(quantity for _, quantity in rows))
    await shop_.again(ONE, after=victim)


async def nobody_works(shop: Shop) -> bool:
    """No transaction of inventory is open."""
    return not await shop.rows("inventory", OPEN)


async def test_who_goes_in_the_middle_leaves_whole_batches_and_nothing_running(shop_: Shop) -> None:
    async with at(shop_) as stub:
        hold = shop_.before_postgres.hold(saying("INSERT", "movement", "unnest"))
        cancelled = call(stub, messages("gone", many("gone", 5000)))
        await hold.reached(DEADLINE)
        cancelled.cancel()
        with pytest.raises(asyncio.CancelledError):
            await cancelled
        hold.release()
        await until(lambda: nobody_works(shop_))
        rows, _ = await counted(shop_, "gone", "gone")
        assert rows % imports.BATCH == 0
        assert (await call(stub, messages("gone", many("gone", 5000)))).counted == 5000


@pytest.mark.slow
async def test_a_database_that_stands_still_stops_the_sender_and_no_memory_grows(shop_: Shop) -> None:
    """The sender would send 60 MB; what it gets rid of meanwhile is what fits between the two."""
    process = psutil.Process(shop_.process(ONE).pid)
    rows = [pb.ImportRow(sku=f"big-{'x' * 90}-{n % 5}", quantity=1) for n in range(500)]
    message = pb.ImportStockRequest(rows=rows)
    assert message.ByteSize() > 50_000
    sent = 0

    async def endless() -> AsyncIterator[pb.ImportStockRequest]:
        nonlocal sent
        yield pb.ImportStockRequest(import_id="big")
        while sent < 1200:
            sent += 1
            yield message

    async with at(shop_) as stub:
        hold = shop_.before_postgres.hold(saying("INSERT", "movement", "unnest"))
        before = process.memory_info().rss
        stopped = stub.ImportStock(endless(), timeout=240)
        await hold.reached(DEADLINE)
        # INTERNAL is what grpcio's client makes of it where the end comes while it writes
        assert (await failure(stopped)).code() in {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.INTERNAL}
        grown = process.memory_info().rss - before
        assert sent < 600, f"{sent} messages were taken while the database took none"
        assert grown < 60_000_000, f"{grown} bytes for what nobody has written down"
        hold.release()


async def test_what_cannot_be_an_import_is_refused_before_its_rows_are_read(shop_: Shop) -> None:
    async with at(shop_) as stub:
        for name in ("", "x" * 65, "a/b", "a\0b"):
            end = await failure(call(stub, messages(name, many("never", 10))))
            assert end.code() is grpc.StatusCode.INVALID_ARGUMENT
            assert [one.field for one in statuses.problem(end).violations] == ["import_id"]
        mixed = [*messages("one", [("never-1", 1)]), *messages("two", [("never-1", 1)])]
        assert (await failure(call(stub, mixed))).code() is grpc.StatusCode.INVALID_ARGUMENT
        assert (await failure(call(stub, []))).code() is grpc.StatusCode.INVALID_ARGUMENT
    assert await shop_.rows("inventory", STOCK, "never-%") == [(0, 0)]


@pytest.mark.slow
async def test_a_database_that_is_away_is_said_and_the_import_goes_on_later(shop_: Shop) -> None:
    rows = many("away", 1200)
    async with at(shop_) as stub:
        fault = shop_.before_postgres.add(BlackHole())
        end = await failure(call(stub, messages("away", rows)))
        assert (end.code(), statuses.problem(end).name) == (grpc.StatusCode.UNAVAILABLE, "unavailable")
        shop_.before_postgres.remove(fault)
        await shop_.before_postgres.sever()

        async def taken() -> bool:
            try:
                return (await call(stub, messages("away", rows))).counted == 1200
            except grpc.aio.AioRpcError as error:
                return error.code() is not grpc.StatusCode.UNAVAILABLE

        await until(taken)
    assert (await counted(shop_, "away", "away"))[0] == 1200
