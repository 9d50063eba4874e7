"""The top 10 of 100,000 products three ways, what an hour's window costs, and a page that is told what changes.

Takes REDIS_URL and POSTGRES_URL; asserts what the lesson says of it.
"""

import asyncio
import itertools
import os
import random
import time
from collections.abc import Awaitable, Callable

import psycopg
from redis.asyncio import Redis

PRODUCTS, VIEWS = 100_000, 300_000
BOARD, LAST_HOUR, CHANNEL = "example:board", "example:last-hour", "example:changes"
FALL = """
local sums = redis.call('ZRANGE', KEYS[1], 0, -1, 'WITHSCORES')
for i = 1, #sums, 2 do
    if tonumber(redis.call('ZINCRBY', KEYS[2], -sums[i + 1], sums[i])) <= 0 then
        redis.call('ZREM', KEYS[2], sums[i])
    end
end"""
TELL = """
local score = redis.call('ZINCRBY', KEYS[1], ARGV[2], ARGV[1])
redis.call('PUBLISH', ARGV[3], ARGV[1] .. ' ' .. score)"""


def views() -> dict[str, int]:
    """How often each product was looked at: a few very often, all at least once."""
    chance = random.Random(8)
    counts = dict.fromkeys((f"product-{number:06}" for number in range(PRODUCTS)), 1)
    names = list(counts)
    for _ in range(VIEWS):
        counts[names[int(PRODUCTS * chance.random() ** 4)]] += 1
    return counts


async def took(times: int, call: Callable[[], Awaitable[object]]) -> float:
    """Milliseconds for one, the quickest: what a busy machine bends least."""
    marks = [time.perf_counter()]
    for _ in range(times):
        await call()
        marks.append(time.perf_counter())
    return 1000 * min(end - began for began, end in itertools.pairwise(marks))


async def sent(redis: Redis, call: Callable[[], Awaitable[object]]) -> int:
    """Bytes that the server sent for it."""
    marks = []
    for step in (redis.ping, redis.ping, call):
        await step()
        marks.append((await redis.info("stats"))["total_net_output_bytes"])
    return marks[2] - marks[1] - (marks[1] - marks[0])


async def three_ways(redis: Redis, db: psycopg.AsyncConnection, counts: dict[str, int]) -> None:
    await db.execute("CREATE TEMP TABLE views (sku text PRIMARY KEY, score bigint)")
    async with db.cursor() as cursor, cursor.copy("COPY views FROM STDIN") as copy:
        for row in counts.items():
            await copy.write_row(row)
    await db.execute("ANALYZE views")
    names = list(counts)
    for first in range(0, PRODUCTS, 5_000):
        await redis.zadd(BOARD, {name: counts[name] for name in names[first : first + 5_000]})

    async def order_by() -> list[object]:
        found = await db.execute("SELECT sku FROM views ORDER BY score DESC, sku DESC LIMIT 10")
        return [row[0] for row in await found.fetchall()]

    async def client() -> list[object]:
        rows = await redis.zrange(BOARD, 0, -1, withscores=True)
        return [sku for sku, _ in sorted(rows, key=lambda row: (row[1], row[0]), reverse=True)[:10]]

    async def sorted_set() -> list[object]:
        return [sku for sku, _ in await redis.zrange(BOARD, 0, 9, desc=True, withscores=True)]

    assert await order_by() == await client() == await sorted_set(), "three ways, one answer"
    scan, fetch, look = await took(9, order_by), await took(3, client), await took(200, sorted_set)
    await db.execute("CREATE INDEX ON views (score DESC, sku DESC)")
    indexed = await took(200, order_by)
    all_rows, ten_rows = await sent(redis, client), await sent(redis, sorted_set)
    print(f"\n1  the top 10 of {PRODUCTS:,} products\n")
    print(f"   ORDER BY, no index     {scan:9.2f} ms\n   ORDER BY, with index   {indexed:9.2f} ms")
    print(f"   sorted by the client   {fetch:9.2f} ms  {all_rows:9,} bytes from the server")
    print(f"   sorted set             {look:9.2f} ms  {ten_rows:9,} bytes")
    assert scan > 5 * look, "sorting was to cost more than looking"
    assert all_rows > 1_000 * ten_rows, "all rows were to come over the wire"


async def window(redis: Redis, counts: dict[str, int]) -> None:
    names, buckets = list(counts), [f"example:bucket:{number}" for number in range(60)]
    for number, bucket in enumerate(buckets):  # each minute the best sellers, and a part of the others
        some = names[:1_000] + names[1_000 + number * 1_650 : 2_650 + number * 1_650]
        await redis.zadd(bucket, dict.fromkeys(some, 1))
    union = await took(5, lambda: redis.zunionstore(LAST_HOUR, buckets))
    kept = await took(200, lambda: redis.zrange(LAST_HOUR, 0, 9, desc=True, withscores=True))
    fall = await took(1, lambda: redis.eval(FALL, 2, buckets[0], LAST_HOUR))
    print("\n2  the last hour, in 60 buckets of 2,650 products each\n")
    print(f"   added up when asked, for each page view   {union:8.2f} ms, and the server does nothing else")
    print(f"   kept in order, for each page view         {kept:8.2f} ms")
    print(f"   kept in order, once a minute              {fall:8.2f} ms to take out the oldest bucket")
    assert union > 20 * kept, "adding up was to cost more than looking"


async def ties(redis: Redis) -> None:
    for sku in ("zucchini", "apple", "mango"):  # in this order they were recorded
        await redis.zincrby("example:ties", 1, sku)
    by_name = [str(sku) for sku, _ in await redis.zrange("example:ties", 0, -1, desc=True, withscores=True)]
    packed = {9e15 + 0.9, 9e15 + 0.8}
    print(f"\n3  recorded once each: zucchini, apple, mango; the sorted set says {', '.join(by_name)}")
    print(f"   9e15 + 0.9 and 9e15 + 0.8, a tie-break in the score: {len(packed)} value\n")
    assert by_name == ["zucchini", "mango", "apple"], "ties were to go by name"
    assert len(packed) == 1, "a double was to have no room for both"


async def live(redis: Redis) -> None:
    print("4  a page that reads the ranking, and is told what changes\n")
    sold = (TELL, 1, BOARD, "product-000000", 5, CHANNEL)
    async with redis.pubsub() as late, redis.pubsub() as page:
        shown = await redis.zscore(BOARD, "product-000000")
        await redis.eval(*sold)
        for listener in (late, page):
            await listener.subscribe(CHANNEL)
            assert await listener.get_message(timeout=5.0), "the server was to confirm"
        missed = await late.get_message(timeout=0.3)
        await redis.eval(*sold)
        told = (await page.get_message(timeout=5.0) or {}).get("data")
    stands = await redis.zscore(BOARD, "product-000000")
    print(f"   read, then subscribed: showed {shown:.0f}, heard {missed}")
    print(f"   subscribed, then read: heard {told!r}; what stands is {stands:.0f}\n")
    assert missed is None, "what happened before the subscription was to be missed"
    assert told == f"product-000000 {stands:.0f}", "what happened after it was to come"


async def main() -> None:
    counts = views()
    async with Redis.from_url(os.environ["REDIS_URL"], decode_responses=True) as redis:
        async with await psycopg.AsyncConnection.connect(os.environ["POSTGRES_URL"]) as db:
            await three_ways(redis, db, counts)
        await window(redis, counts)
        await ties(redis)
        await live(redis)
        async for key in redis.scan_iter("example:*", count=1_000):
            await redis.delete(key)


if __name__ == "__main__":
    asyncio.run(main())
