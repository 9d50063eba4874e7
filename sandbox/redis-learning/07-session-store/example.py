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
from dataclasses import dataclass
from statistics import median

from redis.asyncio import Redis

REQUESTS, MINUTE = 20, 60_000  # at the same time; ms
KEY = secrets.token_bytes(32)

FIND = """
if redis.call('HGET', KEYS[1], 'secret') ~= ARGV[1] then return nil end
redis.call('PEXPIRE', KEYS[1], ARGV[2])
"""
LOAD = FIND + "return redis.call('HGETALL', KEYS[1])"
SET = FIND + "return redis.call('HSET', KEYS[1], ARGV[3], ARGV[4])"


@dataclass
class Blob:
    """JSON under the id: read whole, written whole."""

    redis: Redis

    async def create(self) -> str:
        session_id = secrets.token_hex(16)
        await self.save(session_id, {})
        return session_id

    async def load(self, session_id: str) -> dict[str, str] | None:
        found = await self.redis.get(f"example:blob:{session_id}")
        return None if found is None else json.loads(found)

    async def save(self, session_id: str, data: dict[str, str] | None, **more: str) -> None:
        await self.redis.set(f"example:blob:{session_id}", json.dumps({**(data or {}), **more}), px=MINUTE)


@dataclass
class Hash:
    """A field each, under a public handle, behind a secret of which the digest is kept."""

    redis: Redis

    async def ask(self, script: str, session_id: str, *arguments: str) -> list[str] | int | None:
        secret = session_id.partition(".")[2]
        return await self.redis.eval(script, 1, name(session_id), digest(secret), MINUTE, *arguments)

    async def create(self) -> str:
        session_id = f"{secrets.token_urlsafe(12)}.{secrets.token_urlsafe(32)}"
        await self.redis.hset(name(session_id), "secret", digest(session_id.partition(".")[2]))
        return session_id


def digest(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()


def name(session_id: str) -> str:
    return f"example:hash:{session_id.partition('.')[0]}"


def signed(data: dict[str, str]) -> str:
    """The whole session in the cookie, and a signature that only the shop can make."""
    text = urlsafe_b64encode(json.dumps(data).encode()).decode()
    return f"{text}.{hmac.new(KEY, text.encode(), 'sha256').hexdigest()}"


def is_genuine(cookie: str) -> bool:
    text, _, signature = cookie.partition(".")
    return hmac.compare_digest(signature, hmac.new(KEY, text.encode(), "sha256").hexdigest())


async def together(blob: Blob, hashed: Hash) -> tuple[int, int]:
    """How many of 20 fields are kept, that 20 requests write which have all begun before the first ends."""
    one, other, begun = await blob.create(), await hashed.create(), asyncio.Barrier(REQUESTS)

    async def request(field: str) -> None:
        data = await blob.load(one)
        await begun.wait()
        await blob.save(one, data, **{field: "1"})
        await hashed.ask(SET, other, field, "1")

    await asyncio.gather(*(request(f"field-{number}") for number in range(REQUESTS)))
    return len(await blob.load(one) or {}), str(await hashed.ask(LOAD, other)).count("field-")


async def logged_out(blob: Blob, hashed: Hash) -> tuple[bool, bool]:
    """Whether a session is there again that was revoked between the beginning and the end of a slow request."""
    one, other = await blob.create(), await hashed.create()
    data = await blob.load(one)
    await blob.redis.delete(f"example:blob:{one}", name(other))
    await blob.save(one, data, seen="shoes")
    await hashed.ask(SET, other, "seen", "shoes")
    return await blob.load(one) is not None, await hashed.ask(LOAD, other) is not None


async def planted(blob: Blob, hashed: Hash) -> tuple[bool, bool]:
    """Whether an attacker is logged in who has planted an id of his own in the victim's browser."""
    one, other = await blob.create(), await hashed.create()
    await blob.save(one, {}, user="ann")  # the victim logs in
    await hashed.ask(SET, other, "user", "ann")
    await hashed.ask(SET, other, "secret", digest(secrets.token_urlsafe(32)))  # and gets another id
    return await blob.load(one) is not None, await hashed.ask(LOAD, other) is not None


async def stolen(blob: Blob, hashed: Hash) -> tuple[int, int]:
    """How many of 5 sessions each a thief opens who has a copy of Redis: all keys, and the digests."""
    made = [[await store.create() for _ in range(5)] for store in (blob, hashed)]
    keys = [key.rpartition(":")[2] async for key in blob.redis.scan_iter("example:*")]
    tried = [*keys, *(f"{key}.{digest(one.partition('.')[2])}" for key in keys for one in made[1])]
    opened = [one for one in tried if one in made[0] and await blob.load(one) is not None]
    return len(opened), len([one for one in tried if await hashed.ask(LOAD, one) is not None])


async def cost(hashed: Hash, cookie: str) -> float:
    """How many times as long a load takes as looking at a signature: the middle of 9 rounds of 200."""
    session_id, ratios = await hashed.create(), list[float]()
    for _ in range(9):
        began = time.perf_counter()
        assert all(is_genuine(cookie) for _ in range(200))
        between = time.perf_counter()
        for _ in range(200):
            await hashed.ask(LOAD, session_id)
        ratios.append((time.perf_counter() - between) / (between - began))
    return median(ratios)


async def main() -> None:
    async with Redis.from_url(os.environ["REDIS_URL"], decode_responses=True) as redis:
        stores = Blob(redis), Hash(redis)
        print(f"\n1  Two stores on one server\n\n   {'':47}{'JSON under the id':>18}{'the lesson':>12}")
        for what, seen, expected in (
            (f"fields kept, of {REQUESTS} requests at the same time", await together(*stores), (1, REQUESTS)),
            ("logged out during a slow request, and still in", await logged_out(*stores), (True, False)),
            ("attacker in, by an id planted before the login", await planted(*stores), (True, False)),
            ("sessions that a copy of Redis opens, of 5", await stolen(*stores), (5, 0)),
        ):
            print(f"   {what:47}{seen[0]!s:>18}{seen[1]!s:>12}")
            assert seen == expected, f"expected were {expected}"
        cookie = signed({"user": "ann", "theme": "dark", "cart": json.dumps({f"sku-{n}": 1 for n in range(20)})})
        session_id = await stores[1].create()
        await redis.delete(name(session_id))  # logged out
        works = is_genuine(cookie), await stores[1].ask(LOAD, session_id) is not None
        print("\n2  All of the session in a signed cookie, or its id\n")
        print(f"   bytes in every request              {len(cookie):6}{len(session_id):8}")
        print(f"   a copy of it works after the logout {works[0]!s:>6}{works[1]!s:>8}")
        print(f"   time to look at it, as a ratio      {1:6}{await cost(stores[1], cookie):8.0f}\n")
        assert len(cookie) > 4 * len(session_id) and works == (True, False), "see the table above"
        async for key in redis.scan_iter("example:*"):
            await redis.delete(key)


if __name__ == "__main__":
    asyncio.run(main())
