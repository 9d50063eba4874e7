"""A product page on PostgreSQL: a hot entry expires, with and without a cache, and a load that comes too late.

Takes REDIS_URL and POSTGRES_URL; asserts what the lesson says of it.
"""

import asyncio
import json
import os
import random
import secrets
import sys
import time
from itertools import pairwise
from statistics import quantiles
from typing import Any

import psycopg
from redis.asyncio import Redis

PROCESSES, READERS, READS = 4, 25, 200
NAIVE, FLIGHT, LEASE = "get, load, set", "one load a process", "one load for all"
SCHEMA = """
DROP TABLE IF EXISTS products, reviews; DROP SEQUENCE IF EXISTS loads; CREATE SEQUENCE loads;
CREATE TABLE products (id int PRIMARY KEY, name text, price int); CREATE TABLE reviews (product int, stars int);
INSERT INTO products SELECT id, 'Product ' || id, 100 * id FROM generate_series(1, 100) AS id;
INSERT INTO reviews SELECT id % 100, id % 5 + 1 FROM generate_series(1, 200000) AS id"""
PAGE = """SELECT name, price, (SELECT avg(stars)::float FROM reviews WHERE product = products.id), nextval('loads')
FROM products WHERE id = %s"""  # no index on the reviews: this is the expensive read
KEEP = """if redis.call('GET', KEYS[2]) ~= ARGV[1] then return end
redis.call('DEL', KEYS[2])
redis.call('SET', KEYS[1], ARGV[2], 'EX', 60)"""

Db = psycopg.AsyncConnection[Any]


def keys(number: int) -> tuple[str, str]:
    return f"example:page:{number}", f"example:lease:{number}"


class Pages:
    def __init__(self, redis: Redis, load: Any, way: str) -> None:
        self.redis, self.load, self.way = redis, load, way
        self.flights: dict[int, asyncio.Task[Any]] = {}

    async def get(self, number: int) -> Any:
        if raw := await self.redis.get(keys(number)[0]):
            return json.loads(raw)
        if self.way == NAIVE:
            return await self.fill(number)
        if number not in self.flights:
            self.flights[number] = asyncio.create_task(self.fill(number))
        return await self.flights[number]

    async def fill(self, number: int) -> Any:
        (entry, lease), owner, leased = keys(number), secrets.token_hex(), self.way == LEASE
        while leased and not await self.redis.set(lease, owner, nx=True, px=10_000):  # noqa: ASYNC110
            await asyncio.sleep(0.02)
        if leased and (raw := await self.redis.get(entry)):  # whoever had the lease before has loaded
            await self.redis.delete(lease)
            return json.loads(raw)
        page = json.dumps(await self.load(number))
        await (self.redis.eval(KEEP, 2, entry, lease, owner, page) if leased else self.redis.set(entry, page, ex=60))
        return json.loads(page)


async def query(db: Db, number: int) -> Any:
    return (await (await db.execute(PAGE, (number,))).fetchone() or ())[:3]


async def reader(way: str) -> None:
    """A process of readers, with one connection to the database."""
    async with (
        Redis.from_url(os.environ["REDIS_URL"], socket_timeout=60) as redis,
        await psycopg.AsyncConnection.connect(os.environ["POSTGRES_URL"], autocommit=True) as db,
    ):
        pages = Pages(redis, lambda number: query(db, number), way)
        await asyncio.gather(*(redis.ping() for _ in range(READERS)))  # the connections are there
        await redis.blpop(["example:go"], 60)  # all processes begin together
        assert all(page[1] == 700 for page in await asyncio.gather(*(pages.get(7) for _ in range(READERS))))
        await redis.rpush("example:done", time.monotonic())


async def stampede(redis: Redis, db: Db, way: str) -> tuple[int, float]:
    """The entry of a hot product is gone, and 100 readers come: loads, and seconds until the last one has the page."""
    await redis.delete(*keys(7))
    before = await loads(db)
    began = [await asyncio.create_subprocess_exec(sys.executable, __file__, way) for _ in range(PROCESSES)]
    while (await redis.info("clients"))["blocked_clients"] < PROCESSES:  # noqa: ASYNC110 -- a server calls nobody back
        await asyncio.sleep(0.01)
    start = time.monotonic()
    await redis.rpush("example:go", *range(PROCESSES))
    assert [await process.wait() for process in began] == [0] * PROCESSES, "a process of readers has failed"
    return await loads(db) - before, max(map(float, await redis.lpop("example:done", PROCESSES) or ())) - start


async def loads(db: Db) -> int:
    return (await (await db.execute("SELECT last_value FROM loads")).fetchone() or [0])[0]


async def timed(get: Any, numbers: list[int]) -> tuple[float, float]:
    instants = [time.monotonic()]
    for number in numbers:
        await get(number)
        instants.append(time.monotonic())
    took = quantiles([(after - before) * 1000 for before, after in pairwise(instants)], n=10)
    return took[4], took[8]


async def late_load(redis: Redis, db: Db, way: str) -> int:
    """A load reads the old price, the price changes and the entry is deleted, the load writes: what is shown then."""
    await db.execute("UPDATE products SET price = 700 WHERE id = 7")
    await redis.delete(*keys(7))

    async def overtaken(number: int) -> Any:
        page = await query(db, number)
        await db.execute("UPDATE products SET price = 500 WHERE id = 7")
        await redis.delete(*keys(7))
        return page

    await Pages(redis, overtaken, way).get(7)
    return (await Pages(redis, lambda number: query(db, number), way).get(7))[1]


async def main() -> None:
    connecting = psycopg.AsyncConnection.connect(os.environ["POSTGRES_URL"], autocommit=True)
    async with Redis.from_url(os.environ["REDIS_URL"]) as redis, await connecting as db:
        await db.execute(SCHEMA)
        print(f"\n1  {PROCESSES} processes with {READERS} readers each miss the same product\n")
        for way, least, most in ((NAIVE, 10 * PROCESSES, PROCESSES * READERS), (FLIGHT, 4, 4), (LEASE, 1, 1)):
            count, seconds = await stampede(redis, db, way)
            print(f"   {way:20}{count:4} loads; the last reader has the page after {seconds:.2f} s")
            assert least <= count <= most, f"{least} to {most} loads were to be seen"
        print(f"\n2  {READS} reads, the popular products more often\n")
        popular = random.Random(2).choices(range(1, 100), [1 / rank for rank in range(1, 100)], k=READS)
        plain, before = await timed(lambda number: query(db, number), popular), await loads(db)
        await redis.delete(*keys(7))
        cached = await timed(Pages(redis, lambda number: query(db, number), LEASE).get, popular)
        read = await loads(db) - before
        print(f"   database       p50 {plain[0]:6.2f} ms   p90 {plain[1]:6.2f} ms   {READS} loads")
        print(f"   cache-aside    p50 {cached[0]:6.2f} ms   p90 {cached[1]:6.2f} ms   {read} loads")
        assert read == len(set(popular)) < READS / 2 and cached[0] < plain[0], "most were to be hits"  # noqa: PT018
        print("\n3  A load reads 700, the price becomes 500, the entry is deleted, the load writes\n")
        for way, promised in ((NAIVE, 700), (LEASE, 500)):
            shown = await late_load(redis, db, way)
            print(f"   {way:20}{shown} is shown{' for the next 60 s' if shown == 700 else ''}")
            assert shown == promised, "only who asks for his lease was to notice that he is late"


if __name__ == "__main__":
    asyncio.run(reader(sys.argv[1]) if sys.argv[1:] else main())
