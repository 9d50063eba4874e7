"""A product page on PostgreSQL, with and without a cache; and what happens when a hot entry expires.

Takes REDIS_URL and POSTGRES_URL; asserts what the lesson says of it.
"""

import asyncio
import json
import os
import random
import secrets
import sys
import time
from collections.abc import Awaitable, Callable
from statistics import quantiles
from typing import Any

import psycopg
from redis.asyncio import Redis

PRODUCTS, REVIEWS, PROCESSES, READERS, READS = 200, 150_000, 4, 50, 300
NAIVE, FLIGHT, LEASE = "get, load, set", "one load a process", "one load for all"
SCHEMA = f"""
DROP TABLE IF EXISTS products, reviews; DROP SEQUENCE IF EXISTS loads; CREATE SEQUENCE loads;
CREATE TABLE products (id int PRIMARY KEY, name text, price int);
CREATE TABLE reviews (product int, stars int);
INSERT INTO products SELECT id, 'Product ' || id, 100 * id FROM generate_series(1, {PRODUCTS}) AS id;
INSERT INTO reviews SELECT id % {PRODUCTS}, id % 5 + 1 FROM generate_series(1, {REVIEWS}) AS id;
"""
PAGE = """
SELECT name, price, (SELECT avg(stars)::float FROM reviews WHERE product = products.id), nextval('loads')
FROM products WHERE id = %s
"""  # no index on the reviews: this is the expensive read
KEEP = """
if redis.call('GET', KEYS[2]) ~= ARGV[1] then return 0 end
redis.call('DEL', KEYS[2])
redis.call('SET', KEYS[1], ARGV[2], 'EX', 60)
return 1"""

Load = Callable[[int], Awaitable[Any]]


class Pages:
    """Reads product pages in one of three ways."""

    def __init__(self, redis: Redis, load: Load, way: str) -> None:
        self.redis, self.load, self.way = redis, load, way
        self.flights: dict[int, asyncio.Task[Any]] = {}

    async def get(self, number: int) -> Any:
        if raw := await self.redis.get(f"example:page:{number}"):
            return json.loads(raw)
        if self.way == NAIVE:
            page = await self.load(number)
            await self.redis.set(f"example:page:{number}", json.dumps(page), ex=60)
            return page
        if number not in self.flights:
            self.flights[number] = asyncio.create_task(self.fly(number))
        return await self.flights[number]

    async def fly(self, number: int) -> Any:
        """The load of this process; with a lease, the one of all processes."""
        entry, lease, owner = f"example:page:{number}", f"example:lease:{number}", secrets.token_hex()
        while self.way == LEASE and not await self.redis.set(lease, owner, nx=True, px=5_000):
            await asyncio.sleep(0.02)
            if raw := await self.redis.get(entry):
                return json.loads(raw)
        if self.way == LEASE and (raw := await self.redis.get(entry)):  # somebody was quicker
            await self.redis.delete(lease)
            return json.loads(raw)
        page = await self.load(number)
        if self.way == LEASE:
            await self.redis.eval(KEEP, 2, entry, lease, owner, json.dumps(page))
        else:
            await self.redis.set(entry, json.dumps(page), ex=60)
        return page


async def query(db: psycopg.AsyncConnection[Any], number: int) -> Any:
    """The page as the database makes it."""
    found = await (await db.execute(PAGE, (number,))).fetchone()
    return found and found[:3]


async def reader(way: str) -> None:
    """A process with 50 readers and a pool of 5 connections to the database."""
    free: asyncio.Queue[psycopg.AsyncConnection[Any]] = asyncio.Queue()
    for _ in range(5):
        free.put_nowait(await psycopg.AsyncConnection.connect(os.environ["POSTGRES_URL"], autocommit=True))

    async def load(number: int) -> Any:
        db = await free.get()
        try:
            return await query(db, number)
        finally:
            free.put_nowait(db)

    async with Redis.from_url(os.environ["REDIS_URL"]) as redis:
        pages = Pages(redis, load, way)
        await redis.blpop(["example:go"], 10)  # all processes begin together
        read = await asyncio.gather(*(pages.get(7) for _ in range(READERS)))
        assert all(page[1] == 700 for page in read), "a reader got the page of another product"
    for _ in range(5):
        await free.get_nowait().close()


async def stampede(redis: Redis, db: psycopg.AsyncConnection[Any], way: str) -> tuple[int, float]:
    """The entry of a hot product is gone, and 200 readers come: loads, and seconds until the last one has the page."""
    await redis.delete("example:page:7", "example:lease:7", "example:go")
    before = await loads(db)
    began = [await asyncio.create_subprocess_exec(sys.executable, __file__, way) for _ in range(PROCESSES)]
    while (await redis.info("clients"))["blocked_clients"] < PROCESSES:  # noqa: ASYNC110 -- a server calls nobody back
        await asyncio.sleep(0.01)
    start = time.perf_counter()
    await redis.rpush("example:go", *range(PROCESSES))
    assert [await process.wait() for process in began] == [0] * PROCESSES, "a process of readers has failed"
    return await loads(db) - before, time.perf_counter() - start


async def loads(db: psycopg.AsyncConnection[Any]) -> int:
    """How often the page was read from the database until now, by the database's own count."""
    return (await (await db.execute("SELECT last_value FROM loads")).fetchone() or [0])[0]


async def timed(get: Load, numbers: list[int]) -> tuple[float, float]:
    """Milliseconds of the median read and of the slowest hundredth."""
    took = []
    for number in numbers:
        start = time.perf_counter()
        await get(number)
        took.append((time.perf_counter() - start) * 1000)
    cuts = quantiles(took, n=100)
    return cuts[49], cuts[98]


async def late_writer(redis: Redis, db: psycopg.AsyncConnection[Any], way: str) -> int:
    """A load reads the old price, the price changes and the entry is deleted, the load writes: what is shown then."""
    await db.execute("UPDATE products SET price = 700 WHERE id = 7")
    await redis.delete("example:page:7", "example:lease:7")
    read, changed = asyncio.Event(), asyncio.Event()

    async def slow(number: int) -> Any:
        page = await query(db, number)
        read.set()
        await changed.wait()
        return page

    loading = asyncio.create_task(Pages(redis, slow, way).get(7))
    await read.wait()
    await db.execute("UPDATE products SET price = 500 WHERE id = 7")
    await redis.delete("example:page:7", "example:lease:7")
    changed.set()
    await loading
    return (await Pages(redis, lambda number: query(db, number), way).get(7))[1]


async def main() -> None:
    url = os.environ["POSTGRES_URL"]
    async with Redis.from_url(os.environ["REDIS_URL"]) as redis, await psycopg.AsyncConnection.connect(url) as db:
        await db.set_autocommit(True)
        await db.execute(SCHEMA)
        print(f"\n1  {PROCESSES} processes with {READERS} readers each miss the same product\n")
        print(f"   {'':22}{'loads':>6}{'the last has it after':>24}")
        crowd = {way: await stampede(redis, db, way) for way in (NAIVE, FLIGHT, LEASE)}
        for way, (count, seconds) in crowd.items():
            print(f"   {way:22}{count:6}{seconds:22.2f} s")
        assert crowd[NAIVE][0] > 20 * crowd[FLIGHT][0], "get, load, set was to load for nearly every reader"
        assert (crowd[FLIGHT][0], crowd[LEASE][0]) == (PROCESSES, 1), "one load a process, and one for all"
        popular = random.Random(2).choices(range(1, PRODUCTS), [1 / rank for rank in range(1, PRODUCTS)], k=READS)
        print(f"\n2  {READS} reads of {PRODUCTS} products, the popular ones more often\n")
        plain = await timed(lambda number: query(db, number), popular)
        before = await loads(db)
        cached = await timed(Pages(redis, lambda number: query(db, number), LEASE).get, popular)
        saved = 1 - (await loads(db) - before) / READS
        for name, (middle, worst) in {"database": plain, "cache-aside": cached}.items():
            print(f"   {name:22}p50 {middle:6.2f} ms    p99 {worst:6.2f} ms")
        print(f"   {'loads saved':22}{saved:.0%}, {len(set(popular))} different products")
        assert saved > 0.4 and cached[0] < plain[0] / 5, "most reads were to be hits, and a hit much cheaper"
        assert cached[1] > plain[0] / 2, "the slowest hundredth was to be the misses, which pay for both"
        print("\n3  A slow load reads 700, the price becomes 500, the entry is deleted, the load writes\n")
        for way, promised in ((NAIVE, 700), (LEASE, 500)):
            shown = await late_writer(redis, db, way)
            print(f"   {way:22}{shown} is shown" + (" for the next 60 s" if shown == 700 else ""))
            assert shown == promised, "only who asks for the lease was to notice that it came too late"
        await redis.delete(*[key async for key in redis.scan_iter("example:*")])
        await db.execute("DROP TABLE products, reviews; DROP SEQUENCE loads")


if __name__ == "__main__":
    asyncio.run(reader(sys.argv[1]) if sys.argv[1:] else main())
