"""What write-through promises beyond the checks of redis/03: options, cost, cancellation, what is kept."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from redis.asyncio import Redis
from tests.patterns.price_table import PriceTable, price_table

from faultline.components.proxy import named
from faultline.patterns import PriceRefused, WriteThrough

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.patterns.conftest import Servers, Until

    from faultline.components import Instance


@pytest.fixture
async def table(tmp_path: Path) -> AsyncIterator[PriceTable]:
    async with price_table(tmp_path / "postgres") as table:
        yield table


async def test_a_read_costs_one_round_trip_and_a_write_two(
    servers: Servers, server: Instance, table: PriceTable
) -> None:
    proxy = await servers.proxy(server)
    prices = WriteThrough(servers.client(proxy), table)
    await prices.set_price("hat", 1)
    await prices.get_price("hat")  # the server knows the scripts from now on

    before = proxy.counts
    await prices.set_price("shoe", 1999)
    written = proxy.counts - before
    assert await prices.get_price("shoe") == 1999
    read = proxy.counts - before
    assert (written.round_trips, read.round_trips) == (2, 3)


async def test_clients_that_decode_are_as_good(server: Instance, table: PriceTable) -> None:
    async with Redis(host=server.host, port=server.port, decode_responses=True) as client:
        prices = WriteThrough(client, table)
        await prices.set_price("shoe", 1999)
        asked = table.asked
        assert await prices.get_price("shoe") == 1999
        assert table.asked == asked


async def test_names_keep_shops_apart(redis: Redis, table: PriceTable, tmp_path: Path) -> None:
    async with price_table(tmp_path / "other") as other:
        ours, theirs = WriteThrough(redis, table, name="ours"), WriteThrough(redis, other, name="theirs")
        await ours.set_price("shoe", 1)
        await theirs.set_price("shoe", 2)
        assert await ours.get_price("shoe") == 1
        assert await theirs.get_price("shoe") == 2


async def test_a_copy_is_kept_for_its_ttl(redis: Redis, table: PriceTable) -> None:
    prices = WriteThrough(redis, table, 0.1, ttl=60.0)
    await table.set_price("hat", 550)
    await prices.set_price("shoe", 1999)
    await prices.get_price("hat")
    left = [await redis.pttl(key) for key in await redis.keys("prices:copy:*")]
    assert len(left) == 2
    assert all(50_000 < milliseconds <= 60_000 for milliseconds in left)


async def test_nothing_stays_of_a_write_but_the_copy(redis: Redis, table: PriceTable) -> None:
    prices = WriteThrough(redis, table)
    table.refuses = {"hat"}
    await prices.set_price("shoe", 1999)
    with pytest.raises(PriceRefused):
        await prices.set_price("hat", 1)
    assert await redis.keys("*") == [b"prices:copy:{shoe}"]


async def test_a_cancelled_write_is_an_unknown_one(redis: Redis, table: PriceTable) -> None:
    prices = WriteThrough(redis, table)
    await prices.set_price("shoe", 1)
    asked, never = asyncio.Event(), asyncio.Event()

    async def meanwhile() -> None:
        asked.set()
        await never.wait()

    table.meanwhile = meanwhile
    writing = asyncio.create_task(prices.set_price("shoe", 2))
    await asked.wait()
    writing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await writing
    assert await prices.get_price("shoe") == 1
    table.meanwhile = None
    await table.set_price("shoe", 3)  # the commit that comes late
    assert await prices.get_price("shoe") == 3


async def test_a_silent_redis_delays_a_write_and_does_not_let_it_pass(
    servers: Servers, server: Instance, table: PriceTable
) -> None:
    proxy = await servers.proxy(server)
    prices = WriteThrough(servers.client(proxy, timeout=1.0), table)
    await prices.set_price("shoe", 1)
    asked = table.asked
    proxy.hold(named("EVALSHA", "EVAL"), 1)
    with pytest.raises(TimeoutError):
        await _builtin(prices.set_price("shoe", 2))
    assert table.asked == asked
    assert await table.price("shoe") == 1


async def _builtin(call: object) -> None:
    """redis-py's TimeoutError is not Python's."""
    from redis.exceptions import TimeoutError as Silent

    try:
        await call  # type: ignore[misc]
    except Silent as error:
        raise TimeoutError from error


async def test_readers_and_writers_at_once_see_no_price_go_back(
    servers: Servers, server: Instance, table: PriceTable
) -> None:
    stores = [WriteThrough(servers.client(server), table) for _ in range(4)]
    done = False
    seen: list[list[int]] = [[] for _ in stores]

    async def write() -> None:
        nonlocal done
        for cents in range(1, 101):
            await stores[cents % 4].set_price("shoe", cents)
        done = True

    async def read(number: int) -> None:
        while not done:
            seen[number].append(await stores[number].get_price("shoe") or 0)

    await asyncio.gather(write(), *(read(number) for number in range(4)))
    for prices in seen:
        assert prices == sorted(prices)
        assert len(set(prices)) > 5, "readers and writer were to run at once"


async def die(redis: Redis, seconds: float) -> None:
    """As a writer of the shoe does whose lease has so much left."""
    now, micros = await redis.time()
    await redis.zadd("prices:marks:{shoe}", {"of the dead": now * 1000 + micros // 1000 + round(seconds * 1000)})


async def test_a_dead_writers_product_is_cached_again(redis: Redis, table: PriceTable, until: Until) -> None:
    prices = WriteThrough(redis, table, 0.2)
    await die(redis, 0.2)
    await table.set_price("shoe", 7)

    async def cached() -> bool:
        asked = table.asked
        assert await prices.get_price("shoe") == 7
        return table.asked == asked

    assert not await cached()
    await until(cached)


async def test_others_who_write_do_not_prolong_a_dead_writers_mark(
    redis: Redis, table: PriceTable, until: Until
) -> None:
    prices = WriteThrough(redis, table, 60.0)
    await die(redis, 0.2)

    async def cached() -> bool:
        await prices.set_price("shoe", 7)
        asked = table.asked
        assert await prices.get_price("shoe") == 7
        return table.asked == asked

    assert not await cached()
    await until(cached)


async def test_a_short_lease_does_not_end_a_long_one(redis: Redis, table: PriceTable) -> None:
    await die(redis, 60.0)
    await WriteThrough(redis, table, 0.05).set_price("shoe", 7)
    assert 50_000 < await redis.pttl("prices:marks:{shoe}") <= 60_000


@pytest.mark.parametrize(
    ("lease", "options", "why"),
    [
        (0.009, {}, "lease"),
        (float("nan"), {}, "lease"),
        (10.0, {"ttl": 19.9}, "ttl"),
        (10.0, {"name": ""}, "name"),
    ],
)
def test_what_cannot_be_promised_is_refused(
    redis: Redis, table: PriceTable, lease: float, options: dict[str, object], why: str
) -> None:
    with pytest.raises(ValueError, match=why):
        WriteThrough(redis, table, lease, **options)  # type: ignore[arg-type]  # of several types
