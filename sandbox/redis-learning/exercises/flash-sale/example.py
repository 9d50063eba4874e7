"""A flash sale whose workers are killed right after a charge: four ways to go on, and what the books say then.

Takes REDIS_URL (Redis) and POSTGRES_URL (the provider's charges and the shop's orders); asserts what the lesson says.
"""

import asyncio
import os
import secrets
import signal
import sys
from dataclasses import dataclass

import psycopg
from redis.asyncio import Redis

UNITS, BUYERS, LEASE = 10, 30, 300  # milliseconds
KEYS = ("example:waiting", "example:working", "example:sold")

# What becomes of a buyer whose worker does not come back, and what the key of a charge is made of.
WAYS = {
    "counted down": ("forgotten", "buyer"),
    "given back": ("dropped", "buyer"),
    "tried again": ("taken up", "try"),
    "finished": ("taken up", "buyer"),
}

TAKE = """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local late = redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', now, 'LIMIT', 0, 1)[1]
if late and ARGV[3] == 'dropped' then redis.call('ZREM', KEYS[2], late) end
local buyer = ARGV[3] == 'taken up' and late
if not buyer and redis.call('ZCARD', KEYS[2]) + redis.call('SCARD', KEYS[3]) < tonumber(ARGV[1]) then
    buyer = redis.call('LPOP', KEYS[1])
end
if buyer then redis.call('ZADD', KEYS[2], now + ARGV[2], buyer) end
return buyer
"""
SETTLE = """
redis.call('ZREM', KEYS[2], ARGV[1])
redis.call('SADD', KEYS[3], ARGV[1])
"""
CHARGE = "INSERT INTO charges VALUES (%s, %s) ON CONFLICT DO NOTHING"
RECORD = "INSERT INTO orders VALUES (%s, %s) ON CONFLICT DO NOTHING"


@dataclass(frozen=True)
class Seen:
    """What the books say in the end."""

    orders: int
    charges: int
    twice: int  # buyers who were charged more than once
    unserved: int  # buyers who were charged and have no order


async def work(way: str, turns: int) -> None:
    """One worker, as a process of its own; after so many purchases it is killed, right after the charge."""
    late, key_of = WAYS[way]
    url = os.environ["POSTGRES_URL"]
    async with Redis.from_url(os.environ["REDIS_URL"]) as redis, await connect(url) as books:
        for turn in range(1, UNITS * 2):
            taken = await redis.eval(TAKE, 3, *KEYS, UNITS, LEASE, late)
            if taken is None:
                return
            buyer = taken.decode()
            key = buyer if key_of == "buyer" else secrets.token_hex()
            await books.execute(CHARGE, (key, buyer))
            if turn == turns:
                os.kill(os.getpid(), signal.SIGKILL)
            await books.execute(RECORD, (key, buyer))
            await redis.eval(SETTLE, 3, *KEYS, buyer)


async def connect(url: str) -> psycopg.AsyncConnection:
    return await psycopg.AsyncConnection.connect(url, autocommit=True)


async def worker(way: str, turns: int) -> int:
    process = await asyncio.create_subprocess_exec(sys.executable, __file__, way, str(turns))
    return await process.wait()


async def leases_over(redis: Redis) -> None:
    """Return when whoever is dead is known to be late."""
    while True:
        seconds, micros = await redis.time()
        if not await redis.zcount(KEYS[1], seconds * 1000 + micros // 1000, "+inf"):
            return
        await asyncio.sleep(0.02)


async def sale(redis: Redis, books: psycopg.AsyncConnection, way: str) -> Seen:
    """Two workers are killed at their third purchase; the third one works until nobody is left to take up."""
    await redis.delete(*KEYS)
    await books.execute("DROP TABLE IF EXISTS charges, orders")
    await books.execute("CREATE TABLE charges (key text PRIMARY KEY, buyer text NOT NULL)")
    await books.execute("CREATE TABLE orders (id text PRIMARY KEY, buyer text NOT NULL)")
    await redis.rpush(KEYS[0], *(f"buyer-{number:02}" for number in range(1, BUYERS + 1)))
    for _ in range(2):
        assert await worker(way, 3) == -signal.SIGKILL, "a worker was to be killed"
    await leases_over(redis)
    assert await worker(way, 0) == 0, "the last worker was to come to its end"

    async def count(sql: str) -> int:
        row = await (await books.execute(sql.encode())).fetchone()
        return row[0] if row else 0

    return Seen(
        orders=await count("SELECT count(*) FROM orders"),
        charges=await count("SELECT count(*) FROM charges"),
        twice=await count("SELECT count(*) FROM (SELECT FROM charges GROUP BY buyer HAVING count(*) > 1) AS them"),
        unserved=await count("SELECT count(DISTINCT buyer) FROM charges WHERE buyer NOT IN (SELECT buyer FROM orders)"),
    )


async def main() -> None:
    async with Redis.from_url(os.environ["REDIS_URL"]) as redis, await connect(os.environ["POSTGRES_URL"]) as books:
        print(f"\n{UNITS} units, {BUYERS} buyers, two of three workers killed right after a charge; their unit is\n")
        print(f"   {'':14}{'orders':>8}{'charges':>9}{'charged twice':>15}{'charged, no order':>19}{'unsold':>8}")
        seen = {way: await sale(redis, books, way) for way in WAYS}
        for way, one in seen.items():
            unsold = UNITS - one.orders
            print(f"   {way:14}{one.orders:8}{one.charges:9}{one.twice:15}{one.unserved:19}{unsold:8}")
        print()
        assert seen["counted down"] == Seen(UNITS - 2, UNITS, 0, 2), "two units were to be lost, and two buyers' money"
        assert seen["given back"] == Seen(UNITS, UNITS + 2, 0, 2), "two buyers were to pay for nothing"
        assert seen["tried again"] == Seen(UNITS, UNITS + 2, 2, 0), "two buyers were to pay twice"
        assert seen["finished"] == Seen(UNITS, UNITS, 0, 0), "all was to be sold, once"
        await redis.delete(*KEYS)
        await books.execute("DROP TABLE charges, orders")


if __name__ == "__main__":
    asyncio.run(work(sys.argv[1], int(sys.argv[2])) if sys.argv[1:] else main())
