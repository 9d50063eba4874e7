"""The flash sale, run five times: a lock that ran out, a stock that refuses, ways to wait, three servers, two of three.

Takes REDIS_URL and REDIS_URLS (three servers, of which it shuts the last one down); asserts what the lesson says of it.
"""

import asyncio
import json
import os
import random
import signal
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from statistics import median

from redis.asyncio import Redis

from faultline.testbed import Note, Operation, timeline

SHORT, LONG = 500, 10_000  # milliseconds that a lease lives
KEYS = [f"example:{key}" for key in ("lock", "token", "stock", "fence", "sold", "free")]

ACQUIRE = "return redis.call('SET', KEYS[1], ARGV[1], 'NX', 'PX', ARGV[2]) and redis.call('INCR', KEYS[2]) or 0"
RELEASE = """if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
redis.call('DEL', KEYS[1], KEYS[6]) redis.call('RPUSH', KEYS[6], '')  -- wakes one of those that wait in BLPOP
return redis.call('PEXPIRE', KEYS[6], 1000)"""
CARRY = "return redis.call('GET', KEYS[1]) == ARGV[1] and redis.call('SET', KEYS[2], ARGV[2]) and 1 or 0"
CLEAR = "return redis.call('DEL', unpack(KEYS))"
TRUSTING = "redis.call('SET', KEYS[3], ARGV[1]) return redis.call('RPUSH', KEYS[5], ARGV[2])"
FENCED = f"""if tonumber(ARGV[3]) < tonumber(redis.call('GET', KEYS[4]) or 0) then return 0 end
redis.call('SET', KEYS[4], ARGV[3]) {TRUSTING}"""


async def run(redis: Redis, script: str, *arguments: str | int) -> int:
    return await redis.eval(script, len(KEYS), *KEYS, *arguments)


async def till(name: str, stock: str) -> None:
    """A process that sells the last unit under the lock; till-1 is stopped between looking and writing."""

    def tell(what: str) -> None:
        print(json.dumps([name, what, time.monotonic()]))  # one clock for all processes of a machine

    async with Redis.from_url(os.environ["REDIS_URL"]) as redis:
        while not (token := await run(redis, ACQUIRE, name, SHORT)):
            await redis.blpop(KEYS[5:], timeout=0.02)
        tell(f"has the lock, token {token}")
        units = int(await redis.get(KEYS[2]) or 0)
        tell(f"sees a stock of {units}")
        if name == "till-1":
            signal.raise_signal(signal.SIGSTOP)  # a garbage collector or a hypervisor would not ask either
        sold = await run(redis, stock, units - 1, name, token)
        tell("sells it" if sold else f"is refused: token {token} is old")
        tell("releases the lock" if await run(redis, RELEASE, name) else "finds its lock gone")


async def sale(redis: Redis, stock: str) -> list[bytes | str]:
    """Two tills and one unit: prints what happened, returns who has sold by the stock's own record."""
    await run(redis, CLEAR)
    await redis.set(KEYS[2], 1)
    began, command, pipe = time.monotonic(), (sys.executable, __file__), asyncio.subprocess.PIPE
    first = await asyncio.create_subprocess_exec(*command, "till-1", stock, stdout=pipe)
    _, status = await asyncio.to_thread(os.waitpid, first.pid, os.WUNTRACED)
    assert os.WIFSTOPPED(status), "till-1 ended instead of being stopped"
    stopped = Note("till-1", "stopped (SIGSTOP)", time.monotonic() - began)
    second = await asyncio.create_subprocess_exec(*command, "till-2", stock, stdout=pipe)
    told, _ = await second.communicate()
    continued = Note("till-1", "continued (SIGCONT)", time.monotonic() - began)
    first.send_signal(signal.SIGCONT)
    told += (await first.communicate())[0]
    steps = [Operation(name, what, at - began) for name, what, at in map(json.loads, told.splitlines())]
    print(timeline([stopped, continued, *steps]))
    return await redis.lrange(KEYS[4], 0, -1)


async def waiting(redis: Redis, name: str, wait: Callable[[], Awaitable[object]]) -> tuple[float, float]:
    """Of one waiter: its tries in a wait of 0.3 s, and the seconds from a release until it has the lock (medians)."""

    async def acquire() -> tuple[int, float]:
        tries = 1
        while not await run(redis, ACQUIRE, "till-2", LONG):
            await wait()
            tries += 1
        return tries, time.monotonic()

    async def hold() -> float:
        await asyncio.sleep(random.uniform(0.25, 0.35))
        released = time.monotonic()
        await run(redis, RELEASE, "till-1")
        return released

    seen = []
    for _ in range(7):
        await run(redis, CLEAR)
        await run(redis, ACQUIRE, "till-1", LONG)
        (tries, got), released = await asyncio.gather(acquire(), hold())
        seen.append((tries, got - released))
    usual, gap = (median(figures) for figures in zip(*seen, strict=True))
    print(f"   {name:20}{usual:6g} tries {gap * 1000:8.1f} ms")
    return usual, gap


async def everywhere(servers: Sequence[Redis], script: str, *arguments: str | int) -> list[int]:
    """What each server says to the script; 0 for one that does not answer."""
    answers = await asyncio.gather(*(run(redis, script, *arguments) for redis in servers), return_exceptions=True)
    return [answer if isinstance(answer, int) else 0 for answer in answers]


async def two_tokens(servers: Sequence[Redis], settle: str) -> list[int]:
    """A token from three servers, then one from two of them: each the largest that a server gave."""
    await everywhere(servers, CLEAR)
    for script in (ACQUIRE, RELEASE) * 3:  # tries that found only the third server free, and gave it back
        await everywhere(servers[2:], script, "till-1", LONG)
    tokens = []
    for asked in (servers, servers[:2]):
        counters = await everywhere(asked, ACQUIRE, "till-2", LONG)
        tokens.append(max(counters))
        await everywhere(asked, settle, "till-2", tokens[-1])
        await everywhere(asked, RELEASE, "till-2")
        print(f"   granted by {len(asked)}, whose counters say {counters}: token {tokens[-1]}")
    return tokens


async def main() -> None:
    url, urls = os.environ["REDIS_URL"], os.environ["REDIS_URLS"].split(",")
    assert len(set(urls)) == 3, f"REDIS_URLS must name three servers, not {urls}: the last one will be shut down"
    redis, *servers = (Redis.from_url(each, retry=None, decode_responses=True) for each in (url, *urls))
    print("\n1  A stock that believes whoever writes\n")
    assert await sale(redis, TRUSTING) == ["till-2", "till-1"], "the unit was to be sold twice"
    print("\n2  The same lock, and a stock that refuses an old token\n")
    assert await sale(redis, FENCED) == ["till-2"], "the unit was to be sold once"
    print("\n3  One waiter: its tries in 0.3 s, and how soon after a release it has the lock\n")
    spins, _ = await waiting(redis, "asks at once", lambda: asyncio.sleep(0))
    dozes, late = await waiting(redis, "sleeps 20 to 40 ms", lambda: asyncio.sleep(random.uniform(0.02, 0.04)))
    wakes, woken = await waiting(redis, "is woken (BLPOP)", lambda: redis.blpop(KEYS[5:], 1))
    assert (spins > 10 * dozes, dozes > 2 * wakes, woken < late) == (True, True, True), "see the table above"
    print("\n4  Three servers; the token is the largest of their counters\n")
    assert await two_tokens(servers, "return 0") == [4, 2], "the token was to go back"
    print("\n   the same, but before its use the token is written to those that granted it\n")
    assert await two_tokens(servers, CARRY) == [4, 5], "the token was to grow"
    await servers[2].shutdown(nosave=True)
    votes = [sum(map(bool, await everywhere(servers, ACQUIRE, name, LONG))) for name in ("till-1", "till-2")]
    print(f"\n5  The third server is shut down\n\n   till-1 gets {votes[0]} of 3 votes, till-2 after it {votes[1]}\n")
    assert votes == [2, 0], "two servers of three were to grant the lock to one till"
    await everywhere([redis, *servers], CLEAR)
    await asyncio.gather(*(each.aclose() for each in (redis, *servers)))


if __name__ == "__main__":
    asyncio.run(till(*sys.argv[1:]) if sys.argv[1:] else main())
