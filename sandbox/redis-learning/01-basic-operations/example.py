"""A cart that loses clicks, and what the server can do instead: three ways to keep a product, to write, and six types.

Takes REDIS_URL; asserts what the lesson says of it.
"""

import asyncio
import json
import os
import sys
import time
from collections.abc import Mapping
from statistics import median

from redis.asyncio import Redis
from redis.typing import EncodableT, FieldT

CLICKS, PROCESSES, WRITES = 50, 4, 1_000
LOSSY, WHOLE = "read, add, write back", "HINCRBY"
PRODUCT: Mapping[FieldT, EncodableT] = {
    "name": "Trail shoe",
    "brand": "Fjell",
    "price": "8900",
    "stock": "120",
    "weight": "310",
    "colour": "moss",
}
KEYS = [f"example:{key}" for key in ("cart", "json", "hash", "all", "many", "views", "recent", "buyers", "top", "code")]
CART, JSON, HASH, ALL, MANY, VIEWS, RECENT, BUYERS, TOP, CODE = KEYS
COUNT_UP = "for i = 1, ARGV[1] do redis.call('HINCRBY', KEYS[1], 'line', 1) end"


async def click(redis: Redis, way: str) -> None:
    """One click: as many carts take it, read, change here, write back; or as one command."""
    if way == LOSSY:
        lines = json.loads(await redis.get(CART) or "{}")
        lines["shoe"] = lines.get("shoe", 0) + 1
        await redis.set(CART, json.dumps(lines))
    else:
        await redis.hincrby(CART, "shoe", 1)


async def clicks(way: str) -> None:
    """A process that clicks, one click after the other."""
    async with Redis.from_url(os.environ["REDIS_URL"]) as redis:
        await redis.blpop("example:go", 10)  # all processes begin together
        for _ in range(CLICKS):
            await click(redis, way)


async def sale(redis: Redis, way: str) -> int:
    """Four processes click at the same time: how many of their clicks are in the cart."""
    await redis.delete(CART)
    began = [await asyncio.create_subprocess_exec(sys.executable, __file__, way) for _ in range(PROCESSES)]
    while (await redis.info("clients"))["blocked_clients"] < PROCESSES:  # noqa: ASYNC110 -- a server calls nobody back
        await asyncio.sleep(0.01)
    await redis.rpush("example:go", *range(PROCESSES))
    assert [await process.wait() for process in began] == [0] * PROCESSES, "a process that clicks has failed"
    document = await redis.get(CART) if await redis.type(CART) == "string" else None
    return json.loads(document)["shoe"] if document else int(await redis.hget(CART, "shoe") or 0)


async def three_ways_to_keep(redis: Redis) -> dict[str, float]:
    """1,000 products as documents, as hashes, and as the fields of one hash: bytes of memory for one product."""
    for number in range(1_000):
        document = json.dumps(PRODUCT)
        await redis.set(f"{JSON}:{number}", document)
        await redis.hset(f"{HASH}:{number}", mapping=PRODUCT)
        await redis.hset(ALL, str(number), document)
    return {
        "a JSON string a product": await redis.memory_usage(f"{JSON}:0") or 0,
        "a hash a product": await redis.memory_usage(f"{HASH}:0") or 0,
        "a field of one big hash": (await redis.memory_usage(ALL, samples=0) or 0) / 1_000,
    }


async def three_ways_to_write(redis: Redis) -> dict[str, float]:
    """1,000 increments, each way five times in turn: the median of the seconds they took."""

    async def one_by_one() -> None:
        for _ in range(WRITES):
            await redis.hincrby(MANY, "line", 1)

    async def together() -> None:
        async with redis.pipeline(transaction=False) as pipe:
            for _ in range(WRITES):
                pipe.hincrby(MANY, "line", 1)
            await pipe.execute()

    async def on_the_server() -> None:
        await redis.eval(COUNT_UP, 1, MANY, WRITES)

    took: dict[str, list[float]] = {}
    for _ in range(5):
        for name, way in (("one by one", one_by_one), ("pipeline", together), ("script", on_the_server)):
            began = time.perf_counter()
            await way()
            took.setdefault(name, []).append(time.perf_counter() - began)
    assert int(await redis.hget(MANY, "line") or 0) == 15 * WRITES, "every way was to count every write"
    return {name: median(figures) for name, figures in took.items()}


async def six_types(redis: Redis) -> dict[str, object]:
    """What each type is for, in one use each; commands that answer the question by themselves."""
    views = [await redis.incr(VIEWS) for _ in range(3)][-1]
    await redis.hset(f"{HASH}:0", mapping=PRODUCT)
    dearer = await redis.hincrby(f"{HASH}:0", "price", 100)
    for sku in ("hat", "shoe", "sock", "coat"):
        await redis.lpush(RECENT, sku)
        await redis.ltrim(RECENT, 0, 2)
    first = [await redis.sadd(BUYERS, user) for user in ("ann", "bob", "ann")]
    await redis.zadd(TOP, {"shoe": 3, "hat": 9, "sock": 1})
    await redis.set(CODE, "4711", ex=60)
    return {
        "string   INCR      views of a page": views,
        "hash     HINCRBY   price of a product": dearer,
        "list     LPUSH     seen last, three at most": await redis.lrange(RECENT, 0, -1),
        "set      SADD      bought for the first time?": first,
        "sorted   ZREVRANGE best-selling two": await redis.zrevrange(TOP, 0, 1),
        "any key  EX 60     seconds that a code is valid": await redis.ttl(CODE),
    }


async def main() -> None:
    async with Redis.from_url(os.environ["REDIS_URL"], decode_responses=True) as redis:
        print(f"\n1  {PROCESSES} processes, {CLICKS} clicks each, one cart\n")
        counted = {way: await sale(redis, way) for way in (LOSSY, WHOLE)}
        for way, count in counted.items():
            print(f"   {way:24}{count:4} of {PROCESSES * CLICKS} clicks in the cart")
        assert counted[LOSSY] < counted[WHOLE] == PROCESSES * CLICKS, "only writing back was to lose clicks"
        print("\n2  One product of six fields, kept in three ways: bytes\n")
        kept = await three_ways_to_keep(redis)
        for way, size in kept.items():
            print(f"   {way:24}{size:6.0f}")
        print(f"\n3  {WRITES:,} increments: milliseconds, and how many times as long as the script\n")
        took = await three_ways_to_write(redis)
        for way, seconds in took.items():
            print(f"   {way:12}{seconds * 1000:8.1f}  x{seconds / took['script']:.0f}")
        assert took["one by one"] > 3 * took["pipeline"], "a pipeline was to save the waiting between writes"
        assert took["pipeline"] > took["script"], "a script was to save the answers, too"
        print("\n4  Six types, one use each\n")
        seen = await six_types(redis)
        for use, answer in seen.items():
            print(f"   {use:48} {answer}")
        assert list(seen.values())[:5] == [3, 9000, ["coat", "sock", "shoe"], [1, 1, 0], ["hat", "shoe"]], "see above"
        await redis.delete(*KEYS, *(f"{key}:{number}" for key in (JSON, HASH) for number in range(1_000)))


if __name__ == "__main__":
    asyncio.run(clicks(sys.argv[1]) if sys.argv[1:] else main())
