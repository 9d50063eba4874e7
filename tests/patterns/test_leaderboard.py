"""What the leaderboard does beyond the exercise: its options, its cost, and what it leaves on the server."""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING

import pytest
from redis.asyncio import Redis

from faultline.patterns import Entry, Trending

if TYPE_CHECKING:
    from tests.patterns.conftest import Servers, Until

    from faultline.components import Instance


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"window": 1.0, "bucket": 0.0}, "bucket"),
        ({"window": 1.0, "bucket": float("nan")}, "bucket"),
        ({"window": 0.5, "bucket": 1.0}, "window"),
        ({"name": ""}, "name"),
        ({"slices": 0}, "portion"),
        ({"quiet": 0.0}, "quiet"),
        ({"quiet": float("nan")}, "quiet"),
    ],
)
def test_what_cannot_be_promised_is_refused(options: dict[str, float], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        Trending(Redis(), **options)  # type: ignore[arg-type]


async def test_rankings_of_different_names_do_not_meet(redis: Redis) -> None:
    views, sales = Trending(redis, name="views"), Trending(redis, name="sales")

    async with views.changes() as changes:
        await sales.record("hat")
        await views.record("cap", 2)
        assert (await anext(changes)).sku == "cap"

    assert await views.top(5) == [Entry("cap", 2, 1)]
    assert await sales.rank("hat") == 1
    assert {key[:6] for key in await redis.keys()} == {b"views:", b"sales:"}


async def test_a_client_that_decodes(server: Instance) -> None:
    async with Redis(host=server.host, port=server.port, decode_responses=True) as redis:
        trending = Trending(redis)
        async with trending.changes() as changes:
            await trending.record("Mütze:1", 3)
            change = await anext(changes)

        assert (change.sku, change.score) == ("Mütze:1", 3)
        assert await trending.around("Mütze:1", 1) == [Entry("Mütze:1", 3, 1)]


async def test_each_call_is_one_round_trip(servers: Servers, server: Instance) -> None:
    proxy = await servers.proxy(server)
    trending = Trending(servers.client(proxy))

    async def all_four() -> None:
        await trending.record("hat")
        await trending.top(10)
        await trending.rank("hat")
        await trending.around("hat", 2)

    await all_four()
    before = proxy.counts
    await all_four()

    assert (proxy.counts - before).round_trips == 4


async def test_scripts_that_the_server_has_forgotten_are_sent_again(redis: Redis) -> None:
    trending = Trending(redis)
    await trending.record("hat")

    await redis.script_flush()
    await trending.record("hat")
    await redis.script_flush()

    assert await trending.top(1) == [Entry("hat", 2, 1)]


@pytest.mark.parametrize("slices", [1, 8])
async def test_a_bucket_leaves_in_portions_and_each_in_time(redis: Redis, slices: int) -> None:
    trending = Trending(redis, window=100.0, bucket=10.0, slices=slices)

    seconds, microseconds = await redis.time()
    for first in range(0, 80, 20):
        await asyncio.gather(*(trending.record(f"product-{number}") for number in range(first, first + 20)))
    later, microseconds_later = await redis.time()

    due = await redis.zrange("trending:due", 0, -1, withscores=True)
    ends = [float(pair[1]) for pair in due]
    assert slices <= len(set(ends)) <= 2 * slices  # twice for a slice whose bucket has just ended
    assert min(ends) >= seconds * 1000 + microseconds // 1000 + 100_000
    assert max(ends) <= later * 1000 + microseconds_later // 1000 + 110_000


@pytest.mark.parametrize("slices", [1, 16])
async def test_nothing_is_left_of_what_has_left(redis: Redis, until: Until, slices: int) -> None:
    trending = Trending(redis, window=0.06, bucket=0.02, slices=slices)
    chance = random.Random(8)
    answers: list[Entry] = []

    async def record(number: int) -> None:
        for _ in range(60):
            await trending.record(f"product-{chance.randrange(20)}", chance.randrange(1, 10))
            if not number:
                answers.extend(await trending.top(30))

    async with asyncio.TaskGroup() as group:
        for number in range(6):
            group.create_task(record(number))
    assert min(entry.score for entry in answers) > 0

    async def nothing_counts() -> bool:
        return not await trending.top(1)

    await until(nothing_counts)
    assert await redis.exists("trending:ranking", "trending:places", "trending:due") == 0
    await trending.record("hat")
    assert await trending.top(9) == [Entry("hat", 1, 1)]


async def test_ten_of_many_are_ten_rows(servers: Servers, server: Instance, redis: Redis) -> None:
    proxy = await servers.proxy(server)
    trending, asking = Trending(redis), Trending(servers.client(proxy))
    for first in range(0, 10_000, 100):
        numbers = range(first, first + 100)
        await asyncio.gather(*(trending.record(f"product-{number:06}", 10_000 - number) for number in numbers))
    await asking.top(1)
    before = proxy.counts

    found = await asking.top(10)

    assert [entry.sku for entry in found] == [f"product-{number:06}" for number in range(10)]
    assert (proxy.counts - before).bytes_to_client < 10 * 100
