"""Ways to write prices: what a kill -9 loses of each, how long a write takes, and how often the database commits.

Takes REDIS_URL and POSTGRES_URL; asserts what the lesson says of it.
"""

import asyncio
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from statistics import median

from psycopg import AsyncConnection
from redis.asyncio import Redis

WRITES, PRODUCTS, WRITERS = 5_000, 500, 20
TABLE = "DROP TABLE IF EXISTS price; CREATE TABLE price (id int PRIMARY KEY, cents int, version bigint)"
NUMBER = "SELECT pg_snapshot_xmax(pg_current_snapshot())::text::bigint"  # of the next transaction that writes
SET = """INSERT INTO price SELECT * FROM unnest(%s::int[], %s::int[], %s::bigint[]) ON CONFLICT (id) DO UPDATE
SET cents = EXCLUDED.cents, version = EXCLUDED.version WHERE price.version < EXCLUDED.version"""
MARK = "redis.call('SADD', KEYS[2], ARGV[1]) redis.call('PEXPIRE', KEYS[2], ARGV[2]) return redis.call('DEL', KEYS[1])"
UNMARK = "redis.call('SREM', KEYS[2], ARGV[1]) return redis.call('SET', KEYS[1], ARGV[1])"
QUEUE = """local time = redis.call('TIME')
local version = string.format('%.0f', math.max(time[1] * 1000000 + time[2], (redis.call('GET', KEYS[2]) or 0) + 1))
redis.call('SET', KEYS[2], version) return redis.call('HSET', KEYS[1], ARGV[1], version .. ':' .. ARGV[2])"""
SETTLE = """for n = 1, #ARGV, 2 do if redis.call('HGET', KEYS[1], ARGV[n]) == ARGV[n + 1] then
redis.call('HDEL', KEYS[1], ARGV[n]) end end"""
CASES = (
    ("write-around", "around", "committed"),
    ("write-through, database then cache", "through", "committed"),
    ("write-through, a mark before the commit", "marked", "committed"),
    ("write-behind, out of the queue first", "popped", "taken"),
    ("write-behind, out after the commit", "behind", "committed"),
)


@dataclass
class Shop:
    """One process's connections, and the ways to write a price. At the place `dies` it dies (kill -9)."""

    redis: Redis
    database: AsyncConnection
    dies: str = ""

    def at(self, place: str) -> None:
        if place == self.dies:
            os.kill(os.getpid(), signal.SIGKILL)

    async def commit(self, *columns: list[int]) -> None:
        await self.database.execute(SET, columns)
        self.at("committed")

    async def write(self, way: str, product: int, cents: int) -> None:
        copy, marks, row = f"copy:{product}", f"marks:{product}", ([product], [cents], [time.time_ns() // 1000])
        if way in {"around", "through"}:
            await self.commit(*row)
            await (self.redis.set(copy, cents) if way == "through" else self.redis.delete(copy))
        elif way == "marked":  # for one writer a product: the exercise has versions, and an end for each mark
            await self.redis.eval(MARK, 2, copy, marks, cents, 10_000)
            await self.commit(*row)
            await self.redis.eval(UNMARK, 2, copy, marks, cents)
        else:
            await self.redis.eval(QUEUE, 2, "waiting", "version", product, cents)

    async def flush(self, *, pop: bool = False) -> None:
        taken = await self.redis.eval("return redis.call('HRANDFIELD', KEYS[1], 500, 'WITHVALUES')", 1, "waiting")
        if pop:
            await self.redis.eval(SETTLE, 1, "waiting", *taken)
        self.at("taken")
        if taken:
            versions, cents = zip(*(map(int, price.split(":")) for price in taken[1::2]), strict=True)
            await self.commit([int(product) for product in taken[::2]], list(cents), list(versions))
            await self.redis.eval(SETTLE, 1, "waiting", *taken)

    async def asks(self, query: str) -> list[tuple[int, ...]]:
        return await (await self.database.execute(query.encode())).fetchall()


async def opened() -> Shop:
    redis = Redis.from_url(os.environ["REDIS_URL"], decode_responses=True)
    return Shop(redis, await AsyncConnection.connect(os.environ["POSTGRES_URL"], autocommit=True))


async def doomed(way: str, place: str) -> None:
    """The process that dies, at the last of 100 prices; it says "ok" for each that was acknowledged."""
    shop = await opened()
    for product in range(100):
        shop.dies = place if product == 99 else ""
        await shop.write(way, product, 200)
        print("ok", flush=True)
    await shop.flush(pop=way == "popped")


async def killed(shop: Shop, name: str, way: str, place: str) -> tuple[int, int]:
    """100 prices become 200 in a process that dies: how many acknowledged ones are lost, how many are read as 100."""
    await asyncio.gather(shop.database.execute(TABLE), shop.redis.flushdb())
    for product in range(100):
        await shop.write("around" if way in {"popped", "behind"} else "through", product, 100)
    child = await asyncio.to_thread(subprocess.run, [sys.executable, __file__, way, place], stdout=subprocess.PIPE)
    assert child.returncode == -signal.SIGKILL, f"it was to die by SIGKILL, not by {child.returncode}"
    await shop.flush()  # whoever else flushes
    said, rows = len(child.stdout.split()), await shop.asks("SELECT id, cents FROM price ORDER BY id")
    lost = sum(cents != 200 for _, cents in rows[:said])
    copies = await shop.redis.mget([f"copy:{product}" for product, _ in rows])
    old = sum(copy is not None and int(copy) != cents for copy, (_, cents) in zip(copies, rows, strict=True))
    print(f"   {name:41}{place:11}{lost:4} of {said:3}{old:10}")
    return lost, old


async def timed(shops: list[Shop], name: str, way: str) -> tuple[float, int]:
    """All writes, by all writers at once: the median of a write in milliseconds, and the commits."""
    shop, took = shops[0], list[float]()
    await asyncio.gather(shop.database.execute(TABLE), shop.redis.flushdb())
    began, first = time.perf_counter(), (await shop.asks(NUMBER))[0][0]

    async def work(shop: Shop, number: int) -> None:
        for cents in range(number, WRITES, WRITERS):
            began = time.perf_counter()
            await shop.write(way, cents % PRODUCTS, cents)
            took.append(1000 * (time.perf_counter() - began))
            if cents % PRODUCTS == 0:
                await shop.flush()

    await asyncio.gather(*(work(shop, number) for number, shop in enumerate(shops)))
    await shop.flush()
    seconds, commits = time.perf_counter() - began, (await shop.asks(NUMBER))[0][0] - first
    assert len(await shop.asks(f"SELECT FROM price WHERE cents = {WRITES - PRODUCTS} + id")) == PRODUCTS
    print(f"   {name:27}{median(took):8.2f} ms{sorted(took)[WRITES * 99 // 100]:9.2f} ms{commits:9,}{seconds:8.1f} s")
    return median(took), commits


async def main() -> None:
    shops = [await opened() for _ in range(WRITERS)]
    print(f"\n1  100 prices are changed by a process that is killed (kill -9)\n\n{'lost':>65}{'read old':>11}")
    fates = [await killed(shops[0], *case) for case in CASES]
    assert fates == [(0, 1), (0, 1), (0, 0), (100, 0), (0, 0)], "see the table above"
    print(f"\n2  {WRITES:,} changes of {PRODUCTS} prices, {WRITERS} at a time: median, p99, commits, all stored\n")
    around, _ = await timed(shops, "write-around", "around")
    through, many = await timed(shops, "write-through, marked", "marked")
    behind, few = await timed(shops, "write-behind", "behind")
    assert many >= WRITES > 10 * few, "each write through was to be a commit, those behind a few"
    assert behind < min(around, through), "to write behind was to be the quickest"
    await asyncio.gather(*(shop.redis.aclose() for shop in shops), *(shop.database.close() for shop in shops))


if __name__ == "__main__":
    asyncio.run(doomed(*sys.argv[1:]) if sys.argv[1:] else main())
