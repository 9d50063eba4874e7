"""What inventory promises whoever watches stock, from two replicas; and what watchers leave behind when they go."""

import asyncio
import os
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from signal import SIGKILL, SIGTERM
from typing import TYPE_CHECKING, TypeAlias

import grpc
import psycopg
import pytest
from tests.shop.conftest import DEADLINE, Shop, until

from faultline.components.faults import BlackHole, Reset
from faultline.components.ports import reserved
from faultline.shop import statuses
from faultline.shop.contracts import inventory_pb2 as pb
from faultline.shop.contracts.inventory_pb2_grpc import InventoryStub
from faultline.shop.database import dsn
from faultline.shop.inventory import app, feed
from faultline.shop.inventory.domain import Place, Snapshot
from faultline.shop.settings import Settings
from faultline.shop.topology import SERVICES, Replica

if TYPE_CHECKING:  # protoc's stubs know one class more than its code has
    from faultline.shop.contracts.inventory_pb2_grpc import InventoryAsyncStub

Inventory: TypeAlias = "InventoryAsyncStub"
Stream: TypeAlias = "grpc.aio.UnaryStreamCall[pb.WatchStockRequest, pb.StockUpdate]"

pytestmark = [
    pytest.mark.once,
    pytest.mark.timeout(240),
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.xdist_group("watch-stock"),  # they share a shop
]
NAMES = ("catalog", "inventory")
ONE, TWO = "inventory-1", "inventory-2"
MORE = "UPDATE stock SET received = received + %s, available = available + %s WHERE sku LIKE %s"
NARROW = [("grpc.http2.lookahead_bytes", 65_536), ("grpc.http2.bdp_probe", 0)]  # a client that takes little in advance
LISTENING = "SELECT count(*) FROM pg_stat_activity WHERE application_name = %s"


@asynccontextmanager
async def inventory(port: int | None, options: list[tuple[str, int]] | None = None) -> AsyncIterator[Inventory]:
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=options) as channel:
        yield InventoryStub(channel)


@asynccontextmanager
async def at(shop: Shop, name: str = ONE) -> AsyncIterator[Inventory]:
    async with inventory(shop.process(name).rpc_port) as stub:
        yield stub


async def receive(shop: Shop, sku: str, quantity: int, receipt: str = "first", *, by: str = ONE) -> None:
    path = f"/v1/stock/{sku}/receipts/{receipt}"
    assert (await shop.ask(by, path, {"quantity": quantity}, method="PUT")).status == 200


def watch(stub: Inventory, *skus: str, token: str = "", heartbeat: float = 0) -> Stream:
    request = pb.WatchStockRequest(skus=skus, resume_token=token, heartbeat_seconds=heartbeat)
    return stub.WatchStock(request, timeout=240)


async def read(stream: Stream) -> pb.StockUpdate:
    """The next update; never a heart-beat."""
    async with asyncio.timeout(DEADLINE):
        while True:
            update = await stream.read()
            assert isinstance(update, pb.StockUpdate), "the stream is over"
            if update.levels or update.anew:
                return update


def available(update: pb.StockUpdate) -> dict[str, int]:
    return {level.sku: level.available for level in update.levels}


async def seen(stream: Stream, sku: str, number: int) -> pb.StockUpdate:
    """Read on until so many are available; the update that says so."""
    while True:
        update = await read(stream)
        if available(update).get(sku) == number:
            return update


async def over(stream: Stream) -> grpc.aio.AioRpcError:
    """How it ends."""

    async def all_of_it() -> None:
        async with asyncio.timeout(DEADLINE):
            while await stream.read() is not grpc.aio.EOF:
                pass

    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await all_of_it()
    return raised.value


@asynccontextmanager
async def database(shop: Shop) -> AsyncIterator[psycopg.AsyncConnection]:
    async with await psycopg.AsyncConnection.connect(dsn(shop.postgres.url, "inventory")) as connection:
        yield connection


@asynccontextmanager
async def here(shop: Shop) -> AsyncIterator[Inventory]:
    """One more replica, in this very process: so that it can be looked into."""
    with reserved() as port, reserved() as rpc_port:
        environment = {
            "SHOP_INVENTORY_3_PORT": str(port),
            "SHOP_INVENTORY_3_RPC_PORT": str(rpc_port),
            "SHOP_POSTGRES_URL": f"postgresql://postgres@127.0.0.1:{shop.before_postgres.port}/postgres",
            "SHOP_REDIS_URL": f"redis://127.0.0.1:{shop.before_redis.port}",
            "SHOP_RABBITMQ_URL": shop.broker.url,
        }
        settings = Settings.read(environment, Replica(SERVICES["inventory"], 3))
        async with app.opened(settings), inventory(rpc_port) as stub:
            yield stub


async def test_all_levels_come_first_then_what_changes_at_either_replica(shop_: Shop) -> None:
    await receive(shop_, "cup", 3)
    async with at(shop_) as stub:
        stream = watch(stub, "cup", "pot", "never")
        first = await read(stream)
        assert first.anew
        assert [(one.sku, one.received, one.reserved, one.committed, one.available) for one in first.levels] == [
            ("cup", 3, 0, 0, 3)
        ]
        await receive(shop_, "cup", 2, "second", by=TWO)
        changed = await read(stream)
        assert (available(changed), changed.anew) == ({"cup": 5}, False)
        await receive(shop_, "other", 1)
        await receive(shop_, "pot", 7)
        assert available(await read(stream)) == {"pot": 7}
        async with at(shop_, TWO) as two:
            await two.Reserve(pb.ReserveRequest(order_id="w", lines=[pb.Line(sku="pot", quantity=2)], seconds=600))
            held = await read(stream)
            assert [(one.received, one.reserved, one.available) for one in held.levels] == [(7, 2, 5)]
            await two.Commit(pb.OrderRequest(order_id="w"))
            sold = await read(stream)
            assert [(one.received, one.reserved, one.committed) for one in sold.levels] == [(7, 0, 2)]


async def test_the_other_replica_is_woken_and_does_not_have_to_look(
    shop_: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feed, "AT_LEAST", 3600.0)  # it would look after an hour
    await receive(shop_, "bell", 1)
    async with here(shop_) as stub:
        await until_listening(shop_, 3)
        stream = watch(stub, "bell")
        assert available(await read(stream)) == {"bell": 1}
        for n in range(5):
            await receive(shop_, "bell", 1, f"more-{n}", by=(ONE, TWO)[n % 2])
            assert available(await read(stream)) == {"bell": n + 2}


async def until_listening(shop: Shop, number: int) -> None:
    async def listening() -> bool:
        return await shop.rows("inventory", LISTENING, feed.LISTENER) == [(number,)]

    await until(listening)


async def test_a_wake_up_that_is_lost_is_made_up_for(shop_: Shop) -> None:
    """A process that died between its commit and its NOTIFY; here, somebody who never says it."""
    await receive(shop_, "mute", 1)
    async with at(shop_) as stub, database(shop_) as connection:
        stream = watch(stub, "mute")
        await read(stream)
        await connection.execute(MORE, [1, 1, "mute"])
        await connection.commit()
        assert available(await read(stream)) == {"mute": 2}
        killed = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = %s"
        assert await shop_.rows("inventory", killed, feed.LISTENER) == [(True,)] * 2
        await receive(shop_, "mute", 1, "second", by=TWO)
        assert available(await read(stream)) == {"mute": 3}
        await until_listening(shop_, 2)


async def test_a_transaction_that_commits_late_is_not_passed_over(shop_: Shop) -> None:
    """Its number is smaller than those of others, which were told of long ago; with and without a break."""
    for sku in ("late", "quick", "still"):
        await receive(shop_, sku, 1)
    async with at(shop_) as one, at(shop_, TWO) as two, database(shop_) as connection:
        await connection.execute(MORE, [10, 10, "late"])
        stream, broken = watch(one, "late", "quick", "still"), watch(two, "late", "quick", "still")
        assert available(await read(stream)) == {"late": 1, "quick": 1, "still": 1}
        await receive(shop_, "quick", 1, "second")
        assert available(await read(stream)) == {"quick": 2}
        token = (await seen(broken, "quick", 2)).resume_token
        broken.cancel()
        await connection.commit()
        assert available(await read(stream)) == {"late": 11}
        resumed = await read(watch(one, "still", "late", "quick", token=token))
        assert (available(resumed), resumed.anew) == ({"late": 11}, False)


async def test_what_changed_in_a_break_comes_once_at_whichever_replica(shop_: Shop) -> None:
    for sku in ("a", "b", "c"):
        await receive(shop_, sku, 1)
    async with at(shop_, ONE) as one, at(shop_, TWO) as two:
        stream = watch(one, "a", "b", "c")
        token = (await read(stream)).resume_token
        await receive(shop_, "a", 1, "second")
        token = (await read(stream)).resume_token
        stream.cancel()
        await receive(shop_, "b", 1, "second")
        await receive(shop_, "b", 1, "third")
        again = watch(two, "a", "b", "c", token=token)
        update = await read(again)
        assert (available(update), update.anew) == ({"b": 3}, False)
        await receive(shop_, "c", 1, "second")
        assert available(await read(again)) == {"c": 2}


@pytest.mark.parametrize("signal", [SIGKILL, SIGTERM])
async def test_a_replica_that_ends_costs_nothing_but_a_new_call(shop_: Shop, signal: int) -> None:
    sku = f"ends-{signal}"
    await receive(shop_, sku, 1)
    before = shop_.process(ONE).pid
    assert before
    async with at(shop_, ONE) as one, at(shop_, TWO) as two:
        stream = watch(one, sku)
        token = (await read(stream)).resume_token
        os.kill(before, signal)
        end = await over(stream)
        assert end.code() is grpc.StatusCode.UNAVAILABLE
        if signal == SIGTERM:
            assert statuses.problem(end).name == "interrupted"
        await receive(shop_, sku, 1, "second", by=TWO)
        assert available(await read(watch(two, sku, token=token))) == {sku: 2}
    await shop_.again(ONE, after=before)


async def test_who_comes_with_a_token_that_is_worth_nothing_is_told_so(shop_: Shop) -> None:
    await receive(shop_, "hat", 1)
    await receive(shop_, "cap", 1)
    async with at(shop_) as stub:
        token = (await read(watch(stub, "hat"))).resume_token
        place = Place.read(token)
        ahead = Snapshot(place.snapshot.below, place.snapshot.to + 10**9)
        for worthless, skus in (
            (token, ["hat", "cap"]),
            (Place("another", place.products, place.snapshot).token, ["hat"]),
            (Place(place.history, place.products, ahead).token, ["hat"]),
        ):
            update = await read(watch(stub, *skus, token=worthless))
            assert (update.anew, sorted(available(update))) == (True, sorted(skus))
        for forged in ("x", "!!!", token[:-9], "W10", "bnVsbA"):
            end = await over(watch(stub, "hat", token=forged))
            assert end.code() is grpc.StatusCode.INVALID_ARGUMENT
            assert [one.field for one in statuses.problem(end).violations] == ["resume_token"]


@pytest.mark.parametrize(
    ("skus", "heartbeat", "field"),
    [
        ([], 0, "skus"),
        ([str(n) for n in range(501)], 0, "skus"),
        (["a", ""], 0, "skus[1]"),
        (["a\0b"], 0, "skus[0]"),
        (["a"], 0.1, "heartbeat_seconds"),
        (["a"], 61, "heartbeat_seconds"),
        (["a"], float("nan"), "heartbeat_seconds"),
    ],
)
async def test_nonsense_is_refused(shop_: Shop, skus: list[str], heartbeat: float, field: str) -> None:
    async with at(shop_) as stub:
        end = await over(watch(stub, *skus, heartbeat=heartbeat))
    assert end.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert [one.field for one in statuses.problem(end).violations] == [field]


async def test_a_heart_beat_says_up_to_where_nothing_was_missed(shop_: Shop) -> None:
    await receive(shop_, "calm", 1)
    async with at(shop_) as stub:
        stream = watch(stub, "calm", heartbeat=1)
        first = (await read(stream)).resume_token
        await receive(shop_, "elsewhere", 1)  # the numbers of transactions go on
        last = first
        async with asyncio.timeout(DEADLINE):
            while Place.read(last).snapshot.to <= Place.read(first).snapshot.to:
                beat = await stream.read()
                assert isinstance(beat, pb.StockUpdate)
                assert (len(beat.levels), beat.anew) == (0, False)
                last = beat.resume_token
        stream.cancel()
        await receive(shop_, "calm", 1, "second")
        assert available(await read(watch(stub, "calm", token=last))) == {"calm": 2}


async def test_who_reads_slowly_gets_the_newest_levels_and_is_in_nobody_s_way(shop_: Shop) -> None:
    """500 products with long names change 60 times: one update is more than a client takes in advance."""
    skus = [f"slow-{'x' * 180}-{n}" for n in range(500)]
    rounds = 60
    async with database(shop_) as connection:
        await connection.execute("INSERT INTO stock (sku) SELECT unnest(%s::text[])", [skus])
        await connection.commit()
        async with at(shop_) as quick, inventory(shop_.process(ONE).rpc_port, NARROW) as slow:
            follows, sleeps = watch(quick, *skus), watch(slow, *skus)
            await read(sleeps)
            await read(follows)
            for n in range(1, rounds + 1):
                await connection.execute(MORE, [1, 1, "slow-%"])
                await connection.execute("SELECT pg_notify(%s, 'a test')", [feed.CHANNEL])
                await connection.commit()
                assert set(available(await read(follows)).values()) == {n}
            told = 0
            while True:
                update = await read(sleeps)
                told += 1
                numbers = set(available(update).values())
                assert len(numbers) == 1
                if numbers == {rounds}:
                    break
            assert len(update.levels) == 500
            assert told < rounds / 2, f"{told} of {rounds} updates were kept for it"


async def test_no_heart_beat_claims_anything_while_the_database_is_away(shop_: Shop) -> None:
    await receive(shop_, "dark", 1)
    async with at(shop_) as stub:
        for fault in (Reset(), BlackHole()):
            stream = watch(stub, "dark", heartbeat=60)
            token = (await read(stream)).resume_token
            injected = shop_.before_postgres.add(fault)
            end = await over(stream)
            assert (end.code(), statuses.problem(end).name) == (grpc.StatusCode.UNAVAILABLE, "interrupted")
            shop_.before_postgres.remove(injected)
            await shop_.before_postgres.sever()

            async def back(token: str = token) -> bool:
                try:
                    await watch(stub, "dark", token=token, heartbeat=1).read()
                except grpc.aio.AioRpcError as error:
                    return error.code() is not grpc.StatusCode.UNAVAILABLE
                return True

            await until(back)
    await until_listening(shop_, 2)


def calls() -> int:
    """Tasks of grpcio that carry out a call in this process; all others are somebody else's."""
    return sum("_schedule_rpc_coro" in repr(task) for task in asyncio.all_tasks())


async def test_watchers_leave_nothing_behind_and_share_what_reads_for_them(
    shop_: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feed, "MOST", 60)
    await receive(shop_, "left", 1)
    async with here(shop_) as stub:
        await until_listening(shop_, 3)

        async def settled() -> bool:
            return calls() == 0

        streams = [watch(stub, "left", "gone") for _ in range(30)]
        updates = await asyncio.gather(*(read(stream) for stream in streams))
        assert {tuple(available(update).items()) for update in updates} == {(("left", 1),)}
        assert await shop_.rows("inventory", LISTENING, feed.LISTENER) == [(3,)], "one for all of them"
        assert calls() >= 30
        full = await over(watch(stub, "left"))
        assert (full.code(), statuses.problem(full).name) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "too-many-watchers")
        for stream in streams:
            stream.cancel()
        await until(settled)
        assert available(await read(watch(stub, "left"))) == {"left": 1}, "there is room again"
    await until_listening(shop_, 2)


async def test_a_snapshot_sees_what_postgresql_says_that_it_sees(shop_: Shop) -> None:
    chance = random.Random(7)
    cases: list[tuple[int, str]] = []
    for _ in range(2000):
        below = chance.randint(3, 30)
        to = chance.randint(below, below + 10)
        running = sorted(chance.sample(range(below, to), chance.randint(0, to - below)))
        cases.append((chance.randint(3, 45), f"{below}:{to}:{','.join(map(str, running))}"))
    async with database(shop_) as connection:
        answers = await (
            await connection.execute(
                "SELECT pg_visible_in_snapshot(number::xid8, seen::pg_snapshot)"
                " FROM unnest(%s::text[], %s::text[]) WITH ORDINALITY AS c (number, seen, n) ORDER BY n",
                [[str(number) for number, _ in cases], [text for _, text in cases]],
            )
        ).fetchall()
    for (number, text), (visible,) in zip(cases, answers, strict=True):
        assert Snapshot.read(text).sees(number) is visible, (number, text)
        assert Snapshot.read(str(Snapshot.read(text))) == Snapshot.read(text)
