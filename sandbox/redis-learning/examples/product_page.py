"""A product page under load, before and after: 02, 04, 06 and 08 together, on real PostgreSQL and Redis.

Takes REDIS_URL and POSTGRES_URL (`./lab run redis` gives them); asserts what it prints. The four classes are the
references of their modules; put the folder of your own solutions first in SOLUTIONS to see yours at work.
"""

import asyncio
import json
import os
import random
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from statistics import quantiles
from typing import LiteralString

import psycopg
from redis.asyncio import Redis

TOPIC = Path(__file__).parents[1]
SOLUTIONS = [folder for number in ("02", "04", "06", "08") for folder in TOPIC.glob(f"{number}-*/solution")]
sys.path[:0] = [str(folder) for folder in SOLUTIONS]

from coherent_cache import CoherentCache  # noqa: E402 # pyright: ignore[reportMissingImports]
from product_cache import Product, ProductCache  # noqa: E402 # pyright: ignore[reportMissingImports]
from rate_limiter import RateLimiter  # noqa: E402 # pyright: ignore[reportMissingImports]
from trending import Trending  # noqa: E402 # pyright: ignore[reportMissingImports]

Page = Callable[[str, str], Awaitable[str | None]]
PRODUCTS, REVIEWS, VIEWS = 2_000, 60_000, 60_000
PAGES, AT_ONCE, HOT = 400, 20, 30  # pages in all and at the same time; so many products get most of the visits
SCHEMA = f"""
CREATE TABLE products (id text PRIMARY KEY, name text, price int);
CREATE TABLE reviews (product text, stars int);
CREATE TABLE views (product text, at timestamptz DEFAULT now());
INSERT INTO products SELECT 'p' || n, 'Shoe ' || n, 1000 + n FROM generate_series(1, {PRODUCTS}) n;
INSERT INTO reviews SELECT 'p' || 1 + n % {PRODUCTS}, 1 + n % 5 FROM generate_series(1, {REVIEWS}) n;
INSERT INTO views SELECT 'p' || 1 + n % {PRODUCTS} FROM generate_series(1, {VIEWS}) n;
CREATE INDEX ON reviews (product);
ANALYZE;
"""  # noqa: S608 - the numbers are from three lines above
TOP = "SELECT product, count(*) FROM views WHERE at > now() - interval '1 hour' GROUP BY 1 ORDER BY 2 DESC LIMIT 10"


class Database:
    """What the page asks PostgreSQL, counted, over a few connections."""

    def __init__(self, connections: list[psycopg.AsyncConnection]) -> None:
        self.free: asyncio.Queue[psycopg.AsyncConnection] = asyncio.Queue()
        self.asked: Counter[str] = Counter()
        for connection in connections:
            self.free.put_nowait(connection)

    async def ask(self, what: str, sql: LiteralString, *values: object) -> list[tuple[object, ...]]:
        self.asked[what] += 1
        connection = await self.free.get()
        try:
            answer = await connection.execute(sql, values)
            return await answer.fetchall() if answer.description else []
        finally:
            self.free.put_nowait(connection)

    async def product(self, product_id: str) -> Product | None:
        rows = await self.ask("product", "SELECT id, name, price FROM products WHERE id = %s", product_id)
        return Product(id=str(rows[0][0]), name=str(rows[0][1]), price=int(str(rows[0][2]))) if rows else None

    async def reviews(self, product_id: str) -> str:
        sql = "SELECT count(*), coalesce(avg(stars), 0)::float FROM reviews WHERE product = %s"
        return json.dumps((await self.ask("reviews", sql, product_id))[0])


class Before:
    """Every page asks the database for everything."""

    def __init__(self, database: Database) -> None:
        self.database = database

    async def page(self, product_id: str, user: str) -> str:
        await self.database.ask("view", "INSERT INTO views VALUES (%s)", product_id)
        await self.database.product(product_id)
        reviews = await self.database.reviews(product_id)
        await self.database.ask("trending", TOP)
        return f"{user}: {product_id} {reviews}"


class After:
    """One instance of the page, with all four."""

    def __init__(self, database: Database, redis: Redis) -> None:
        self.limit = RateLimiter(redis, 100, 60.0)
        self.products = ProductCache(redis, database.product)
        self.reviews = CoherentCache(redis, lambda key: self.load(database, key), 60.0)
        self.trending = Trending(redis)

    async def load(self, database: Database, key: str) -> tuple[str, list[str]]:
        return await database.reviews(key), [f"product:{key}"]

    async def page(self, product_id: str, user: str) -> str | None:
        if not (await self.limit.hit(user)).allowed:
            return None
        _, _, reviews, _ = await asyncio.gather(
            self.trending.record(product_id),
            self.products.get(product_id),
            self.reviews.get(product_id),
            self.trending.top(10),
        )
        return f"{user}: {product_id} {reviews}"


async def visits(pages: Sequence[Page], chance: random.Random) -> tuple[list[float], float]:
    """Seconds that each page took, and all of them; 20 readers at a time, who mostly want the same few products."""
    wanted = iter([f"p{chance.randint(1, HOT if chance.random() < 0.9 else PRODUCTS)}" for _ in range(PAGES)])
    took: list[float] = []

    async def reader(page: Page, user: str) -> None:
        for product_id in wanted:
            began = time.perf_counter()
            assert await page(product_id, user), f"{user} was refused"
            took.append(time.perf_counter() - began)

    began = time.perf_counter()
    await asyncio.gather(*(reader(pages[number % len(pages)], f"user-{number}") for number in range(AT_ONCE)))
    return took, time.perf_counter() - began


async def measured(name: str, pages: Sequence[Page], database: Database) -> float:
    """Queries a page, and the rest printed."""
    database.asked.clear()
    took, seconds = await visits(pages, random.Random(1))
    cuts, queries = quantiles(took, n=100), database.asked.total() / PAGES
    print(
        f"   {name:7}{PAGES / seconds:7.0f} pages/s   p50{cuts[49] * 1000:7.1f} ms   p99{cuts[98] * 1000:7.1f} ms"
        f"   {queries:5.2f} queries a page"
    )
    return queries


async def main() -> None:
    async with AsyncExitStack() as opened:
        url = os.environ["POSTGRES_URL"]
        connections = [
            await opened.enter_async_context(await psycopg.AsyncConnection.connect(url, autocommit=True))
            for _ in range(8)
        ]
        await connections[0].execute(SCHEMA.encode())
        database = Database(connections)
        redis = await opened.enter_async_context(Redis.from_url(os.environ["REDIS_URL"]))
        await redis.flushdb()
        instances = [After(database, redis) for _ in range(2)]
        for instance in instances:
            await instance.reviews.start()
            opened.push_async_callback(instance.reviews.stop)

        print(f"{PAGES} pages, {AT_ONCE} at a time, of {PRODUCTS:,} products, mostly {HOT} of them:")
        before = await measured("before", [Before(database).page], database)
        cold = await measured("cold", [one.page for one in instances], database)
        warm = await measured("warm", [one.page for one in instances], database)
        assert cold < before / 4, f"{cold:.2f} queries a page with cold caches, {before:.2f} before"
        assert warm < before / 20, f"{warm:.2f} queries a page with warm caches, {before:.2f} before"

        first, second = instances
        old = await first.page("p1", "ann"), await second.page("p1", "bob")
        await database.ask("review", "INSERT INTO reviews VALUES ('p1', 1)")
        await first.reviews.invalidate_tag("product:p1")
        deadline = time.perf_counter() + 5
        while (seen := await second.page("p1", "eve")) and seen.endswith(str(old[1]).partition("p1 ")[2]):
            assert time.perf_counter() < deadline, "the other instance still shows the old reviews"
        print("   a new review was shown by both instances")

        admitted = [bool(await second.page("p2", "robot")) for _ in range(150)].count(True)
        print(f"   of 150 pages that one robot wanted, {admitted} were served")
        assert admitted == 100
        best = (await first.trending.top(1))[0]
        print(f"   trending: {best.sku}, seen {best.score} times")


if __name__ == "__main__":
    asyncio.run(main())
