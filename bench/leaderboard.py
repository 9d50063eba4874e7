"""Our leaderboard beside redis-infra's and the raw commands: what a record and a look cost, and what leaving costs.

    ./lab bench redis        or        .venv/bin/python -m bench.leaderboard

redis-infra has no window: its `increment` is one ZINCRBY, which is the floor of what a record can cost. Ours keeps a
bucket, a place and a channel besides, in one script. Exits with 1 when a goal is missed.
"""

import asyncio
import random
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

from bench.interleave import Cost, compare, machine
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis_infra import AsyncLeaderboard

from faultline.components import Supervisor
from faultline.patterns import Trending

MEMBERS, LEAVING = 3_000, 8_000
PING = "raw PING"
RECORD, LOOK = 1.60, 1.60
PAUSE = 0.35


async def seed(redis: Redis) -> None:
    """The same products in all three, each with another score."""
    ours, peer = Trending(redis), AsyncLeaderboard(redis, "peer")
    for first in range(0, MEMBERS, 100):
        numbers = range(first, first + 100)
        await asyncio.gather(*(ours.record(f"product-{number:06}", MEMBERS - number) for number in numbers))
        await peer.add_many({f"product-{number:06}": MEMBERS - number for number in numbers})
        await redis.zadd("raw", {f"product-{number:06}": MEMBERS - number for number in numbers})


async def records(redis: Redis, *, calls: int, rounds: int, chance: random.Random) -> bool:
    ours, peer = Trending(redis), AsyncLeaderboard(redis, "peer")
    some = [f"product-{chance.randrange(MEMBERS):06}" for _ in range(997)]
    turns = {name: iter(some * 10_000) for name in ("raw", "ours", "peer")}
    found = await compare(
        {
            PING: redis.ping,
            "raw ZINCRBY": lambda: redis.zincrby("raw", 1, next(turns["raw"])),
            "faultline": lambda: ours.record(next(turns["ours"])),
            "redis-infra": lambda: peer.increment(next(turns["peer"])),
        },
        base="raw ZINCRBY",
        calls=calls,
        rounds=rounds,
        chance=chance,
    )
    show(f"LB1  record, {MEMBERS:,} products", found)
    return goal(f"LB1 x{found['faultline'].ratio:.2f} <= x{RECORD}", met=found["faultline"].ratio <= RECORD)


async def looks(redis: Redis, *, calls: int, rounds: int, chance: random.Random) -> bool:
    ours, peer = Trending(redis), AsyncLeaderboard(redis, "peer")
    found = await compare(
        {
            PING: redis.ping,
            "raw ZREVRANGE": lambda: redis.zrevrange("raw", 0, 9, withscores=True),
            "faultline": lambda: ours.top(10),
            "redis-infra": lambda: peer.top(10),
        },
        base="raw ZREVRANGE",
        calls=calls,
        rounds=rounds,
        chance=chance,
    )
    around = await compare(
        {
            "raw ZREVRANGE": lambda: redis.zrevrange("raw", 0, 9, withscores=True),
            "faultline": lambda: ours.around("product-005000", 5),
            "redis-infra": lambda: peer.around("product-005000", 5),
        },
        base="raw ZREVRANGE",
        calls=calls,
        rounds=rounds,
        chance=chance,
    )
    show(f"LB2  top(10) of {MEMBERS:,}", found)
    show("     around(…, 5)", around)
    return goal(f"LB2 x{found['faultline'].ratio:.2f} <= x{LOOK}", met=found["faultline"].ratio <= LOOK)


async def leaving(redis: Redis) -> bool:
    """The longest that anybody waits while a bucket's products leave, in one portion and in sixteen.

    The least of three rounds: the longest of many calls is easily the one during which the machine did something else.
    """
    rounds: dict[int, list[float]] = {1: [], 16: []}
    for number in range(3):
        for slices, found in rounds.items():
            trending = Trending(redis, window=3.0, bucket=3.0, name=f"leaving-{number}-{slices}", slices=slices)
            for first in range(0, LEAVING, 100):
                await asyncio.gather(*(trending.record(f"product-{each}") for each in range(first, first + 100)))
            waits, left = list[float](), True
            while left:  # the look itself takes out what has left
                began = time.perf_counter()
                left = bool(await trending.top(1))
                waits.append(time.perf_counter() - began)
                await asyncio.sleep(0.0005)
            found.append(max(waits))
    longest = {slices: min(found) for slices, found in rounds.items()}
    print(f"\nLB3  {LEAVING:,} products leave: the longest that a call took, ms, least of three rounds")
    for slices, seconds in longest.items():
        print(f"  in {slices:2} portions {seconds * 1000:8.1f}")
    ratio = longest[16] / longest[1]
    return goal(f"LB3 x{ratio:.2f} <= x{PAUSE} of one portion", met=ratio <= PAUSE)


def show(title: str, found: dict[str, Cost]) -> None:
    print(f"\n{title}: us a call, median of {len(next(iter(found.values())).rounds)} rounds; ratio to the raw command")
    for name, cost in found.items():
        print(f"  {name:16} {cost.middle:8.0f}  ({min(cost.rounds):.0f}-{max(cost.rounds):.0f})   x{cost.ratio:.2f}")


def goal(sentence: str, *, met: bool) -> bool:
    print(f"  {'met   ' if met else 'MISSED'}  {sentence}")
    return met


async def main() -> bool:
    number = 8
    chance = random.Random(number)
    with tempfile.TemporaryDirectory() as folder:
        async with Supervisor(Path(folder)) as supervisor:
            server = await supervisor.start("redis")
            async with Redis(host=server.host, port=server.port, retry=Retry(NoBackoff(), 0)) as redis:
                facts = await redis.info("server")
                packages = ", ".join(f"{name} {version(name)}" for name in ("redis", "hiredis", "redis-infra"))
                valkey = facts.get("valkey_version") or facts["redis_version"]
                print(f"{machine()}\nserver {valkey}, {packages}, seed {number}")
                await seed(redis)
                met = [
                    await records(redis, calls=30, rounds=20, chance=chance),
                    await looks(redis, calls=30, rounds=20, chance=chance),
                    await leaving(redis),
                ]
                print(f"\n{machine()}")
    return all(met)


if __name__ == "__main__":
    sys.exit(not asyncio.run(main()))
