"""Our lock beside its peers: cost of a pair, hand-over under contention, and writes of a holder that was paused.

    python -m bench.lock

Starts its own Redis; takes about 40 s. Goals: LK1, a pair costs at most 1.15 times a raw SET NX PX + DEL; LK2, 20
tasks with 10 sections of 1 ms each through one lock are done within 0.40 s without an overlap; LK3, the storage accepts
no write of a holder that came too late.
"""

import asyncio
import logging
import random
import sys
import tempfile
import time
import warnings
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from statistics import median

import redis
import redis_lock
from bench.interleave import compare, goal, machine
from pottery import AIORedlock
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from faultline.components import Supervisor
from faultline.patterns import DistributedLock, Fence

RAW = "raw SET NX PX + DEL"
OURS = "faultline"
TASKS, SECTIONS, SECTION = 20, 10, 0.001
PAIR, CONTENDED = 1.15, 0.40

Section = Callable[[], AbstractAsyncContextManager[object]]


@asynccontextmanager
async def raw(client: Redis) -> AsyncIterator[None]:
    await client.set("raw", "x", nx=True, px=10_000)
    yield
    await client.delete("raw")


@asynccontextmanager
async def ours(lock: DistributedLock) -> AsyncIterator[None]:
    async with await lock.acquire(60):
        yield


@asynccontextmanager
async def in_thread(lock: redis_lock.Lock, threads: ThreadPoolExecutor) -> AsyncIterator[None]:
    loop = asyncio.get_running_loop()
    await loop.run_in_executor(threads, lock.acquire)
    try:
        yield
    finally:
        await loop.run_in_executor(threads, lock.release)


@dataclass(frozen=True, slots=True)
class Contention:
    """How long all sections took, how many overlapped, and when the first task had done its share."""

    took: float
    overlaps: int
    first: float


async def contend(section: Section) -> Contention:
    inside = overlaps = 0

    async def work() -> float:
        nonlocal inside, overlaps
        for _ in range(SECTIONS):
            async with section():
                inside += 1
                overlaps += inside > 1
                await asyncio.sleep(SECTION)
                inside -= 1
        return time.perf_counter()

    began = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(work()) for _ in range(TASKS)]
    ends = [task.result() - began for task in tasks]
    return Contention(max(ends), overlaps, min(ends))


async def late_write(client: Redis, name: str, *, fenced: bool) -> bool:
    """Whether the storage kept the write of a holder that was paused until its successor had written."""
    fence = Fence(client, name)
    early = await DistributedLock([client], name, 0.05).acquire(1)
    late = await DistributedLock([client], name, 5.0).acquire(1)  # waits for the first to run out
    for lease, value in ((late, "late"), (early, "early")):
        await (fence.admit(lease.token, "SET", f"{name}:x", value) if fenced else client.set(f"{name}:x", value))
    await late.release()
    return bool(await client.get(f"{name}:x") == b"early")


async def costs(client: Redis, blocking: redis.Redis, *, calls: int, rounds: int, chance: random.Random) -> bool:
    shared = DistributedLock([client], "pair", 10.0)

    async def pair(section: Section) -> None:
        async with section():
            pass

    async def raw_pair() -> None:
        await client.set("raw", "x", nx=True, px=10_000)
        await client.delete("raw")

    async def our_pair() -> None:
        async with await shared.acquire(2):
            pass

    async def thread_pair() -> None:  # its own base is the blocking client's raw pair
        with redis_lock.Lock(blocking, "redis-lock", expire=10):
            pass

    async def blocking_raw() -> None:
        blocking.set("raw", "x", nx=True, px=10_000)
        blocking.delete("raw")

    found = await compare(
        {
            RAW: raw_pair,
            OURS: our_pair,
            "redis-py Lock": lambda: pair(lambda: client.lock("redis-py", timeout=10)),
            "pottery AIORedlock": lambda: pair(lambda: AIORedlock(key="pottery", masters={client})),
        },
        base=RAW,
        calls=calls,
        rounds=rounds,
        chance=chance,
    )
    found_blocking = await compare(
        {"raw, blocking client": blocking_raw, "python-redis-lock": thread_pair},
        base="raw, blocking client",
        calls=calls,
        rounds=rounds,
        chance=chance,
    )
    print(f"\nLK1  acquire + release, nobody else: us a pair, median of {rounds} rounds of {calls}; ratio to raw")
    for name, cost in (found | found_blocking).items():
        print(f"  {name:24} {cost.middle:8.0f}  ({min(cost.rounds):.0f}-{max(cost.rounds):.0f})   x{cost.ratio:.2f}")
    return goal(f"LK1 x{found[OURS].ratio:.2f} <= x{PAIR}", found[OURS].ratio <= PAIR)


async def contention(client: Redis, blocking: redis.Redis, *, rounds: int, chance: random.Random) -> bool:
    shared = DistributedLock([client], "shared", 10.0)
    with ThreadPoolExecutor(TASKS) as threads:
        sections: dict[str, Section] = {
            f"{OURS}, one object": lambda: ours(shared),
            f"{OURS}, an object each time": lambda: ours(DistributedLock([client], "each", 10.0)),
            "python-redis-lock, threads": lambda: in_thread(redis_lock.Lock(blocking, "rl", expire=10), threads),
            "pottery AIORedlock": lambda: AIORedlock(key="pottery", masters={client}),
            "redis-py Lock": lambda: client.lock("redis-py", timeout=10),
        }
        found: dict[str, list[Contention]] = {name: [] for name in sections}
        for _ in range(rounds):
            for name in chance.sample(list(sections), len(sections)):
                found[name].append(await contend(sections[name]))
    alone = await uncontended(client)
    print(
        f"\nLK2  {TASKS} tasks x {SECTIONS} sections of {SECTION * 1000:.0f} ms: "
        f"s, median of {rounds}; overlaps; first task done"
    )
    print(f"  {'the same 200 in a row':28} {alone:6.3f}   with nothing but raw SET + DEL around them")
    for name, results in found.items():
        took = [result.took for result in results]
        print(
            f"  {name:28} {median(took):6.3f}  ({min(took):.3f}-{max(took):.3f})"
            f"  {sum(result.overlaps for result in results)}  {median(result.first for result in results):.2f}"
        )
    mine = [result for name in found if name.startswith(OURS) for result in found[name]]
    took = max(median(result.took for result in found[name]) for name in found if name.startswith(OURS))
    quick = goal(f"LK2 {took:.3f} s <= {CONTENDED} s", took <= CONTENDED)
    return goal("LK2 no overlap", not any(result.overlaps for result in mine)) and quick


async def uncontended(client: Redis) -> float:
    began = time.perf_counter()
    for _ in range(TASKS * SECTIONS):
        async with raw(client):
            await asyncio.sleep(SECTION)
    return time.perf_counter() - began


async def stale(client: Redis, *, rounds: int) -> bool:
    fenced = [await late_write(client, f"fenced-{i}", fenced=True) for i in range(rounds)]
    plain = [await late_write(client, f"plain-{i}", fenced=False) for i in range(rounds)]
    print(f"\nLK3  writes of {rounds} holders past their ttl, after their successor's: kept by the storage")
    print(f"  {OURS} with its fence    {sum(fenced)}\n  any lock without one    {sum(plain)}")
    return goal("LK3 no late write kept, and without the fence they are", not any(fenced) and all(plain))


async def main() -> bool:
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    seed = 5
    chance = random.Random(seed)
    with tempfile.TemporaryDirectory() as folder:
        async with Supervisor(Path(folder)) as supervisor:
            server = await supervisor.start("redis")
            client = Redis(
                host=server.host,
                port=server.port,
                socket_timeout=0.25,
                socket_connect_timeout=0.25,
                retry=Retry(NoBackoff(), 0),
            )
            blocking = redis.Redis(host=server.host, port=server.port)
            try:
                facts = await client.info("server")
                peers = ", ".join(
                    f"{name} {version(name)}" for name in ("redis", "hiredis", "python-redis-lock", "pottery")
                )
                print(
                    f"{machine()}\nserver {facts.get('valkey_version') or facts['redis_version']}, {peers}, seed {seed}"
                )
                met = [
                    await costs(client, blocking, calls=40, rounds=60, chance=chance),
                    await contention(client, blocking, rounds=3, chance=chance),
                    await stale(client, rounds=10),
                ]
                print(f"\n{machine()}")
            finally:
                await client.aclose()
                blocking.close()
    return all(met)


if __name__ == "__main__":
    sys.exit(not asyncio.run(main()))
