"""Our write-behind queue beside the least that a queue in Redis can cost, and a flush beside its bare statement.

    python -m bench.write_behind

Starts its own Redis and PostgreSQL; takes about 20 s. No Python library to compare with was found, so the limits stand
alone. Goals: WB1, queueing a price costs at most 1.30 times a raw XADD, which has no coalescing; WB2, a flush of 500
prices costs at most 1.50 times the statement that it executes.
"""

import asyncio
import random
import sys
import tempfile
import time
from collections.abc import Sequence
from importlib.metadata import version
from itertools import count
from pathlib import Path

from bench.interleave import compare, machine
from psycopg import AsyncConnection
from redis.asyncio import Redis

from faultline.components import Supervisor
from faultline.patterns import WriteBehind

OURS, APPEND, FIELD = "faultline", "raw XADD", "raw HSET"
ROWS = 500
QUEUEING, FLUSHING = 1.30, 1.50

TABLE = "CREATE TABLE price (product_id text PRIMARY KEY, cents bigint NOT NULL, version bigint NOT NULL)"
SET_ALL = b"""
INSERT INTO price SELECT * FROM unnest(%s::text[], %s::bigint[], %s::bigint[]) ON CONFLICT (product_id)
DO UPDATE SET cents = EXCLUDED.cents, version = EXCLUDED.version WHERE price.version < EXCLUDED.version
"""


class Prices:
    """The database of the queue."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def get_price(self, product_id: str) -> Sequence[int] | None:
        raise NotImplementedError(product_id)

    async def set_price(self, product_id: str, cents: int) -> int:
        raise NotImplementedError(product_id, cents)

    async def set_prices(self, prices: Sequence[tuple[str, int, int]]) -> None:
        await self._connection.execute(SET_ALL, [list(column) for column in zip(*prices, strict=True)])


async def queueing(client: Redis, queue: WriteBehind, *, calls: int, rounds: int, chance: random.Random) -> bool:
    numbers = count()

    def product() -> str:
        return f"product-{next(numbers) % ROWS}"

    await queue.set_price("warm", 1)
    found = await compare(
        {
            APPEND: lambda: client.xadd("raw-stream", {"id": product(), "cents": 1999}, maxlen=10 * ROWS),
            FIELD: lambda: client.hset("raw-hash", product(), 1999),
            OURS: lambda: queue.set_price(product(), 1999),
        },
        base=APPEND,
        calls=calls,
        rounds=rounds,
        chance=chance,
    )
    print(f"\nWB1  one price into the queue: us, median of {rounds} rounds of {calls}; ratio to {APPEND}")
    for name, cost in found.items():
        print(f"  {name:12} {cost.middle:8.0f}  ({min(cost.rounds):.0f}-{max(cost.rounds):.0f})   x{cost.ratio:.2f}")
    return goal(f"WB1 x{found[OURS].ratio:.2f} <= x{QUEUEING}", found[OURS].ratio <= QUEUEING)


async def flushing(queue: WriteBehind, prices: Prices, *, rounds: int, chance: random.Random) -> bool:
    products = [f"product-{number}" for number in range(ROWS)]
    spent: dict[str, list[float]] = {"statement": [], OURS: []}

    async def timed(name: str) -> None:
        if name == OURS:
            await asyncio.gather(*(queue.set_price(product_id, 1999) for product_id in products))
        began = time.perf_counter()
        if name == OURS:
            assert await queue.flush(ROWS) == ROWS
        else:
            newest = time.time_ns() // 1000
            await prices.set_prices([(product_id, 1999, newest) for product_id in products])
        spent[name].append(time.perf_counter() - began)

    while await queue.flush(ROWS):
        pass
    for _ in range(rounds):
        for name in chance.sample(list(spent), len(spent)):
            await timed(name)
    ratios = sorted(ours / bare for ours, bare in zip(spent[OURS], spent["statement"], strict=True))
    ratio = ratios[len(ratios) // 2]
    print(f"\nWB2  {ROWS} prices to PostgreSQL: ms, median of {rounds}; ratio to the bare statement")
    for name, times in spent.items():
        print(f"  {name:12} {1000 * sorted(times)[len(times) // 2]:8.1f}")
    return goal(f"WB2 x{ratio:.2f} <= x{FLUSHING}", ratio <= FLUSHING)


def goal(sentence: str, met: bool) -> bool:
    print(f"  {'met   ' if met else 'MISSED'}  {sentence}")
    return met


async def main() -> bool:
    seed = 3
    chance = random.Random(seed)
    with tempfile.TemporaryDirectory() as folder:
        async with Supervisor(Path(folder)) as supervisor:
            server, database = await asyncio.gather(supervisor.start("redis"), supervisor.start("postgres"))
            async with (
                Redis(host=server.host, port=server.port) as client,
                await AsyncConnection.connect(database.url, autocommit=True) as connection,
            ):
                await connection.execute(TABLE)
                facts = await client.info("server")
                peers = ", ".join(f"{name} {version(name)}" for name in ("redis", "hiredis", "psycopg"))
                print(
                    f"{machine()}\nserver {facts.get('valkey_version') or facts['redis_version']}, {peers}, seed {seed}"
                )
                prices = Prices(connection)
                queue = WriteBehind(client, prices)
                met = [
                    await queueing(client, queue, calls=100, rounds=40, chance=chance),
                    await flushing(queue, prices, rounds=25, chance=chance),
                ]
                print(f"\n{machine()}")
    return all(met)


if __name__ == "__main__":
    sys.exit(not asyncio.run(main()))
