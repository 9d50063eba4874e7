"""What write-behind promises beyond the checks of redis/03: reading, watching, the loop, the order of flushing."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from redis.asyncio import Redis
from redis.exceptions import ConnectionError as Gone
from tests.patterns.price_table import PriceTable, price_table

from faultline.components.proxy import named
from faultline.patterns import Backlog, PriceRefused, WriteBehind

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.patterns.conftest import Servers, Until

    from faultline.components import Instance


@pytest.fixture
async def table(tmp_path: Path) -> AsyncIterator[PriceTable]:
    async with price_table(tmp_path / "postgres") as table:
        yield table


async def test_what_was_set_last_is_read_waiting_or_stored(redis: Redis, table: PriceTable) -> None:
    prices = WriteBehind(redis, table)
    assert await prices.get_price("shoe") is None
    await prices.set_price("shoe", 0)
    assert await prices.get_price("shoe") == 0
    await prices.flush(10)
    assert await prices.get_price("shoe") == 0
    await prices.set_price("shoe", 1999)
    assert await prices.get_price("shoe") == 1999
    assert await table.price("shoe") == 0


async def test_without_redis_nobody_knows_what_was_set_last(
    servers: Servers, server: Instance, table: PriceTable
) -> None:
    prices = WriteBehind(servers.client(server), table)
    await table.set_price("shoe", 1)
    await server.kill()
    with pytest.raises(Gone):
        await prices.get_price("shoe")


async def test_who_waits_longest_is_flushed_first(redis: Redis, table: PriceTable) -> None:
    prices = WriteBehind(redis, table)
    for product_id in ("a", "b", "c", "a", "b", "a"):
        await prices.set_price(product_id, 1)
    assert [await prices.flush(2) for _ in range(3)] == [2, 1, 0]
    assert table.batches == [["a", "b"], ["c"]]


async def test_a_price_that_came_during_the_flush_waits_from_then_on(redis: Redis, table: PriceTable) -> None:
    prices = WriteBehind(redis, table)
    await prices.set_price("early", 1)
    await prices.set_price("other", 1)

    async def meanwhile() -> None:
        table.meanwhile = None
        await prices.set_price("early", 2)

    table.meanwhile = meanwhile
    assert [await prices.flush(1) for _ in range(4)] == [1, 1, 1, 0]
    assert table.batches == [["early"], ["other"], ["early"]]
    assert await table.stored("early") == [1, 2]


async def test_the_backlog_says_how_many_and_how_long(redis: Redis, table: PriceTable, until: Until) -> None:
    prices = WriteBehind(redis, table)
    assert await prices.backlog() == Backlog(0, 0.0)
    await prices.set_price("shoe", 1)
    await prices.set_price("hat", 1)

    async def older() -> bool:
        return (await prices.backlog()).oldest > 0.05

    await until(older)
    await prices.set_price("shoe", 2)  # replaced, and waits since it was first set
    backlog = await prices.backlog()
    assert backlog.products == 2
    assert 0.05 < backlog.oldest < 20
    await prices.flush(10)
    assert await prices.backlog() == Backlog(0, 0.0)
    assert await redis.keys("*") == [b"{prices}:version"]


async def test_what_is_refused_for_good_can_be_discarded(redis: Redis, table: PriceTable) -> None:
    prices = WriteBehind(redis, table)
    table.refuses = {"bad"}
    await prices.set_price("bad", 1)
    await prices.set_price("good", 1)
    with pytest.raises(PriceRefused):
        await prices.flush(10)
    assert await prices.discard("bad") is True
    assert await prices.discard("bad") is False
    assert await prices.flush(10) == 1
    assert (await table.price("good"), await prices.flush(10)) == (1, 0)


async def test_the_loop_flushes_until_it_is_cancelled(redis: Redis, table: PriceTable, until: Until) -> None:
    prices = WriteBehind(redis, table)
    errors: list[Exception] = []
    tasks = asyncio.all_tasks()
    running = asyncio.create_task(prices.run(on_error=errors.append, every=0.01, max_batch=2))
    for number in range(7):
        await prices.set_price(f"product-{number}", number)

    async def stored() -> bool:
        return (await prices.backlog()).products == 0

    await until(stored)
    assert await table.price("product-6") == 6
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert asyncio.all_tasks() == tasks
    assert not errors
    assert max(map(len, table.batches)) <= 2


async def test_the_loop_outlives_errors_and_tells_them(redis: Redis, table: PriceTable, until: Until) -> None:
    prices = WriteBehind(redis, table)
    errors: list[Exception] = []

    async def fail() -> None:
        raise ConnectionResetError("the database is away")

    table.meanwhile = fail
    await prices.set_price("shoe", 1999)
    running = asyncio.create_task(prices.run(on_error=errors.append, every=0.01))

    async def failed_twice() -> bool:
        return len(errors) >= 2

    async def stored() -> bool:
        return await table.price("shoe") == 1999

    await until(failed_twice)
    table.meanwhile = None
    await until(stored)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert {type(error) for error in errors} == {ConnectionResetError}


async def test_a_cancelled_flush_loses_nothing(redis: Redis, table: PriceTable) -> None:
    prices = WriteBehind(redis, table)
    await prices.set_price("shoe", 1)
    asked, never = asyncio.Event(), asyncio.Event()

    async def meanwhile() -> None:
        asked.set()
        await never.wait()

    table.meanwhile = meanwhile
    flushing = asyncio.create_task(prices.flush(10))
    await asked.wait()
    flushing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await flushing
    table.meanwhile = None
    assert [await prices.flush(10), await prices.flush(10)] == [1, 0]
    assert await table.stored("shoe") == [1]


async def test_writers_and_flushers_at_once(servers: Servers, server: Instance, table: PriceTable) -> None:
    stores = [WriteBehind(servers.client(server), table) for _ in range(4)]
    writing = True

    async def write(number: int) -> None:
        for cents in range(100):
            await stores[number].set_price(f"product-{number}", cents)

    async def flush(number: int) -> None:
        while await stores[number].flush(3) or writing:
            pass

    async with asyncio.TaskGroup() as flushers:
        for number in (0, 1):
            flushers.create_task(flush(number))
        await asyncio.gather(*(write(number) for number in range(4)))
        writing = False
    for number in range(4):
        stored = await table.stored(f"product-{number}")
        assert stored == sorted(set(stored))
        assert stored[-1] == 99


async def test_what_it_costs(servers: Servers, server: Instance, table: PriceTable) -> None:
    proxy = await servers.proxy(server)
    prices = WriteBehind(servers.client(proxy), table)
    await prices.set_price("warm", 1)
    await prices.flush(1)
    before = proxy.counts
    for number in range(100):
        await prices.set_price(f"product-{number}", number)
    queued = proxy.counts - before
    assert await prices.flush(1000) == 100
    flushed = proxy.counts - before
    assert (queued.round_trips, flushed.round_trips) == (100, 102)


async def test_a_lost_answer_is_safe_to_repeat(servers: Servers, server: Instance, table: PriceTable) -> None:
    proxy = await servers.proxy(server)
    prices = WriteBehind(servers.client(proxy, timeout=1.0), table)
    await prices.set_price("hat", 1)
    lost = proxy.hold_reply(named("EVALSHA", "EVAL"))
    with pytest.raises(Exception, match="Timeout"):
        await prices.set_price("shoe", 1999)
    lost.release()
    await prices.set_price("shoe", 1999)
    await prices.flush(10)
    assert await table.stored("shoe") == [1999]


async def test_clients_that_decode_are_as_good(server: Instance, table: PriceTable) -> None:
    async with Redis(host=server.host, port=server.port, decode_responses=True) as client:
        prices = WriteBehind(client, table)
        await prices.set_price("schön: {1}", 1)
        assert await prices.get_price("schön: {1}") == 1
        assert [await prices.flush(10), await prices.flush(10)] == [1, 0]
        assert await table.price("schön: {1}") == 1


async def test_queues_of_two_names_are_apart(redis: Redis, table: PriceTable) -> None:
    mine, yours = WriteBehind(redis, table), WriteBehind(redis, table, name="yours")
    await mine.set_price("shoe", 1)
    assert await yours.flush(10) == 0
    with pytest.raises(ValueError, match="name"):
        WriteBehind(redis, table, name="")
