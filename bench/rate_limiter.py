"""Our rate limiter beside its peers: cost of a hit, the worst window, a clock that is ahead, and borrowed hits.

    python -m bench.rate_limiter

Starts its own Redis; takes about 30 s. Goals: RL1, a hit costs at most 1.30 times a PING; RL2, in exact mode no window
holds more than the limit, GCRA admits at most burst and refill, and a client whose clock is 25 s ahead gets nothing
more; RL3, a borrowed hit costs at most 1 us, and a window holds at most a batch a process more.
"""

import asyncio
import datetime
import json
import logging
import random
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Awaitable, Callable, Mapping
from importlib.metadata import version
from inspect import isawaitable
from pathlib import Path
from statistics import median

import pyrate_limiter as pyrate
from bench.interleave import compare, goal, machine, table
from limits import RateLimitItemPerSecond
from limits.aio import storage, strategies
from pyrate_limiter.buckets.redis_bucket import RedisBucket
from pyrate_limiter.buckets.redis_state import RedisStateStore
from pyrate_limiter.buckets.state_bucket import StateBucket
from redis.asyncio import Redis
from throttled.asyncio import RateLimiterType, Throttled, rate_limiter, store

from faultline.components import Supervisor
from faultline.patterns import BorrowedHits, RateLimiter

Hit = Callable[[], Awaitable[bool]]

PING, EXACT, GCRA = "PING", "faultline, exact", "faultline, GCRA"
HIT, WAIT = 1.30, 10.0
LIMIT, AHEAD = 100, 25  # hits; seconds
SECOND_PROCESS = """
import time
real, real_ns = time.time, time.time_ns
time.time, time.time_ns = lambda: real() + {ahead}, lambda: real_ns() + {ahead} * 10**9
import bench.rate_limiter as bench
bench.second_process({url!r})
"""


def limits_hit(strategy: type[strategies.RateLimiter], url: str, limit: int, per: int, key: str) -> Hit:
    item = RateLimitItemPerSecond(limit, per)
    limiter = strategy(storage.RedisStorage(f"async+{url}", implementation="redispy"))
    return lambda: limiter.hit(item, key, strategy.__name__)


def throttled_hit(kind: RateLimiterType, url: str, limit: int, per: int, key: str) -> Hit:
    quota = rate_limiter.per_duration(datetime.timedelta(seconds=per), limit=limit, burst=limit)
    throttled = Throttled(using=kind.value, quota=quota, store=store.RedisStore(server=url))

    async def hit() -> bool:
        return not (await throttled.limit(key)).limited

    return hit


def pyrate_hit(bucket: pyrate.AbstractBucket) -> Hit:
    limiter = pyrate.Limiter(bucket, buffer_ms=0)

    async def hit() -> bool:
        return bool(await limiter.try_acquire_async("x", 1, blocking=False))

    return hit


def our_hit(limiter: RateLimiter, key: str) -> Hit:
    async def hit() -> bool:
        return (await limiter.hit(key)).allowed

    return hit


async def candidates(redis: Redis, url: str, limit: int, per: int, key: str) -> dict[str, Hit]:
    """Everybody's hit on one key, at `limit` in `per` seconds."""
    rates = [pyrate.Rate(limit, per * 1000)]
    log = RedisBucket.init(rates, redis, f"log:{key}")
    kinds = RateLimiterType
    return {
        EXACT: our_hit(RateLimiter(redis, limit, per, timeout=WAIT), f"{key}:exact"),
        GCRA: our_hit(RateLimiter(redis, limit, per, timeout=WAIT, burst=limit), f"{key}:gcra"),
        "limits, fixed window": limits_hit(strategies.FixedWindowRateLimiter, url, limit, per, key),
        "limits, moving window": limits_hit(strategies.MovingWindowRateLimiter, url, limit, per, key),
        "limits, sliding counter": limits_hit(strategies.SlidingWindowCounterRateLimiter, url, limit, per, key),
        "throttled-py, fixed window": throttled_hit(kinds.FIXED_WINDOW, url, limit, per, key),
        "throttled-py, sliding window": throttled_hit(kinds.SLIDING_WINDOW, url, limit, per, key),
        "throttled-py, token bucket": throttled_hit(kinds.TOKEN_BUCKET, url, limit, per, key),
        "throttled-py, GCRA": throttled_hit(kinds.GCRA, url, limit, per, key),
        "pyrate-limiter, log": pyrate_hit(await log if isawaitable(log) else log),
        "pyrate-limiter, GCRA": pyrate_hit(StateBucket(rates, store=RedisStateStore(redis, f"state:{key}"))),
    }


async def costs(redis: Redis, url: str, *, chance: random.Random) -> bool:
    hits = await candidates(redis, url, 10**7, 3600, "cost")
    for name, hit in hits.items():
        if not await hit():
            raise RuntimeError(f"{name} refuses the first of {10**7} hits")
    calls, rounds = 40, 25
    found = await compare({PING: redis.ping, **hits}, base=PING, calls=calls, rounds=rounds, chance=chance)
    print(f"\nRL1  a hit: us, median of {rounds} rounds of {calls}; ratio to PING")
    table(found)
    met = [goal(f"RL1 {name} x{found[name].ratio:.2f} <= x{HIT}", found[name].ratio <= HIT) for name in (EXACT, GCRA)]
    return all(met)


def worst(instants: list[float], per: float) -> int:
    """The most that were admitted in any `per` seconds."""
    return max((sum(first <= one < first + per for one in instants) for first in instants), default=0)


async def attack(hit: Hit, began: float) -> int:
    """One hit, a burst before the first has left its window of 1 s, and another after it has."""
    loop, admitted = asyncio.get_running_loop(), list[float]()
    for at, count in ((0.0, 1), (0.88, LIMIT + 30), (1.05, LIMIT + 30)):
        await asyncio.sleep(began + at - loop.time())
        for _ in range(count):
            if await hit():
                admitted.append(loop.time())
    return worst(admitted, 0.95)


async def windows(redis: Redis, url: str) -> bool:
    """The attack at two phases of the wall clock's second, on all at the same time."""
    most: dict[str, list[int]] = {}
    for phase in (0.1, 0.6):
        hits = await candidates(redis, url, LIMIT, 1, f"attack{phase}")
        began = asyncio.get_running_loop().time() + 1 + phase - time.time() % 1
        for name, count in zip(hits, await asyncio.gather(*(attack(hit, began) for hit in hits.values())), strict=True):
            most.setdefault(name, []).append(count)
    code = SECOND_PROCESS.format(ahead=AHEAD, url=url)
    await exhaust(await candidates(redis, url, LIMIT, 20, "skew"))
    second = await asyncio.to_thread(subprocess.run, [sys.executable, "-c", code], check=True, capture_output=True)
    ahead: Mapping[str, int] = json.loads(second.stdout)
    print(f"\nRL2  limit {LIMIT} in 1 s: the most in any 0.95 s; limit {LIMIT} in 20 s, used up:")
    print(f"     what a second process whose clock is {AHEAD} s ahead is admitted (leaking buckets refill meanwhile)")
    for name, counts in most.items():
        print(f"  {name:32} {max(counts):4}   +{ahead[name]}")
    exact = goal(
        f"RL2 exact: {max(most[EXACT])} <= {LIMIT}, +{ahead[EXACT]} by the clock",
        max(most[EXACT]) <= LIMIT and not ahead[EXACT],
    )
    return (
        goal(f"RL2 GCRA: {max(most[GCRA])} <= burst {LIMIT} and refill {LIMIT}", max(most[GCRA]) <= 2 * LIMIT) and exact
    )


async def exhaust(hits: Mapping[str, Hit]) -> dict[str, int]:
    """How many of three limits' worth of hits each admits."""
    return {name: sum([await hit() for _ in range(3 * LIMIT)]) for name, hit in hits.items()}


def second_process(url: str) -> None:
    """In a process of its own, whose clock is wrong: print what it is admitted after the limit was used up."""

    async def ask() -> dict[str, int]:
        async with Redis.from_url(url) as redis:
            return await exhaust(await candidates(redis, url, LIMIT, 20, "skew"))

    print(json.dumps(asyncio.run(ask())))


async def borrowed(redis: Redis) -> bool:
    """Cost of a borrowed hit, and what four processes' batches add to the worst window."""
    batch, calls = 200, 20_000
    lender = BorrowedHits(RateLimiter(redis, 10**7, 3600.0, timeout=WAIT), batch)
    times = []
    for _ in range(5):
        began = time.perf_counter()
        for _ in range(calls):
            await lender.hit("cost")
        times.append((time.perf_counter() - began) / calls * 1e6)
    processes, small = 4, 10
    each = [BorrowedHits(RateLimiter(redis, LIMIT, 1.0, timeout=WAIT), small) for _ in range(processes)]
    turn = iter(range(10**6))

    async def hit() -> bool:
        return (await each[next(turn) % processes].hit("window")).allowed

    loop, admitted = asyncio.get_running_loop(), list[float]()
    began = loop.time()
    for at, count in ((0.0, processes), (0.88, 3 * LIMIT), (1.05, 3 * LIMIT)):
        await asyncio.sleep(began + at - loop.time())
        for _ in range(count):
            if await hit():
                admitted.append(loop.time())
    over = worst(admitted, 0.95) - LIMIT
    print(f"\nRL3  hits borrowed {batch} at a time: us a hit {median(times):.2f}  ({min(times):.2f}-{max(times):.2f})")
    print(f"     {processes} processes, batches of {small}: the worst window held {over} more than the limit")
    cheap = goal(f"RL3 {median(times):.2f} us <= 1 us", median(times) <= 1)
    return goal(f"RL3 {over} <= {processes} x {small - 1}", over <= processes * (small - 1)) and cheap


async def main() -> bool:
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    seed = 6
    with tempfile.TemporaryDirectory() as folder:
        async with Supervisor(Path(folder)) as supervisor:
            server = await supervisor.start("redis")
            url = f"redis://{server.host}:{server.port}/0"
            async with Redis.from_url(url) as redis:
                facts = await redis.info("server")
                peers = ", ".join(
                    f"{name} {version(name)}"
                    for name in ("redis", "hiredis", "limits", "throttled-py", "pyrate-limiter")
                )
                print(
                    f"{machine()}\nserver {facts.get('valkey_version') or facts['redis_version']}, {peers}, seed {seed}"
                )
                met = [
                    await costs(redis, url, chance=random.Random(seed)),
                    await windows(redis, url),
                    await borrowed(redis),
                ]
                print(f"\n{machine()}")
    return all(met)


if __name__ == "__main__":
    sys.exit(not asyncio.run(main()))
