"""The session store that most code has beside the lesson's, and the lesson's beside a signed cookie.

Takes REDIS_URL; asserts what the lesson says of it.
"""

import asyncio
import hashlib
import hmac
import json
import os
import secrets
import time
from base64 import urlsafe_b64encode

from redis.asyncio import Redis

REQUESTS, MINUTE = 20, 60_000  # at the same time; ms
KEY = secrets.token_bytes(32)

FIND = """
if redis.call('HGET', KEYS[1], 'secret') ~= ARGV[1] then return nil end
redis.call('PEXPIRE', KEYS[1], ARGV[2])
"""
LOAD = FIND + "return redis.call('HGETALL', KEYS[1])"
SET = FIND + "return redis.call('HSET', KEYS[1], ARGV[3], ARGV[4])"


async def read(redis: Redis, session_id: str) -> dict[str, str] | None:
    """JSON under the id: read whole, written whole."""
    found = await redis.get(f"example:blob:{session_id}")
    return None if found is None else json.loads(found)


async def write(redis: Redis, session_id: str, data: dict[str, str]) -> str:
    await redis.set(f"example:blob:{session_id}", json.dumps(data), px=MINUTE)
    return session_id


def digest(session_id: str) -> str:
    return hashlib.sha256(session_id.partition(".")[2].encode()).hexdigest()


def name(session_id: str) -> str:
    return f"example:hash:{session_id.partition('.')[0]}"


async def create(redis: Redis) -> str:
    session_id = f"{secrets.token_urlsafe(12)}.{secrets.token_urlsafe(32)}"
    await redis.hset(name(session_id), "secret", digest(session_id))
    return session_id


async def ask(redis: Redis, script: str, session_id: str, *arguments: str) -> list[str] | int | None:
    """A field each, under a public handle, behind a secret of which the digest is kept."""
    return await redis.eval(script, 1, name(session_id), digest(session_id), MINUTE, *arguments)


def signed(data: dict[str, str]) -> str:
    """The whole session in the cookie, and a signature that only the shop can make."""
    text = urlsafe_b64encode(json.dumps(data).encode()).decode()
    return f"{text}.{hmac.new(KEY, text.encode(), 'sha256').hexdigest()}"


def is_genuine(cookie: str) -> bool:
    text, _, signature = cookie.partition(".")
    return hmac.compare_digest(signature, hmac.new(KEY, text.encode(), "sha256").hexdigest())


async def together(redis: Redis, one: str, other: str) -> tuple[int, int]:
    """How many of 20 fields are kept, that 20 requests write which have all begun before the first ends."""
    begun = asyncio.Barrier(REQUESTS)

    async def request(field: str) -> None:
        data = await read(redis, one)
        await begun.wait()
        await write(redis, one, {**(data or {}), field: "1"})
        await ask(redis, SET, other, field, "1")

    await asyncio.gather(*(request(f"field-{number}") for number in range(REQUESTS)))
    return len(await read(redis, one) or {}), str(await ask(redis, LOAD, other)).count("field-")


async def logged_out(redis: Redis, one: str, other: str) -> tuple[bool, bool]:
    """Whether a session is there again that was revoked between the beginning and the end of a slow request."""
    data = await read(redis, one)
    await redis.delete(f"example:blob:{one}", name(other))
    await write(redis, one, {**(data or {}), "seen": "shoes"})
    await ask(redis, SET, other, "seen", "shoes")
    return await read(redis, one) is not None, await ask(redis, LOAD, other) is not None


async def planted(redis: Redis, one: str, other: str) -> tuple[bool, bool]:
    """Whether an attacker is logged in who has planted an id of his own in the victim's browser."""
    await write(redis, one, {"user": "ann"})  # the victim logs in
    await ask(redis, SET, other, "user", "ann")
    await ask(redis, SET, other, "secret", digest(f".{secrets.token_urlsafe(32)}"))  # and is given another id
    return await read(redis, one) is not None, await ask(redis, LOAD, other) is not None


async def stolen(redis: Redis, one: str, other: str) -> tuple[bool, bool]:
    """Whether a thief can log in who has a copy of Redis: all keys, and the digest."""
    keys = [key.rpartition(":")[2] async for key in redis.scan_iter("example:*")]
    tried = [*keys, *(f"{key}.{digest(other)}" for key in keys)]
    opened = [await read(redis, each) is not None for each in tried if each == one]
    return any(opened), any([await ask(redis, LOAD, each) is not None for each in tried])


async def cost(redis: Redis, session_id: str, cookie: str) -> float:
    """How many times as long a load takes as looking at a signature; of 9 rounds of 200 the best ones."""
    looking, loading = list[float](), list[float]()
    for _ in range(9):
        began = time.perf_counter()
        assert all(is_genuine(cookie) for _ in range(200))
        between = time.perf_counter()
        for _ in range(200):
            await ask(redis, LOAD, session_id)
        looking.append(between - began)
        loading.append(time.perf_counter() - between)
    return min(loading) / min(looking)


async def main() -> None:
    async with Redis.from_url(os.environ["REDIS_URL"], decode_responses=True) as redis:
        print(f"\n1  Two stores on one server\n\n   {'':47}{'JSON under the id':>18}{'the lesson':>12}")
        for what, look, expected in (
            (f"fields kept, of {REQUESTS} requests at the same time", together, (1, REQUESTS)),
            ("logged out during a slow request, and still in", logged_out, (True, False)),
            ("attacker in, by an id planted before the login", planted, (True, False)),
            ("thief in, who has a copy of Redis", stolen, (True, False)),
        ):
            seen = await look(redis, await write(redis, secrets.token_hex(16), {}), await create(redis))
            print(f"   {what:47}{seen[0]!s:>18}{seen[1]!s:>12}")
            assert seen == expected, f"expected were {expected}"
        cookie = signed({"user": "ann", "theme": "dark", "cart": json.dumps({f"sku-{n}": 1 for n in range(20)})})
        session_id = await create(redis)
        ratio = await cost(redis, session_id, cookie)
        await redis.delete(name(session_id))  # logged out
        works = is_genuine(cookie), await ask(redis, LOAD, session_id) is not None
        print("\n2  All of the session in a signed cookie, or its id\n")
        print(f"   bytes in every request              {len(cookie):6}{len(session_id):8}")
        print(f"   a copy of it works after the logout {works[0]!s:>6}{works[1]!s:>8}")
        print(f"   time to look at it, as a ratio      {1:6}{ratio:8.0f}\n")
        assert (len(cookie) > 4 * len(session_id), *works) == (True, True, False), "see the table above"
        async for key in redis.scan_iter("example:*"):
            await redis.delete(key)


if __name__ == "__main__":
    asyncio.run(main())
