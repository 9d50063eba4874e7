"""A hit in level 1 and one in level 2 of our coherent cache, beside what else keeps copies of Redis in a process.

    python -m bench.coherent_cache

Starts its own Redis; takes about 20 s. Goals: a hit in level 1 costs at most a twentieth of a raw GET, one in level 2
at most 1.5 times a raw GET. Peers: cashews with its client-side cache and, as the limit, cachetools' TTLCache, which
hears of no invalidation. redis-py's own client-side caching is not among them: only its blocking client has it, and it
refuses a server that says it is older than Redis 7.4, as Valkey does.
"""

import asyncio
import logging
import random
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

from bench.interleave import compare, machine
from cachetools import TTLCache
from cashews import Cache
from redis.asyncio import Redis

from faultline.components import Supervisor
from faultline.patterns import CoherentCache

RAW, NEAR, FAR = "raw GET", "faultline, level 1", "faultline, level 2"
LEVEL_1, LEVEL_2 = 0.05, 1.5
TEXT = "x" * 200


async def load(key: str) -> tuple[str, list[str]]:
    return TEXT, [f"t:{key}"]


async def hits(host: str, port: int, *, calls: int, rounds: int, chance: random.Random) -> bool:
    async with Redis(host=host, port=port) as client:
        far = CoherentCache(client, load, 600.0)
        peer, plain = Cache(), TTLCache[str, str](1000, 600.0)
        peer.setup(f"redis://{host}:{port}", client_side=True, client_side_prefix="peer:", protocol=2)
        await peer.init()
        async with CoherentCache(client, load, 600.0) as near:
            try:
                await client.set("raw", TEXT)
                await near.get("hat")
                await peer.set("hat", TEXT, expire=600)
                plain["hat"] = TEXT

                async def from_dictionary() -> object:
                    return plain["hat"]

                found = await compare(
                    {
                        RAW: lambda: client.get("raw"),
                        NEAR: lambda: near.get("hat"),
                        FAR: lambda: far.get("hat"),
                        "cashews, client side": lambda: peer.get("hat"),
                        "cachetools TTLCache": from_dictionary,
                    },
                    base=RAW,
                    calls=calls,
                    rounds=rounds,
                    chance=chance,
                )
            finally:
                await peer.close()
    print(f"\nA hit: us, median of {rounds} rounds of {calls}; ratio to a raw GET")
    for name, cost in found.items():
        print(f"  {name:34}{cost.middle:9.2f}  ({min(cost.rounds):.2f}-{max(cost.rounds):.2f})   x{cost.ratio:.4f}")
    met = [found[NEAR].ratio <= LEVEL_1, found[FAR].ratio <= LEVEL_2]
    print(f"  {'met   ' if met[0] else 'MISSED'}  level 1 x{found[NEAR].ratio:.4f} <= x{LEVEL_1}")
    print(f"  {'met   ' if met[1] else 'MISSED'}  level 2 x{found[FAR].ratio:.2f} <= x{LEVEL_2}")
    return all(met)


async def main() -> bool:
    logging.disable(logging.CRITICAL)
    seed = 4
    with tempfile.TemporaryDirectory() as folder:
        async with Supervisor(Path(folder)) as supervisor:
            server = await supervisor.start("redis")
            peers = ", ".join(f"{name} {version(name)}" for name in ("redis", "hiredis", "cashews", "cachetools"))
            print(f"{machine()}\n{peers}, seed {seed}")
            met = await hits(server.host, server.port, calls=300, rounds=15, chance=random.Random(seed))
            print(f"\n{machine()}")
    return met


if __name__ == "__main__":
    sys.exit(not asyncio.run(main()))
